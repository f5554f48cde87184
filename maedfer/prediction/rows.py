"""What is told of a window of time: what is to be scored, and what came of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

# "ok": scored. "partial": scored, though the face is not there, or the video has no frame, for a part of the window;
# the nearest frame in which it is stands in. "no_face": nobody is there for long enough.
Status = Literal["ok", "partial", "no_face"]


class Span(NamedTuple):
    """Seconds at which frames are shown: `start`, `end` and `time` of a `Window`."""

    start: float
    end: float
    time: float


@dataclass(frozen=True)
class Window:
    """A stretch of time, and one face in it.

    Args:
        number: of the stretch, from 0 on; all faces in it have the same.
        start, end, time: seconds since the video's start, all of them times at which a frame is shown: the first one
            of the stretch, the first one after it (or the video's end), and the middle one of those that the model is
            shown.
        face: its number in the video, from 1 on in the order in which faces appear; None where no face is.
        box: x, y, width, height in pixels: mean over the frames in which it is; None where no face is.
        detection: mean score of the detector; None where no face is, or where nobody looked for one.
        frames: in how many of the model's frames the face is.
        status: see `Status`.
        clip: uint8 [V, T, H, W, 3], what the model is shown, V views of it (1 but for `whole`); None where no face is.
    """

    number: int
    start: float
    end: float
    time: float
    face: int | None
    box: tuple[float, float, float, float] | None
    detection: float | None
    frames: int
    status: Status
    clip: np.ndarray | None = None


@dataclass(frozen=True)
class Row:
    """One row of the table: a window, and what the model says of it.

    Args:
        video: as it was given.
        window: what was looked at; its clip is let go.
        probabilities: float64 [classes]; None where no face is.
    """

    video: str
    window: Window
    probabilities: np.ndarray | None


def number_after(before: Window | None, start: float, end: float, face: int | None) -> int:
    """The number of the stretch of a row, from the row before: the same times, and a face of a higher number."""
    if before is None:
        return 0
    same = (before.start, before.end) == (start, end) and (before.face or 0) < (face or 0)
    return before.number + (not same)


def score_windows(
    score: Callable[[np.ndarray], Any], windows: Sequence[Window]
) -> Iterator[tuple[Window, np.ndarray | None, np.ndarray | None]]:
    """Score windows at once.

    Args:
        score: gives probabilities and features of clips.
        windows: some of them without a clip.

    Returns:
        Each without its clip, with its probabilities, float64 [classes], and its features, float32 [C]; None for those
        that had no clip.
    """
    clips = [window.clip for window in windows if window.clip is not None]
    scores = iter(zip(*score(np.stack(clips)), strict=True)) if clips else iter(())
    for window in windows:
        probabilities, features = (None, None) if window.clip is None else next(scores)
        yield dataclasses.replace(window, clip=None), probabilities, features
