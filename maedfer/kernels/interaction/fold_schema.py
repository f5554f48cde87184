"""Operators of folding: what they take and what they do to shapes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from maedfer.kernels._operators import define


def _fwd_fake(
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
    batch, regions, dim = kv.shape[0], kv.shape[1], query_weight.shape[1]
    shape = (num_heads, batch, regions, dim)
    exact = torch.float64 if kv.dtype == torch.float64 else torch.float32
    made = (kv.new_empty(shape, dtype=dtype), kv.new_empty(shape[:3], dtype=exact), kv.new_empty(shape, dtype=dtype))
    matrix, offset, values = (x.transpose(0, 1) for x in made)
    return matrix, offset, values


def _bwd_fake(
    dmatrix: Tensor,
    doffset: Tensor,
    dvalues: Tensor,
    kv: Tensor,
    value_bias: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor,
    query_weight: Tensor,
    query_bias: Tensor | None,
    out_weight: Tensor,
    out_bias: Tensor | None,
    keep: Tensor | None,
    wanted: Sequence[bool],
) -> tuple[Tensor, ...]:
    inputs = (kv, value_bias, norm_weight, norm_bias, query_weight, query_bias, out_weight, out_bias)
    return tuple(
        kv.new_empty(0) if x is None or not want else x.new_empty(x.shape)
        for x, want in zip(inputs, wanted, strict=True)
    )


_INPUTS = (
    "Tensor kv, Tensor? value_bias, Tensor norm_weight, Tensor norm_bias, Tensor query_weight, Tensor? query_bias, "
    "Tensor out_weight, Tensor? out_bias, Tensor? keep"
)

define(
    "interaction_fold_fwd",
    f"({_INPUTS}, int num_heads, ScalarType dtype) -> (Tensor, Tensor, Tensor)",
    _fwd_fake,
)
# Gradients of the inputs but `keep`; empty tensors stand for those that are not wanted.
define(
    "interaction_fold_bwd",
    f"(Tensor dmatrix, Tensor doffset, Tensor dvalues, {_INPUTS}, bool[8] wanted) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _bwd_fake,
)
