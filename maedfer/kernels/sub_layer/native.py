"""csrc's norms, sums and GELU on a CPU: what is computed is in layer_norm_kernels.py and gelu_kernels.py.

Rows are read in place wherever they lie at two steps at most. float32 and bfloat16 are taken, in any mixture.
Statistics and sums are float32; those over rows are made of ranges of rows first, whatever the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from maedfer.kernels import _native_calls as calls
from maedfer.kernels._operators import implements_on_cpu

# A matrix as csrc takes it, of a tensor that lives as long as the call.
_Matrix = Any


def not_supported_reasons(*dtypes: torch.dtype) -> list[str]:
    """Why csrc cannot run on tensors of these dtypes; empty when it can."""
    odd = sorted({str(dtype) for dtype in dtypes if dtype not in (torch.float32, torch.bfloat16)})
    return [f"{', '.join(odd)} (float32 and bfloat16 are read)"] if odd else []


def _reader(compiled: Any) -> tuple[Callable[[Tensor | None], _Matrix], Callable[[Tensor | None], int]]:
    """What makes matrices of [..., C], and addresses of vectors of floats; both keep what they had to copy."""
    kept = []

    def matrix(x: Tensor | None) -> _Matrix:
        if x is None:
            return None
        found, held = calls.rows_of(compiled, x)
        kept.append(held)
        return found

    def vector(x: Tensor | None) -> int:
        if x is None:
            return 0
        if x.dtype != torch.float32 or not x.is_contiguous():
            x = x.to(torch.float32).contiguous()
            kept.append(x)
        return x.data_ptr()

    return matrix, vector


def _forward(
    residual: Tensor,
    branch: Tensor | None,
    branch_bias: Tensor | None,
    keep: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    results: tuple[Tensor | None, Tensor | None, Tensor | None],
    eps: float,
    every: int = 1,
) -> None:
    """Write z, s and n, those of them that are given; every `every`-th row is normed."""
    compiled = calls.module("cpu")
    matrix, vector = _reader(compiled)
    added = matrix(residual), matrix(branch), vector(branch_bias), vector(keep), _rows_a_factor(residual, keep)
    compiled.norm_forward(
        *added, vector(weight), vector(bias), eps, every, *map(matrix, results), torch.get_num_threads()
    )


def _rows_a_factor(stream: Tensor, keep: Tensor | None) -> int:
    return 1 if keep is None else max(1, stream.shape[:-1].numel() // max(1, keep.numel()))


@implements_on_cpu("layer_norm_fwd")
def layer_norm_fwd(x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    n = x.new_empty(x.shape, dtype=dtype)
    _forward(x, None, None, None, weight, bias, (None, None, n), eps)
    return n


@implements_on_cpu("layer_norm_representative_fwd")
def layer_norm_representative_fwd(
    z: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    s = z.new_empty((*z.shape[:-2], z.shape[-1]))
    n = s.new_empty(s.shape, dtype=dtype)
    _forward(z[..., 0, :], None, None, None, weight, bias, (None, s, n), eps)
    return s, n


@implements_on_cpu("residual_add_fwd")
def residual_add_fwd(residual: Tensor, branch: Tensor, branch_bias: Tensor | None, keep: Tensor | None) -> Tensor:
    z = _stream(residual, branch)
    _forward(residual, branch, branch_bias, keep, None, None, (z, None, None), 0.0)
    return z


@implements_on_cpu("residual_layer_norm_fwd")
def residual_layer_norm_fwd(
    residual: Tensor,
    branch: Tensor,
    branch_bias: Tensor | None,
    keep: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    z, n = _stream(residual, branch), residual.new_empty(residual.shape, dtype=dtype)
    _forward(residual, branch, branch_bias, keep, weight, bias, (z, None, n), eps)
    return z, n


@implements_on_cpu("residual_layer_norm_representative_fwd")
def residual_layer_norm_representative_fwd(
    residual: Tensor,
    branch: Tensor,
    branch_bias: Tensor | None,
    keep: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    z = _stream(residual, branch)
    s = z.new_empty((*z.shape[:-2], z.shape[-1]))
    n = s.new_empty(s.shape, dtype=dtype)
    _forward(residual, branch, branch_bias, keep, weight, bias, (z, s, n), eps, z.shape[-2])
    return z, s, n


def _stream(residual: Tensor, branch: Tensor) -> Tensor:
    return residual.new_empty(residual.shape, dtype=torch.promote_types(residual.dtype, branch.dtype))


@implements_on_cpu("residual_layer_norm_bwd")
def residual_layer_norm_bwd(
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
) -> tuple[Tensor, Tensor, Tensor]:
    compiled = calls.module("cpu")
    stream = next(x for x in (z, dz) if x is not None)
    wanted = residual_dtype, branch_dtype
    dresidual, dbranch = (stream.new_empty(stream.shape if dtype else 0, dtype=dtype) for dtype in wanted)
    sums = stream.new_empty((branch_bias + 2 * affine, stream.shape[-1]), dtype=torch.float32)
    matrix, vector = _reader(compiled)
    compiled.norm_backward(
        *map(matrix, (dz, ds, dn, z)), *map(vector, (weight, keep)), _rows_a_factor(stream, keep), eps,
        stream.shape[-2] if representative else 1,
        matrix(dresidual if residual_dtype else None), matrix(dbranch if branch_dtype else None),
        branch_bias, affine, sums.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return dresidual, dbranch, sums


@implements_on_cpu("bias_gelu_fwd")
def bias_gelu_fwd(x: Tensor, bias: Tensor | None) -> Tensor:
    compiled, out = calls.module("cpu"), x.new_empty(x.shape)
    matrix, vector = _reader(compiled)
    compiled.gelu_forward(matrix(x), vector(bias), matrix(out), torch.get_num_threads())
    return out


@implements_on_cpu("bias_gelu_bwd")
def bias_gelu_bwd(dout: Tensor, x: Tensor, bias: Tensor | None, want_x: bool, want_bias: bool) -> tuple[Tensor, Tensor]:
    compiled = calls.module("cpu")
    dx = x.new_empty(x.shape if want_x else 0)
    dbias = x.new_empty(x.shape[-1] if want_bias else 0, dtype=torch.float32)
    matrix, vector = _reader(compiled)
    read = matrix(dout.to(x.dtype)), matrix(x), vector(bias)
    wanted = matrix(dx if want_x else None), dbias.data_ptr() if want_bias else 0
    compiled.gelu_backward(*read, *wanted, torch.get_num_threads())
    return dx, dbias
