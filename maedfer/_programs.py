"""Programs: what is drawn at random for a training clip, as a row of numbers that any device can follow.

`data` draws programs on the CPU from the sample's key and follows them there; `kernels` follows a batch of them on any
device. Both know the format from here.

A program is float64 [11 + 7 n], programs of a batch are [B, 11 + 7 n]; n operations, none when pre-training. Whole
numbers are exact. Pixels are those of the frames as they are brought to size first (`fit`), or of the frames as they
come where nothing is fitted (pre-training). In the order in which they are done:

    11 + 7 i        code of operation i, a value of `Operation`
    12 + 7 i ...    its six numbers; those that it does not use are 0
    0 ... 3         box that is resized to the model's size: top, left, height, width
    4               1: mirrored after that, 0: not
    5 ... 8         erased box, in pixels of the result: top, left, height, width; height 0: nothing is erased
    9, 10           key of the noise in the erased box: two whole numbers below 2^32

Noise is not drawn one value after the other but looked up, so that it is the same wherever it is computed and costs no
memory: the value at frame t, channel c, row y and column x of a result of T x H x W pixels is

    place = ((t * 3 + c) * H + y) * W + x                       modulo 2^32
    value = noise_table()[c, mix(mix(place ^ key0) ^ key1) >> 16]

with `mix` on 32 bits. Neither depends on the box.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from enum import IntEnum
from statistics import NormalDist
from typing import Literal

import numpy as np

Fit = Literal["stretch", "crop"]
Interpolation = Literal["bicubic", "bilinear"]

BOX, MIRROR, ERASED, NOISE = slice(0, 4), 4, slice(5, 9), slice(9, 11)
# Where operations begin, and the numbers of one.
FIRST, EACH = 11, 7

# Colour of what affine maps bring in from outside, by channel: ImageNet's mean. Bicubic ones bring in grey.
FILL, GREY = (124.0, 116.0, 104.0), 128
# ImageNet's mean and deviation in steps of uint8: erased boxes are normal noise after normalisation.
_MEAN, _DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)

# The steps of `mix`: x ^= x >> 16; x *= MIX_FIRST; x ^= x >> 15; x *= MIX_SECOND; x ^= x >> 16, modulo 2^32. It is
# "lowbias32" of Chris Wellons' hash-prospector, which is in the public domain.
MIX_FIRST, MIX_SECOND = 0x7FEB352D, 0x846CA68B
# Values of noise for one channel, of which `mix` picks one by its upper 16 bits.
NOISE_VALUES = 1 << 16


class Operation(IntEnum):
    """What RandAugment does to a clip, with the numbers it takes.

    All are done to every frame alike; "of a frame" says what is measured in each frame by itself.
    """

    NONE = 0
    # Every channel of a frame is stretched to 0 ... 255.
    AUTO_CONTRAST = 1
    # The values of every channel of a frame are spread so that all are about equally frequent, by PIL's rule.
    EQUALIZE = 2
    # 255 - x.
    INVERT = 3
    # x & mask: (mask).
    POSTERIZE = 4
    # 255 - x from a threshold (0 ... 256) on: (threshold).
    SOLARIZE = 5
    # x + amount (0 ... 127) below 128: (amount).
    SOLARIZE_ADD = 6
    # factor * x + (1 - factor) * grey of the pixel: (factor).
    COLOR = 7
    # factor * x + (1 - factor) * mean grey of the frame: (factor).
    CONTRAST = 8
    # factor * x: (factor).
    BRIGHTNESS = 9
    # factor * x + (1 - factor) * the mean over 3 x 3 pixels, the middle one counting 5 times; borders stay: (factor).
    SHARPNESS = 10
    # Sampled bilinearly at x = m0 * column + m1 * row + m2, y = m3 * column + m4 * row + m5; FILL outside: (m0 ... m5).
    AFFINE = 11
    # The same bicubically, as PIL has it: GREY where a place is outside of all pixels, which are squares about their
    # places, and pixels of the border go on behind it.
    AFFINE_BICUBIC = 12


def fitted(frame: Sequence[int], size: Sequence[int], fit: Fit) -> tuple[tuple[int, int], tuple[int, int]]:
    """How frames are brought to size before anything else: what they are resized to, and what is cut out of that.

    Args:
        frame: height and width of the frames.
        size: height and width of what is cut out.
        fit: "stretch" resizes both sides; "crop" resizes by one factor and cuts the centre out.

    Returns:
        (height, width) after resizing, and (top, left) of the part of `size`.
    """
    height, width = size
    if fit == "stretch":
        return (height, width), (0, 0)
    scale = max(height / frame[0], width / frame[1])
    inner = max(height, round(frame[0] * scale)), max(width, round(frame[1] * scale))
    return inner, (round((inner[0] - height) / 2), round((inner[1] - width) / 2))


def mix(x: np.ndarray) -> np.ndarray:
    """Scramble uint32 numbers, in place."""
    x ^= x >> 16
    x *= np.uint32(MIX_FIRST)
    x ^= x >> 15
    x *= np.uint32(MIX_SECOND)
    x ^= x >> 16
    return x


@functools.cache
def noise_table() -> np.ndarray:
    """Read-only uint8 [3, 65536] by channel: each grey level as often as normal noise, rounded and cut off, has it."""
    table = np.empty((len(_MEAN), NOISE_VALUES), np.uint8)
    for channel, (mean, deviation) in enumerate(zip(_MEAN, _DEVIATION, strict=True)):
        noise = NormalDist(mean, deviation)
        # Entries below the first place of a level have a lower one; half of an entry more or less is rounded.
        ends = [round(noise.cdf(level + 0.5) * NOISE_VALUES) for level in range(255)]
        table[channel] = np.searchsorted(ends, np.arange(NOISE_VALUES), side="right")
    table.setflags(write=False)
    return table
