"""Boxes that were made elsewhere, from a file."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from maedfer._values import number
from maedfer.data.list_text import column_name, likeness, read_fields
from maedfer.data.video.base import look_at, shown
from maedfer.errors import InputError, some
from maedfer.faces.frame import Detections, Frame

_BOX = ("x", "y", "width", "height")
# Beyond the first and the last frame of a video that has no other one, seconds that a box may be away from it.
_ALONE = 0.02
_MOST = 2**31 - 1
# What no number of a box or a time has to do with; float32 holds it.
_LARGE = 1e9


def read_boxes(path: str | Path, video: str | Path | None = None, times: np.ndarray | None = None) -> BoxFile:
    """Read boxes that were made elsewhere, as a detector that looks at no picture.

    The file is a CSV as spreadsheets write them (comma, semicolon or tab; a decimal comma where the delimiter is no
    comma), with a header; its columns may be in any order, and others are passed over:

    - `frame`, from 0, or `time`, in seconds since the video's start, or both, of which `frame` counts. Boxes by time
      belong to the frame whose presentation time is nearest; of several times that are nearest to one frame, the
      nearest one counts.
    - `x`, `y`, `width`, `height`, in pixels of the frame; all four are empty where nobody is in the frame.
    - `score`, in [0, 1], if there is one; 1 elsewhere.
    - `face`, if there is one: whole numbers, or names, which get numbers from 1 on in the order in which they appear.
    - `cut`, if there is one: 1 on the lines of a frame directly before which the scene changes, 0 or empty elsewhere.
    - `video`, if there is one: of several videos in one file; its name, with its suffix or without, or its path.

    Args:
        path: the file.
        video: the video, where the file speaks of several.
        times: float64 [frames], presentation times of all of the video's frames; needed for boxes by time, and used to
            find boxes that are in no frame.

    Raises:
        InputError: naming file and line of what cannot be read.
    """
    path = Path(path)
    table = _read(path)
    rows = _of_video(table, video)
    by = "frame" if "frame" in table.columns else "time"
    keys, boxes, scores, cuts = [], [], [], []
    for row in rows:
        keys.append(table.number(row, by, *((0, _MOST) if by == "frame" else ())))
        if by == "frame" and keys[-1] % 1:
            raise table.error(row, f"frame must be a whole number, got {table.cell(row, 'frame')}")
        boxes.append([table.number(row, name) for name in _BOX] if table.filled(row) else [math.nan] * 4)
        if table.filled(row) and np.array(boxes[-1][2:], np.float32).min() <= 0:
            raise table.error(row, f"width and height must be above 0, got {boxes[-1][2]:g} and {boxes[-1][3]:g}")
        scores.append(table.number(row, "score", least=0, most=1) if table.cell(row, "score") else 1.0)
        cuts.append(table.number(row, "cut") if table.cell(row, "cut") else 0)
        if cuts[-1] not in (0, 1):
            raise table.error(row, f"cut must be 1, 0 or empty, got {table.cell(row, 'cut')}")
    frames = _frames(table, rows, np.array(keys), times, by)
    faces = _faces(table, rows, keys)
    if faces is not None:
        seen: dict[tuple[int, int], _Row] = {}
        for row, frame, face in zip(rows, frames.tolist(), faces.tolist(), strict=True):
            if frame >= 0 and table.filled(row) and seen.setdefault((frame, face), row) is not row:
                other = seen[frame, face].line
                raise table.error(row, f"face {table.cell(row, 'face')} is in this frame already, by line {other}")
    begun = frozenset(frame for frame, cut in zip(frames.tolist(), cuts, strict=True) if cut)
    shape = np.array(boxes, np.float32).reshape(-1, 4)
    return BoxFile(path, frames, shape, np.array(scores, np.float32), faces, begun)


def check_boxes(path: str | Path) -> None:
    """Refuse a file that is no table of boxes, whatever videos it is of.

    Raises:
        InputError: it cannot be read, or its header or the shape of a line is wrong.
    """
    _read(Path(path))


class BoxFile:
    """A `Detector` that knows boxes from a file; see `read_boxes`.

    Args:
        path: of the file.
        frames: int64 [n], the frame of each row; below 0 where it is in none.
        boxes: float32 [n, 4]; NaN in rows that say that nobody is there.
        scores: float32 [n].
        faces: int64 [n], who it is; None where nobody said so.
        cuts: frames directly before which the scene changes.
    """

    needs_pictures = False

    def __init__(
        self,
        path: Path,
        frames: np.ndarray,
        boxes: np.ndarray,
        scores: np.ndarray,
        faces: np.ndarray | None,
        cuts: frozenset[int] = frozenset(),
    ) -> None:
        self.cuts = cuts
        self.name = f"boxes of {shown(path.name)}"
        self.note = "the boxes were made elsewhere"
        kept = np.flatnonzero((frames >= 0) & ~np.isnan(boxes[:, 0]))
        kept = kept[np.argsort(frames[kept], kind="stable")]
        self._frames, self._boxes, self._scores = frames[kept], boxes[kept], scores[kept]
        self._faces = None if faces is None else faces[kept]

    def detect(self, frames: Sequence[Frame]) -> list[Detections]:
        """Give the boxes of some frames, in the order of the file's lines."""
        found = []
        for frame in frames:
            first, last = np.searchsorted(self._frames, [frame.index, frame.index + 1])
            faces = None if self._faces is None else self._faces[first:last]
            found.append(Detections(self._boxes[first:last], self._scores[first:last], faces))
        return found


class _Row(NamedTuple):
    line: int
    fields: list[str]


class _BoxTable:
    """The lines of a file of boxes; `columns` says where each one is."""

    def __init__(self, path: Path, columns: dict[str, int], rows: list[_Row], comma: bool) -> None:
        self.path, self.columns, self.rows, self._comma = path, columns, rows, comma

    def error(self, row: _Row, sentence: str) -> InputError:
        return InputError(f"{shown(self.path)}:{row.line}: {sentence}")

    def cell(self, row: _Row, name: str) -> str:
        return row.fields[self.columns[name]] if name in self.columns else ""

    def filled(self, row: _Row) -> bool:
        """Whether the line has a box."""
        return any(self.cell(row, name) for name in _BOX)

    def number(self, row: _Row, name: str, least: float = -_LARGE, most: float = _LARGE) -> float:
        text = self.cell(row, name)
        value = number(text.replace(",", ".") if self._comma and "." not in text else text)
        if value is None or not least <= value <= most:
            raise self.error(row, f"{name} must be a number from {_told(least)} to {_told(most)}, got {shown(text)!r}")
        return value


def _told(value: float) -> str:
    return f"{value:g}".replace("e+0", "e")


def _read(path: Path) -> _BoxTable:
    status = look_at(path)
    # A file of many videos is asked for each of them.
    return _parse(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=1)
def _parse(path: Path, _changed: int, _size: int) -> _BoxTable:
    empty = "the file of boxes is empty: it needs a header and a line for each box"
    delimiter, ((head, fields), *rest) = read_fields(path, empty)
    names = [column_name(field) for field in fields]
    columns = {name: place for place, name in reversed([*enumerate(names)])}
    lacking = [name for name in _BOX if name not in columns]
    if not lacking and not {"frame", "time"} & columns.keys():
        lacking = ["frame or time"]
    if lacking:
        raise InputError(
            f"{shown(path)}:{head}: the header has no column {', '.join(lacking)}: boxes need frame or time, and "
            "x, y, width, height; score, face, cut and video may be there"
        )
    twice = [name for name in columns if name and names.count(name) > 1]
    if twice:
        raise InputError(f"{shown(path)}:{head}: the header names {', '.join(twice)} twice")
    table = _BoxTable(path, columns, [], comma=delimiter != ",")
    for at, row in rest:
        row += [""] * (len(names) - len(row))
        table.rows.append(_Row(at, row))
        if any(row[len(names) :]):
            raise table.error(table.rows[-1], f"the line has {len(row)} fields, and the header names {len(names)}")
    return table


def _of_video(table: _BoxTable, video: str | Path | None) -> list[_Row]:
    """The lines of a video."""
    if "video" not in table.columns:
        return table.rows
    named = list(dict.fromkeys(table.cell(row, "video") for row in table.rows))
    if video is None:
        if len(named) > 1:
            raise InputError(
                f"{shown(table.path)}: it has boxes of {some([shown(name) for name in named])}: say of which video"
            )
        return table.rows
    fits = {name: likeness(name, video) for name in named}
    best = max(fits.values(), default=0)
    if not best:
        name = os.path.basename(os.path.abspath(video))
        raise InputError(f"{shown(table.path)}: no line of it is of {shown(name)!r}, by its column video")
    return [row for row in table.rows if fits[table.cell(row, "video")] == best]


def _faces(table: _BoxTable, rows: list[_Row], keys: Sequence[float]) -> np.ndarray | None:
    """Int64 [rows], who is in each box."""
    texts = [table.cell(row, "face") for row in rows]
    if not any(texts):
        return None
    for row, text in zip(rows, texts, strict=True):
        if table.filled(row) and not text:
            raise table.error(row, "face is empty, and other lines have one")
    values = {text: number(text) for text in texts if text}
    for row, text in zip(rows, texts, strict=True):
        if (value := values.get(text)) is not None and value < 0:
            raise table.error(row, f"face must be a whole number from 0 on or a name, got {text}")
    if all(value is not None and 0 <= value <= _MOST and value % 1 == 0 for value in values.values()):
        numbers = {text: int(value or 0) for text, value in values.items()}
    else:
        appear = sorted(range(len(rows)), key=lambda place: keys[place])
        order = dict.fromkeys(texts[place] for place in appear if texts[place])
        numbers = {text: place for place, text in enumerate(order, 1)}
    return np.array([numbers.get(text, 0) for text in texts], np.int64)


def _frames(table: _BoxTable, rows: list[_Row], keys: np.ndarray, times: np.ndarray | None, by: str) -> np.ndarray:
    """Int64 [rows], the frame of each line."""
    if by == "frame":
        if times is not None and len(keys) and keys.max() >= len(times):
            row = rows[int(keys.argmax())]
            raise table.error(row, f"frame {keys.max():.0f} is not in the video, which has {len(times)}, from 0 on")
        return keys.astype(np.int64)
    if times is None or not len(times):
        raise InputError(
            f"{shown(table.path)}: its boxes are by time, but when frames are shown is not known here: give boxes by "
            "frame"
        )
    half = float(np.median(np.diff(times))) / 2 if len(times) > 1 else _ALONE
    for place in np.flatnonzero((keys < times[0] - half) | (keys > times[-1] + half))[:1]:
        raise table.error(
            rows[place],
            f"time {keys[place]:g} is not in the video, whose frames are shown from {times[0]:g} s to {times[-1]:g} s",
        )
    after = np.searchsorted(times, keys).clip(1, max(1, len(times) - 1))
    before = after - 1
    nearest = np.where(keys - times[before] <= times[after.clip(0, len(times) - 1)] - keys, before, after)
    nearest = nearest.clip(0, len(times) - 1)
    # Of a frame's times the nearest one counts; the earlier one of two that are as near.
    away = np.abs(keys - times[nearest])
    best: dict[int, tuple[float, float]] = {}
    for place in np.lexsort((keys, away)):
        best.setdefault(int(nearest[place]), (away[place], keys[place]))
    counts = [best[int(frame)][1] == key for frame, key in zip(nearest, keys, strict=True)]
    return np.where(counts, nearest, -1)
