"""Operators of sub-layers: what they take and what they do to shapes."""

from __future__ import annotations

import torch
from torch import Tensor

from maedfer.kernels._operators import define, unwritten


def _stream(residual: Tensor, branch: Tensor) -> Tensor:
    return residual.new_empty(residual.shape, dtype=torch.promote_types(residual.dtype, branch.dtype))


def _normed(
    residual: Tensor,
    branch: Tensor,
    branch_bias: Tensor | None,
    keep: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    dtype: torch.dtype,
) -> tuple[Tensor, ...]:
    return _stream(residual, branch), residual.new_empty(residual.shape, dtype=dtype)


def _normed_representative(
    residual: Tensor,
    branch: Tensor,
    branch_bias: Tensor | None,
    keep: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    dtype: torch.dtype,
) -> tuple[Tensor, ...]:
    z = _stream(residual, branch)
    return z, *_representative(z, weight, bias, eps, dtype)


def _representative(z: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, ...]:
    s = z.new_empty((*z.shape[:-2], z.shape[-1]))
    return s, s.new_empty(s.shape, dtype=dtype)


def _normed_bwd(
    dz: Tensor | None,
    ds: Tensor | None,
    dn: Tensor | None,
    z: Tensor | None,
    weight: Tensor | None,
    keep: Tensor | None,
    eps: float,
    representative: bool,
    residual_dtype: torch.dtype | None,
    branch_dtype: torch.dtype | None,
    branch_bias: bool,
    affine: bool,
) -> tuple[Tensor, ...]:
    stream = next(x for x in (z, dz) if x is not None)
    exact = torch.float64 if stream.dtype == torch.float64 else torch.float32
    dtypes = residual_dtype, branch_dtype
    dresidual, dbranch = (stream.new_empty(stream.shape if dtype else (0,), dtype=dtype) for dtype in dtypes)
    return dresidual, dbranch, stream.new_empty((branch_bias + 2 * affine, stream.shape[-1]), dtype=exact)


define(
    "layer_norm_fwd",
    "(Tensor x, Tensor weight, Tensor bias, float eps, ScalarType dtype) -> Tensor",
    lambda x, weight, bias, eps, dtype: x.new_empty(x.shape, dtype=dtype),
)
# Representative tokens of z [.., M, S, C], and those normed.
define(
    "layer_norm_representative_fwd",
    "(Tensor z, Tensor weight, Tensor bias, float eps, ScalarType dtype) -> (Tensor, Tensor)",
    _representative,
)
define(
    "linear_residual_fwd",
    "(Tensor x, Tensor weight, Tensor? bias, Tensor? keep, Tensor residual) -> Tensor",
    lambda x, weight, bias, keep, residual: _stream(residual, x),
)
define(
    "residual_add_fwd",
    "(Tensor residual, Tensor branch, Tensor? branch_bias, Tensor? keep) -> Tensor",
    lambda residual, branch, branch_bias, keep: _stream(residual, branch),
)
define(
    "residual_layer_norm_fwd",
    "(Tensor residual, Tensor branch, Tensor? branch_bias, Tensor? keep, Tensor weight, Tensor bias, float eps, "
    "ScalarType dtype) -> (Tensor, Tensor)",
    _normed,
)
define(
    "residual_layer_norm_representative_fwd",
    "(Tensor residual, Tensor branch, Tensor? branch_bias, Tensor? keep, Tensor weight, Tensor bias, float eps, "
    "ScalarType dtype) -> (Tensor, Tensor, Tensor)",
    _normed_representative,
)
# Empty tensors stand for gradients that are not wanted; the last result holds those of branch_bias, weight and bias.
define(
    "residual_layer_norm_bwd",
    "(Tensor? dz, Tensor? ds, Tensor? dn, Tensor? z, Tensor? weight, Tensor? keep, float eps, bool representative, "
    "ScalarType? residual_dtype, ScalarType? branch_dtype, bool branch_bias, bool affine) -> (Tensor, Tensor, Tensor)",
    _normed_bwd,
)


def _bias_gelu_bwd(
    dout: Tensor, x: Tensor, bias: Tensor | None, want_x: bool, want_bias: bool
) -> tuple[Tensor, Tensor]:
    exact = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x.new_empty(x.shape if want_x else (0,)), x.new_empty(x.shape[-1] if want_bias else 0, dtype=exact)


define("bias_gelu_fwd", "(Tensor x, Tensor? bias) -> Tensor", lambda x, bias: unwritten(x))
define(
    "bias_gelu_bwd",
    "(Tensor dout, Tensor x, Tensor? bias, bool want_x, bool want_bias) -> (Tensor, Tensor)",
    _bias_gelu_bwd,
)
