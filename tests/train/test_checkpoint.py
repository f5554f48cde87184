import errno
import os
import random
import signal
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from maedfer.data.augment.mixup import Mixup
from maedfer.errors import InputError
from maedfer.train import load_config, run_finetune
from maedfer.train.checkpoint import (
    check_same_run,
    load_checkpoint,
    load_resumable,
    random_state,
    remove_leftovers,
    save_checkpoint,
    set_random_state,
    way_on,
)
from tests.train.runs import tiny, write_clips

CPU = torch.device("cpu")


def test_tensors_and_plain_values_survive(tmp_path):
    state: dict[str, Any] = {
        "model": {"w": torch.randn(3, 4)},
        "position": {"step": 3, "best": None},
        "betas": (0.9, 0.95),
    }
    save_checkpoint(tmp_path / "last.pt", state)
    again = load_checkpoint(tmp_path / "last.pt")
    assert torch.equal(again["model"]["w"], state["model"]["w"])
    assert again["position"] == state["position"]
    assert again["betas"] == state["betas"]
    assert os.listdir(tmp_path) == ["last.pt"]


def test_full_disk_keeps_the_previous_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"step": 1})

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(InputError, match=r"cannot write .*last\.pt: No space left on device"):
            save_checkpoint(path, {"step": 2})
    assert load_checkpoint(path)["step"] == 1
    assert os.listdir(tmp_path) == ["last.pt"]


def test_write_that_breaks_off_keeps_the_previous_checkpoint(tmp_path):
    # A file-size limit makes the kernel refuse the write in the middle, as a full disk does.
    code = """
import resource, signal, sys, torch
from maedfer.train.checkpoint import save_checkpoint
save_checkpoint(sys.argv[1], {"step": 1})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save_checkpoint(sys.argv[1], {"step": 2, "w": torch.randn(1_000_000)})
except ValueError as error:
    print(error)
"""
    path = tmp_path / "last.pt"
    run = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert "cannot write" in run.stdout and "File too large" in run.stdout and run.stdout.count("\n") == 1
    assert load_checkpoint(path)["step"] == 1
    assert os.listdir(tmp_path) == ["last.pt"]


def test_process_killed_while_writing_leaves_the_previous_checkpoint(tmp_path):
    code = """
import os, signal, sys, torch
from maedfer.train import checkpoint
checkpoint.save_checkpoint(sys.argv[1], {"step": 1})
def half(state, file):
    file.write(b"half"); file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
checkpoint.torch.save = half
checkpoint.save_checkpoint(sys.argv[1], {"step": 2})
"""
    path = tmp_path / "last.pt"
    run = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert run.returncode == -signal.SIGKILL
    assert load_checkpoint(path)["step"] == 1
    assert len(os.listdir(tmp_path)) == 2
    remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == ["last.pt"]


def test_unusable_files_are_refused_in_one_line(tmp_path):
    path = tmp_path / "x.pt"
    with pytest.raises(InputError, match="does not exist"):
        load_checkpoint(path)
    save_checkpoint(path, {"w": torch.randn(1000)})
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match="damaged"):
        load_checkpoint(path)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match=r"damaged|could run code"):
        load_checkpoint(path)
    torch.save({"model": {}}, path)
    with pytest.raises(InputError, match="is not a checkpoint of a run"):
        load_checkpoint(path)


def test_code_in_a_pickle_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"format": "maedfer-run-1", "x": Evil()}, tmp_path / "x.pt")
    with pytest.raises(InputError, match="could run code"):
        load_checkpoint(tmp_path / "x.pt")
    assert not (tmp_path / "ran").exists()


def test_random_state_survives_a_checkpoint(tmp_path):
    mixup = Mixup(0.8, 1.0, 0.1, 3, seed=5)
    labels = torch.tensor([0, 1, 2, 0])

    def draw():
        return [random.random(), random.gauss(0, 1), np.random.rand(), torch.rand(2), *mixup.draw(labels, 8, 8)]

    draw()
    save_checkpoint(tmp_path / "x.pt", {"random": random_state(CPU), "mixup": mixup.state_dict()})
    first = draw()
    state = load_checkpoint(tmp_path / "x.pt")
    set_random_state(state["random"], CPU)
    mixup.load_state_dict(state["mixup"])
    for left, right in zip(first, draw(), strict=True):
        assert torch.equal(torch.as_tensor(left), torch.as_tensor(right))


def test_checkpoint_of_other_settings_is_refused_by_key():
    there, here = (
        load_config("finetune", None, ["data.train=x", *changes])
        for changes in (["output=a", "optim.epochs=6"], ["output=b", "optim.epochs=7", "model.depth=2"])
    )
    with pytest.raises(
        InputError, match=r"model\.depth \(16 there, 2 here\); optim\.epochs \(6 there, 7 here\)"
    ) as error:
        check_same_run("last.pt", there, here)
    assert "\n" not in str(error.value) and "output (" not in str(error.value)


def flip(path, places=9):
    """Change a few bytes in the middle of a file."""
    content = bytearray(path.read_bytes())
    for place in range(places):
        content[len(content) // 2 + place] ^= 0x55
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-300])


@pytest.mark.parametrize("damage", [flip, cut, lambda path: path.write_bytes(b""), lambda path: path.write_bytes(b"x")])
def test_a_damaged_checkpoint_that_is_named_says_how_to_go_on(damage, tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    for name in ("last", "previous", "epoch_002", "epoch_003"):
        save_checkpoint(folder / f"{name}.pt", {"model": {"w": torch.randn(300)}})
    cfg = load_config("finetune", None, ["data.train=x"])
    # The third is no better than the last one.
    for name in ("last", "epoch_003"):
        damage(folder / f"{name}.pt")
    for _ in range(2):
        named = "previous" if (folder / "previous.pt").exists() else "epoch_002"
        advice = (
            rf"last\.pt' .*; go on from an earlier one with train\.resume=\S*{named}\.pt, or remove \S*checkpoints to"
        )
        with pytest.raises(InputError, match=advice) as error:
            load_resumable(folder / "last.pt", cfg, 4)
        assert "\n" not in str(error.value)
        (folder / "previous.pt").unlink(missing_ok=True)
    (folder / "epoch_002.pt").unlink()
    (tmp_path / "run" / "model").mkdir()
    with pytest.raises(InputError, match="to start anew; .*model still holds what the run came to$"):
        load_resumable(folder / "last.pt", cfg, 4)


def test_the_latest_epoch_comes_first_by_its_number(tmp_path):
    for epoch in (998, 999, 1000):
        save_checkpoint(tmp_path / f"epoch_{epoch:03d}.pt", {})
    assert "epoch_1000.pt" in way_on(tmp_path / "last.pt")


def test_the_best_epoch_is_named_where_nothing_else_is_left(tmp_path):
    save_checkpoint(tmp_path / "best.pt", {})
    assert way_on(tmp_path / "last.pt").endswith("best.pt still holds the weights of the best epoch")


def test_a_damaged_best_epoch_is_not_the_result(tmp_path):
    data = write_clips(tmp_path / "clips", 8)
    cfg = tiny("finetune", data, tmp_path / "run", "optim.epochs=1", "eval.select=test")
    run_finetune(cfg)
    flip(tmp_path / "run" / "checkpoints" / "best.pt")
    with pytest.raises(
        InputError, match=r"best\.pt' cannot be read: .*checksums.*remove \S*checkpoints and start anew$"
    ):
        run_finetune(cfg)


def test_a_checkpoint_that_lacks_something_is_refused(tmp_path):
    data = write_clips(tmp_path / "clips", 8)
    cfg = tiny("finetune", data, tmp_path / "run", "optim.epochs=1", "eval.every=0")
    run_finetune(cfg)
    last = tmp_path / "run" / "checkpoints" / "last.pt"
    state = load_checkpoint(last)
    for change, message in (
        ({"meter": None}, "does not hold the state of such a run"),
        ({"model": {}}, "does not hold the state of such a run"),
        ({"config": 3}, "says nothing of the settings"),
    ):
        save_checkpoint(last, {**state, **change})
        with pytest.raises(
            InputError,
            match=rf"last\.pt' {message}.*: remove \S*checkpoints to start anew;",
        ):
            run_finetune(cfg)
    del state["meter"], state["lists"]
    save_checkpoint(last, state)
    with pytest.raises(InputError, match="lacks meter, lists: remove"):
        run_finetune(cfg)


def test_what_killed_processes_left_is_removed_at_the_next_start(tmp_path):
    data = write_clips(tmp_path / "clips", 8)
    cfg = tiny("finetune", data, tmp_path / "run", "optim.epochs=1", "eval.every=0")
    run_finetune(cfg)
    left = [".last.pt.a1b2c3_4.tmp", "model/.model.safetensors.abcdefgh.tmp", "checkpoints/.last.pt.12345678.tmp"]
    mine = ["notes.tmp", ".my.list.tmp", "model/.x.abc.tmp"]
    for name in (*left, *mine):
        (tmp_path / "run" / name).touch()
    run_finetune(cfg)
    assert not any((tmp_path / "run" / name).exists() for name in left)
    assert all((tmp_path / "run" / name).exists() for name in mine)
