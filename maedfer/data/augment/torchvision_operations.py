"""What augmentation does to the pictures of a clip, by torchvision: the specification of `native_operations`.

All take uint8 [T, 3, H, W] on the CPU, do the same to all frames, and return new frames or the ones that were given.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

auto_contrast = functional.autocontrast
equalize = functional.equalize
# By a factor: 0 gives the grey picture, its mean grey, black, the smoothed picture; 1 the picture itself.
color = functional.adjust_saturation
contrast = functional.adjust_contrast
brightness = functional.adjust_brightness
sharpness = functional.adjust_sharpness


def resize(frames: Tensor, size: Sequence[int], mirror: bool = False, planar: bool = False) -> Tensor:
    """Bilinear with antialias to (height, width), then mirrored; `planar` asks for [3, T, H, W] in memory."""
    if tuple(frames.shape[-2:]) != tuple(size):
        frames = functional.resize(frames, list(size), interpolation=InterpolationMode.BILINEAR, antialias=True)
    if mirror:
        frames = frames.flip(-1)
    return frames.transpose(0, 1).contiguous().transpose(0, 1) if planar else frames


def affine(
    frames: Tensor,
    fill: Sequence[float],
    angle: float = 0.0,
    shift: tuple[int, int] = (0, 0),
    shear: tuple[float, float] = (0.0, 0.0),
) -> Tensor:
    """Turn by `angle` degrees about the centre, shift by pixels (x, y), or shear by tangents (x, y); bilinear.

    `fill` is the colour of what comes in from outside. Shears hold the upper left corner, as PIL's do.
    """
    return functional.affine(
        frames,
        angle=angle,
        translate=list(shift),
        scale=1.0,
        shear=[math.degrees(math.atan(part)) for part in shear],
        interpolation=InterpolationMode.BILINEAR,
        fill=list(fill),
        center=[0.0, 0.0] if any(shear) else None,
    )


def solarize(frames: Tensor, threshold: int) -> Tensor:
    """Invert values from a threshold on."""
    # As uint8, a threshold of 256 would be 0.
    return frames if threshold > 255 else torch.where(frames >= threshold, 255 - frames, frames)


def solarize_add(frames: Tensor, amount: int) -> Tensor:
    """Raise values below 128, by 127 at most."""
    return torch.where(frames < 128, frames + amount, frames)
