"""Smoothing of boxes in time: looking both ways where all of a video is there, looking back where it goes on."""

from __future__ import annotations

import math

import numpy as np

# Standard deviation of the Gaussian in seconds, and how far it reaches.
SIGMA = 0.15
REACH = 3 * SIGMA
# Odd, so that the middle is one of them; 0.03 seconds apart at most.
_POINTS = np.arange(-15, 16) / 15


def gaussian(
    times: np.ndarray, knots: np.ndarray, values: np.ndarray, starts: np.ndarray, ends: np.ndarray
) -> np.ndarray:
    """Mean, weighted by a Gaussian in time, of what is linear between knots.

    It reaches as far forth as back, and nowhere beyond the bounds of a time: at these nothing is smoothed, and nothing
    is shifted anywhere. Every time is computed by itself, so that the result does not depend on which others are asked
    for, nor on knots out of reach.

    Args:
        times: float64 [n] seconds.
        knots: float64 [k], rising.
        values: float32 [k, c], at the knots.
        starts, ends: float64 [n], bounds of each time.

    Returns:
        float64 [n, c].
    """
    half = np.minimum(REACH, np.minimum(times - starts, ends - times)).clip(min=0)
    offsets = half[:, None] * _POINTS
    points = np.minimum(np.maximum(times[:, None] + offsets, starts[:, None]), ends[:, None])
    weights = np.exp(-0.5 * (offsets / SIGMA) ** 2)
    weights /= weights.sum(1, keepdims=True)
    columns = [(weights * np.interp(points, knots, column)).sum(1) for column in np.asarray(values, np.float64).T]
    return np.stack(columns, 1)


class OneEuro:
    """The 1 euro filter (Casiez, Roussel and Vogel, 2012) of a box: still boxes stand still, moving ones lag little.

    Speeds count in sides of the box a second, so that near and far faces are treated alike.
    """

    _LOWEST, _PER_SPEED, _OF_SPEED = 1.0, 4.0, 1.0  # Hz, Hz per side a second, Hz

    def __init__(self) -> None:
        self._time = -math.inf
        self._value = self._speed = np.zeros(4)

    def __call__(self, time: float, box: np.ndarray) -> np.ndarray:
        """Take the next box [4] in; gives it filtered, float32."""
        box = np.asarray(box, np.float64)
        passed = time - self._time
        if math.isinf(passed):
            self._value = box
        elif passed > 0:
            side = max(1.0, *box[2:].tolist())
            measured = (box - self._value) / (side * passed)
            self._speed = self._speed + _share(self._OF_SPEED, passed) * (measured - self._speed)
            lowest = self._LOWEST + self._PER_SPEED * np.abs(self._speed)
            self._value = self._value + _share(lowest, passed) * (box - self._value)
        self._time = time
        return self._value.astype(np.float32)


def _share(frequency: float | np.ndarray, passed: float) -> float | np.ndarray:
    """The new value's share in a low-pass filter's result."""
    step = 2 * math.pi * frequency * passed
    return step / (step + 1)
