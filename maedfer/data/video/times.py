"""When each frame of a file is shown: from its presentation times and from nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from maedfer.errors import InputError

# FFmpeg's flag of formats that are nothing but pictures; as their times it gives a count, mostly at 25 a second.
_NO_TIMES = 0x80
_TO_DO = "give the frames per second (fps)"


@dataclass(frozen=True)
class FrameTimes:
    """When the frames of a file are shown.

    Args:
        starts: float64 [frames], seconds since the start of the file, rising; None where that is unknown.
        end: when the last frame has been shown, in the same seconds.
        unknown: why there are no times, and what to do; empty where there are.
    """

    starts: np.ndarray | None
    end: float = 0.0
    unknown: str = ""

    def known(self, name: str) -> np.ndarray:
        """Return the times.

        Args:
            name: of the file, for the error.

        Raises:
            InputError: there are none.
        """
        if self.starts is None:
            raise InputError(f"{name}: {self.unknown}")
        return self.starts


@dataclass(frozen=True)
class Clock:
    """What turns the times of a stream into seconds.

    Args:
        unit: seconds of one tick.
        start: ticks at which the file starts.
        period: seconds of one frame, on average; 0 where unknown.
        counted: whether times are a mere count of pictures.
        in_order: whether a decoded frame has its own time; avi has those of packets, in the order of decoding.
    """

    unit: float
    start: float
    period: float
    counted: bool
    in_order: bool

    @classmethod
    def of(cls, container: Any, stream: Any) -> Clock:
        """Read what an open file says."""
        names = container.format.name.split(",")
        unit = float(stream.time_base)
        # The file's start is that of its earliest stream, rounded to microseconds.
        start = (container.start_time or 0) / 1e6 / unit
        if stream.start_time is not None and abs(stream.start_time - start) * unit < 1e-6:
            start = stream.start_time
        rate = stream.average_rate or stream.guessed_rate
        return cls(
            unit=unit,
            start=start,
            period=1 / float(rate) if rate else 0.0,
            # Of concatenated pictures no time is known either.
            counted=bool(int(container.format.flags) & _NO_TIMES) or any(name.endswith("_pipe") for name in names),
            in_order="avi" not in names,
        )

    def times(self, ticks: Sequence[int | None], durations: Sequence[int | None]) -> FrameTimes:
        """Turn ticks into seconds.

        Args:
            ticks: when each frame is shown, in the order in which they are; None where the file does not tell.
            durations: how many ticks each frame is shown; 0 or None where the file does not tell.
        """
        if len(ticks) > 1 and self.counted:
            return FrameTimes(None, unknown=f"is nothing but pictures, which tell no times; {_TO_DO}")
        if all(tick is None for tick in ticks):
            if len(ticks) > 1:
                return FrameTimes(None, unknown=f"its frames have no times; {_TO_DO}")
            ticks = [0]
        told = np.array([np.nan if tick is None else tick for tick in ticks], np.float64)
        lengths = np.array([duration or 0 for duration in durations], np.float64)
        lengths[lengths <= 0] = self.period / self.unit
        gaps = np.isnan(told).any()
        if not self.in_order and gaps:
            return FrameTimes(None, unknown=f"some of its frames have no times; {_TO_DO}")
        if not self.in_order:
            told = np.sort(told)
        if gaps:
            told, apart = _filled(told, lengths)
            if apart:
                unknown = (
                    f"frames before frame {apart} have no times, and its own does not follow from theirs; {_TO_DO}"
                )
                return FrameTimes(None, unknown=unknown)
        back = np.flatnonzero(np.diff(told) < 0)
        if len(back):
            unknown = (
                f"its times go back after frame {back[0]}, as those of joined recordings do; copy it into a new file "
                "(ffmpeg -i OLD -c copy NEW.mkv), or " + _TO_DO
            )
            return FrameTimes(None, unknown=unknown)
        seconds = (told - self.start) * self.unit
        return FrameTimes(seconds, float(seconds[-1] + lengths[-1] * self.unit))


def _filled(told: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, int]:
    """Fill in the times that are missing with the ends of the frames before, as players do.

    Args:
        told: float64 [frames], NaN where the file tells no time.
        lengths: float64 [frames], how long each is shown.

    Returns:
        All times, and the first frame whose own time is not where the frames before it end, to half a frame; 0 where
        all are.
    """
    ends = np.concatenate([[0.0], np.cumsum(lengths)])
    known = np.flatnonzero(~np.isnan(told))
    # Frames before the first time that is told are counted back from it.
    anchors = known[np.maximum(np.searchsorted(known, np.arange(len(told)), side="right") - 1, 0)]
    filled = told[anchors] + ends[:-1] - ends[anchors]
    for before, after in pairwise(known):
        if after - before > 1:
            expected = told[before] + ends[after] - ends[before]
            if abs(expected - told[after]) > lengths[after] / 2:
                return told, int(after)
    return filled, 0
