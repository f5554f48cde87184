"""What a run was made under: in its checkpoints, its folder and its report, and when it goes on elsewhere."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

from maedfer.report import write_report
from maedfer.train import conditions, environment, run_finetune
from maedfer.train.checkpoint import load_checkpoint, save_checkpoint
from maedfer.train.conditions import changed_conditions, file_digest
from maedfer.train.same_clips import identity
from maedfer.train.sources import read_clips
from tests.train.runs import Killed, kill_before, scores, tiny, write_clips


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"), 8)


def test_checkpoints_environment_and_report_say_what_they_were_made_under(data: Path, tmp_path: Path) -> None:
    cfg = tiny("finetune", data, tmp_path / "run", "optim.epochs=1", "optim.warmup_epochs=0", "eval.select=test")
    run_finetune(cfg)
    for name in ("last", "best"):
        facts = load_checkpoint(tmp_path / "run" / "checkpoints" / f"{name}.pt")["conditions"]
        assert facts["seed"] == 5 and facts["deterministic"] is False and facts["precision"] == "fp32"
        assert facts["versions"]["torch"] == torch.__version__ and facts["device"] == "CPU (1 threads)"
        for split in ("train", "test"):
            file = data / f"{split}.csv"
            assert facts["lists"][split] == {
                "clips": identity(read_clips(cfg, str(file))),
                "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            }
    written = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert facts.items() <= written.items() and written["outcome"] == "complete"
    write_report(tmp_path / "run")
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert facts.items() <= report["environment"].items()
    assert facts["lists"]["test"]["sha256"] in (tmp_path / "run" / "report.html").read_text()


def test_a_run_that_goes_on_under_other_versions_says_so(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = tiny("finetune", data, tmp_path / "run", "train.save_steps=1", "eval.every=0")
    with monkeypatch.context() as patch:
        kill_before(patch, 4)
        with pytest.raises(Killed):
            run_finetune(cfg)
    last = tmp_path / "run" / "checkpoints" / "last.pt"
    state = load_checkpoint(last)
    state["conditions"]["versions"] |= {"torch": "2.11.0", "numpy": None, "of an earlier version": "1"}
    save_checkpoint(last, state)
    capsys.readouterr()
    sentence = f"from step 4 on, the run is made under torch {torch.__version__} (2.11.0 before), numpy "
    assert any(note.startswith(sentence) and "(absent before)" in note for note in scores(run_finetune(cfg))["notes"])
    said = capsys.readouterr().out
    assert sentence in said and "of an earlier version" not in said


def test_nothing_is_said_of_a_checkpoint_that_says_nothing(data: Path, tmp_path: Path) -> None:
    here = {"versions": {"torch": "2.14"}, "device": "CPU (1 threads)", "git_revision": "a" * 40}
    assert changed_conditions({}, here, 3) == changed_conditions(here, {}, 3) == changed_conditions(here, here, 3) == []
    changed = {**here, "git_revision": "a" * 40 + "-dirty", "git_changes": "b" * 64}
    [sentence] = changed_conditions(here, changed, 3)
    assert f"code {'a' * 40}-dirty bbbbbbbb ({'a' * 40} before)" in sentence and "torch" not in sentence
    # Changed again, with the same name.
    assert changed_conditions({**changed, "git_changes": "c" * 64}, changed, 3)


def test_lists_that_cannot_be_read_twice_have_no_digest(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert file_digest(str(tmp_path / "pipe")) is None and file_digest("https://somewhere/shards") is None
    assert file_digest(str(tmp_path)) is None
    (tmp_path / "index.json").write_text("{}")
    assert file_digest(str(tmp_path)) == hashlib.sha256(b"{}").hexdigest()


def test_a_changed_checkout_is_told_with_a_digest_of_its_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    place = tmp_path / "maedfer" / "train" / "environment.py"
    place.parent.mkdir(parents=True)
    place.write_text("one\n")
    monkeypatch.setattr(environment, "__file__", str(place))
    state = environment.git_state.__wrapped__
    assert state() == {"git_revision": None, "git_changes": None}
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "one")
    revision = git("rev-parse", "HEAD")
    assert state() == {"git_revision": revision, "git_changes": None}
    place.write_text("two\n")
    first = state()
    assert first["git_revision"] == f"{revision}-dirty" and first["git_changes"]
    place.write_text("three\n")
    assert state()["git_changes"] != first["git_changes"]


def test_other_processes_have_nothing_to_write(data: Path, tmp_path: Path) -> None:
    from maedfer.train.processes import Runtime

    cfg = tiny("finetune", data, tmp_path / "run")
    other = Runtime(torch.device("cpu"), rank=1, world=2)
    assert conditions.conditions(cfg, other, {"train": "8 clips"}) == {}
