"""The feed-forward network and its gradients by the operators of schema.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from maedfer.kernels._operators import operator
from maedfer.kernels._products import multiplied, parameter_gradients
from maedfer.kernels.sub_layer.functions import gradient_dtypes, gradients, remember


def kept_dtype(dtype: torch.dtype) -> torch.dtype:
    """What the slope of the GELU is kept in for products in `dtype`."""
    return torch.uint8 if dtype == torch.bfloat16 else dtype


class FusedFeedForward(torch.autograd.Function):
    """GELU(x weight^T + bias) out_weight^T: [..., C] in the dtype of x [..., C].

    The products take `low` and `out_low`, the weights in the dtype of x; gradients are those of the weights.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        out_weight: Tensor,
        low: Tensor,
        out_low: Tensor,
        differentiable: bool,
    ) -> Tensor:
        """Keeps of input, weights as they are multiplied, activation and slope what the wanted gradients need."""
        ctx.dtypes = weight.dtype, None if bias is None else bias.dtype, out_weight.dtype
        act, kept = _hidden(x, low, bias, out_low, ctx.needs_input_grad[:4], differentiable)
        ctx.save_for_backward(*kept)
        return multiplied(act, out_low)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Only what is asked for."""
        wants_x, *wanted = ctx.needs_input_grad[:4]
        dtypes = (dtype if want else None for dtype, want in zip(ctx.dtypes, wanted, strict=True))
        return *_network_gradients(dy, ctx.saved_tensors, wants_x, *dtypes), None, None, None


class FeedForwardResidual(torch.autograd.Function):
    """residual + keep * (GELU(x weight^T + bias) out_weight^T + out_bias): [..., C]."""

    @staticmethod
    def forward(
        ctx: Any,
        residual: Tensor,
        out_bias: Tensor | None,
        keep: Tensor | None,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        out_weight: Tensor,
        differentiable: bool,
    ) -> Tensor:
        """Keeps the factors, and of the network what `FusedFeedForward` does."""
        remember(ctx, 0.0, residual, out_bias, None, x, weight, bias, out_weight)
        act, kept = _hidden(x, weight, bias, out_weight, ctx.needs_input_grad[3:7], differentiable)
        ctx.save_for_backward(keep, *kept)
        ctx.branch = x.dtype
        return operator("linear_residual_fwd")(act, out_weight, out_bias, keep, residual)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dz: Tensor | None) -> tuple[Tensor | None, ...]:
        """The gradient itself for the residual; its product with the factors for the network's gradients."""
        keep, *kept = ctx.saved_tensors
        residual, of_out_bias, _, of_x, *of_network = gradient_dtypes(ctx)
        dtypes = residual, ctx.branch, of_out_bias, None, None
        dresidual, dbranch, dout_bias, *_ = gradients(ctx, dz, None, None, None, None, keep, dtypes)
        found = _network_gradients(dbranch, kept, of_x is not None, *of_network)
        return dresidual, dout_bias, None, *found, None


class FeedForwardResidualLayerNorm(torch.autograd.Function):
    """z of `FeedForwardResidual` and n = LayerNorm(z): (z, n), [..., C] each, n in `dtype`."""

    @staticmethod
    def forward(
        ctx: Any,
        residual: Tensor,
        out_bias: Tensor | None,
        keep: Tensor | None,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        out_weight: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor,
        eps: float,
        dtype: torch.dtype,
        differentiable: bool,
    ) -> tuple[Tensor, Tensor]:
        """Keeps the stream, the norm's weight and the factors, and of the network what `FusedFeedForward` does."""
        remember(ctx, eps, residual, out_bias, None, x, weight, bias, out_weight, norm_weight, norm_bias)
        act, kept = _hidden(x, weight, bias, out_weight, ctx.needs_input_grad[3:7], differentiable)
        z = operator("linear_residual_fwd")(act, out_weight, out_bias, keep, residual)
        n = operator("layer_norm_fwd")(z, norm_weight, norm_bias, eps, dtype)
        ctx.save_for_backward(z, norm_weight, keep, *kept)
        ctx.branch = x.dtype
        return z, n

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dz: Tensor | None, dn: Tensor | None) -> tuple[Tensor | None, ...]:
        """One pass for what z and n were used for, and the network's products."""
        z, norm_weight, keep, *kept = ctx.saved_tensors
        residual, of_out_bias, _, of_x, *of_network, of_norm_weight, of_norm_bias = gradient_dtypes(ctx)
        dtypes = residual, ctx.branch, of_out_bias, of_norm_weight, of_norm_bias
        dresidual, dbranch, dout_bias, *dnorm = gradients(ctx, dz, None, dn, z, norm_weight, keep, dtypes)
        found = _network_gradients(dbranch, kept, of_x is not None, *of_network)
        return dresidual, dout_bias, None, *found, *dnorm, None, None, None


# The input, the first weight and the second as they are multiplied, the activation, and the slope of the GELU.
_Kept = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]


def _hidden(
    x: Tensor, low: Tensor, bias: Tensor | None, out_low: Tensor, wanted: Sequence[bool], differentiable: bool
) -> tuple[Tensor, _Kept]:
    """The activation, and what is kept for those gradients of input, weight, bias and second weight that are wanted."""
    want_x, want_weight, want_bias, want_out = wanted
    through = want_x or want_weight or want_bias
    keep = kept_dtype(x.dtype) if differentiable and through else None
    act, slope = operator("linear_gelu_fwd")(x, low, bias, keep)
    return act, (
        x if want_weight else None,
        low if want_x else None,
        out_low if through else None,
        act if want_out else None,
        slope if through else None,
    )


def _network_gradients(
    dy: Tensor | None,
    kept: Sequence[Tensor | None],
    wants_x: bool,
    of_weight: torch.dtype | None,
    of_bias: torch.dtype | None,
    of_out: torch.dtype | None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of input, weight, bias and second weight; None for those that have no dtype."""
    x, low, out_low, act, slope = kept
    if dy is None:
        return None, None, None, None
    dx = dweight = dbias = dout = None
    if of_out is not None:
        dout = parameter_gradients(dy, act, of_out, None)[0]
    if wants_x or of_weight is not None or of_bias is not None:
        du, sums = operator("linear_gelu_bwd")(dy, out_low, slope, of_bias is not None)
        dx = multiplied(du, low.t()) if wants_x and low is not None else None
        dweight = parameter_gradients(du, x, of_weight, None)[0]
        dbias = sums.to(of_bias) if of_bias is not None else None
    return dx, dweight, dbias, dout
