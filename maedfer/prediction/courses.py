"""The course of each face over a video: stretches of time in which it is there, and what it showed in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from maedfer.prediction.rows import Row

# Moments that a timeline tells apart; where there are more windows than that, means are drawn.
_MOMENTS = 450


class Stretch(NamedTuple):
    """Time in which a face is there without a gap: edges in seconds, and rows at rising times."""

    start: float
    end: float
    times: np.ndarray
    probabilities: np.ndarray


class Course(NamedTuple):
    """One face: number, what it showed, and its rows."""

    face: int
    stretches: list[Stretch]
    rows: list[Row]
    seconds: float


class VideoCourse(NamedTuple):
    """All faces of a video; seconds that it lasts from and to, of a hop, of what is drawn as one; when nobody is."""

    courses: list[Course]
    start: float
    end: float
    hop: float
    moment: float
    empty: list[tuple[float, float]]


def video_course(rows: Sequence[Row], duration: float = 0.0) -> VideoCourse:
    """Put the rows of a video together by face.

    Args:
        rows: in the order of the table.
        duration: seconds from the video's start to its end; less than the end of the last window is passed over.
    """
    if not rows:
        return VideoCourse([], 0.0, max(duration, 1.0), 1.0, 0.0, [])
    start = min(row.window.start for row in rows)
    end = max(duration, *(row.window.end for row in rows))
    # Where nobody is, there is a row a hop too.
    first, last = rows[0].window, rows[-1].window
    hop = (last.start - first.start) / max(1, last.number - first.number) or max(end - start, 1e-3)
    by_face: dict[int, list[Row]] = {}
    for row in rows:
        if row.window.face is not None and row.probabilities is not None:
            by_face.setdefault(row.window.face, []).append(row)
    whole = all(len(own) == 1 for own in by_face.values())

    def edges(low: Row, high: Row) -> tuple[float, float]:
        if whole and low.window.face is not None:
            # There is no grid of windows: what is said of a face is said of all the time in which it is there.
            return low.window.start, high.window.end
        # A window stands for its middle, the first and the last one for what is before and after as well.
        begin = start if low.window.number == first.number else low.window.time - hop / 2
        finish = end if high.window.number == last.number else high.window.time + hop / 2
        return max(start, begin), min(end, finish)

    courses = []
    for face, own in sorted(by_face.items()):
        stretches = []
        for piece in _unbroken(own):
            times = np.array([row.window.time for row in piece])
            chances = np.array([row.probabilities for row in piece])
            stretches.append(Stretch(*edges(piece[0], piece[-1]), times, chances))
        courses.append(Course(face, stretches, own, sum(stretch.end - stretch.start for stretch in stretches)))
    nobody = [row for row in rows if row.window.status == "no_face" and row.window.face is None]
    empty = [edges(piece[0], piece[-1]) for piece in _unbroken(nobody)]
    end = max(end, start + 1e-3)
    return VideoCourse(courses, start, end, hop, (end - start) / _MOMENTS, empty)


def _unbroken(rows: list[Row]) -> list[list[Row]]:
    """Runs of rows between which no window is left out."""
    runs: list[list[Row]] = []
    for row in rows:
        if runs and row.window.number <= runs[-1][-1].window.number + 1:
            runs[-1].append(row)
        else:
            runs.append([row])
    return runs


def means_over(stretch: Stretch, moment: float) -> tuple[np.ndarray, np.ndarray]:
    """Times and probabilities of a stretch, or means over moments where these have several windows."""
    bins = np.floor((stretch.times - stretch.start) / moment).astype(int) if moment else np.arange(len(stretch.times))
    edges = np.flatnonzero(np.diff(bins, prepend=bins[0] - 1))
    counts = np.diff(np.append(edges, len(bins)))
    chances = np.add.reduceat(stretch.probabilities, edges, axis=0) / counts[:, None]
    return np.add.reduceat(stretch.times, edges) / counts, chances
