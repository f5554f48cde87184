"""The folded interaction and its gradients by the operators of schema.py and fold_schema.py."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from maedfer.kernels._functions import run
from maedfer.kernels._operators import operator
from maedfer.kernels._pairs import Linear, Norm


class Folding(torch.autograd.Function):
    """A and V [B, H, M, C] in `dtype` and a [B, H, M] from keys and values [B, M, 2C]."""

    @staticmethod
    def forward(
        ctx: Any,
        kv: Tensor,
        value_bias: Tensor | None,
        norm_weight: Tensor,
        norm_bias: Tensor,
        query_weight: Tensor,
        query_bias: Tensor | None,
        out_weight: Tensor,
        out_bias: Tensor | None,
        keep: Tensor | None,
        num_heads: int,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Keeps its inputs."""
        inputs = kv, value_bias, norm_weight, norm_bias, query_weight, query_bias, out_weight, out_bias, keep
        ctx.save_for_backward(*inputs)
        return operator("interaction_fold_fwd")(*inputs, num_heads, dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dmatrix: Tensor, doffset: Tensor, dvalues: Tensor) -> tuple[Tensor | None, ...]:
        """Those gradients that are asked for; factors of stochastic depth have none."""
        wanted = ctx.needs_input_grad[:8]
        gradients = operator("interaction_fold_bwd")(dmatrix, doffset, dvalues, *ctx.saved_tensors, wanted)
        return *(x if want else None for x, want in zip(gradients, wanted, strict=True)), None, None, None


def fold(
    kv: Tensor,
    *,
    norm: Norm,
    query: Linear,
    output: Linear,
    num_heads: int,
    dtype: torch.dtype,
    keep: Tensor | None = None,
    kv_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """What `folding.fold` makes, in products of `dtype`; `kv_bias` [C] is added to the values."""
    return run(Folding, kv, kv_bias, *norm, *query, *output, keep, num_heads, dtype)


class FoldedInteraction(torch.autograd.Function):
    """(y, LN(y)) [B, M, S, C] from z [B, M, S, C], s [B, M, C], A and V [B, H, M, C] and a [B, H, M]."""

    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        s: Tensor,
        matrix: Tensor,
        offset: Tensor,
        values: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        dtype: torch.dtype,
        differentiable: bool,
    ) -> tuple[Tensor, Tensor]:
        """Keeps its inputs, y and the probabilities, which are not written where there is no backward pass."""
        # s becomes rows of y, which has the dtype of z.
        z, s = _addressable(z), _addressable(s.to(z.dtype))
        keep_p = differentiable and any(ctx.needs_input_grad)
        y, n, p = operator("interaction_fwd")(z, s, matrix, offset, values, weight, bias, eps, dtype, keep_p)
        ctx.save_for_backward(z, s, matrix, values, p, y, weight)
        ctx.eps, ctx.offset_dtype, ctx.bias_dtype = eps, offset.dtype, bias.dtype
        # Zeros in place of a gradient that is not there would be read like any other. Dynamo knows no other way.
        if not torch.compiler.is_compiling():
            ctx.set_materialize_grads(False)
        return y, n

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None, dn: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of everything but the constants: through the LayerNorm, then through the interaction."""
        z, s, matrix, values, p, y, weight = ctx.saved_tensors
        dweight = dbias = None
        if dn is not None:
            g, _, sums = operator("residual_layer_norm_bwd")(
                dy, None, dn, y, weight, None, ctx.eps, False, y.dtype, None, False, True
            )
            dweight, dbias = sums[0].to(weight.dtype), sums[1].to(ctx.bias_dtype)
        elif dy is not None:
            g = _addressable(dy)
        else:
            return (None,) * 10
        gradients = operator("interaction_bwd")(g, z, s, matrix, values, p, ctx.eps, ctx.offset_dtype)
        return *gradients, dweight, dbias, None, None, None


def _addressable(x: Tensor) -> Tensor:
    """Copied only if its channels are not adjacent, or a clip is spread over more than 32 bits can address."""
    reach = sum((size - 1) * stride for size, stride in zip(x.shape[1:], x.stride()[1:], strict=True))
    return x if x.stride(-1) == 1 and reach < 2**31 else x.contiguous()
