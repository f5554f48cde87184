"""Whether ours and the published way load the same: before anything is timed."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from benchmarks.loading.corpus import CROP, SIDE
from benchmarks.loading.sides import Side, published
from maedfer.data.sampler import SampleKey
from maedfer.errors import InputError

# Mean difference in grey levels up to which frames are the same: decoders round colours differently, and shards are
# compressed once more.
_CLOSE = 3.0
_SAMPLES = 6


def check(side: Side) -> dict[str, Any]:
    """Hold a side of ours against the published samples of the same keys.

    Changed samples must have the same shape, frames as they are read must show what the published loader reads: they
    are close to its frames, and closer than to those before and after.

    Returns:
        The mean difference in grey levels of frames as they are read, and the same to their neighbours; nothing where
        the side changes them.

    Raises:
        InputError: they are not the same; names the side.
    """
    dataset, other = side.dataset(), published(side.task, side.corpus)
    keys = [SampleKey(number % len(other), 1000 + number) for number in range(_SAMPLES)]
    if side.changes:
        for key in keys:
            found, expected = dataset[key]["frames"], other[key]["frames"]
            if tuple(found.shape) != (1, *expected.shape):
                raise InputError(f"{side.name}: a sample is {list(found.shape)}, the published {list(expected.shape)}")
        return {"source": side.source, "shape": [*expected.shape]}
    differences = {offset: 0.0 for offset in (-1, 0, 1)}
    for key in keys:
        found = dataset[key]["frames"][0].numpy()
        for offset in differences:
            expected = _fitted(side, other.frames(key, offset), found.shape[1:3])
            differences[offset] += float(np.abs(expected.astype(int) - found).mean()) / len(keys)
    before, same, after = differences.values()
    if same > _CLOSE or same >= min(before, after):
        raise InputError(
            f"{side.name}: frames differ from the published loader's by {same:.2f} grey levels, from the frames before "
            f"and after these by {before:.2f} and {after:.2f}: they are not the same, not timed"
        )
    return {"source": side.source, "difference": same, "to_neighbours": min(before, after)}


def _fitted(side: Side, frames: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Bring frames [T, H, W, 3] to the size in which a side has them: cut as in pre-training, else resized."""
    if frames.shape[1:3] == size:
        return frames
    if side.task == "pretrain":
        top, left, height, width = CROP
        return frames[:, top : top + height, left : left + width]
    pictures = (Image.fromarray(frame).resize((SIDE, SIDE), Image.Resampling.BILINEAR) for frame in frames)
    return np.stack([np.asarray(picture) for picture in pictures])
