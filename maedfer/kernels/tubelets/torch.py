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
    share: Tensor | None = None,
) -> Tensor:
    """[B, n, I * prod(patch_size)] in `dtype`, as in api.py; `share` [H, W] is that of a clip's own pixels.

    Values are those of whole clips that are normalised, mixed and then cut, to the bit.
    """
    cubes = _normalized(gather_cubes(frames, patch_size, index), mean, std)
    if share is not None:
        # The same cubes of the other clip, where all clips are asked for the same.
        other = cubes.flip(0)
        if index.dim() == 2:
            other = _normalized(gather_cubes(frames.flip(0), patch_size, index), mean, std)
        kept = share.to(cubes.dtype).expand(1, 1, *frames.shape[2:])
        kept = gather_cubes(kept if index.dim() == 1 else kept.expand(len(frames), *kept.shape[1:]), patch_size, index)
        cubes = torch.lerp(other, cubes, kept)
    return cubes.flatten(2).to(dtype)


def _normalized(cubes: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Cubes [B, n, I, *patch], which are written over where they are floats already."""
    cubes = cubes.float().div_(255.0) if cubes.dtype == torch.uint8 else cubes
    shape = (-1, *[1] * (cubes.dim() - 3))
    return (cubes - cubes.new_tensor(mean).view(shape)).div_(cubes.new_tensor(std).view(shape))
