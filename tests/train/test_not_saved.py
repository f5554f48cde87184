"""A disk that takes nothing: the run goes on where it can, says what is not saved, and loses nothing that was."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from maedfer.errors import InputError
from maedfer.models import serialization, weight_files
from maedfer.train import run_finetune, run_pretrain
from maedfer.train.checkpoint import load_checkpoint
from maedfer.train.checkpoints import Checkpoints
from maedfer.train.processes import Runtime
from tests.train.runs import records, tiny, write_clips


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"), 8)


@contextlib.contextmanager
def full(patch: pytest.MonkeyPatch, when: Callable[[dict[str, Any]], bool]) -> Iterator[None]:
    """The disk takes a part of a checkpoint, where the state is one of those."""
    original = torch.save

    def save(state: dict[str, Any], file: Any) -> None:
        if when(state):
            file.write(b"x" * 1000)
            raise OSError(errno.ENOSPC, "No space left on device")
        original(state, file)

    with patch.context() as inner:
        inner.setattr(weight_files.torch, "save", save)
        yield


CALLS = {"fsync": 1, "replace": 2, "open": 1, "mkdir": 1}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES, errno.EIO, errno.ENOENT])
@pytest.mark.parametrize("call", CALLS)
def test_what_was_there_stays(call, number, tmp_path, monkeypatch):
    """Whatever call of a save fails, for whatever reason; the next save is another try."""
    (tmp_path / "run").mkdir()
    checkpoints = Checkpoints(tmp_path / "run", Runtime(torch.device("cpu")))
    place: Any = {"open": weight_files, "mkdir": Path}.get(call, os)
    for step in (1, 2):
        assert checkpoints.write("last", {"position": {"step": step}}) == []
    calls = 0
    original = getattr(place, call, open)

    def fail(*args, **options):
        nonlocal calls
        calls += 1
        if calls >= CALLS[call]:
            raise OSError(number, os.strerror(number))
        return original(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(place, call, fail, raising=False)
        (said,) = checkpoints.write("last", {"position": {"step": 3}})
    why = os.strerror(number)
    assert said == (
        f"checkpoints/last.pt could not be written ({why}): the run goes on, checkpoints/last.pt of step 2 is as it was"
    )
    assert calls >= CALLS[call]
    assert checkpoints.failed == {"last": why}
    assert {path.name for path in checkpoints.folder.iterdir()} == {"last.pt", "previous.pt"}
    assert load_checkpoint(checkpoints.folder / "last.pt")["position"]["step"] == 2
    assert checkpoints.write("last", {"position": {"step": 4}}) == ["checkpoints/last.pt could be written again"]
    assert checkpoints.failed == {}
    steps = [load_checkpoint(checkpoints.folder / f"{name}.pt")["position"]["step"] for name in ("last", "previous")]
    assert steps == [4, 2]


def test_a_disk_that_is_full_for_a_while_does_not_change_the_run(data, tmp_path, monkeypatch, capsys):
    cfg = tiny("finetune", data, tmp_path / "run", "train.save_steps=1")
    with full(monkeypatch, lambda state: state["position"]["step"] in (3, 4)):
        run_finetune(cfg)
    said = capsys.readouterr().out
    # Step 4 ends an epoch, which is saved before it is scored and after.
    assert (
        said.count("could not be written (No space left on device): the run goes on, checkpoints/last.pt of step") == 3
    )
    assert said.count("of step 2 is as it was") == 3 and said.count("last.pt could be written again") == 1
    found = [(record["step"], record["name"]) for record in records(tmp_path / "run", "not_saved")]
    assert found == [(3, "last"), (4, "last"), (4, "last")]
    whole = run_finetune(tiny("finetune", data, tmp_path / "whole"))
    left, right = (load_file(at / "model/model.safetensors") for at in (tmp_path / "run", whole.output))
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert not list((tmp_path / "run").rglob("*.tmp"))


def test_a_run_without_its_result_is_an_error_that_says_what_is_left(data, tmp_path, monkeypatch):
    cfg = tiny("finetune", data, tmp_path / "run", "train.save_steps=1", "eval.every=0")

    def refuse(*args: Any) -> None:
        raise InputError("cannot write model: No space left on device")

    lost = r"checkpoints/last\.pt of step 2 is as it was, and what was learned after it is lost"
    whole = r"checkpoints/last\.pt has all of it, and the same command ends the run"
    for last, rest in ((2, lost), (99, whole)):

        def later(state: dict[str, Any], last: int = last) -> bool:
            return bool(state["position"]["step"] > last)

        with monkeypatch.context() as patch, full(patch, later):
            patch.setattr(serialization, "write_safetensors_file", refuse)
            with pytest.raises(InputError, match=rf"cannot write .*could not be saved: {rest}$"):
                run_finetune(cfg)
        assert json.loads((tmp_path / "run/environment.json").read_text())["outcome"] == "stopped"
    result = run_finetune(cfg)
    alone = run_finetune(tiny("finetune", data, tmp_path / "whole", "eval.every=0"))
    assert result.metrics == alone.metrics


def test_a_best_epoch_that_is_not_saved_is_not_the_best(data, tmp_path, monkeypatch):
    """The scores rise; the third one's weights find no room."""
    from maedfer.train.tasks import FinetuneTask

    changes = ["optim.epochs=4", "eval.select=test"]
    order = iter([0.1, 0.2, 0.4, 0.3])
    monkeypatch.setattr(FinetuneTask, "score", lambda *args: next(order))
    with full(monkeypatch, lambda state: "optimizer" not in state and state["position"]["epoch"] == 3):
        result = run_finetune(tiny("finetune", data, tmp_path / "run", *changes))
    assert result.metrics is not None and result.metrics["epoch"] == 4
    assert any("epoch 3 was better than all before it, and its" in note for note in result.metrics["notes"])
    monkeypatch.setattr(FinetuneTask, "score", lambda *args: 0.5)
    with (
        full(monkeypatch, lambda state: "optimizer" not in state),
        pytest.raises(InputError, match=r"no epoch is the best one, .*\(No space left on device\): make room"),
    ):
        run_finetune(tiny("finetune", data, tmp_path / "none", *changes))


def test_pictures_that_find_no_room_are_done_without(data, tmp_path, monkeypatch, capsys):
    import numpy as np

    original = np.savez_compressed

    def save(file: Any, **arrays: Any) -> None:
        if "_start" not in str(file.name):
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        original(file, **arrays)

    monkeypatch.setattr(np, "savez_compressed", save)
    result = run_pretrain(tiny("pretrain", data, tmp_path / "run", "optim.epochs=1", "optim.warmup_epochs=0"))
    assert (result.output / "model").is_dir()
    assert "reconstructions.npz: Disk quota exceeded; nothing was left behind; the run does without it" in (
        capsys.readouterr().out
    )
    assert [record["name"] for record in records(tmp_path / "run", "not_saved")] == ["reconstructions.npz"]
