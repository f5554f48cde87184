import json
import sys

import torch

from maedfer.train.environment import environment, memory_mb, peak_flops
from maedfer.train.processes import Runtime

CPU = Runtime(torch.device("cpu"))


def test_environment_names_versions_and_command():
    facts = environment(CPU)
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["versions"]["maedfer"] and facts["command"] == sys.argv and facts["ended"] is None
    assert facts["git_revision"] is None or len(facts["git_revision"].split("-")[0]) >= 40
    json.dumps(facts)


def test_speed_and_memory_of_devices(monkeypatch):
    assert peak_flops(CPU) is None and memory_mb(CPU.device) > 10
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 PCIe")
    device = torch.device("cuda", 0)
    assert peak_flops(Runtime(device, precision="bf16")) == 756e12
    assert peak_flops(Runtime(device, precision="fp32")) is None
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "another one")
    assert peak_flops(Runtime(device, precision="bf16")) is None
