"""What is measured for minutes has a place before it is measured."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
import torch

from benchmarks import plan, tune
from benchmarks.results_file import make_place, write
from maedfer.errors import InputError

# Every command that writes what it measures, with the option for its place: a file's name, or a folder's.
COMMANDS = {
    "__main__ run --small --device cpu --compile without --out": "new.json",
    "__main__ static --out": "new.json",
    "gpu --out": "new.json",
    "learning --clips 10 --results": "",
    "loader nowhere.mp4 --results": "",
    "plan --results": "",
    "summary --out": "new.png",
    "tune --ahead-of-time --out": "new.json",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_place_that_cannot_be_is_told_before_anything_is_measured(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "gpu" in command)
    (tmp_path / "file").touch()
    place = str(tmp_path / "file" / COMMANDS[command])
    name, *options = command.split()
    monkeypatch.setattr("sys.argv", [name, *options, place])
    assert importlib.import_module(f"benchmarks.{name}").main() == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and f"nothing can be written to '{tmp_path / 'file'}" in said.err
    assert said.out == ""


def test_the_plan_makes_the_folder_of_its_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "plan", lambda *settings: {"inference": {}})
    monkeypatch.setattr("sys.argv", ["plan", "--results", str(tmp_path / "new" / "folder")])
    assert plan.main() == 0
    assert json.loads((tmp_path / "new" / "folder" / "plan_cpu.json").read_text()) == {"inference": {}}


def test_what_is_there_stays_until_it_is_replaced_whole(tmp_path: Path) -> None:
    place = tmp_path / "a.json"
    write(place, {"rows": [1]})
    assert make_place(place) == place and json.loads(place.read_text()) == {"rows": [1]}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    with pytest.raises(InputError, match="is a folder: give the name of a file in it"):
        make_place(tmp_path)


def test_tuning_makes_a_table_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "questions", lambda shipped: {})
    tune.tune(tmp_path / "new" / "table.json", ahead_of_time=True, archs=[90], kernels=None)
    assert tune.read(tmp_path / "new" / "table.json") == []
