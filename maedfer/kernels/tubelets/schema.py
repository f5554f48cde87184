"""The operators of cubes: what they take and what they do to shapes."""

from __future__ import annotations

import math

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
    mix: Tensor | None = None,
) -> Tensor:
    values = frames.shape[1] * math.prod(patch_size)
    return frames.new_empty((frames.shape[0], index.shape[-1], values), dtype=dtype)


define(
    "tubelets",
    "(Tensor frames, Tensor index, int[] patch_size, float[] mean, float[] std, ScalarType dtype) -> Tensor",
    tubelets_fake,
)
define(
    "tubelets_fwd",
    "(Tensor frames, Tensor index, int[] patch_size, float[] mean, float[] std, ScalarType dtype, Tensor? mix) "
    "-> Tensor",
    tubelets_fake,
)
