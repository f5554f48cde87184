"""Checkpoints in parts: read back, made one file of, damaged, and with what does not belong into them."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file

from maedfer.cli import main
from maedfer.errors import InputError
from maedfer.models import load
from maedfer.train import run_pretrain
from maedfer.train.checkpoint import load_checkpoint
from maedfer.train.checkpoint_folder import FolderForm, checked, read_folder
from maedfer.train.checkpoints import Checkpoints, latest
from maedfer.train.processes import Runtime
from tests.train.runs import records, spoil_losses, tiny, write_clips

SHARDED = ["optim.epochs=1", "optim.warmup_epochs=0", "train.ema=0.5", "train.checkpoint=sharded", "train.save_steps=1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process that has ended."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    run_pretrain(tiny("pretrain", data, folder, *SHARDED, "train.save_async=true"))
    return folder


@pytest.fixture
def last(run: Path, tmp_path: Path) -> Path:
    """A copy of its last checkpoint, to be spoiled."""
    return Path(shutil.copytree(run / "checkpoints" / "last", tmp_path / "last"))


def test_a_run_keeps_two_folders_and_no_other_thing(run: Path) -> None:
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert names == ["last", "previous"]
    steps = [checked(run / "checkpoints" / name)["step"] for name in names]
    assert steps == [3, 3] or steps == [3, 2]
    found = latest(run)
    assert found is not None and found.path.name == "last" and not found.said


def test_one_file_and_one_model_are_made_of_it(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = run / "checkpoints" / "last"
    assert main(["convert", str(source), str(tmp_path / "model")]) == 0
    assert main(["convert", str(source), str(tmp_path / "one.pt"), "--keys"]) == 0
    assert "the checkpoint of step 3 in one file" in capsys.readouterr().out
    want = load_file(run / "model" / "model.safetensors")
    for model in (load(tmp_path / "model"), load(tmp_path / "one.pt")):
        assert all(torch.equal(value, want[name]) for name, value in model.state_dict().items())
    # The same run in files has the same checkpoint.
    run_pretrain(tiny("pretrain", data, tmp_path / "files", *SHARDED, "train.checkpoint=file"))
    ours, theirs = load_checkpoint(tmp_path / "one.pt"), load_checkpoint(tmp_path / "files/checkpoints/last.pt")
    assert ours["optimizer"]["state"].keys() == theirs["optimizer"]["state"].keys()
    for number, moments in theirs["optimizer"]["state"].items():
        assert all(torch.equal(ours["optimizer"]["state"][number][name], value) for name, value in moments.items())
    assert ours["position"] == theirs["position"] and ours["optimizer"]["param_groups"]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def marked(last: Path, key: str, value: Any) -> None:
    content = json.loads((last / "complete.json").read_text())
    (last / "complete.json").write_text(json.dumps({**content, key: value}))


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda last: (last / "__0_0.distcp").unlink(), "__0_0.distcp is missing"),
    "flipped": (lambda last: flip(last / "__0_0.distcp"), "__0_0.distcp is not what was written"),
    "flipped rest": (lambda last: flip(last / "run.pt"), "run.pt is not what was written"),
    "short": (lambda last: os.truncate(last / "__0_0.distcp", 100), "__0_0.distcp has 100 bytes"),
    "unfinished": (lambda last: (last / "complete.json").unlink(), "was not finished"),
    "another step": (lambda last: marked(last, "step", 2), "complete.json says step 2, and run.pt holds step 3"),
    "no marker": (lambda last: (last / "complete.json").write_text("[]"), "not that of a sharded checkpoint"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_found_and_the_one_before_is_used(damage: str, run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    spoil, message = DAMAGES[damage]
    spoil(copy / "checkpoints" / "last")
    with pytest.raises(InputError, match=message):
        FolderForm().step(copy / "checkpoints" / "last")
    found = latest(copy)
    assert found is not None and found.path.name == "previous"
    assert "checkpoints/last is damaged" in found.said[0]


def test_what_is_outside_of_the_folder_is_not_read(last: Path) -> None:
    content = json.loads((last / "complete.json").read_text())
    content["files"]["../run.pt"] = content["files"]["run.pt"]
    (last / "complete.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"names '../run.pt', which is no file in it"):
        checked(last)


def test_an_index_that_runs_code_is_refused(last: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "evil"),)

    (last / ".metadata").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(InputError, match=r"posix.mkdir, which is no part of one and could run code"):
        read_folder(last)
    assert not (tmp_path / "evil").exists()


def test_loading_says_how_to_make_a_model_of_it(last: Path) -> None:
    with pytest.raises(InputError, match=r"'maedfer convert .*last OUT' makes a model"):
        load(last)


def fill(monkeypatch: pytest.MonkeyPatch, full: list[bool]) -> None:
    """Let the disk be full in those of the saves that are to come."""

    class Disk(dcp.FileSystemWriter):
        def write_data(self, *given: Any) -> Any:
            if full.pop(0):
                raise OSError(28, "No space left on device")
            return super().write_data(*given)

    monkeypatch.setattr(dcp, "FileSystemWriter", Disk)


@pytest.mark.parametrize("later", ["false", "true"])
def test_a_disk_that_takes_nothing_is_told_and_the_run_goes_on(
    later: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also where a thread learns of it, to which nothing can be raised."""
    fill(monkeypatch, [False, True, False])
    run_pretrain(tiny("pretrain", data, tmp_path / "run", *SHARDED, f"train.save_async={later}"))
    said, errors = capfd.readouterr()
    why = "No space left on device): the run goes on, checkpoints/last of step 1 is as it was"
    assert f"checkpoints/last could not be written ({why}" in said
    assert "checkpoints/last could be written again" in said and "Traceback" not in errors
    assert [record["step"] for record in records(tmp_path / "run", "not_saved")] == [2 if later == "false" else 3]
    assert checked(tmp_path / "run/checkpoints/last")["step"] == 3
    assert {path.name for path in (tmp_path / "run/checkpoints").iterdir()} == {"last", "previous"}


def test_a_run_that_stops_names_what_was_saved_and_not_what_is_being_written(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(monkeypatch, [False, True])
    spoil_losses({3: float("nan")}, patch=monkeypatch.setattr)
    changes = [*SHARDED, "train.save_async=true", "train.max_skipped=1"]
    with pytest.raises(InputError, match=r"checkpoints/last \(step 1\) holds the last good weights"):
        run_pretrain(tiny("pretrain", data, tmp_path / "run", *changes))
    assert "checkpoints/last could not be written (No space left on device)" in capsys.readouterr().out
    assert checked(tmp_path / "run/checkpoints/last")["step"] == 1


def test_a_damaged_last_is_not_what_is_kept(tmp_path: Path) -> None:
    """What a run went on from is, whatever lies beside it."""
    checkpoints = Checkpoints(tmp_path, Runtime(torch.device("cpu")))
    assert checkpoints.kept() == "and there is no checkpoint yet"
    for step in (1, 2):
        checkpoints.write("last", {"position": {"step": step}})
    assert checkpoints.kept() == "checkpoints/last.pt of step 2 is as it was" and checkpoints.last_is_of(2)
    checkpoints.newest = checkpoints.folder / "previous.pt", 1
    assert checkpoints.kept() == "checkpoints/previous.pt of step 1 is as it was"
    assert not checkpoints.last_is_of(1) and not checkpoints.last_is_of(2)
