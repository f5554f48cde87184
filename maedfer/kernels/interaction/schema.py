"""Operators of the folded interaction: what they take and what they do to shapes."""

from __future__ import annotations

import torch
from torch import Tensor

from maedfer.kernels._operators import define, unwritten
from maedfer.kernels.interaction.folding import key_layout


def interaction_fwd_fake(
    z: Tensor,
    s: Tensor,
    matrix: Tensor,
    offset: Tensor,
    values: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    dtype: torch.dtype,
    keep_p: bool,
) -> tuple[Tensor, ...]:
    batch, regions, rows, _ = z.shape
    groups, together, keys = key_layout(matrix.shape[1], regions)
    kept = (batch, regions * rows, groups * together * keys) if keep_p else (0,)
    return unwritten(z), z.new_empty(z.shape, dtype=dtype), values.new_empty(kept)


def dscore_dtype(values: torch.dtype) -> torch.dtype:
    """What gradients of scores are kept in: under a loss scale, float16 overflows where dA and dz do not."""
    return torch.float32 if values == torch.float16 else values


def _bwd_fake(
    g: Tensor,
    z: Tensor,
    s: Tensor,
    matrix: Tensor,
    values: Tensor,
    p: Tensor,
    eps: float,
    offset_dtype: torch.dtype,
) -> tuple[Tensor, ...]:
    batch, heads, regions, dim = matrix.shape
    dmatrix, dvalues = (x.new_empty((heads, batch, regions, dim)).transpose(0, 1) for x in (matrix, values))
    return unwritten(z), unwritten(s), dmatrix, matrix.new_empty((batch, heads, regions), dtype=offset_dtype), dvalues


define(
    "interaction_fwd",
    "(Tensor z, Tensor s, Tensor matrix, Tensor offset, Tensor values, Tensor weight, Tensor bias, float eps, "
    "ScalarType dtype, bool keep_p) -> (Tensor, Tensor, Tensor)",
    interaction_fwd_fake,
)
define(
    "interaction_bwd",
    "(Tensor g, Tensor z, Tensor s, Tensor matrix, Tensor values, Tensor p, float eps, ScalarType offset_dtype) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _bwd_fake,
)
