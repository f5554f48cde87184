"""`maedfer prepare`, from its command line."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from maedfer.cli import main
from maedfer.train.config import load_config
from tests.cli.helpers import FINETUNE, Call
from tests.preparation import trees


@pytest.fixture(autouse=True)
def red(monkeypatch: pytest.MonkeyPatch) -> None:
    from maedfer.preparation import cropping

    monkeypatch.setattr(cropping, "open_detector", lambda *_, **__: trees.RedDetector())


def test_the_report_is_printed_and_the_last_line_trains(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trees.folder(Path("my clips"))
    argv = ["prepare", "folder", "--root", "my clips", "--out", "new/it's", "--subject", r"(p\d)_", "--test", "0.34"]
    status, text, err = call(*argv)
    assert (status, err) == (0, "")
    lines = text.splitlines()
    assert lines[:3] == ["Own clips", "12 clips of 2 classes, a folder each, in my clips.", "Frames are 40 x 40."]
    assert "Fold 1: 8 clips for training, 4 for test." in lines and "Classes: a happy 6, sad 6." in lines
    assert "12 clips are in the lists, in new/it's." in lines
    words = shlex.split(lines[-1])
    assert words[:3] == ["maedfer", "finetune", "dfew"]
    cfg = load_config("finetune", "dfew", words[3:])
    assert (cfg.data.root, cfg.classes, cfg.output) == ("my clips", ("a happy", "sad"), "runs/it's")
    # The last line does train, with a small model.
    small = [item for item in FINETUNE if not item.startswith("data.classes")]
    assert main([*words[1:], *small, "optim.epochs=1", "optim.warmup_epochs=0"]) == 0
    assert Path("runs/it's/metrics.json").is_file()


def test_clips_that_are_left_out_are_the_status(call: Call, tmp_path: Path) -> None:
    trees.folder(tmp_path / "root")
    (tmp_path / "root/sad/broken.mp4").write_bytes(b"no video")
    argv = ["prepare", "folder", "--root", tmp_path / "root", "--out", tmp_path / "out"]
    status, text, _ = call(*argv, "--dry-run")
    assert status == 1 and "12 clips would be in the lists." in text and not (tmp_path / "out").exists()
    status, text, _ = call(*argv)
    assert status == 1 and "- 1 clip is not usable and left out, the first as sad/broken.mp4 (" in text


def test_an_interrupted_run_is_told_that_it_goes_on(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from maedfer.preparation import prepare

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    trees.folder(tmp_path / "root")
    monkeypatch.setattr(prepare, "look_at_clips", stop)
    status, _, err = call("prepare", "folder", "--root", tmp_path / "root", "--out", tmp_path / "out")
    assert status == 130 and "the same command goes on with the clips that are not done" in err


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["folder", "--root", "root"], "--out"),
        (["folder", "--out", "x"], "--root must be given"),
        (["list", "--out", "x"], "--list must be given"),
        (["dfew", "--root", "root", "--out", "x", "--folds", "3"], "--folds is for folder and list"),
        (["folder", "--root", "root", "--out", "x", "--workers", "0"], "--workers must be between 1 and 1024, got 0"),
        (["folder", "--root", "root", "--out", "x", "--test", "1.5"], "--test must be between 0 and 1"),
        (["folder", "--root", "root", "--out", "x", "--subject", "("], "--subject '(' is no pattern"),
        (["folder", "--root", "root", "--out", "root/x"], "root/x is in the folder of the data set"),
        (["folder", "--root", "root", "--out", "root"], "root is in the folder of the data set"),
        (["dfew", "--root", "root", "--out", "x"], "set_1.csv: no such split file"),
    ],
)
def test_bad_command_lines(
    words: list[str], answer: str, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trees.folder(Path("root"))
    status, out, err = call("prepare", *words)
    assert (status, out) == (2, "") and answer in err and err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["root"]
