"""Which windows a stretch of time has, and which frames each of them shows to a model.

Window k starts k hops after the first frame and holds `frames` samples, evenly spaced from its start on: at 25 frames
a second and a stride of 4, frames 0, 4, ..., 60. A sample is the frame nearest to its time, the earlier one of two.

That is the grid. What is told of a window are times at which frames are shown: from when its first frame is shown to
when the frame nearest to its end is; at the video's end to when its last frame has been shown, and at least to when the
last frame that it shows has been.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from maedfer.errors import InputError

# Seconds that times may be off by what computing with them does to them.
EPSILON = 1e-6
# The rate at which the stride of a model was chosen.
RATE = 25
# Distances between frames of which the last frame's duration is the median, and its duration where it is the only one.
_RECENT = 1000
_ONE_FRAME = 1 / RATE
# Windows of a video, and between two frames: more come of times that are none, or of a hop that nobody means.
_MOST, _MOST_AT_ONCE = 10_000_000, 100_000


@dataclass(frozen=True)
class ModelInput:
    """What clips a model takes, and how it was trained to be shown them.

    Args:
        frames: of a clip.
        size: height and width.
        stride: frames from one of a clip to the next one in the video.
        fit: how a picture is brought to size, where no face is cut out.
        views: of a whole clip.
    """

    frames: int
    size: tuple[int, int]
    stride: int = 4
    fit: Literal["stretch", "crop"] = "stretch"
    views: int = 2


def window_seconds(frames: int, stride: int) -> float:
    """How long a window is where nothing else is said: as long as a model's frames are at its stride."""
    return frames * stride / RATE


def window_count(duration: float, window: float, hop: float) -> int:
    """How many windows there are from the first frame to the end of the last one; one at least."""
    return max(1, math.floor((duration - window) / hop + EPSILON) + 1)


def sample_times(start: float, window: float, frames: int) -> np.ndarray:
    """When the samples of a window are: float64 [frames], seconds."""
    return start + np.arange(frames) * (window / frames)


def last_duration(times: Sequence[float] | np.ndarray) -> float:
    """How long the last frame is shown: as long as most of those before it, of which at most 1000 are looked at."""
    distances = np.diff(np.asarray(times[-_RECENT - 1 :], np.float64))
    return float(np.median(distances)) if len(distances) else _ONE_FRAME


def shown_frames(times: np.ndarray, window: float, hop: float, frames: int, skip: int, count: int) -> np.ndarray:
    """Which frames are samples of windows `skip` to `count` - 1: bool, one for each of `times`."""
    shown = np.zeros(len(times), bool)
    middles = (times[:-1] + times[1:]) / 2 + EPSILON
    for number in range(skip, count):
        shown[np.searchsorted(middles, sample_times(times[0] + number * hop, window, frames))] = True
    return shown


@dataclass
class OpenWindow:
    """A window whose frames are still to come.

    Args:
        number: its place in the order of windows, from 0.
        start, stop: seconds, of the grid.
        samples: float64 [T], when its samples are.
        indices: int64 [T], which frames they are; -1 where that is not known yet.
        last: when the last of these frames is shown.
        until: up to when frames are its own; None where that is not known yet.
    """

    number: int
    start: float
    stop: float
    samples: np.ndarray
    indices: np.ndarray = field(init=False)
    last: float = -np.inf
    until: float | None = None

    def __post_init__(self) -> None:
        self.indices = np.full(len(self.samples), -1, np.int64)

    @property
    def full(self) -> bool:
        """Whether all its frames are known."""
        return bool(self.indices[-1] >= 0)


class Grid:
    """Windows and their frames, as frames come; what it holds does not grow with their number.

    A frame is known to be a sample, or none, when the next one has come.

    Args:
        window, hop: seconds.
        frames: samples of a window.
        duration: seconds from the first frame to the end of the last one, where that is known before they come.

    Attributes:
        first, end: when the first frame is shown, and until when the last one; None where that is not known yet.
        open: windows of which frames are still to come, in order.

    Raises:
        InputError: there would be more windows than anybody wants.
    """

    def __init__(self, window: float, hop: float, frames: int, duration: float | None = None) -> None:
        self.window, self.hop, self.frames = window, hop, frames
        self.count = None if duration is None else window_count(duration, window, hop)
        if self.count is not None and self.count > _MOST:
            raise InputError(
                f"a hop of {hop:g} s gives {self.count} windows in {duration:g} s: give a larger hop, or look whether "
                "the video's times are what they should be"
            )
        self.first: float | None = None
        self.end: float | None = None
        self._opened = 0
        self.open: list[OpenWindow] = []
        self._before = -np.inf
        self._last: tuple[int, float] | None = None
        self._times: list[float] = []

    def push(self, index: int, time: float) -> int | None:
        """Take the next frame.

        Returns:
            The index of the frame before it, if that is a sample of a window.

        Raises:
            InputError: it comes so long after the one before that there are too many windows in between.
        """
        if self._last is None:
            self.first = time
            needed = None
        elif time - self._last[1] > _MOST_AT_ONCE * self.hop:
            raise InputError(
                f"frame {index} comes {time - self._last[1]:.6g} s after the one before, which is {_MOST_AT_ONCE} hops "
                "or more: give a larger hop, or look whether times are in seconds"
            )
        else:
            middle = (self._last[1] + time) / 2 + EPSILON
            needed = self._settle(middle)
            self._end(middle, time, time + EPSILON)
        self._last = index, time
        self._times.append(time)
        if len(self._times) > 2 * _RECENT:
            del self._times[: -_RECENT - 1]
        return needed

    def finish(self, until: float | None = None) -> int | None:
        """Say that there are no more frames; returns as `push` does. Windows that end after the last frame go.

        Args:
            until: when the last frame has been shown; None = as long after it came as most frames are shown.
        """
        if self._last is None or self.first is None:
            self.count = 0
            return None
        if self.end is None:
            self.end = self._last[1] + last_duration(self._times)
        if self.count is None:
            self.count = window_count(self.end - self.first, self.window, self.hop)
        self.open = [window for window in self.open if window.number < self.count]
        needed = self._settle(np.inf)
        until = self.end if until is None else until
        self._end((self._last[1] + until) / 2 + EPSILON, until, np.inf)
        return needed

    def closed(self) -> list[OpenWindow]:
        """Take the windows of which frames and end are known, and which there are whatever comes, in order."""
        found = []
        while self.open and self.open[0].until is not None and self._exists(self.open[0].number):
            found.append(self.open.pop(0))
        return found

    @property
    def oldest(self) -> int | None:
        """The first frame that an open window shows; None where none is known to."""
        return min((int(window.indices[0]) for window in self.open if window.indices[0] >= 0), default=None)

    def _exists(self, number: int) -> bool:
        if self.count is not None:
            return number < self.count
        assert self.first is not None and self._last is not None
        return number < window_count(self._last[1] - self.first, self.window, self.hop)

    def _settle(self, until: float) -> int | None:
        """Give the last frame the samples up to a time."""
        assert self.first is not None and self._last is not None
        while self.count is None or self._opened < self.count:
            start = self.first + self._opened * self.hop
            if start > until:
                break
            samples = sample_times(start, self.window, self.frames)
            self.open.append(OpenWindow(self._opened, start, start + self.window, samples))
            self._opened += 1
        needed = False
        for window in self.open:
            mine = (window.samples > self._before) & (window.samples <= until)
            if mine.any():
                window.indices[mine] = self._last[0]
                window.last = self._last[1]
                needed = True
        self._before = until
        return self._last[0] if needed else None

    def _end(self, middle: float, following: float, known: float) -> None:
        """Tell windows that stop up to `known` their ends: the last frame up to `middle`, else what follows it."""
        assert self._last is not None
        for window in self.open:
            if window.until is None and window.full and window.stop <= known:
                nearest = self._last[1] if window.stop <= middle else following
                end = nearest if nearest > window.last else following
                # Of frames that are shown at once the first one does not end before the second one.
                window.until = end if end > window.last else None
