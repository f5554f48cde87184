"""What augmentation does to the frames of a clip, the same to all of them.

Two modules do the work on pictures that lie side by side in memory, as uint8 [H, W, 3, T]: `native_pictures` in C++
(csrc/cpu/clips.cpp) and `torch_pictures` in plain PyTorch. Every step has one defined order and rounding, without fused
multiply-adds, so that both give the same bytes on every processor: what a run reads does not depend on whether there
was a compiler at installation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, Protocol, cast, get_args

import torch
from torch import Tensor

from maedfer._native import MODULES, absent
from maedfer._programs import GREY
from maedfer.data.augment import native_pictures, torch_pictures
from maedfer.data.augment.torch_pictures import multiply_add
from maedfer.errors import InputError, unknown

Impl = Literal["auto", "torch", "native"]
_values = torch.arange(256, dtype=torch.float32)


class Pictures(Protocol):
    """What a module that works on pictures offers; pictures are contiguous uint8 [H, W, 3, T] on the CPU."""

    def side_by_side(self, frames: Tensor) -> Tensor:
        """Bring frames [T, 3, H, W] to the order of pictures; no copy where they are in it."""

    def resize(self, frames: Tensor, size: Sequence[int], mirror: bool = False, planar: bool = False) -> Tensor:
        """See `Operations.resize`; from frames to frames, of any strides."""

    def affine(self, pictures: Tensor, matrix: Sequence[float], fill: Tensor) -> Tensor:
        """Sample bilinearly at (x, y) = matrix (2 x 3) times (column, row, 1); fill: float32 [3 * T]."""

    def affine_bicubic(self, pictures: Tensor, matrix: Sequence[float], fill: int) -> Tensor:
        """Sample bicubically at such places; `fill` is the value of all channels outside."""

    def extremes(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Find the lowest and the highest value of every channel of every frame: uint8 [3, T] each."""

    def histograms(self, pictures: Tensor) -> Tensor:
        """Count the values of every channel of every frame: whole numbers [3, T, 256]."""

    def grey_sums(self, pictures: Tensor) -> Tensor:
        """Sum the integer parts of the grey values of every frame: int64 [T]."""

    def look_up(self, pictures: Tensor, tables: Tensor) -> Tensor:
        """Replace values by those of contiguous tables, uint8 [3, T, 256]."""

    def saturate(self, pictures: Tensor, factor: float) -> Tensor:
        """Give factor * picture + (1 - factor) * its grey."""

    def sharpen(self, pictures: Tensor, factor: float) -> Tensor:
        """Give factor * picture + (1 - factor) * the picture smoothed over 3 x 3 pixels; borders stay."""


class Operations:
    """The operations, by one of the two modules.

    All take uint8 [T, 3, H, W] on the CPU, leave it as it is, and return new frames; where nothing is to be done they
    may return the same. Others raise `InputError`.
    """

    def __init__(self, pictures: Pictures) -> None:
        self._by = pictures

    def resize(self, frames: Tensor, size: Sequence[int], mirror: bool = False, planar: bool = False) -> Tensor:
        """Bilinear with antialias to (height, width), then mirrored; `planar` asks for [3, T, H, W] in memory."""
        return self._by.resize(_checked(frames), size, mirror, planar)

    def affine(self, frames: Tensor, fill: Sequence[float], matrix: Sequence[float]) -> Tensor:
        """Sample bilinearly at the places that `matrix` gives (see `affine_matrix`).

        `fill` is the colour of what comes in from outside.
        """
        pictures = self._pictures(frames)
        lanes = torch.tensor(fill, dtype=torch.float32).repeat_interleave(pictures.shape[3])
        return _frames(self._by.affine(pictures, matrix, lanes))

    def affine_bicubic(self, frames: Tensor, matrix: Sequence[float]) -> Tensor:
        """Sample bicubically at the places that `matrix` gives, as PIL does; what comes in from outside is grey."""
        return _frames(self._by.affine_bicubic(self._pictures(frames), matrix, GREY))

    def auto_contrast(self, frames: Tensor) -> Tensor:
        """Stretch every channel of every frame to the whole range."""
        pictures = self._pictures(frames)
        lowest, highest = self._by.extremes(pictures)
        low, width = lowest.float(), (highest.float() - lowest.float()) * (1.0 / 255)
        # What has one value only stays.
        low, width = torch.where(width == 0, 0.0, low), torch.where(width == 0, 1.0, width)
        return self._mapped(pictures, (_values - low.unsqueeze(-1)) / width.unsqueeze(-1))

    def equalize(self, frames: Tensor) -> Tensor:
        """Spread the values of every channel of every frame so that all are about equally frequent, by PIL's rule."""
        pictures = self._pictures(frames)
        counts = self._by.histograms(pictures)
        sums = counts.cumsum(-1)
        total = pictures.shape[0] * pictures.shape[1]
        # The count of the largest value that occurs is left out.
        step = (total - counts.gather(-1, sums.argmax(-1, keepdim=True))) // 255
        table = (sums - counts + step // 2) // step.clamp(min=1)
        return self._mapped(pictures, torch.where(step == 0, _values.long(), table))

    def color(self, frames: Tensor, factor: float) -> Tensor:
        """Mix every frame with its grey picture: 0 gives that alone, 1 the frame."""
        return _frames(self._by.saturate(self._pictures(frames), factor))

    def contrast(self, frames: Tensor, factor: float) -> Tensor:
        """Mix every frame with its mean grey: 0 gives that alone, 1 the frame."""
        pictures = self._pictures(frames)
        mean = (self._by.grey_sums(pictures).double() / (pictures.shape[0] * pictures.shape[1])).float()
        return self._mapped(pictures, multiply_add(_values * factor, mean.unsqueeze(-1), 1.0 - factor))

    def brightness(self, frames: Tensor, factor: float) -> Tensor:
        """Multiply all values."""
        return self._mapped(self._pictures(frames), _values * factor)

    def sharpness(self, frames: Tensor, factor: float) -> Tensor:
        """Mix every frame with its means of 3 x 3 pixels, of which the middle one counts 5 times; borders stay."""
        return _frames(self._by.sharpen(self._pictures(frames), factor))

    def solarize(self, frames: Tensor, threshold: int) -> Tensor:
        """Invert values from a threshold on."""
        return self._mapped(self._pictures(frames), torch.where(_values < threshold, _values, 255 - _values))

    def solarize_add(self, frames: Tensor, amount: int) -> Tensor:
        """Raise values below 128, by 127 at most."""
        return self._mapped(self._pictures(frames), torch.where(_values < 128, _values + amount, _values))

    def _pictures(self, frames: Tensor) -> Tensor:
        return self._by.side_by_side(_checked(frames))

    def _mapped(self, pictures: Tensor, tables: Tensor) -> Tensor:
        """Replace values by those of tables [256], [T, 256] or [3, T, 256], cut off to 0 ... 255."""
        tables = tables.clamp(0, 255).to(torch.uint8).expand(*pictures.shape[2:], 256).contiguous()
        return _frames(self._by.look_up(pictures, tables))


def affine_matrix(
    size: Sequence[int],
    angle: float = 0.0,
    shift: tuple[float, float] = (0, 0),
    shear: tuple[float, float] = (0.0, 0.0),
) -> list[float]:
    """Where pixels come from when frames turn, or are shifted or sheared: m of x = m0 * column + m1 * row + m2 and
    y = m3 * column + m4 * row + m5.

    Args:
        size: height and width of the frames.
        angle: in degrees, about the centre.
        shift: in pixels (x, y).
        shear: tangents (x, y). Shears hold the upper left corner, as PIL's do.
    """
    rows, columns = size
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    matrix = [cos, sin + shear[0], 0.0, shear[1] - sin, cos, 0.0]
    # Pixels have their centres at halves, and come from matrix * (place - about - shift) + about.
    about = (0.0, 0.0) if any(shear) else (columns / 2, rows / 2)
    for row in (0, 1):
        back = (matrix[3 * row + axis] * (about[axis] + shift[axis] - 0.5) for axis in (0, 1))
        matrix[3 * row + 2] = about[row] - 0.5 - sum(back)
    return matrix


def operations_by(impl: Impl = "auto") -> Operations:
    """The operations, by csrc or by PyTorch alone: the same bytes, at another speed.

    Args:
        impl: "native" (csrc) or "torch"; "auto" is csrc where it was compiled.

    Raises:
        InputError: no such implementation, or csrc was not compiled.
    """
    if impl not in get_args(Impl):
        raise unknown("impl", impl, get_args(Impl))
    if impl == "native" and MODULES["cpu"] is None:
        raise InputError(f"{absent('cpu')}; use impl='torch'")
    by = torch_pictures if impl == "torch" or MODULES["cpu"] is None else native_pictures
    return Operations(cast(Pictures, by))


def _checked(frames: Tensor) -> Tensor:
    shape, device = list(frames.shape), frames.device
    if frames.dtype != torch.uint8 or len(shape) != 4 or shape[1] != 3 or 0 in shape[2:] or device.type != "cpu":
        raise InputError(f"frames must be uint8 [T, 3, H, W] on the CPU, got {frames.dtype} {shape} on {device}")
    return frames


def _frames(pictures: Tensor) -> Tensor:
    return pictures.permute(3, 2, 0, 1)
