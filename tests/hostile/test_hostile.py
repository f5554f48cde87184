"""A part of the hostile lists; `make fuzz` tries all of them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import torch

from maedfer.cli import build_parser
from tests.hostile import commands, files, malice
from tests.hostile.apart import try_all

# Of the rows of commands.txt, one in so many; and damages of each kind of file.
_SHARE, _DAMAGES = 8, 5


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return files.build(tmp_path_factory.mktemp("hostile"))


def test_the_table_is_long_and_knows_every_command() -> None:
    rows = commands.table()
    assert len(rows) >= 300 and len({row.text for row in rows}) == len(rows)
    for name in build_parser().commands():
        assert any(row.words[:1] == [name] for row in rows), name
    # A row without words that the answer must hold says nothing of the answer.
    assert all(row.answer or "2>&-" in row.text for row in rows)


def test_bad_command_lines_are_answered_in_one_line(base: Path) -> None:
    world = commands.World.made(base / "world")
    rows = commands.table()[::_SHARE]
    wrong = try_all([(row, world) for row in rows], commands.attempt, batch=10)
    assert not [f"commands.txt:{row.line}: {why}" for row, why in zip(rows, wrong, strict=True) if why]


def test_damaged_files_are_read_or_refused(base: Path) -> None:
    cases = [(kind, seed, base) for kind in files.kinds() for seed in range(_DAMAGES)]
    wrong = try_all(cases, files.attempt, batch=20, memory=2 << 30)
    assert not [f"{kind}, seed {seed}: {why}" for (kind, seed, _), why in zip(cases, wrong, strict=True) if why]


def test_good_files_are_read(base: Path) -> None:
    """What is damaged is right before, so that it is the damage that is tried."""
    assert try_all([(kind, None, base) for kind in files.kinds()], files.attempt, batch=20) == [""] * len(files.kinds())


def test_files_that_were_made_to_do_harm_are_refused() -> None:
    names = list(malice.harms())
    wrong = try_all(names, malice.attempt, batch=12, memory=1 << 30)
    assert not [f"{name}: {why}" for name, why in zip(names, wrong, strict=True) if why]


def _misbehave(how: str) -> str:
    if how == "raise":
        raise KeyError(how)
    if how == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "hang":
        time.sleep(60)
    if how == "eat":
        torch.ones(1 << 30)
    return ""


def test_whatever_a_case_does_is_a_fault_of_that_case() -> None:
    how = ["", "raise", "crash", "", "hang", "eat", ""]
    wrong = try_all(how, _misbehave, batch=4, seconds=1, memory=1 << 30)
    assert wrong[0] == wrong[3] == wrong[6] == ""
    assert wrong[1].startswith("KeyError: 'raise'")
    assert wrong[2] == f"ends the process, status {-signal.SIGSEGV}"
    assert wrong[4] == "takes more than 1 s"
    assert "allocate memory" in wrong[5]


def test_what_a_row_does_wrong_is_seen(base: Path) -> None:
    world = commands.World.made(base / "world")
    lines = {
        "finetune $TUNE": "training began",
        "finetune $TUNE --print-config": "status 0",
        "finetun": "does not say 'other words'",
        "synth --out new --clips 14 --size 32 --frames 4 --folds 2 --workers 1": "it leaves new",
    }
    cases = [(commands.Row(0, text, ("other words",)), world) for text in lines]
    for why, expected in zip(try_all(cases, commands.attempt), lines.values(), strict=True):
        assert expected in why
    assert not world.left()
