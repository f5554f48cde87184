"""From decoded frames to model input size: changes for training, the same for all frames of a clip, and for testing.

All take and return uint8 [T, 3, H, W] on the CPU, so that loaders ship a quarter of the bytes of floats; the trainer
normalises on the device. Training clips come out as [3, T, H, W] in memory, the order in which models take them.
Random ones draw from torch's global generator, which the data set seeds for every sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from maedfer._programs import (
    BOX,
    EACH,
    ERASED,
    FIRST,
    MIRROR,
    NOISE,
    Fit,
    Interpolation,
    Operation,
    fitted,
    mix,
    noise_table,
)
from maedfer.data.augment.draws import PretrainDraws, TrainDraws
from maedfer.data.augment.operations import Impl, operations_by
from maedfer.data.augment.rand_augment import follow
from maedfer.data.augment.torch_pictures import resize
from maedfer.errors import InputError, unknown


class EvalTransform:
    """Bring frames to the model's size without randomness.

    Args:
        size: side, or (height, width), of the result.
        fit: "stretch" resizes both sides; "crop" resizes by one factor and cuts the centre out.
    """

    def __init__(self, size: int | Sequence[int], fit: Fit = "stretch") -> None:
        if fit not in get_args(Fit):
            raise unknown("fit", fit, get_args(Fit))
        self.size = _pair(size)
        self.fit = fit

    def __call__(self, frames: Tensor) -> Tensor:
        (height, width), (inner, (top, left)) = self.size, fitted(frames.shape[-2:], self.size, self.fit)
        return resize(frames, inner)[..., top : top + height, left : left + width]


class TrainAugment:
    """Fine-tuning: fit to size, RandAugment, random resized crop, mirror, erase; in the published order.

    Args:
        size: side, or (height, width), of the result.
        randaugment: settings in timm's notation; empty = off.
        scale: share of the area that the crop keeps, from and to.
        ratio: width / height of the crop, from and to.
        flip: probability of a mirror image.
        erase: probability of erasing a box (a 50th to a third of the area) with noise.
        fit: how frames are brought to size first, as in `EvalTransform`.
        interpolation: of RandAugment's operations that move pixels: "bicubic" as published, or "bilinear", which moves
            by whole pixels where it shifts, and costs less.
        impl: what works on the pictures after that, with the same result: "native" (csrc), "torch", or "auto" (csrc
            where it was compiled).
    """

    def __init__(
        self,
        size: int | Sequence[int],
        *,
        randaugment: str = "rand-m7-n4-mstd0.5-inc1",
        scale: Sequence[float] = (0.08, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        flip: float = 0.5,
        erase: float = 0.25,
        fit: Fit = "stretch",
        interpolation: Interpolation = "bicubic",
        impl: Impl = "auto",
    ) -> None:
        operations_by(impl)
        self.impl = impl
        self.fit = EvalTransform(size, fit)
        self.size = self.fit.size
        self.draw = TrainDraws(self.size, randaugment, scale, ratio, flip, erase, interpolation)

    def __call__(self, frames: Tensor) -> Tensor:
        return self.follow(self.fit(frames), self.draw())

    def follow(self, frames: Tensor, program: Tensor) -> Tensor:
        """Do what a program says to frames that were brought to size."""
        return follow_program(frames, program, self.size, self.impl)


class PretrainAugment:
    """Pre-training: an optional fixed crop, then a multi-scale crop at a fixed offset; no mirror image.

    Args:
        size: side, or (height, width), of the result.
        scales: sides of the crop as shares of the short side; height and width differ by one step at most.
        crop: top, left, height, width of a box cut out of every frame first.
    """

    def __init__(
        self,
        size: int | Sequence[int],
        scales: Sequence[float] = (1.0, 0.875, 0.75, 0.66),
        crop: Sequence[int] | None = None,
    ) -> None:
        if crop is not None and (len(crop) != 4 or min(crop) < 0 or min(crop[2:]) < 1):
            raise InputError(f"crop must be top, left, height, width in pixels, got {list(crop)}")
        self.size = _pair(size)
        self.draw = PretrainDraws(scales)
        self.crop = None if crop is None else tuple(crop)

    def __call__(self, frames: Tensor) -> Tensor:
        frames = self.cut(frames)
        height, width = frames.shape[-2:]
        return self.follow(frames, self.draw(height, width))

    def cut(self, frames: Tensor) -> Tensor:
        """Cut the fixed crop out of [..., H, W].

        Raises:
            InputError: it does not fit into the frames.
        """
        if self.crop is None:
            return frames
        top, left, height, width = self.crop
        if top + height > frames.shape[-2] or left + width > frames.shape[-1]:
            raise InputError(
                f"crop {top},{left},{height},{width} (top, left, height, width) does not fit into frames of "
                f"{frames.shape[-2]}x{frames.shape[-1]}; change augment.crop"
            )
        return frames[..., top : top + height, left : left + width]

    def follow(self, frames: Tensor, program: Tensor) -> Tensor:
        """Do what a program says to frames, the fixed crop of which was cut out."""
        top, left, height, width = _whole(program[BOX])
        return resize(frames[..., top : top + height, left : left + width], self.size, planar=True)


def follow_program(frames: Tensor, program: Tensor, size: Sequence[int], impl: Impl = "auto") -> Tensor:
    """Do what a program of fine-tuning says to uint8 [T, 3, H, W], on the CPU.

    Args:
        frames: the clip, brought to size.
        program: float64 [P].
        size: height and width of the result.
        impl: as in `operations_by`.
    """
    by, (top, left, height, width) = operations_by(impl), _whole(program[BOX])
    for code, *numbers in program[FIRST:].view(-1, EACH).tolist():
        frames = follow(by, frames, Operation(int(code)), numbers)
    crop, mirror = frames[..., top : top + height, left : left + width], bool(program[MIRROR])
    frames = by.resize(crop, size, mirror, planar=True)
    return erase_box(frames, _whole(program[ERASED]), _whole(program[NOISE])) if program[ERASED].any() else frames


def erase_box(frames: Tensor, box: Sequence[int], key: Sequence[int]) -> Tensor:
    """Fill a box of uint8 [T, 3, H, W] with noise, which is new in every frame.

    Args:
        frames: the clip; it is left as it is.
        box: top, left, height, width.
        key: of the noise, as in `maedfer._programs`.
    """
    length, channels, height, width = frames.shape
    top, left, rows, columns = box
    first, along = (np.arange(start, start + count, dtype=np.uint32) for start, count in ((top, rows), (left, columns)))
    within: np.ndarray = first[:, None] * np.uint32(width) + along
    noise, table = np.empty((length, channels, rows, columns), np.uint8), noise_table()
    for t in range(length):
        for c in range(channels):
            # A picture at a time, which stays in the processor's cache.
            place = within + np.uint32((t * channels + c) * height * width % 2**32)
            place ^= np.uint32(key[0])
            mix(place)
            place ^= np.uint32(key[1])
            noise[t, c] = table[c][mix(place) >> 16]
    frames = frames.clone()
    frames[..., top : top + rows, left : left + columns] = torch.from_numpy(noise)
    return frames


def _whole(numbers: Tensor) -> list[int]:
    return [int(number) for number in numbers.tolist()]


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise InputError(f"size must be positive, got {size}")
    return int(height), int(width)
