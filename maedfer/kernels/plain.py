"""Every operation arranged for speed in plain PyTorch: impl="torch", for any device and dtype.

The mathematics is that of the fused kernels: attention through scaled_dot_product_attention on packed products, the
interaction folded where that pays, residuals added in place. Shapes as in functional.py.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from maedfer.kernels.cubes import gather_cubes
from maedfer.kernels.folding import fold, folds


def region_attention(qkv: Tensor, num_heads: int) -> Tensor:
    """[..., S, 3C] -> [..., S, C]."""
    return _attention(qkv.unflatten(-1, (3, num_heads, -1)).unbind(-3))


def cross_attention(q: Tensor, kv: Tensor, num_heads: int) -> Tensor:
    """[..., NQ, C] and [..., NK, 2C] -> [..., NQ, C]."""
    return _attention((q.unflatten(-1, (num_heads, -1)), *kv.unflatten(-1, (2, num_heads, -1)).unbind(-3)))


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """[..., C] -> [..., C]."""
    return F.layer_norm(x, weight.shape, weight, bias, eps)


def linear_residual(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor, keep: Tensor | None) -> Tensor:
    """residual + keep * (x weight^T + bias)."""
    branch = F.linear(x, weight, bias)
    if keep is not None:
        branch *= keep.to(branch.dtype).reshape(keep.shape + (1,) * (branch.dim() - keep.dim()))
    if branch.dtype != residual.dtype:
        return residual + branch
    # A product does not need its result for its gradient, so that the sum can take its place.
    branch += residual
    return branch


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """GELU(x weight^T + bias)."""
    return F.gelu(F.linear(x, weight, bias))


def local_global_interaction(
    z: Tensor,
    s: Tensor,
    kv: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    q_weight: Tensor,
    q_bias: Tensor | None,
    out_weight: Tensor,
    out_bias: Tensor,
    keep: Tensor | None,
    num_heads: int,
    eps: float,
) -> Tensor:
    """The stream [B, M, S, C] after the interaction."""
    _, regions, rows, dim = z.shape
    x = z[:, :, 1:]
    if not folds(num_heads, regions, dim):
        query = F.linear(layer_norm(x, norm_weight, norm_bias, eps).flatten(1, 2), q_weight, q_bias)
        heads = cross_attention(query, kv, num_heads).unflatten(1, (regions, rows - 1))
        return torch.cat([s.unsqueeze(2), linear_residual(heads, out_weight, out_bias, x, keep)], dim=2)
    matrix, offset, values = (
        part.flatten(1, 2)
        for part in fold(kv, norm_weight, norm_bias, q_weight, q_bias, out_weight, out_bias, keep, num_heads)
    )  # [B, H * M, C], [B, H * M], [B, H * M, C]
    xhat = F.layer_norm(x, (dim,), eps=eps).flatten(1, 2).to(matrix.dtype)
    scores = torch.baddbmm(offset.unsqueeze(1).to(matrix.dtype), xhat, matrix.transpose(1, 2))
    p = scores.unflatten(2, (num_heads, regions)).softmax(dim=3).flatten(2).to(values.dtype)
    branch = torch.bmm(p, values).unflatten(1, (regions, rows - 1))
    return torch.cat([s.unsqueeze(2), x + branch], dim=2)


class MaskedAppearanceMotionLoss(torch.autograd.Function):
    """Mean squared errors (appearance, motion) of predictions [B, n, P * I]; keeps their differences to the target."""

    @staticmethod
    def forward(
        ctx: Any,
        prediction: Tensor,
        frames: Tensor,
        index: Tensor,
        patch_size: tuple[int, ...],
        motion: bool,
        normalize: bool,
    ) -> tuple[Tensor, Tensor]:
        """Builds the target in the memory of the differences."""
        cube = gather_cubes(frames, patch_size, index)  # [B, n, I, t, h, w], a copy
        cube = cube.float().div_(255.0) if cube.dtype == torch.uint8 else cube
        cube = cube.flatten(3)  # [B, n, I, P]
        if normalize:
            variance, mean = torch.var_mean(cube, dim=3, keepdim=True)
            cube = cube.sub_(mean).div_(variance.sqrt_().add_(1e-6))
        cube = cube.unflatten(3, (patch_size[0], -1))  # [B, n, I, t, h * w]
        if motion:
            cube[:, :, :, 1:] -= cube[:, :, :, :1]
        exact = torch.promote_types(torch.float32, cube.dtype)
        shape = (*prediction.shape[:2], *cube.shape[3:], cube.shape[2])  # [B, n, t, h * w, I]
        error = prediction.reshape(shape).to(exact) - cube.permute(0, 1, 3, 4, 2)
        ctx.save_for_backward(error)
        ctx.shape, ctx.dtype = prediction.shape, prediction.dtype
        return error[:, :, 0].square().mean(), error[:, :, 1:].square().mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, appearance: Tensor, motion: Tensor) -> tuple[Tensor | None, ...]:
        """Scales the differences."""
        (error,) = ctx.saved_tensors
        frames = error.shape[2]
        each = error[:, :, 0].numel()
        scale = torch.stack([appearance, *[motion / max(1, frames - 1)] * (frames - 1)]) * (2.0 / max(1, each))
        gradient = (error * scale.to(error.dtype)[:, None, None]).reshape(ctx.shape).to(ctx.dtype)
        return gradient, None, None, None, None, None


def _attention(parts: tuple[Tensor, ...]) -> Tensor:
    """Attention of [..., N, H, D] parts: [..., NQ, C]."""
    leading = parts[0].shape[:-3]
    q, k, v = (part.flatten(0, -4).transpose(1, 2) if leading else part.transpose(0, 1) for part in parts)
    out = F.scaled_dot_product_attention(q, k, v).transpose(-3, -2).flatten(-2)
    return out.unflatten(0, leading) if leading else out
