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


def _bwd_fake(
    dy: Tensor,
    dn: Tensor,
    z: Tensor,
    s: Tensor,
    matrix: Tensor,
    offset: Tensor,
    values: Tensor,
    p: Tensor,
    weight: Tensor,
    eps: float,
) -> tuple[Tensor, ...]:
    batch, heads, regions, dim = matrix.shape
    dmatrix, dvalues = (x.new_empty((heads, batch, regions, dim)).transpose(0, 1) for x in (matrix, values))
    doffset = offset.new_empty((batch, heads, regions))
    exact = torch.float64 if z.dtype == torch.float64 else torch.float32
    return unwritten(z), unwritten(s), dmatrix, doffset, dvalues, z.new_empty((2, dim), dtype=exact)


for _name in ("interaction_fwd", "native_interaction_fwd"):
    define(
        _name,
        "(Tensor z, Tensor s, Tensor matrix, Tensor offset, Tensor values, Tensor weight, Tensor bias, float eps, "
        "ScalarType dtype, bool keep_p) -> (Tensor, Tensor, Tensor)",
        interaction_fwd_fake,
    )
define(
    "interaction_bwd",
    "(Tensor dy, Tensor dn, Tensor z, Tensor s, Tensor matrix, Tensor offset, Tensor values, Tensor p, Tensor weight, "
    "float eps) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _bwd_fake,
)
