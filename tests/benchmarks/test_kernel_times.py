"""Times by kernel, from events that are made up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.autograd import DeviceType

from benchmarks import kernel_times
from benchmarks.workload import Settings
from maedfer.errors import InputError


def event(name: str, microseconds: float, on: Any = DeviceType.CUDA, named: bool = False) -> Any:
    return SimpleNamespace(name=name, device_type=on, is_user_annotation=named, self_device_time_total=microseconds)


def test_what_ran_on_the_gpu_is_added_up() -> None:
    events = [event("a", 1000), event("b", 2500), event("a", 3000), event("a", 9, DeviceType.CPU)]
    events.append(event("step", 99, named=True))
    rows = kernel_times.by_kernel(events)
    assert rows == [{"name": "a", "ms": 4.0, "launches": 2}, {"name": "b", "ms": 2.5, "launches": 1}]
    said = kernel_times.lines({"call": "x:ours", "ms": 9.0, "host_ms": 8.0, "kernels_ms": 6.5, "kernels": rows})
    assert said[0] == "x:ours: 9.00 ms, the host busy for 8.00; 3 kernels, 6.50 ms"
    assert said[1].split() == ["4.000", "ms", "2", "x", "a"]


def test_what_is_not_there_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="unknown operation 'inferense': did you mean 'inference'"):
        kernel_times.measure("inferense:ours", Settings(small=True))
    with pytest.raises(InputError, match="unknown provider 'our': did you mean 'ours'"):
        kernel_times.measure("inference:our", Settings(small=True))
    if not torch.cuda.is_available():
        assert kernel_times.main([]) == 2
        assert capsys.readouterr().err == "kernel_times: error: PyTorch finds no CUDA device here\n"
