"""LayerNorm, products, GELU and residuals in PyTorch.

Residuals are added in place. float32 products on a CPU are oneDNN's, which comes with PyTorch and is twice as fast as
its default library on AMD processors; `torch.backends.mkldnn.enabled = False` leaves all to the default library.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from maedfer.kernels._pairs import Linear, Norm


def layer_norm(x: Tensor, norm: Norm, eps: float) -> Tensor:
    """[..., C] -> [..., C]."""
    weight, bias = norm
    return F.layer_norm(x, weight.shape, weight, bias, eps)


def linear(x: Tensor, layer: Linear) -> Tensor:
    """x weight^T + bias."""
    weight, bias = layer
    if not _by_onednn(x, weight, bias):
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias)):
        return _Linear.apply(x, weight, bias)
    return _product(x, weight, bias)


def linear_residual(x: Tensor, layer: Linear, residual: Tensor, keep: Tensor | None) -> Tensor:
    """residual + keep * (x weight^T + bias)."""
    branch = linear(x, layer)
    if keep is not None:
        branch *= keep.reshape(keep.shape + (1,) * (branch.dim() - keep.dim()))
    if branch.dtype != residual.dtype:
        return residual + branch
    # A product does not need its result for its gradient, so that the sum can take its place.
    branch += residual
    return branch


def linear_gelu(x: Tensor, layer: Linear) -> Tensor:
    """GELU(x weight^T + bias)."""
    return F.gelu(linear(x, layer))


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
        # PyTorch's own switch.
        and bool(torch.backends.mkldnn.enabled)
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
