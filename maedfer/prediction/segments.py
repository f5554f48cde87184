"""Turns, sentences, trials: stretches of a video that somebody named, and what faces showed over each of them."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from maedfer._files import atomic_path
from maedfer._values import seconds
from maedfer.data.list_text import likeness, read_fields, unfitting
from maedfer.data.video.base import shown
from maedfer.errors import InputError
from maedfer.prediction.rows import Row, Status

_COLUMNS = ("video", "face", "start", "end", "label")
_HEAD = ("video", "face", "start", "end", "label", "windows", "status", "prediction", "confidence")
# A face that windows cover so much of a turn is there for all of it: the last window may end before the video does.
_WHOLE = 0.9


class Segment(NamedTuple):
    """A stretch of time with a name.

    Args:
        start, end: seconds since the video's start.
        label: what it is called; "" where nobody says.
        video: name or path of the video that it is in; None = of every one.
        face: number of the only face that is meant; None = every face.
    """

    start: float
    end: float
    label: str = ""
    video: str | None = None
    face: int | None = None


class SegmentRow(NamedTuple):
    """What one face showed over one segment.

    Args:
        video: as rows have it.
        face: its number; None where no face is in the segment.
        segment: start, end and label.
        windows: how many windows of the face overlap with it.
        status: "ok", "partial" where windows cover less than nine tenths of it, "no_face",
            "no_window" where no window of the video overlaps with it: it is after the video's end, say.
        probabilities: float64 [classes], means over the windows, each counted by the seconds that it has in the
            segment; None where no face is.
    """

    video: str
    face: int | None
    segment: Segment
    windows: int
    status: Status | Literal["no_window"]
    probabilities: np.ndarray | None


def read_segments(path: str | Path) -> list[Segment]:
    """Read segments from a CSV file with a header, as spreadsheets write it.

    Its columns, in any order: `start` and `end` in seconds or as m:ss or h:mm:ss; `label`, `video` and `face` may be
    there; others are passed over. An empty video or face is every one.

    Raises:
        InputError: naming file and line of what cannot be read.
    """
    path = Path(path)
    empty = "is empty: it needs a header with start and end, and a line for each segment"
    delimiter, ((first, head), *rest) = read_fields(path, empty)
    names = [name.strip().lower() for name in head]
    columns = {name: names.index(name) for name in _COLUMNS if name in names}
    lacking = [name for name in ("start", "end") if name not in columns]
    if lacking:
        raise InputError(
            f"{shown(path)}:{first}: the header has no column {' and '.join(lacking)}: a segment needs start "
            "and end, in seconds or as m:ss; label, video and face may be there"
        )
    segments = []
    for number, row in rest:
        line = f"{shown(path)}:{number}"
        if any(row[len(names) :]):
            raise InputError(f"{line}: the line has {len(row)} fields, and the header names {len(names)}")
        cells = {name: row[at] if at < len(row) else "" for name, at in columns.items()}
        start, end = (_seconds(cells[name], delimiter, f"{line}: {name}") for name in ("start", "end"))
        if end <= start:
            raise InputError(f"{line}: it ends at {cells['end']}, which is not after its start at {cells['start']}")
        face = cells.get("face") or None
        if face is not None and not re.fullmatch(r"[1-9]\d{0,8}", face):
            raise InputError(f"{line}: face must be the number of one, from 1 on, or empty, got {shown(face)!r}")
        video = cells.get("video") or None
        segments.append(Segment(start, end, cells.get("label", ""), video, int(face) if face else None))
    return segments


def pool_segments(rows: Iterable[Row], segments: Sequence[Segment], video: str | Path) -> list[SegmentRow]:
    """Pool the probabilities of a video's rows over each segment and face.

    Args:
        rows: of one video, in any order; looked at once.
        segments: those of other videos are passed over.
        video: as it was given.

    Returns:
        For each segment in its order a row for each face that is in it, by number, or one with "no_face" or
        "no_window".
    """
    own = [segment for segment in segments if segment.video is None or likeness(segment.video, video)]
    pools: list[dict[int, _Pool]] = [{} for _ in own]
    starts, ends = (np.array([segment[place] for segment in own]) for place in (0, 1))
    seen = np.zeros(len(own), bool)
    for row in rows:
        window = row.window
        inside = (starts < window.end) & (ends > window.start)
        seen |= inside
        if row.probabilities is None or window.face is None:
            continue
        for place in np.flatnonzero(inside):
            segment = own[place]
            if segment.face in (None, window.face):
                pool = pools[place].setdefault(window.face, _Pool(len(row.probabilities)))
                pool.add(max(window.start, segment.start), min(window.end, segment.end), row.probabilities)
    found = []
    for segment, faces, looked_at in zip(own, pools, seen.tolist(), strict=True):
        for face, pool in sorted(faces.items()):
            whole = pool.covered() >= _WHOLE * (segment.end - segment.start)
            status: Status = "ok" if whole else "partial"
            found.append(SegmentRow(str(video), face, segment, len(pool.pieces), status, pool.total / pool.weight))
        if not faces:
            nobody: Literal["no_face", "no_window"] = "no_face" if looked_at else "no_window"
            found.append(SegmentRow(str(video), segment.face, segment, 0, nobody, None))
    return found


def strangers(segments: Sequence[Segment], videos: Sequence[str]) -> list[str]:
    """The names of videos in segments that are none of some videos', each once."""
    return unfitting(list(dict.fromkeys(each.video for each in segments if each.video is not None)), videos)


def write_segments(path: str | Path, rows: Iterable[SegmentRow], classes: Sequence[str]) -> None:
    """Write the table of segments: `video, face, start, end, label, windows, status, prediction, confidence, p_...`.

    Raises:
        InputError: it cannot be written.
    """
    with atomic_path(path) as part, part.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        table = csv.writer(file)
        table.writerow([*_HEAD, *(f"p_{name}" for name in classes)])
        for row in rows:
            table.writerow(segment_fields(row, classes))


def segment_fields(row: SegmentRow, classes: Sequence[str]) -> list[str]:
    """A row of the table of segments as text."""
    segment, chances = row.segment, row.probabilities
    best = None if chances is None else int(chances.argmax())
    return [
        row.video,
        "" if row.face is None else str(row.face),
        f"{segment.start:.3f}",
        f"{segment.end:.3f}",
        segment.label,
        str(row.windows),
        row.status,
        "" if best is None else classes[best],
        "" if chances is None or best is None else f"{chances[best]:.6f}",
        *([""] * len(classes) if chances is None else [f"{value:.6f}" for value in chances]),
    ]


class _Pool:
    """Windows of one face within one segment."""

    def __init__(self, classes: int) -> None:
        self.total, self.weight = np.zeros(classes), 0.0
        self.pieces: list[tuple[float, float]] = []

    def add(self, start: float, end: float, probabilities: np.ndarray) -> None:
        self.total += (end - start) * probabilities
        self.weight += end - start
        self.pieces.append((start, end))

    def covered(self) -> float:
        """Seconds of the segment that are in some window."""
        covered, until = 0.0, -np.inf
        for start, end in sorted(self.pieces):
            covered += max(0.0, end - max(start, until))
            until = max(until, end)
        return covered


def _seconds(text: str, delimiter: str, where: str) -> float:
    if delimiter != "," and "." not in text:
        # A decimal comma.
        text = text.replace(",", ".")
    value = seconds(text)
    if value is None or not 0 <= value < np.inf:
        raise InputError(f"{where} must be seconds or m:ss or h:mm:ss, got {shown(text)!r}")
    return value
