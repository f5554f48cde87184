"""Work on pictures side by side in C++, by csrc/cpu/clips.cpp; `operations.Pictures` says what is what.

What is done alike to all frames is done to 3 * T neighbouring bytes at once. One thread works, as every worker of a
loader has one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from maedfer._native import MODULES

_compiled: Any = MODULES["cpu"]


def side_by_side(frames: Tensor) -> Tensor:
    """Bring frames [T, 3, H, W] to the order of pictures."""
    return _rows_side_by_side(frames).contiguous()


def resize(frames: Tensor, size: Sequence[int], mirror: bool = False, planar: bool = False) -> Tensor:
    """Bilinear with antialias, in integers."""
    pictures = _rows_side_by_side(frames)
    rows, columns, channels, length = pictures.shape
    height, width = size
    out = frames.new_empty((channels, length, height, width) if planar else (height, width, channels, length))
    source = (pictures.data_ptr(), pictures.stride(0), rows, columns)
    result = _compiled.Pictures(height, width, channels * length)
    _compiled.resize(*source, result, mirror, planar, out.data_ptr())
    return out.transpose(0, 1) if planar else out.permute(3, 2, 0, 1)


def affine(pictures: Tensor, matrix: Sequence[float], fill: Tensor) -> Tensor:
    """Sample at the places that `matrix` gives."""
    return _changed(pictures, lambda source, size, out: _compiled.affine(source, size, matrix, fill.data_ptr(), out))


def affine_bicubic(pictures: Tensor, matrix: Sequence[float], fill: int) -> Tensor:
    """Sample bicubically at the places that `matrix` gives."""
    return _changed(pictures, lambda source, size, out: _compiled.affine_bicubic(source, size, matrix, fill, out))


def extremes(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Find the lowest and the highest values."""
    lowest = pictures.new_full(pictures.shape[2:], 255)
    highest = torch.zeros_like(lowest)
    _compiled.extremes(pictures.data_ptr(), _size(pictures), lowest.data_ptr(), highest.data_ptr())
    return lowest, highest


def histograms(pictures: Tensor) -> Tensor:
    """Count the values."""
    counts = torch.zeros(*pictures.shape[2:], 256, dtype=torch.int32)
    _compiled.histograms(pictures.data_ptr(), _size(pictures), counts.data_ptr())
    return counts


def grey_sums(pictures: Tensor) -> Tensor:
    """Sum the grey values of every frame."""
    sums = torch.zeros(pictures.shape[3], dtype=torch.int64)
    _compiled.grey_sums(pictures.data_ptr(), _size(pictures), sums.data_ptr())
    return sums


def look_up(pictures: Tensor, tables: Tensor) -> Tensor:
    """Replace values by those of tables."""
    return _changed(pictures, lambda source, size, out: _compiled.look_up(source, size, tables.data_ptr(), out))


def saturate(pictures: Tensor, factor: float) -> Tensor:
    """Mix with the grey picture."""
    return _changed(pictures, lambda source, size, out: _compiled.saturate(source, size, factor, out))


def sharpen(pictures: Tensor, factor: float) -> Tensor:
    """Mix with the smoothed picture."""
    return _changed(pictures, lambda source, size, out: _compiled.sharpen(source, size, factor, out))


def _rows_side_by_side(frames: Tensor) -> Tensor:
    """[H, W, 3, T] whose pixels are contiguous, and rows may be part of longer ones."""
    pictures = frames.permute(2, 3, 1, 0)
    if pictures[0].is_contiguous():
        return pictures
    out = torch.empty(pictures.shape, dtype=torch.uint8)
    _compiled.interleave(frames.data_ptr(), *frames.stride(), _size(out), frames.shape[1], out.data_ptr())
    return out


def _size(pictures: Tensor) -> Any:
    rows, columns, channels, length = pictures.shape
    return _compiled.Pictures(rows, columns, channels * length)


def _changed(pictures: Tensor, function: Callable[[int, Any, int], None]) -> Tensor:
    out = torch.empty_like(pictures)
    function(pictures.data_ptr(), _size(pictures), out.data_ptr())
    return out
