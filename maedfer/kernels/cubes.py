"""Cutting clips into the cubes of tokens; indexing alone, shared by all implementations."""

from __future__ import annotations

import torch
from torch import Tensor


def cubes(video: Tensor, patch_size: tuple[int, ...]) -> Tensor:
    """View a clip as a grid of cubes without copying it.

    Args:
        video: [B, I, *size], each size a multiple of the patch.
        patch_size: (2, 16, 16) for tubelets, (16, 16) for patches of a 2-D input.

    Returns:
        [B, *grid, I, *patch_size].
    """
    dims = len(patch_size)
    split = [part for size, patch in zip(video.shape[2:], patch_size, strict=True) for part in (size // patch, patch)]
    view = video.reshape(*video.shape[:2], *split)
    grid_axes, patch_axes = range(2, 2 + 2 * dims, 2), range(3, 3 + 2 * dims, 2)
    return view.permute(0, *grid_axes, 1, *patch_axes)


def gather_cubes(video: Tensor, patch_size: tuple[int, ...], index: Tensor) -> Tensor:
    """Copy the wanted cubes of a clip, and read no others.

    Args:
        video: [B, I, *size].
        patch_size: the cube's size.
        index: [B, n] or [n] token numbers in row-major (t, h, w) order.

    Returns:
        [B, n, I, *patch_size].
    """
    grid_view = cubes(video, patch_size)
    dims = len(patch_size)
    if index.dim() == 1 and video.device.type == "cpu":
        # All tokens as a rule: whole cubes are copied twice sooner than their pixels one by one.
        return grid_view.flatten(1, dims).index_select(1, index)
    coordinates = []
    for size in reversed(grid_view.shape[1 : 1 + dims]):
        coordinates.append(index % size)
        index = index // size
    clip = torch.arange(video.shape[0], device=video.device)[:, None]
    return grid_view[(clip, *reversed(coordinates))]
