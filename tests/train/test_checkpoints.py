"""Which checkpoint a run goes on from, and that there is one at every instant."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from maedfer import load
from maedfer.errors import InputError
from maedfer.models.digest import DIGEST, content_digest
from maedfer.train import run_finetune
from maedfer.train.checkpoint import load_checkpoint, remove_leftovers
from maedfer.train.checkpoints import Checkpoints, latest
from maedfer.train.processes import Runtime
from tests.train.runs import records, tiny, write_clips

RUNTIME = Runtime(torch.device("cpu"))


def state(step: int) -> dict[str, Any]:
    return {"position": {"step": step}, "model": {"w": torch.full((50,), float(step))}}


def filled(run: Path, *names: str) -> Checkpoints:
    """A run folder with a checkpoint of each name, of steps 1, 2, ..."""
    run.mkdir()
    checkpoints = Checkpoints(run, RUNTIME)
    for step, name in enumerate(names, 1):
        checkpoints.write(name, state(step))
    return checkpoints


def step_of(path: Path) -> int:
    step: int = load_checkpoint(path)["position"]["step"]
    return step


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def edit(path: Path) -> None:
    """Change a weight by hand, and pack it so that all checksums of the archive fit."""
    content = torch.load(path, weights_only=True)
    next(iter(content["model"].values())).view(-1)[7] += 1e-3
    torch.save(content, path)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-300])


DAMAGES = {
    "checksums do not fit": flip,
    "digest does not fit": edit,
    "damaged or cut short": cut,
    "it is empty": lambda path: path.write_bytes(b""),
}


def test_the_one_before_is_kept(tmp_path):
    checkpoints = filled(tmp_path / "run", "last", "last", "epoch_001", "best", "last")
    folder = checkpoints.folder
    assert {path.name: step_of(path) for path in folder.iterdir()} == {
        "last.pt": 5,
        "previous.pt": 2,
        "epoch_001.pt": 3,
        "best.pt": 4,
    }
    found = latest(tmp_path / "run")
    assert found is not None and (found.path, found.said) == (folder / "last.pt", ())
    assert latest(tmp_path) is None


@pytest.mark.parametrize("why", DAMAGES)
def test_damage_is_found_and_the_one_before_is_used(why, tmp_path):
    run = tmp_path / "run"
    folder = filled(run, "epoch_001", "epoch_002", "last", "last").folder
    for name, before in (("last", ("previous", 3)), ("previous", ("epoch_002", 2)), ("epoch_002", ("epoch_001", 1))):
        DAMAGES[why](folder / f"{name}.pt")
        found = latest(run)
        assert found is not None and found.path == folder / f"{before[0]}.pt"
        (said,) = found.said
        assert said.startswith("checkpoints/last.pt is damaged (") and why in said
        assert said.endswith(f": going on from {before[0]}.pt, step {before[1]}")
        with pytest.raises(InputError, match=why):
            load_checkpoint(folder / f"{name}.pt")
    DAMAGES[why](folder / "epoch_001.pt")
    with pytest.raises(
        InputError, match=r"no checkpoint in .*last\.pt is damaged .*previous\.pt .* and 1 more are: remove \S*"
    ) as error:
        latest(run)
    assert "\n" not in str(error.value)


def test_one_that_may_not_be_read_is_not_passed_over(tmp_path, monkeypatch):
    filled(tmp_path / "run", "last", "last")
    original = Path.open

    def closed(self, *args, **options):
        if self.name == "last.pt":
            raise PermissionError(13, "Permission denied")
        return original(self, *args, **options)

    monkeypatch.setattr(Path, "open", closed)
    with pytest.raises(InputError, match=r"last\.pt cannot be read: Permission denied"):
        latest(tmp_path / "run")


def test_a_damaged_last_never_becomes_the_one_before(tmp_path):
    folder = filled(tmp_path / "run", "last", "last").folder
    flip(folder / "last.pt")
    # Another process goes on from `previous`.
    Checkpoints(tmp_path / "run", RUNTIME).write("last", state(3))
    assert [step_of(folder / f"{name}.pt") for name in ("last", "previous")] == [3, 1]


@pytest.mark.parametrize("links", [True, False])
def test_killed_before_any_call_of_a_save_there_is_a_checkpoint(links, tmp_path, monkeypatch):
    """At every call that changes names, or has something on disk, the process may be the last time."""
    whole = filled(tmp_path / "whole", "last", "last").folder.parent

    class Killed(BaseException):
        pass

    def refuse(*args, **options):
        raise PermissionError(1, "Operation not permitted")

    counted = {name: getattr(os, name) for name in ("link", "replace", "rename", "fsync", "unlink", "mkdir")}
    seen = []
    for last in range(1, 100):
        run = tmp_path / f"killed_{last}"
        shutil.copytree(whole, run)
        calls = 0

        def watched(name, original, limit=last):
            def call(*args, **options):
                nonlocal calls
                calls += 1
                if calls >= limit:
                    raise Killed
                return refuse() if name == "link" and not links else original(*args, **options)

            return call

        with monkeypatch.context() as patch:
            for name, original in counted.items():
                patch.setattr(os, name, watched(name, original))
            try:
                Checkpoints(run, RUNTIME).write("last", state(3))
                killed = False
            except Killed:
                killed = True
        found = latest(run)
        assert found is not None
        seen.append((step_of(found.path), found.path.stem))
        assert seen[-1][0] >= 2
        remove_leftovers(run)
        # What a killed process leaves is gone with the next start, which can save.
        assert all(path.suffix == ".pt" for path in (run / "checkpoints").iterdir())
        Checkpoints(run, RUNTIME).write("last", state(4))
        assert step_of(run / "checkpoints/last.pt") == 4
        if not killed:
            break
    assert seen[0] == (2, "last") and seen[-1] == (3, "last")
    # Without links there is a moment at which the only one is the one before.
    assert ((2, "previous") in seen) == (not links)


def test_a_digest_is_of_the_content_alone(tmp_path):
    content = {
        "a": torch.arange(6.0).reshape(2, 3),
        "b": [1, 2.5, None, True, "x\udce9", b"y", (torch.tensor(3), {"c": torch.zeros(0, dtype=torch.bfloat16)})],
    }
    torch.save(content, tmp_path / "x.pt")
    again = torch.load(tmp_path / "x.pt", weights_only=True)
    assert content_digest(content) == content_digest({**again, DIGEST: "of nothing"})
    # A view, and a container of another kind that is saved as the same.
    assert content_digest({"a": torch.arange(6.0).reshape(3, 2).T}) == content_digest(
        {"a": torch.tensor([[0.0, 2, 4], [1, 3, 5]])}
    )
    different: list[dict[str, Any]] = [
        {"a": torch.zeros(2, 3)},
        {"a": torch.zeros(3, 2)},
        {"a": torch.zeros(2, 3, dtype=torch.float64)},
        {"a": -torch.zeros(2, 3)},
        {"a": [0, 0]},
        {"a": [[0], 0]},
        {"a": [False, 0]},
        {"a": [0.0, 0]},
        {"a": "0"},
        {"a": b"0"},
        {"b": "0"},
        {"a": ["ab", "c"]},
        {"a": ["a", "bc"]},
    ]
    assert len({content_digest(one) for one in different}) == len(different)
    with pytest.raises(TypeError, match="not of set"):
        content_digest({"a": {1, 2}})


def test_a_run_goes_on_from_the_one_before_and_says_so(tmp_path, capsys):
    """The result is that of a run that was left alone, bit for bit."""
    data = write_clips(tmp_path / "clips", 8)
    changes = ["optim.epochs=2", "train.save_steps=1", "eval.every=0"]
    run = tmp_path / "run"
    whole = run_finetune(tiny("finetune", data, tmp_path / "whole", *changes))
    shutil.copytree(whole.output, run)
    shutil.rmtree(run / "model")
    edit(run / "checkpoints/last.pt")
    shutil.copytree(run, tmp_path / "copy")
    with pytest.raises(InputError, match=r"digest does not fit.*train\.resume=\S*previous\.pt"):
        run_finetune(tiny("finetune", data, run, *changes, f"train.resume={run / 'checkpoints/last.pt'}"))
    with pytest.raises(InputError, match="digest does not fit what it holds: give another checkpoint"):
        load(run / "checkpoints/last.pt")
    capsys.readouterr()
    again = run_finetune(tiny("finetune", data, run, *changes))
    said = "checkpoints/last.pt is damaged (its digest does not fit what it holds): going on from previous.pt, step 3"
    assert said in capsys.readouterr().out
    assert said in [record["text"] for record in records(run, "note")]
    assert again.metrics is not None and whole.metrics is not None
    assert said in again.metrics.pop("notes") and said not in whole.metrics.pop("notes")
    assert again.metrics == whole.metrics
    left, right = (torch.load(at / "checkpoints/last.pt", weights_only=True)["model"] for at in (run, whole.output))
    assert all(torch.equal(left[name], right[name]) for name in left)
    # Where nothing is whole, the run does not begin anew by itself.
    for path in (tmp_path / "copy/checkpoints").iterdir():
        cut(path)
    before = sorted((tmp_path / "copy").rglob("*"))
    with pytest.raises(InputError, match=r"no checkpoint in .*last\.pt is damaged .*remove \S* to start anew$"):
        run_finetune(tiny("finetune", data, tmp_path / "copy", *changes))
    assert sorted((tmp_path / "copy").rglob("*")) == before
