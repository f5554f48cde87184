"""Operators of attention: what they take and what they do to shapes."""

from __future__ import annotations

import torch
from torch import Tensor

from maedfer.kernels._operators import define, unwritten


def _self_fwd_fake(qkv: Tensor, q_bias: Tensor | None, v_bias: Tensor | None, num_heads: int) -> Tensor:
    return qkv.new_empty((*qkv.shape[:-1], qkv.shape[-1] // 3))


def _self_bwd_fake(
    dout: Tensor, qkv: Tensor, q_bias: Tensor | None, num_heads: int, bias_gradients: bool
) -> tuple[Tensor, Tensor]:
    return unwritten(qkv), _bias_gradients(dout, bias_gradients)


def _cross_fwd_fake(q: Tensor, kv: Tensor, q_bias: Tensor | None, v_bias: Tensor | None, num_heads: int) -> Tensor:
    return unwritten(q)


def _cross_bwd_fake(
    dout: Tensor, q: Tensor, kv: Tensor, q_bias: Tensor | None, num_heads: int, bias_gradients: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return unwritten(q), unwritten(kv), _bias_gradients(dout, bias_gradients)


def _bias_gradients(dout: Tensor, wanted: bool) -> Tensor:
    """Gradients of the biases of queries and values, side by side."""
    exact = torch.float64 if dout.dtype == torch.float64 else torch.float32
    return dout.new_empty((2 if wanted else 0, dout.shape[-1]), dtype=exact)


define("region_attention_fwd", "(Tensor qkv, Tensor? q_bias, Tensor? v_bias, int num_heads) -> Tensor", _self_fwd_fake)
define(
    "region_attention_bwd",
    "(Tensor dout, Tensor qkv, Tensor? q_bias, int num_heads, bool bias_gradients) -> (Tensor, Tensor)",
    _self_bwd_fake,
)
define(
    "cross_attention_fwd",
    "(Tensor q, Tensor kv, Tensor? q_bias, Tensor? v_bias, int num_heads) -> Tensor",
    _cross_fwd_fake,
)
define(
    "cross_attention_bwd",
    "(Tensor dout, Tensor q, Tensor kv, Tensor? q_bias, int num_heads, bool bias_gradients) "
    "-> (Tensor, Tensor, Tensor)",
    _cross_bwd_fake,
)
