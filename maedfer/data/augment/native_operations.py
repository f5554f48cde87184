"""What augmentation does to the pictures of a clip, in C++ (csrc/cpu/clips.cpp); see `torchvision_operations`.

Pictures are kept side by side, [H, W, 3, T] in memory: what is done alike to all frames is done to 3 * T neighbouring
bytes at once. Frames that lie otherwise are brought to that order first; results are views of it as [T, 3, H, W].
One thread works, as every worker of a loader has one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from maedfer._native import MODULES
from maedfer.errors import InputError

_compiled: Any = MODULES["cpu"]
_values = torch.arange(256, dtype=torch.float32)


def resize(frames: Tensor, size: Sequence[int], mirror: bool = False, planar: bool = False) -> Tensor:
    """Bilinear with antialias to (height, width), then mirrored; `planar` asks for [3, T, H, W] in memory."""
    pictures = _side_by_side(frames)
    rows, columns, channels, length = pictures.shape
    height, width = size
    out = frames.new_empty((channels, length, height, width) if planar else (height, width, channels, length))
    wanted = _compiled.Pictures(height, width, channels * length)
    given = (pictures.data_ptr(), pictures.stride(0), rows, columns)
    _compiled.resize(*given, wanted, mirror, planar, out.data_ptr())
    return out.transpose(0, 1) if planar else _frames(out)


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
    pictures = _contiguous(frames)
    rows, columns, _, length = pictures.shape
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    matrix = [cos, sin + shear[0], 0.0, shear[1] - sin, cos, 0.0]
    # Pixels have their centres at halves, and come from matrix * (place - about - shift) + about.
    about = (0.0, 0.0) if any(shear) else (columns / 2, rows / 2)
    for row in (0, 1):
        back = (matrix[3 * row + axis] * (about[axis] + shift[axis] - 0.5) for axis in (0, 1))
        matrix[3 * row + 2] = about[row] - 0.5 - sum(back)
    lanes = torch.tensor(fill, dtype=torch.float32).repeat_interleave(length)
    return _changed(pictures, lambda given, size, out: _compiled.affine(given, size, matrix, lanes.data_ptr(), out))


def auto_contrast(frames: Tensor) -> Tensor:
    """Stretch every channel of every frame to the whole range."""
    pictures = _contiguous(frames)
    lowest = pictures.new_full(pictures.shape[2:], 255)
    highest = torch.zeros_like(lowest)
    _compiled.extremes(pictures.data_ptr(), _size(pictures), lowest.data_ptr(), highest.data_ptr())
    low, width = lowest.float(), (highest.float() - lowest.float()) * (1.0 / 255)
    # What has one value only stays.
    low, width = torch.where(width == 0, 0.0, low), torch.where(width == 0, 1.0, width)
    return _mapped(pictures, (_values - low.unsqueeze(-1)) / width.unsqueeze(-1))


def equalize(frames: Tensor) -> Tensor:
    """Spread the values of every channel of every frame so that all are about equally frequent, by PIL's rule."""
    pictures = _contiguous(frames)
    counts = torch.zeros(*pictures.shape[2:], 256, dtype=torch.int32)
    _compiled.histograms(pictures.data_ptr(), _size(pictures), counts.data_ptr())
    sums = counts.cumsum(-1)
    total = pictures.shape[0] * pictures.shape[1]
    # The count of the largest value that occurs is left out.
    step = (total - counts.gather(-1, sums.argmax(-1, keepdim=True))) // 255
    table = (sums - counts + step // 2) // step.clamp(min=1)
    return _mapped(pictures, torch.where(step == 0, _values.long(), table))


def color(frames: Tensor, factor: float) -> Tensor:
    """Mix every frame with its grey picture."""
    pictures = _contiguous(frames)
    return _changed(pictures, lambda given, size, out: _compiled.saturate(given, size, factor, out))


def contrast(frames: Tensor, factor: float) -> Tensor:
    """Mix every frame with its mean grey."""
    pictures = _contiguous(frames)
    sums = torch.zeros(len(frames), dtype=torch.int64)
    _compiled.grey_sums(pictures.data_ptr(), _size(pictures), sums.data_ptr())
    mean = (sums.double() / (pictures.shape[0] * pictures.shape[1])).float()
    return _mapped(pictures, torch.add(_values * factor, mean.unsqueeze(-1), alpha=1.0 - factor))


def brightness(frames: Tensor, factor: float) -> Tensor:
    """Multiply all values."""
    return _mapped(_contiguous(frames), _values * factor)


def sharpness(frames: Tensor, factor: float) -> Tensor:
    """Mix every frame with its means of 3 x 3 pixels, of which the middle one counts 5 times; borders stay."""
    pictures = _contiguous(frames)
    return _changed(pictures, lambda given, size, out: _compiled.sharpen(given, size, factor, out))


def solarize(frames: Tensor, threshold: int) -> Tensor:
    """Invert values from a threshold on."""
    return _mapped(_contiguous(frames), torch.where(_values < threshold, _values, 255 - _values))


def solarize_add(frames: Tensor, amount: int) -> Tensor:
    """Raise values below 128, by 127 at most."""
    return _mapped(_contiguous(frames), torch.where(_values < 128, _values + amount, _values))


def _side_by_side(frames: Tensor) -> Tensor:
    """[H, W, 3, T] whose pixels are contiguous, and rows may be part of longer ones."""
    shape, device = list(frames.shape), frames.device
    if frames.dtype != torch.uint8 or len(shape) != 4 or shape[1] != 3 or 0 in shape[2:] or device.type != "cpu":
        raise InputError(f"frames must be uint8 [T, 3, H, W] on the CPU, got {frames.dtype} {shape} on {device}")
    pictures = frames.permute(2, 3, 1, 0)
    if pictures[0].is_contiguous():
        return pictures
    out = torch.empty(pictures.shape, dtype=torch.uint8)
    _compiled.interleave(frames.data_ptr(), *frames.stride(), _size(out), frames.shape[1], out.data_ptr())
    return out


def _contiguous(frames: Tensor) -> Tensor:
    return _side_by_side(frames).contiguous()


def _frames(pictures: Tensor) -> Tensor:
    return pictures.permute(3, 2, 0, 1)


def _size(pictures: Tensor) -> Any:
    rows, columns, channels, length = pictures.shape
    return _compiled.Pictures(rows, columns, channels * length)


def _changed(pictures: Tensor, function: Callable[[int, Any, int], None]) -> Tensor:
    out = torch.empty_like(pictures)
    function(pictures.data_ptr(), _size(pictures), out.data_ptr())
    return _frames(out)


def _mapped(pictures: Tensor, tables: Tensor) -> Tensor:
    """Replace values by those of tables [256], [T, 256] or [3, T, 256], cut off to 0 ... 255."""
    tables = tables.clamp(0, 255).to(torch.uint8).expand(*pictures.shape[2:], 256).contiguous()
    out = torch.empty_like(pictures)
    _compiled.look_up(pictures.data_ptr(), _size(pictures), tables.data_ptr(), out.data_ptr())
    return _frames(out)
