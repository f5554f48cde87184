"""Cubes of tokens in PyTorch: nothing but the wanted cubes is read."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from maedfer.kernels.cubes import gather_cubes


def tubelets(
    frames: Tensor,
    index: Tensor,
    patch_size: tuple[int, ...],
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype,
) -> Tensor:
    """[B, n, I * prod(patch_size)] in `dtype`, as in api.py."""
    cubes = gather_cubes(frames, patch_size, index)  # [B, n, I, *patch]
    cubes = cubes.float().div_(255.0) if frames.dtype == torch.uint8 else cubes
    shape = (-1, *[1] * len(patch_size))
    cubes = (cubes - cubes.new_tensor(mean).view(shape)).div_(cubes.new_tensor(std).view(shape))
    return cubes.flatten(2).to(dtype)
