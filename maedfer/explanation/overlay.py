"""Maps on the token grid, brought to pixels and laid over frames."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from maedfer.errors import require

# Perceptually even, and told apart with every form of colour blindness.
SEQUENTIAL, DIVERGING = "inferno", "RdBu_r"
# Opacity over the frame of what is least and most.
_THIN, _THICK = 0.12, 0.78


class Scale(NamedTuple):
    """Which values have which colours.

    Args:
        low, high: of the first and the last colour.
        colours: name of matplotlib's colour map.
        label: what the values are.
    """

    low: float
    high: float
    colours: str = SEQUENTIAL
    label: str = ""


def scale_of(values: np.ndarray, label: str, *, from_zero: bool = True) -> Scale:
    """A scale for values of one sign: up to the largest but for the topmost two in a thousand.

    It spans twice their mean at least, or half of it where it does not begin at 0, so that values that hardly differ
    look as if they hardly did.

    Args:
        values: of any shape, finite, not negative.
        label: what they are.
        from_zero: the first colour stands for 0 rather than for the least value.
    """
    mean = float(values.mean()) or 1.0
    low = 0.0 if from_zero else float(values.min())
    high = max(float(np.quantile(values, 0.998)), 2 * mean if from_zero else low + mean / 2)
    return Scale(low, high, SEQUENTIAL, label)


def signed_scale(values: np.ndarray, label: str) -> Scale:
    """A scale for values of both signs, symmetric round 0."""
    most = float(np.abs(values).max())
    most = most if most > 0 else 1.0
    return Scale(-most, most, DIVERGING, label)


def to_pixels(grid: np.ndarray, size: tuple[int, int, int], smooth: bool = True) -> np.ndarray:
    """Bring a map on the token grid to pixels, each token's value in the middle of its cube.

    Args:
        grid: float [t, h, w].
        size: (T, H, W) of the clip, multiples of the grid's.
        smooth: linear between the middles of cubes; otherwise a cube has one value throughout.

    Returns:
        float32 [T, H, W].
    """
    values = torch.from_numpy(np.ascontiguousarray(grid, dtype=np.float32))[None, None]
    if smooth:
        found = F.interpolate(values, size, mode="trilinear", align_corners=False)
    else:
        found = F.interpolate(values, size, mode="nearest-exact")
    return found[0, 0].numpy()


def paint(frames: np.ndarray, values: np.ndarray, scale: Scale) -> np.ndarray:
    """Lay values over frames; the stronger, the less of the frame is seen.

    Args:
        frames: uint8 [..., 3].
        values: float [...].
        scale: which values have which colours.

    Returns:
        uint8 [..., 3].
    """
    share = np.clip((np.asarray(values, np.float32) - scale.low) / (scale.high - scale.low), 0, 1)
    table = colour_table(scale.colours)
    colours = table[np.round(share * (len(table) - 1)).astype(np.int64)].astype(np.float32)
    # Of a scale with both signs the middle lets the frame through.
    strength = np.abs(2 * share - 1) if scale.colours == DIVERGING else share
    opacity = (_THIN + (_THICK - _THIN) * strength)[..., None]
    grey = frames.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    # Muted, so that the colours of the frame are not taken for those of the map.
    behind = 0.25 * frames + 0.75 * grey[..., None]
    return (behind * (1 - opacity) + colours * opacity + 0.5).clip(0, 255).astype(np.uint8)


def colour_table(name: str) -> np.ndarray:
    """A colour map as a table: uint8 [256, 3]."""
    colours = require("matplotlib", "predict").colormaps[name](np.linspace(0, 1, 256))
    return np.round(colours[:, :3] * 255).astype(np.uint8)


def enlarge(pictures: np.ndarray, least: int) -> np.ndarray:
    """Repeat pixels of pictures [..., H, W, 3] until the shorter side has `least` of them."""
    times = max(1, -(-least // min(pictures.shape[-3:-1])))
    return pictures.repeat(times, -3).repeat(times, -2)


def enlarge_smoothly(pictures: np.ndarray, least: int) -> np.ndarray:
    """The same by bicubic interpolation, for frames: uint8 [n, H, W, 3]."""
    times = max(1, -(-least // min(pictures.shape[1:3])))
    if times == 1:
        return pictures
    values = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float()
    found = F.interpolate(values, scale_factor=times, mode="bicubic", align_corners=False)
    return found.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
