"""Bad command lines: the table of commands.txt, and a try at one of its rows."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import sys
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from tests.hostile.world import PRE, TUNE, build

TABLE = Path(__file__).with_name("commands.txt")
# Whole words that stand for several, and parts of words that cannot be typed.
_WORDS = {"$TUNE": TUNE, "$PRE": PRE}
_PARTS = {"$LONG": "x" * 300, "$DEEP": "[" * 5000, "$LATIN": os.fsdecode(b"\xe4\xf6"), "$NEWLINE": "a\nb"}
_CLOSED = {">&-": 1, "2>&-": 2}
# What a sentence for a user has no use for.
_INSIDE = re.compile(r"<class |<function | object at 0x|Traceback|NoneType|Errno|\b__\w+__\b")
_LONGEST = 600


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Args:
        line: number in the file.
        text: what is typed after `maedfer`.
        answer: what the error must say, in this order.
    """

    line: int
    text: str
    answer: tuple[str, ...]

    @property
    def words(self) -> list[str]:
        """The words of the command line, redirections and variables of the environment among them."""
        words: list[str] = []
        for word in shlex.split(self.text):
            for name, part in _PARTS.items():
                word = word.replace(name, part)
            words += _WORDS.get(word, [word])
        return words


def table() -> list[Row]:
    """The rows of commands.txt."""
    rows, before = [], ""
    for number, line in enumerate(TABLE.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("=="):
            before = line[2:].strip()
        elif line.strip() and not line.startswith("#"):
            text, _, answer = f" {line}".partition(" -> ")
            parts = tuple(part.strip() for part in answer.split(" ... ") if part.strip())
            rows.append(Row(number, f"{before} {text.strip()}".strip(), parts))
    return rows


@dataclass(frozen=True)
class World:
    """The folder that rows are typed in, and the names of all that belongs there."""

    folder: Path
    names: frozenset[str]

    @classmethod
    def made(cls, folder: Path) -> World:
        """Make one, or take one that `build` has made."""
        if not folder.exists():
            build(folder)
        return cls(folder, frozenset(_names(folder)))

    def left(self) -> list[str]:
        """What does not belong into the folder; it is removed."""
        names = sorted({*_names(self.folder)} - self.names)
        for name in reversed(names):
            path = self.folder / name
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            else:
                path.unlink()
        return names


def attempt(case: tuple[Row, World]) -> str:
    """Type a row where the world is; says what is wrong with what happens.

    For a process of its own: it gives away the standard streams.
    """
    row, world = case
    world.left()
    os.chdir(world.folder)
    environment = dict(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        status = _typed(row.words, out, err)
        said, error = out.read_text(errors="replace"), err.read_text(errors="replace")
    os.environ.clear()
    os.environ.update(environment)
    wrong = list(_faults(row, status, said, error))
    left = world.left()
    if left:
        wrong.append(f"it leaves {', '.join(left[:3])}")
    return "; ".join(wrong)


def _faults(row: Row, status: int, said: str, error: str) -> Iterator[str]:
    if status == 1 or "Traceback" in error:
        last = [line for line in error.splitlines() if re.match(r"\w[\w.]*: ", line)]
        yield f"a traceback: {last[-1][:300] if last else error[-300:]}"
        return
    if status != 2:
        yield f"status {status}"
    if "2>&-" in row.words:
        return
    lines = error.splitlines()
    if len(lines) != 1 or not lines[0].startswith("maedfer: error: "):
        yield f"not one line of error: {error[:300]!r}{f' (and says {said[-200:]!r})' if not lines else ''}"
        return
    inside = _INSIDE.search(error)
    if inside:
        yield f"speaks of {inside[0]!r}: {error.strip()[:300]}"
    if len(error) > _LONGEST:
        yield f"{len(error)} characters: {error[:200]}"
    at = 0
    for part in row.answer:
        found = error.find(part, at)
        if found < 0:
            yield f"does not say {part!r}: {error.strip()[:300]}"
            return
        at = found + len(part)


def _typed(words: list[str], out: Path, err: Path) -> int:
    """Run the command line as a shell does; what is printed goes to two files."""
    from maedfer.cli import main
    from maedfer.train.trainer import Trainer

    streams = {1: os.open(out, os.O_WRONLY | os.O_CREAT), 2: os.open(err, os.O_WRONLY | os.O_CREAT)}
    for word in [word for word in words if word.startswith((">", "2>"))]:
        words.remove(word)
        if word in _CLOSED:
            streams[_CLOSED[word]] = -1
        else:
            streams[1] = os.open(word[1:], os.O_WRONLY)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        name, _, value = words.pop(0).partition("=")
        os.environ[name] = value
    for number, stream in streams.items():
        with contextlib.suppress(OSError):
            os.close(number)
        if stream >= 0:
            os.dup2(stream, number)
    # A closed stream is None to Python.
    sys.stdout = sys.__stdout__ = _stream(1, streams[1])  # type: ignore[misc, assignment]
    sys.stderr = sys.__stderr__ = _stream(2, streams[2])  # type: ignore[misc, assignment]
    setattr(Trainer, "_step", _trained)  # noqa: B010
    try:
        status = main(words)
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        status = 1
        with contextlib.suppress(OSError):
            err.write_text(traceback.format_exc(), errors="surrogateescape")
    # What an interpreter does in the end, and what the next row has to find.
    for file in (sys.stdout, sys.stderr):
        try:
            if file is not None:
                file.flush()
        except OSError:
            status = 120
    for number in streams:
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    return status


def _stream(number: int, open_as: int) -> TextIO | None:
    return None if open_as < 0 else os.fdopen(number, "w", closefd=False)


def _trained(*_: object) -> None:
    raise AssertionError("the command line is good: training began")


def _names(folder: Path) -> Iterator[str]:
    for place, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            yield os.path.relpath(os.path.join(place, name), folder)
