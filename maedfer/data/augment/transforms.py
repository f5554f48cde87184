"""From decoded frames to model input size: changes for training, the same for all frames of a clip, and for testing.

All take and return uint8 [T, 3, H, W] on the CPU, so that loaders ship a quarter of the bytes of floats; the trainer
normalises on the device. Training clips come out as [3, T, H, W] in memory, the order in which models take them.
Random ones draw from torch's global generator, which the data set seeds for every sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from maedfer.data.augment.operations import Impl, operations_by
from maedfer.data.augment.rand_augment import RandAugment
from maedfer.data.augment.torch_pictures import resize
from maedfer.errors import InputError, require, unknown

Fit = Literal["stretch", "crop"]
# ImageNet's mean and deviation in steps of uint8: erased boxes are normal noise after normalisation.
_MEAN = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)
_DEVIATION = torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1)


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
        height, width = self.size
        if self.fit == "crop":
            scale = max(height / frames.shape[-2], width / frames.shape[-1])
            inner = [max(side, round(old * scale)) for side, old in zip(self.size, frames.shape[-2:], strict=True)]
            top, left = (round((old - side) / 2) for old, side in zip(inner, self.size, strict=True))
            return resize(frames, inner)[..., top : top + height, left : left + width]
        return resize(frames, self.size)


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
        impl: Impl = "auto",
    ) -> None:
        # With torchvision comes PyTorch's compiler: a second and 160 MB that whoever does not train does without.
        self._draw_box = require("torchvision.transforms", "train").RandomResizedCrop.get_params
        operations_by(impl)
        self.impl = impl
        self.fit = EvalTransform(size, fit)
        self.randaugment = RandAugment(randaugment, impl) if randaugment else None
        self.scale, self.ratio = list(scale), list(ratio)
        self.flip, self.erase = flip, erase

    def __call__(self, frames: Tensor) -> Tensor:
        frames = self.fit(frames)
        if self.randaugment is not None:
            frames = self.randaugment(frames)
        top, left, height, width = self._draw_box(frames, self.scale, self.ratio)
        crop, mirror = frames[..., top : top + height, left : left + width], bool(torch.rand(()) < self.flip)
        frames = operations_by(self.impl).resize(crop, self.fit.size, mirror, planar=True)
        return erase_box(frames) if torch.rand(()) < self.erase else frames


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
        if not scales or not all(0 < scale <= 1 for scale in scales):
            raise InputError(f"scales of the multi-scale crop must be above 0 and at most 1, got {list(scales)}")
        if crop is not None and (len(crop) != 4 or min(crop) < 0 or min(crop[2:]) < 1):
            raise InputError(f"crop must be top, left, height, width in pixels, got {list(crop)}")
        self.size = _pair(size)
        self.scales = tuple(scales)
        self.crop = None if crop is None else tuple(crop)

    def __call__(self, frames: Tensor) -> Tensor:
        if self.crop is not None:
            top, left, height, width = self.crop
            if top + height > frames.shape[-2] or left + width > frames.shape[-1]:
                raise InputError(
                    f"crop {top},{left},{height},{width} (top, left, height, width) does not fit into frames of "
                    f"{frames.shape[-2]}x{frames.shape[-1]}; change augment.crop"
                )
            frames = frames[..., top : top + height, left : left + width]
        boxes = multiscale_boxes(frames.shape[-2], frames.shape[-1], self.scales)
        top, left, height, width = boxes[int(torch.randint(len(boxes), ()))]
        return resize(frames[..., top : top + height, left : left + width], self.size, planar=True)


def multiscale_boxes(height: int, width: int, scales: Sequence[float]) -> list[tuple[int, int, int, int]]:
    """List every box (top, left, height, width) of the multi-scale crop; all are equally likely.

    The 13 offsets are the corners, the centre, the middles of the edges, and the points halfway between centre and
    corners.
    """
    sides = [max(1, int(min(height, width) * scale)) for scale in scales]
    quarters = [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2)]
    quarters += [(2, 0), (2, 4), (4, 2), (0, 2)]
    quarters += [(1, 1), (1, 3), (3, 1), (3, 3)]
    return [
        ((height - rows) // 4 * down, (width - columns) // 4 * right, rows, columns)
        for i, rows in enumerate(sides)
        for j, columns in enumerate(sides)
        if abs(i - j) <= 1
        for down, right in quarters
    ]


def erase_box(frames: Tensor, attempts: int = 10) -> Tensor:
    """Fill a random box, the same in all frames, with noise; the noise is new in every frame.

    The box covers 0.02 to 1/3 of the area, its height / width is between 0.3 and 1/0.3 (drawn on a log scale).
    """
    height, width = frames.shape[-2:]
    for _ in range(attempts):
        area = height * width * (0.02 + (1 / 3 - 0.02) * torch.rand(()).item())
        aspect = math.exp((2 * torch.rand(()).item() - 1) * math.log(1 / 0.3))
        rows, columns = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if rows < height and columns < width:
            top = int(torch.randint(height - rows + 1, ()))
            left = int(torch.randint(width - columns + 1, ()))
            noise = torch.randn(len(frames), 3, rows, columns) * _DEVIATION + _MEAN
            frames = frames.clone()
            frames[..., top : top + rows, left : left + columns] = noise.round_().clamp_(0, 255).to(torch.uint8)
            break
    return frames


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise InputError(f"size must be positive, got {size}")
    return int(height), int(width)
