import pytest
import torch
from safetensors.torch import load_file

from maedfer.train import run_finetune, run_pretrain
from tests.train.runs import in_process, overrides, records, scores, tiny, write_clips

# What is drawn per process (stochastic depth, mixup) is off: everything else must not depend on their number.
PLAIN = ["augment.mixup=0", "augment.cutmix=0", "optim.epochs=2"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("clips"))


@pytest.mark.parametrize("task", ["pretrain", "finetune"])
def test_two_processes_give_the_losses_of_one(task, data, tmp_path):
    changes = ["optim.epochs=2"] if task == "pretrain" else [*PLAIN, "model.drop_path=0"]
    run = {"pretrain": run_pretrain, "finetune": run_finetune}[task]
    run(tiny(task, data, tmp_path / "one", *changes, "train.batch_size=4"))
    passes = "train.accumulate=2" if task == "finetune" else "train.global_batch=4"
    settings = [*overrides(task, data, tmp_path / "two"), *changes, "train.batch_size=1", passes]
    done = in_process(task, settings, processes=2)
    assert done.ok, done.text
    one, two = (records(tmp_path / name, "step") for name in ("one", "two"))
    assert len(one) == len(two) == 6
    for left, right in zip(one, two, strict=True):
        for name in ("loss", "lr", *(("appearance", "motion") if task == "pretrain" else ())):
            assert right[name] == pytest.approx(left[name], abs=1e-5), (left["step"], name)
    weights = [load_file(tmp_path / name / "model" / "model.safetensors") for name in ("one", "two")]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-3, atol=1e-4)
    # Only one process speaks.
    assert done.text.count("training is complete") == 1
    if task == "pretrain":
        return
    # The run of two processes can go on in one, and the other way round.
    result = run_finetune(tiny(task, data, tmp_path / "two", *changes, "train.batch_size=4"))
    assert scores(result)["n"] == 7


def test_interrupted_run_of_two_processes_repeats_the_uninterrupted_one(data, tmp_path):
    changes = ["optim.epochs=2", "train.batch_size=2", "train.save_steps=1", "train.ema=0.5"]
    before = """
import os
from maedfer.train.trainer import Trainer
original = Trainer._step
def killed(self, batches):
    if self.position.step == 4:
        self.runtime.barrier()
        os._exit(9)
    original(self, batches)
Trainer._step = killed
"""
    settings = [*overrides("finetune", data, tmp_path / "cut"), *changes]
    assert in_process("finetune", settings, before, processes=2).codes == [9, 9]
    assert [record["step"] for record in records(tmp_path / "cut", "step")] == [1, 2, 3, 4]
    done = in_process("finetune", settings, processes=2)
    assert done.ok, done.text
    done = in_process("finetune", [*settings, f"output={tmp_path / 'whole'}"], processes=2)
    assert done.ok, done.text
    left, right = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("cut", "whole"))
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_mistake_ends_all_processes_with_its_message(data, tmp_path):
    settings = [*overrides("finetune", data, tmp_path / "run"), f"data.test={data / 'absent.csv'}"]
    done = in_process("finetune", settings, processes=2)
    assert all(done.codes)
    assert "absent.csv" in done.text
