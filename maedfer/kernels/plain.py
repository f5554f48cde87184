"""Every operation arranged for speed in plain PyTorch: impl="torch", for any device and dtype.

The mathematics is that of the fused kernels: attention through scaled_dot_product_attention on packed products, the
interaction folded where that pays, residuals added in place, and float32 products on a CPU by oneDNN, which comes with
PyTorch and is twice as fast as its default library on AMD processors. Shapes as in functional.py.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from maedfer.kernels import native
from maedfer.kernels.cubes import gather_cubes
from maedfer.kernels.folding import fold, folds


def region_attention(qkv: Tensor, num_heads: int, mask: Tensor | None = None) -> Tensor:
    """[..., S, 3C] -> [..., S, C]; `mask` as in `reference.attention`."""
    return _attention(qkv.unflatten(-1, (3, num_heads, -1)).unbind(-3), mask)


def cross_attention(q: Tensor, kv: Tensor, num_heads: int, mask: Tensor | None = None) -> Tensor:
    """[..., NQ, C] and [..., NK, 2C] -> [..., NQ, C]; `mask` as in `reference.attention`."""
    return _attention((q.unflatten(-1, (num_heads, -1)), *kv.unflatten(-1, (2, num_heads, -1)).unbind(-3)), mask)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """[..., C] -> [..., C]."""
    return F.layer_norm(x, weight.shape, weight, bias, eps)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x weight^T + bias."""
    if not _by_onednn(x, weight, bias):
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias)):
        return _Linear.apply(x, weight, bias)
    return _product(x, weight, bias)


def linear_residual(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor, keep: Tensor | None) -> Tensor:
    """residual + keep * (x weight^T + bias)."""
    branch = linear(x, weight, bias)
    if keep is not None:
        branch *= keep.to(branch.dtype).reshape(keep.shape + (1,) * (branch.dim() - keep.dim()))
    if branch.dtype != residual.dtype:
        return residual + branch
    # A product does not need its result for its gradient, so that the sum can take its place.
    branch += residual
    return branch


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """GELU(x weight^T + bias)."""
    return F.gelu(linear(x, weight, bias))


def local_global_interaction(
    z: Tensor,
    s: Tensor,
    kv: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    q_weight: Tensor,
    q_bias: Tensor | None,
    out_weight: Tensor,
    out_bias: Tensor | None,
    keep: Tensor | None,
    num_heads: int,
    eps: float,
) -> Tensor:
    """The stream [B, M, S, C] after the interaction."""
    _, regions, rows, dim = z.shape
    x = z[:, :, 1:]
    if not folding_pays(z, num_heads, regions):
        query = linear(layer_norm(x, norm_weight, norm_bias, eps).flatten(1, 2), q_weight, q_bias)
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
    branch = branch.add_(x) if branch.dtype == x.dtype else x + branch
    return torch.cat([s.unsqueeze(2), branch], dim=2)


def folding_pays(z: Tensor, num_heads: int, regions: int) -> bool:
    """Whether the interaction is computed with folded projections.

    On a CPU, products with a matrix for each clip run at half the speed of those with one weight: both forms take the
    same time at H * M = C / 2 (benchmarks, "folding").
    """
    dim = z.shape[-1]
    return folds(num_heads, regions, dim) and (z.device.type != "cpu" or 2 * num_heads * regions <= dim)


def tubelets(
    frames: Tensor,
    index: Tensor,
    patch_size: tuple[int, ...],
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype,
) -> Tensor:
    """`reference.tubelets` in a dtype: nothing but the wanted cubes is read; by csrc on a CPU that has it."""
    if frames.device.type == "cpu" and not native.reasons(frames.new_empty(0, dtype=dtype), patch_size, frames):
        return native.tubelets(frames, index, patch_size, mean, std, dtype)
    cubes = gather_cubes(frames, patch_size, index)  # [B, n, I, *patch]
    cubes = cubes.float().div_(255.0) if frames.dtype == torch.uint8 else cubes
    shape = (-1, *[1] * len(patch_size))
    cubes = (cubes - cubes.new_tensor(mean).view(shape)).div_(cubes.new_tensor(std).view(shape))
    return cubes.flatten(2).to(dtype)


def masked_appearance_motion_loss(
    prediction: Tensor, frames: Tensor, index: Tensor, patch_size: tuple[int, ...], motion: bool, normalize: bool
) -> tuple[Tensor, Tensor]:
    """Two scalars, as in functional.py; by csrc on a CPU that has it."""
    if prediction.device.type == "cpu" and not native.reasons(prediction, patch_size, frames, loss=True):
        return native.MaskedAppearanceMotionLoss.apply(prediction, frames, index, patch_size, motion, normalize)
    return MaskedAppearanceMotionLoss.apply(prediction, frames, index, patch_size, motion, normalize)


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
        gradient = native.scale_difference(error.flatten(3), appearance, motion)
        return gradient.reshape(ctx.shape).to(ctx.dtype), None, None, None, None, None


# Fewer multiply-adds are not worth the detour.
_WORTH_IT = 2**20


def _by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether oneDNN takes a product: float32 on a CPU, outside of compilers (they choose for themselves)."""
    return (
        not torch.compiler.is_compiling()
        and type(x) is Tensor
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and (bias is None or bias.dtype == torch.float32)
        and x.numel() * weight.shape[0] >= _WORTH_IT
        and not torch.is_autocast_enabled("cpu")
        and _has_onednn()
    )


@functools.cache
def _has_onednn() -> bool:
    """Whether this PyTorch has the operator, which its own compiler uses."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    out = torch.ops.mkldnn._linear_pointwise(x.reshape(-1, x.shape[-1]), weight, bias, "none", [], "")
    # Not a view for autograd: residuals are added in place.
    return torch.ops.aten._unsafe_view(out, (*x.shape[:-1], weight.shape[0]))


class _Linear(torch.autograd.Function):
    """F.linear with its three products by oneDNN."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Keeps input and weight."""
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        """Only what is asked for."""
        x, weight = ctx.saved_tensors
        rows = dout.reshape(-1, dout.shape[-1])
        dx = _product(dout, weight.t()) if ctx.needs_input_grad[0] else None
        dweight = _product(rows.t(), x.reshape(-1, x.shape[-1]).t()) if ctx.needs_input_grad[1] else None
        return dx, dweight, rows.sum(0) if ctx.needs_input_grad[2] else None


def _attention(parts: tuple[Tensor, ...], mask: Tensor | None) -> Tensor:
    """Attention of [..., N, H, D] parts: [..., NQ, C]."""
    leading = parts[0].shape[:-3]
    if mask is not None:
        mask = mask.expand(parts[1].shape[:-2])[..., None, None, :]
        mask = mask.flatten(0, -4) if leading else mask[0]
    q, k, v = (part.flatten(0, -4).transpose(1, 2) if leading else part.transpose(0, 1) for part in parts)
    out = F.scaled_dot_product_attention(q, k, v, mask).transpose(-3, -2).flatten(-2)
    return out.unflatten(0, leading) if leading else out
