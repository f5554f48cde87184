"""The operator of cubes: what it takes and what it does to shapes."""

from __future__ import annotations

import torch
from torch import Tensor

from maedfer.kernels._operators import define


def tubelets_fake(
    frames: Tensor,
    index: Tensor,
    patch_size: list[int],
    mean: list[float],
    std: list[float],
    dtype: torch.dtype,
) -> Tensor:
    values = frames.shape[1] * patch_size[0] * patch_size[1] * patch_size[2]
    return frames.new_empty((frames.shape[0], index.shape[-1], values), dtype=dtype)


define(
    "tubelets",
    "(Tensor frames, Tensor index, int[] patch_size, float[] mean, float[] std, ScalarType dtype) -> Tensor",
    tubelets_fake,
)
