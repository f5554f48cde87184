"""Which pixels an output of a resized axis is made of, and their weights as integers; computed on the CPU."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

# Weights of 16 bits, as PyTorch's resizing of bytes has them.
_LARGEST_WEIGHT = 1 << 15
_MOST_PRECISION = 22


class Taps(NamedTuple):
    """How outputs of one axis are made, for each of G clips.

    out[i] = min((sum over k of weight[i, k] * in[first[i] + k] + half) >> precision, 255), half = 1 << (precision - 1)

    Args:
        first: int32 [G, out], counted from the first pixel of the frame; the last pixels may lie behind it by as many
            taps as have no weight.
        weight: int32 [G, out, K], 0 where there are fewer taps.
        precision: int32 [G].
    """

    first: np.ndarray
    weight: np.ndarray
    precision: np.ndarray


def taps(start: np.ndarray, length: np.ndarray, out: int) -> Taps:
    """Bilinear with antialias: a triangle as wide as an output, or as an input where there are fewer of these.

    Every step is in float64, in the order in which csrc and PyTorch take it, so that weights are the same.

    Args:
        start: of the part of the axis that is resized, whole numbers [G].
        length: of that part, from 1 on, [G].
        out: outputs.
    """
    scale = length[:, None] / out
    width = np.maximum(scale, 1.0)
    center = scale * (np.arange(out) + 0.5)
    first = np.maximum((center - width + 0.5).astype(np.int64), 0)
    count = np.minimum((center + width + 0.5).astype(np.int64), length[:, None]) - first
    most = int(count.max(initial=1))
    exact = np.empty((*first.shape, most))
    total = np.zeros(first.shape)
    for k in range(most):
        weight = np.maximum(0.0, 1.0 - np.abs((first + k - center + 0.5) / width))
        exact[..., k] = np.where(k < count, weight, 0.0)
        total = total + exact[..., k]
    exact /= total[..., None]
    largest = exact.max((1, 2), initial=0.0)
    precision = np.zeros(len(length), np.int64)
    for _ in range(_MOST_PRECISION):
        precision += (precision < _MOST_PRECISION) & (0.5 + largest * 2.0 ** (precision + 1) < _LARGEST_WEIGHT)
    weights = (0.5 + exact * 2.0 ** precision[:, None, None]).astype(np.int32)
    return Taps((first + start[:, None]).astype(np.int32), weights, precision.astype(np.int32))


def most_taps(length: int, out: int) -> int:
    """The most taps that an output has where up to `length` inputs are resized."""
    return 2 * math.ceil(max(length / out, 1.0)) + 1
