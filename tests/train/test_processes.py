import dataclasses

import pytest
import torch

from maedfer.errors import InputError
from maedfer.train import load_config
from maedfer.train.processes import start


def settings(**changes):
    cfg = load_config("finetune", None, ["data.train=x", "train.device=cpu"])
    return dataclasses.replace(cfg, train=dataclasses.replace(cfg.train, **changes))


def test_cpu_runs_in_float32_unless_told():
    with start(settings()) as runtime:
        assert (runtime.device.type, runtime.precision, runtime.world, runtime.main) == ("cpu", "fp32", 1, True)
        with runtime.autocast():
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    with start(settings(precision="bf16")) as runtime, runtime.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "fp16"}, "fp16 needs a GPU"),
        ({"device": "gpu"}, "must be auto, cpu, cuda or cuda:N"),
        ({"device": "meta"}, "must be auto, cpu, cuda or cuda:N"),
    ],
)
def test_impossible_devices_are_named(changes, message):
    with pytest.raises(InputError, match=message), start(settings(**changes)):
        pass


def test_an_implementation_that_cannot_run_stops_a_run_before_it_starts(tmp_path):
    from maedfer.train import run_finetune

    cfg = load_config(
        "finetune", None, ["data.train=x", "train.device=cpu", "model.impl=triton", f"output={tmp_path / 'run'}"]
    )
    with pytest.raises(InputError, match='impl="triton" cannot run here: tensors are on the cpu device'), start(cfg):
        pass
    with pytest.raises(InputError):
        run_finetune(cfg)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_absent_gpu_is_named():
    with pytest.raises(InputError, match="finds no CUDA device"), start(settings(device="cuda")):
        pass


def test_seed_starts_every_generator_anew():
    import random

    import numpy as np

    draws = []
    for _ in range(2):
        with start(settings()):
            draws.append((random.random(), np.random.rand(), torch.rand(1).item()))
    assert draws[0] == draws[1]


def test_result_of_the_main_process_and_its_errors_come_through():
    with start(settings()) as runtime:
        assert runtime.on_main(lambda: 3) == 3
        assert runtime.gather("x") == ["x"]
        assert runtime.mean(torch.tensor(2.0)) == 2.0

        def fail():
            raise InputError("no")

        with pytest.raises(InputError, match="no"):
            runtime.on_main(fail)
