"""Which frames of a clip make up a sample: the published rules for fine-tuning, pre-training and testing.

All take n (frames of the clip), frames (of the sample) and stride, and return int64 arrays of `frames` positions in
[0, n).
"""

from __future__ import annotations

import numpy as np
import torch

from maedfer.errors import InputError


def train_indices(n: int, frames: int, stride: int, generator: torch.Generator | None = None) -> np.ndarray:
    """Draw the frames of a fine-tuning sample.

    A clip longer than frames * stride gives a random stretch of that length, from which `frames` positions are taken
    evenly, both ends included; a shorter one n // stride positions over its whole length, then its last frame.

    Args:
        n: frames of the clip, at least 1.
        frames: frames of a sample.
        stride: distance between them.
        generator: source of randomness; torch's global one when None.

    Returns:
        int64 [frames], rising.
    """
    _check(n, frames, stride)
    span = frames * stride
    if n > span:
        end = _draw(span, n, generator)
        start = end - span
        positions = np.linspace(start, end, frames)
    else:
        start, end = 0, n
        positions = np.concatenate([np.linspace(0, n, n // stride), np.full(frames - n // stride, float(n))])
    return np.clip(positions, start, end - 1).astype(np.int64)


def pretrain_indices(n: int, frames: int, stride: int, generator: torch.Generator | None = None) -> np.ndarray:
    """Draw the frames of a pre-training sample: a random start, then every `stride`-th frame.

    The start is drawn so that frames * stride frames follow, where the clip has as many, and is 0 elsewhere; where
    the next position would be past the last frame but one, the one before is held. The clip's last frame is never
    taken but of a clip of one frame: the published loader, which counts frames from 1, stops short of it.

    Args and returns: as in `train_indices`.
    """
    _check(n, frames, stride)
    start = _draw(0, max(n - frames * stride, 0) + 1, generator)
    # The last position on the grid start, start + stride, ... that is before the last frame.
    last = start + max(n - 2 - start, 0) // stride * stride
    return np.minimum(start + stride * np.arange(frames, dtype=np.int64), last)


def view_indices(n: int, frames: int, stride: int, views: int) -> list[np.ndarray]:
    """Give the temporal views of a clip for testing, from its beginning to its end.

    Of the positions 0, stride, 2 * stride, ... (the last one repeated up to `frames`, say m of them), view v holds
    `frames` successive ones from int(v * (m - frames) / (views - 1)) on; a single view lies in the middle.

    Args:
        n, frames, stride: as in `train_indices`.
        views: number of views.

    Returns:
        `views` int64 arrays [frames], rising.
    """
    _check(n, frames, stride)
    if views < 1:
        raise InputError(f"views must be at least 1, got {views}")
    positions = np.arange(0, n, stride, dtype=np.int64)
    if len(positions) < frames:
        positions = np.concatenate([positions, np.repeat(positions[-1:], frames - len(positions))])
    spare = len(positions) - frames
    starts = [int(view * (spare / (views - 1))) for view in range(views)] if views > 1 else [spare // 2]
    return [positions[start : start + frames] for start in starts]


def _draw(low: int, high: int, generator: torch.Generator | None) -> int:
    return int(torch.randint(low, high, (), generator=generator))


def _check(n: int, frames: int, stride: int) -> None:
    if n < 1 or frames < 1 or stride < 1:
        raise InputError(f"frames {frames} at stride {stride} of a clip of {n} frames: all must be at least 1")
