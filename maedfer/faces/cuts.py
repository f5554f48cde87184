"""Where a video's scene changes from one frame to the next.

Two pictures are compared by what is where in them, and by the colours they are made of. Movement changes the first and
light the second; a change of scene changes both, and much more than the frames before and after it do. Limits are set
by recordings of talking heads: between frames that follow each other, likeness stays above 0.94 and at least 0.91 of
the colours remain; between recordings of different people before one backdrop, likeness is 0.84 and 0.79 remain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

_LIKE = 0.9
_SAME_COLOURS = 0.87
# A scene that moves fast changes with every frame: a cut stands out by so much.
_STANDS_OUT = 3.0
# Squared grey values that are noise: two black pictures are alike.
_NOISE = 25.0
_SAMPLES, _CELLS, _BINS = 128, 16, 8


@dataclass(frozen=True)
class Signature:
    """What of a picture is compared.

    Args:
        cells: float32 [16, 16, 3], mean colours of a grid, less the mean of all.
        colours: float32 [512], shares of colours.
    """

    cells: np.ndarray
    colours: np.ndarray


def signature(picture: np.ndarray) -> Signature:
    """Make the signature of a picture, uint8 [H, W, 3]."""
    height, width = picture.shape[:2]
    steps = np.arange(_SAMPLES)
    samples = picture[steps * height // _SAMPLES][:, steps * width // _SAMPLES]
    each = _SAMPLES // _CELLS
    # In two steps, each along memory.
    rows = samples.reshape(_CELLS, each, -1).sum(1, dtype=np.uint16)
    cells = rows.reshape(_CELLS, _CELLS, each, 3).sum(2, dtype=np.float32) / each**2
    red, green, blue = np.moveaxis(samples // (256 // _BINS), -1, 0).astype(np.intp)
    counts = np.bincount(((red * _BINS + green) * _BINS + blue).ravel(), minlength=_BINS**3)
    return Signature(cells - cells.mean((0, 1)), (counts / _SAMPLES**2).astype(np.float32))


def differ(first: Signature, second: Signature) -> bool:
    """Whether two pictures may be of different scenes."""
    return _likeness(first, second) < _LIKE and _common_colours(first, second) < _SAME_COLOURS


def find_cuts(signatures: Sequence[Signature]) -> list[int]:
    """Find the frames directly before which the scene changes.

    Args:
        signatures: of frames that follow each other.

    Returns:
        Positions in `signatures`, from 1 on.
    """
    pairs = list(pairwise(signatures))
    changes = np.array([1 - _likeness(first, second) for first, second in pairs])
    cuts = []
    for position, (first, second) in enumerate(pairs):
        others = np.delete(changes, position)
        usual = float(np.median(others)) if len(others) > 1 else 0.0
        if differ(first, second) and changes[position] > _STANDS_OUT * usual:
            cuts.append(position + 1)
    return cuts


def _likeness(first: Signature, second: Signature) -> float:
    """Correlation of two grids: 1 where they are equal, whatever their brightness and contrast; 0 where nothing is."""
    a, b = first.cells, second.cells
    return float(((a * b).mean() + _NOISE) / np.sqrt(((a * a).mean() + _NOISE) * ((b * b).mean() + _NOISE)))


def _common_colours(first: Signature, second: Signature) -> float:
    return float(np.minimum(first.colours, second.colours).sum())
