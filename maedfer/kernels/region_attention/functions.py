"""Attention and its gradients by the operators of schema.py."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from maedfer.kernels._operators import operator


class GroupSelfAttention(torch.autograd.Function):
    """Self-attention within each group on packed queries, keys and values: [..., S, 3C] -> [..., S, C]."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, q_bias: Tensor | None, v_bias: Tensor | None, num_heads: int) -> Tensor:
        """Keeps the inputs only."""
        ctx.save_for_backward(qkv, q_bias)
        ctx.num_heads, ctx.bias_dtypes = num_heads, _dtypes(q_bias, v_bias)
        return operator("region_attention_fwd")(qkv, q_bias, v_bias, num_heads)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        """One packed gradient, and those of the biases."""
        wanted = ctx.needs_input_grad[1:3]
        dqkv, dbias = operator("region_attention_bwd")(dout, *ctx.saved_tensors, ctx.num_heads, any(wanted))
        return dqkv, *_bias_gradients(dbias, ctx.bias_dtypes, wanted), None


class GroupCrossAttention(torch.autograd.Function):
    """Attention of [..., NQ, C] to packed keys and values [..., NK, 2C] of the same group: [..., NQ, C]."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, kv: Tensor, q_bias: Tensor | None, v_bias: Tensor | None, num_heads: int
    ) -> Tensor:
        """Keeps the inputs only."""
        ctx.save_for_backward(q, kv, q_bias)
        ctx.num_heads, ctx.bias_dtypes = num_heads, _dtypes(q_bias, v_bias)
        return operator("cross_attention_fwd")(q, kv, q_bias, v_bias, num_heads)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        """One gradient for the queries, a packed one for keys and values, and those of the biases."""
        wanted = ctx.needs_input_grad[2:4]
        dq, dkv, dbias = operator("cross_attention_bwd")(dout, *ctx.saved_tensors, ctx.num_heads, any(wanted))
        return dq, dkv, *_bias_gradients(dbias, ctx.bias_dtypes, wanted), None


def _dtypes(*biases: Tensor | None) -> tuple[torch.dtype | None, ...]:
    return tuple(None if bias is None else bias.dtype for bias in biases)


def _bias_gradients(
    dbias: Tensor, dtypes: tuple[torch.dtype | None, ...], wanted: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """Rows of `dbias` [2, C] that are wanted, in the dtypes of the biases."""
    if not any(wanted):
        return None, None
    return tuple(row.to(dtype) if ask else None for row, dtype, ask in zip(dbias, dtypes, wanted, strict=True))
