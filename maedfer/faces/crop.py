"""Cutting a face out of a picture: a square round its box, reflected where it leaves the picture."""

from __future__ import annotations

import numpy as np
import torch

from maedfer.data.augment.torch_pictures import resize

# Squares with longer sides are sampled, so that a box of a million pixels takes no more memory than a large picture.
_LONGEST = 4096


def crop_square(picture: np.ndarray, box: np.ndarray, size: int, margin: float = 1.3) -> np.ndarray:
    """Cut a square out of a picture and bring it to a size, bilinear with antialias.

    The square has the centre of the box and `margin` times its longer side, both rounded to whole pixels. What of it
    lies outside of the picture is filled by reflection, as often as that takes, so that any box will do.

    Args:
        picture: uint8 [H, W, 3].
        box: [4], x, y, width, height in pixels.
        size: side of the result in pixels.
        margin: side of the square, in longer sides of the box.

    Returns:
        uint8 [size, size, 3].

    Raises:
        ValueError: a box that is not finite, or a picture of another shape or type.
    """
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
        raise ValueError(f"a picture is uint8 [H, W, 3], got {picture.dtype} {list(picture.shape)}")
    x, y, width, height = numbers = np.asarray(box, np.float64).tolist()
    if not np.isfinite(numbers).all():
        raise ValueError(f"a box is four finite numbers, got {numbers}")
    side = max(1.0, _nearest(margin * max(width, height)))
    left, top = (_nearest(start + (length - side) / 2) for start, length in ((x, width), (y, height)))
    # Rows first: they are copied whole.
    square = _take(_take(picture, top, side, 0), left, side, 1)
    frames = torch.from_numpy(square).permute(2, 0, 1).unsqueeze(0)
    return np.ascontiguousarray(resize(frames, (size, size))[0].permute(1, 2, 0).numpy())


def _nearest(value: float) -> float:
    # Halves go up, not to even numbers, so that a square that moves evenly moves by steps of one length.
    return float(np.floor(value + 0.5))


def _take(picture: np.ndarray, start: float, length: float, axis: int) -> np.ndarray:
    """`length` pixels along an axis from `start` on, those outside reflected without the border's own pixel."""
    count = picture.shape[axis]
    if start >= 0 and start + length <= count and length <= _LONGEST:
        inside = slice(int(start), int(start + length))
        return picture[inside] if axis == 0 else picture[:, inside]
    steps = min(int(length), _LONGEST)
    places = np.floor(start + (np.arange(steps) + 0.5) * (length / steps))
    period = max(1, 2 * (count - 1))
    places = np.mod(places, period)
    return np.take(picture, np.minimum(places, period - places).clip(max=count - 1).astype(np.int64), axis)
