"""The operator of augmentation: what it takes and what it does to shapes."""

from __future__ import annotations

from torch import Tensor

from maedfer.kernels._operators import define


def augment_fake(frames: Tensor, program: Tensor, size: list[int], fit: str) -> Tensor:
    return frames.new_empty((frames.shape[0], 3, frames.shape[1], *size))


# `fit` is "stretch", "crop", or "" where frames are taken as they come.
define("augment_fwd", "(Tensor frames, Tensor program, int[] size, str fit) -> Tensor", augment_fake)
