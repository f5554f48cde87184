"""The table of a prediction, a CSV file: one row for each window and face, written as they come and read back.

A file that a killed process left is gone on with: what it holds of a row that was not finished is cut off. Its columns
are ours, or named as users of OpenFace or of py-feat read them; all three hold the same and are read back alike.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np

from maedfer.data.video.base import shown
from maedfer.errors import InputError, shortened
from maedfer.prediction.rows import Row, Status, Window, number_after

Columns = Literal["maedfer", "openface", "pyfeat"]

_OWN = "video face start end time x y width height detection frames status prediction confidence".split()
# What others call a column of ours. `frame` counts windows, from 1 as OpenFace does and from 0 as py-feat does.
_NAMES: dict[Columns, dict[str, str]] = {
    "maedfer": {},
    "openface": {
        "face": "face_id",
        "time": "timestamp",
        "detection": "confidence",
        "confidence": "prediction_confidence",
    },
    "pyfeat": {
        "video": "input",
        "time": "approx_time",
        "x": "FaceRectX",
        "y": "FaceRectY",
        "width": "FaceRectWidth",
        "height": "FaceRectHeight",
        "detection": "FaceScore",
    },
}
# Columns that come first, in this order; those that are not among ours are added.
_FIRST: dict[Columns, list[str]] = {
    "maedfer": [],
    "openface": "frame face_id timestamp confidence success".split(),
    "pyfeat": "input frame approx_time FaceRectX FaceRectY FaceRectWidth FaceRectHeight FaceScore".split(),
}
_EMOTIONS = {
    "anger": "angry",
    "disgust": "disgusted",
    "fear": "fearful afraid",
    "happiness": "happy joy",
    "sadness": "sad",
    "surprise": "surprised",
    "neutral": "neutrality",
}
_EMOTION_OF = {word: name for name, words in _EMOTIONS.items() for word in (name, *words.split())}

# Where a row stands: the number of its window, and its face, 0 where none is.
Place = tuple[int, int]


class OutputError(InputError):
    """Results cannot be written (disk full, no permission): no fault of what is read, and nothing can go on."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Make an `OutputError` that names the file of what the system says while it is written."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        then = "make room, and the same command goes on" if full else "what is there is kept"
        raise OutputError(f"{shown(path)}: cannot be written ({error.strerror or error}); {then}") from error


@dataclass(frozen=True)
class TableFormat:
    """Which columns a table has.

    Args:
        classes: names of the classes, in their order.
        columns: whose names the columns have.
    """

    classes: tuple[str, ...]
    columns: Columns = "maedfer"

    @cached_property
    def head(self) -> list[str]:
        """Names of the columns."""
        names = _NAMES[self.columns]
        first = _FIRST[self.columns]
        rest = [name for name in (names.get(own, own) for own in _OWN) if name not in first]
        classes = [f"p_{name}" for name in self.classes]
        if self.columns == "pyfeat":
            return [*first, *_emotions(self.classes, {*first, *rest}), *rest]
        return [*first, *rest, *classes]

    def fields(self, row: Row) -> list[str]:
        """A row as text."""
        window, sure = row.window, row.probabilities
        best = None if sure is None else int(np.argmax(sure))
        box = ("",) * 4 if window.box is None else tuple(f"{value:.2f}" for value in window.box)
        values = [
            row.video,
            "" if window.face is None else str(window.face),
            *(_seconds(value) for value in (window.start, window.end, window.time)),
            *box,
            "" if window.detection is None else f"{window.detection:.4f}",
            str(window.frames),
            window.status,
            "" if best is None else self._labels[best],
            "" if sure is None or best is None else f"{sure[best]:.6f}",
        ]
        names = _NAMES[self.columns]
        found = {names.get(own, own): value for own, value in zip(_OWN, values, strict=True)}
        found["frame"] = str(window.number + self._first_window)
        found["success"] = str(int(window.face is not None))
        chances = [""] * len(self.classes) if sure is None else [f"{value:.6f}" for value in sure]
        start = self._first_class
        fields = [found[name] for name in self._fixed]
        return [*fields[:start], *chances, *fields[start:]]

    def row(self, fields: Sequence[str], before: Window | None = None) -> Row:
        """The row that text stands for.

        Args:
            fields: the text.
            before: window of the row before, None for the first one; our own columns do not tell numbers of windows.

        Raises:
            ValueError: it stands for none.
        """
        start, count = self._first_class, len(self.classes)
        if len(fields) != len(self.head):
            raise ValueError(f"{len(self.head)} fields are wanted, there are {len(fields)}")
        chances = fields[start : start + count]
        fixed = dict(zip(self._fixed, [*fields[:start], *fields[start + count :]], strict=True))
        names = _NAMES[self.columns]
        own = {name: fixed[names.get(name, name)] for name in _OWN}
        if own["status"] not in get_args(Status):
            raise ValueError(f"{own['status']!r} is no status")
        box = [own[name] for name in ("x", "y", "width", "height")]
        x, y, width, height = (_finite(value or "0") for value in box)
        start_time, end_time = _finite(own["start"]), _finite(own["end"])
        face = int(own["face"]) if own["face"] else None
        number = number_after(before, start_time, end_time, face)
        window = Window(
            number=int(fixed["frame"]) - self._first_window if "frame" in fixed else number,
            start=start_time,
            end=end_time,
            time=_finite(own["time"]),
            face=face,
            box=(x, y, width, height) if box[0] else None,
            detection=_finite(own["detection"]) if own["detection"] else None,
            frames=int(own["frames"]),
            status=cast(Status, own["status"]),
        )
        scored = bool(chances) and bool(chances[0])
        return Row(own["video"], window, np.array([_finite(value) for value in chances]) if scored else None)

    @cached_property
    def _fixed(self) -> list[str]:
        """Names of the columns but for those of the classes."""
        start = self._first_class
        return self.head[:start] + self.head[start + len(self.classes) :]

    @cached_property
    def _labels(self) -> Sequence[str]:
        """What a prediction is called: for py-feat the name of its column."""
        start = self._first_class
        return self.head[start : start + len(self.classes)] if self.columns == "pyfeat" else self.classes

    @property
    def _first_window(self) -> int:
        """What the first window is counted as."""
        return int(self.columns == "openface")

    @cached_property
    def _first_class(self) -> int:
        return len(_FIRST["pyfeat"]) if self.columns == "pyfeat" else len(self.head) - len(self.classes)


def place_of(window: Window) -> Place:
    """Where the row of a window stands in a table: places rise from row to row."""
    return window.number, window.face or 0


def table_format(head: Sequence[str]) -> TableFormat:
    """Which columns a table has, from its first line.

    Raises:
        ValueError: it is no first line of such a table.
    """
    count = len(head)
    for columns in get_args(Columns):
        # The fewest that a table can have, without classes.
        fixed = len(TableFormat((), columns).head)
        start = len(_FIRST["pyfeat"]) if columns == "pyfeat" else fixed
        classes = tuple(head[start : start + count - fixed])
        if columns != "pyfeat":
            classes = tuple(name.removeprefix("p_") for name in classes)
        elif any(name.startswith("p_") for name in classes):
            taken = {*TableFormat((), columns).head}
            classes = tuple(name[2:] if name[:2] == "p_" and name[2:] in taken else name for name in classes)
        format = TableFormat(classes, columns)
        if count >= fixed and format.head == list(head):
            return format
    raise ValueError(f"its first line is {','.join(head)[:200]!r}")


def read_table(path: str | Path) -> tuple[TableFormat, Iterator[Row]]:
    """Read a table back: its columns, and its rows as they are asked for.

    Raises:
        InputError: the file is absent, is no table of a prediction, or has a line that is no row; names the line.
    """
    path = Path(path)
    try:
        file = open(path, newline="", encoding="utf-8", errors="surrogateescape")  # noqa: SIM115
    except OSError as error:
        raise InputError(f"{shown(path)}: cannot be read ({error.strerror})") from error
    reader = csv.reader(file, strict=True)
    try:
        format = table_format(next(reader, []))
    except (ValueError, csv.Error) as error:
        file.close()
        raise InputError(f"{shown(path)}: is no table of a prediction: {shown(str(error))}") from error

    def rows() -> Iterator[Row]:
        before: Window | None = None
        with file:
            try:
                for fields in reader:
                    if fields:
                        row = format.row(fields, before)
                        before = row.window
                        yield row
            except (ValueError, csv.Error) as error:
                raise InputError(f"{shown(path)} line {reader.line_num}: {shown(shortened(str(error)))}") from error

    return format, rows()


class TableWriter:
    """Appends rows to a table, so that whatever happens the file ends with a whole row.

    Args:
        path: of the table; one that is there is gone on with.
        format: its columns.
        scored: rows with probabilities after which a table that is there is cut off; None = it is kept whole.

    Attributes:
        rows, scored: rows that the table holds, and those of them with probabilities.
        last: where its last row stands; None while there is none.

    Raises:
        OutputError: it cannot be written.
        InputError: what is there has other columns, or a line that is no row.
    """

    def __init__(self, path: Path, format: TableFormat, scored: int | None = None) -> None:
        self.path, self.format = path, format
        self.rows = self.scored = 0
        self.last: Place | None = None
        with writing(path):
            self._file = open(path, "a+b", buffering=0)  # noqa: SIM115
        try:
            with writing(path):
                self._size = self._go_on(scored)
                self._file.truncate(self._size)
            if not self._size:
                self._write([format.head])
        except BaseException:
            self._file.close()
            raise

    def append(self, rows: Sequence[Row]) -> None:
        """Write rows at once; all of them, or none where the system refuses.

        Raises:
            OutputError: it refuses.
        """
        self._write([self.format.fields(row) for row in rows])
        for row in rows:
            self._count(row)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _count(self, row: Row) -> None:
        self.last = place_of(row.window)
        self.rows += 1
        self.scored += row.probabilities is not None

    def _write(self, lines: Sequence[Sequence[str]]) -> None:
        text = io.StringIO(newline="")
        csv.writer(text).writerows(lines)
        rest = memoryview(text.getvalue().encode("utf-8", "surrogateescape"))
        size = self._size + len(rest)
        try:
            with writing(self.path):
                while rest:
                    rest = rest[self._file.write(rest) :]
        except BaseException:
            with contextlib.suppress(OSError):
                self._file.truncate(self._size)
            raise
        self._size = size

    def _go_on(self, most: int | None) -> int:
        """Look through what is there; returns after how many bytes its last row that counts has ended."""
        self._file.seek(0)
        size = 0
        before: Window | None = None
        # The descriptor stays open: the file object that reads ahead is another one.
        for number, record in enumerate(whole_records(open(self._file.fileno(), "rb", closefd=False))):  # noqa: SIM115
            try:
                fields = next(csv.reader(io.StringIO(record, newline=""), strict=True), [])
                if not number and fields != self.format.head:
                    raise ValueError("it has other columns")
                row = self.format.row(fields, before) if number else None
            except (ValueError, csv.Error) as error:
                raise InputError(
                    f"{shown(self.path)}: is no table of this prediction, see its row {number}: "
                    f"{shown(shortened(str(error)))}: "
                    "choose another --out, or --overwrite"
                ) from error
            if row is not None:
                if most is not None and row.probabilities is not None and self.scored >= most:
                    return size
                self._count(row)
                before = row.window
            size += len(record.encode("utf-8", "surrogateescape"))
        return size


def whole_records(file: io.BufferedIOBase) -> Iterator[str]:
    """The records of a CSV file that have an end, a line break in quotes belonging to its record."""
    record = b""
    for line in file:
        record += line
        # A quote in a quoted field is doubled: outside of quotes the count is even.
        if record.endswith(b"\n") and record.count(b'"') % 2 == 0:
            yield record.decode("utf-8", "surrogateescape")
            record = b""


def _seconds(value: float) -> str:
    # No "-0.000" for a time just below the start.
    return f"{round(value, 3) + 0.0:.3f}"


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is no number")
    return value


def _emotions(classes: Sequence[str], taken: set[str]) -> list[str]:
    """Names of the columns of the classes as py-feat has them; one that a column has already is told apart."""
    names = [_EMOTION_OF.get(name.lower(), name) for name in classes]
    return [
        f"p_{own}" if name in taken else name if names.count(name) == 1 else own
        for own, name in zip(classes, names, strict=True)
    ]
