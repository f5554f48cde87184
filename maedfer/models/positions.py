"""Position tables over a token grid, and how they come to another grid."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def sincos_positions(num_tokens: int, dim: int) -> Tensor:
    """The fixed table of "Attention Is All You Need" over flat token numbers: [1, num_tokens, dim], float32."""
    if torch.get_default_device().type == "meta":
        # What is computed there imports PyTorch's compiler: a second or two, and 160 MB.
        return torch.empty(1, num_tokens, dim)
    channel = torch.arange(dim, dtype=torch.float64)
    angle = torch.arange(num_tokens, dtype=torch.float64)[:, None] / 10000 ** (2 * (channel // 2) / dim)
    return torch.where(channel % 2 == 0, angle.sin(), angle.cos()).float()[None]


def interpolate_grid(table: Tensor, grid: tuple[int, ...], new_grid: tuple[int, ...]) -> Tensor:
    """Resize a table over a token or region grid: bicubic over the last two dimensions, linear over a first one.

    Args:
        table: [..., prod(grid), C].
        grid: what the table covers.
        new_grid: what it shall cover.

    Returns:
        [..., prod(new_grid), C].
    """
    if grid == new_grid:
        return table
    lead, dim = table.shape[:-2], table.shape[-1]
    x = table.reshape(-1, *grid, dim).movedim(-1, 1).float()  # [L, C, *grid]
    if len(grid) == 2:
        x = F.interpolate(x, size=new_grid, mode="bicubic", align_corners=False)
    else:
        time = x.shape[2]
        plane = x.transpose(1, 2).flatten(0, 1)  # [L * t, C, h, w]
        if grid[1:] != new_grid[1:]:
            plane = F.interpolate(plane, size=new_grid[1:], mode="bicubic", align_corners=False)
        x = plane.unflatten(0, (-1, time)).transpose(1, 2)
        if grid[0] != new_grid[0]:
            series = x.flatten(3).permute(0, 3, 1, 2).flatten(0, 1)  # [L * h * w, C, t]
            series = F.interpolate(series, size=new_grid[0], mode="linear", align_corners=False)
            x = series.unflatten(0, (-1, math.prod(new_grid[1:]))).permute(0, 2, 3, 1)
    return x.flatten(2).transpose(1, 2).reshape(*lead, math.prod(new_grid), dim).to(table.dtype)
