from __future__ import annotations

import inspect
import io
from pathlib import Path

import pytest

from maedfer.cli import build_parser
from maedfer.data.annotations import check_exists, read_annotations
from maedfer.synthetic import write_dataset
from tests.cli.helpers import Call


def test_the_data_set_is_written_and_the_same_command_again_leaves_it(call: Call, tmp_path: Path) -> None:
    argv = ["synth", "--out", tmp_path / "s", *"--clips 7 --size 32 --frames 4 --folds 2 --workers 1 --seed 5".split()]
    first = call(*argv)
    assert first.status == 0, first.err
    assert f"7 clips and 2 folds in {tmp_path / 's'}" in first.out
    clips = read_annotations(tmp_path / "s" / "all.csv", num_classes=7)
    assert len(clips) == 7
    check_exists(clips)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("*")}
    assert call(*argv).status == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("*")} == written


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_how_far_it_is(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    argv = ["synth", "--out", tmp_path / "s", *"--clips 7 --size 32 --frames 4 --folds 2 --workers 1".split()]
    assert call(*argv).status == 0
    shown = terminal.getvalue()
    assert "drawing: 14 %" in shown and "\n" not in shown
    # In the end the line is taken away.
    assert shown.endswith("\r\x1b[K")


def test_defaults_are_those_of_the_generator() -> None:
    args = vars(build_parser().parse_args(["synth", "--out", "x"]))
    signature = inspect.signature(write_dataset).parameters
    for name in ("clips", "seed", "size", "frames", "folds", "workers"):
        assert args[name] == signature[name].default, name


def test_errors(call: Call, tmp_path: Path) -> None:
    assert "--workers must be at least 1, got 0" in call("synth", "--out", tmp_path / "s", "--workers", "0").err
    (tmp_path / "file").write_text("")
    refused = call("synth", "--out", tmp_path / "file", "--clips", "7")
    assert refused.status == 2 and "is a file: choose a folder" in refused.err
    assert call("synth", "--out", tmp_path / "s", "--clips", "0").status == 2
    assert not (tmp_path / "s").exists()
