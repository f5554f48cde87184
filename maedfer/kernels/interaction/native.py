"""Calling csrc's folded interaction on a CPU; formulas and shapes are in csrc/cpu/interaction.h and fold.h."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from maedfer.kernels import _native_calls as calls
from maedfer.kernels._operators import implements_on_cpu
from maedfer.kernels.interaction.folding import key_layout

_TYPES = (torch.float32, torch.bfloat16)


def not_supported_reasons(dtype: torch.dtype, products: torch.dtype) -> list[str]:
    """Why csrc's interaction cannot run on a stream of this dtype with such products; empty when it can."""
    wrong = [dtype for dtype in dict.fromkeys((dtype, products)) if dtype not in _TYPES]
    return [f"{dtype} (csrc's interaction takes float32 and bfloat16)" for dtype in wrong]


@implements_on_cpu("interaction_fwd")
def interaction_fwd(
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
) -> tuple[Tensor, Tensor, Tensor]:
    """The operator `interaction_fwd`; probabilities are laid out as csrc/cpu/interaction.h says."""
    compiled = calls.module("cpu")
    batch, regions, rows, dim = z.shape
    heads = matrix.shape[1]
    y, n = z.new_empty(z.shape), z.new_empty(z.shape, dtype=dtype)
    groups, together, keys = key_layout(heads, regions)
    p = values.new_empty((batch, regions * rows, groups * together * keys) if keep_p else (0,))
    # Names hold copies while they are read.
    z, s, matrix, values = (_adjacent(x) for x in (z, s, matrix, values))
    offset, weight, bias = (_plain(x) for x in (offset, weight, bias))
    compiled.interaction_forward(
        compiled.InteractionSizes(batch, regions, rows, heads, dim),
        _stream(compiled, z), _stream(compiled, s), _keys(compiled, matrix), offset.data_ptr(),
        _keys(compiled, values), compiled.NextNorm(weight.data_ptr(), bias.data_ptr(), eps), _stream(compiled, y),
        _stream(compiled, n), p.data_ptr(), p.stride(0), torch.get_num_threads(),
    )  # fmt: skip
    return y, n, p


@implements_on_cpu("interaction_bwd")
def interaction_bwd(
    g: Tensor,
    z: Tensor,
    s: Tensor,
    matrix: Tensor,
    values: Tensor,
    p: Tensor,
    eps: float,
    offset_dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The operator `interaction_bwd`."""
    compiled = calls.module("cpu")
    batch, regions, rows, dim = z.shape
    heads = matrix.shape[1]
    dz, ds = z.new_empty(z.shape), s.new_empty(s.shape)
    dmatrix, dvalues = (x.new_empty((heads, batch, regions, dim)).transpose(0, 1) for x in (matrix, values))
    doffset = matrix.new_empty((batch, heads, regions), dtype=torch.float32)
    g, z, matrix, values = (_adjacent(x) for x in (g, z, matrix, values))
    compiled.interaction_backward(
        compiled.InteractionSizes(batch, regions, rows, heads, dim),
        _stream(compiled, g), _stream(compiled, z), _keys(compiled, matrix), _keys(compiled, values), p.data_ptr(),
        p.stride(0), eps, _stream(compiled, dz), _stream(compiled, ds), _keys(compiled, dmatrix), doffset.data_ptr(),
        _keys(compiled, dvalues), torch.get_num_threads(),
    )  # fmt: skip
    return dz, ds, dmatrix, doffset.to(offset_dtype), dvalues


def _adjacent(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def _plain(x: Tensor) -> Tensor:
    """As float32 without gaps."""
    return x.to(torch.float32).contiguous()


def _stream(compiled: Any, x: Tensor) -> Any:
    """Rows [B, M, S, C], or [B, M, C], where they lie."""
    return compiled.Stream(x.data_ptr(), calls.ELEMENTS[x.dtype], *(*x.stride()[:-1], 0)[:3])


def _keys(compiled: Any, x: Tensor) -> Any:
    """Rows [B, H, M, C] where they lie."""
    return compiled.Keys(x.data_ptr(), calls.ELEMENTS[x.dtype], *x.stride()[:3])


@implements_on_cpu("interaction_fold_fwd")
def interaction_fold_fwd(
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
    """The operator `interaction_fold_fwd`."""
    compiled = calls.module("cpu")
    batch, regions, dim = kv.shape[0], kv.shape[1], query_weight.shape[1]
    shape = (num_heads, batch, regions, dim)
    matrix, values = kv.new_empty(shape, dtype=dtype), kv.new_empty(shape, dtype=dtype)
    offset = kv.new_empty(shape[:3], dtype=torch.float32)
    rows = [_adjacent(x) for x in (kv, query_weight, out_weight)]
    vectors = [
        None if x is None else _plain(x) for x in (value_bias, norm_weight, norm_bias, query_bias, out_bias, keep)
    ]
    matrix, offset, values = (x.transpose(0, 1) for x in (matrix, offset, values))
    compiled.fold_forward(
        compiled.InteractionSizes(batch, regions, 1, num_heads, dim),
        *(compiled.FoldRows(x.data_ptr(), calls.ELEMENTS[x.dtype], *(0, *x.stride())[-3:-1]) for x in rows),
        *(0 if x is None else x.data_ptr() for x in vectors), _keys(compiled, matrix), _keys(compiled, values),
        offset.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return matrix, offset, values


@implements_on_cpu("interaction_fold_bwd")
@torch.no_grad()
def interaction_fold_bwd(
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
    """The operator `interaction_fold_bwd`, in PyTorch's products of the weights as they are.

    In the formulas of fold_kernels.py, dA and da meet the query's weights as one: with X = scale * (g * dA + da b^T),
    dWq = k^T X and dk = X Wq^T + scale * da bq^T. Likewise dbv is the sum of dv, and dg and db are sums over k Wq.
    """
    batch, num_heads, regions, dim = dmatrix.shape
    scale = (dim // num_heads) ** -0.5
    of_kv, of_value_bias, of_weight, of_bias, of_query, of_query_bias, of_out, of_out_bias = wanted
    k, v = _heads(kv, value_bias, num_heads)
    da = dmatrix.transpose(0, 1).reshape(num_heads, batch * regions, dim).float()
    dv = dvalues.transpose(0, 1).reshape(num_heads, batch * regions, dim).float()
    dshift = doffset.transpose(0, 1).reshape(num_heads, batch * regions, 1).float() * scale
    if keep is not None:
        dv = dv * keep.repeat_interleave(regions).view(1, -1, 1)
    gradients: list[Tensor | None] = [None] * 8
    if of_kv or of_query:
        x = torch.addcmul(dshift * norm_bias.float(), da, norm_weight.float() * scale)
    if of_kv or of_value_bias:
        dvalue = torch.bmm(dv.to(out_weight.dtype), _by_columns(out_weight, num_heads))
        if of_value_bias:
            gradients[1] = dvalue.sum(1, dtype=torch.float32).view(dim)
    if of_kv:
        dkey = torch.bmm(x.to(query_weight.dtype), _by_rows(query_weight, num_heads).transpose(1, 2))
        if query_bias is not None:
            dkey = dkey + dshift * query_bias.view(num_heads, 1, -1)
        gradients[0] = torch.stack([dkey, dvalue]).permute(2, 0, 1, 3).reshape(kv.shape)
    if of_weight or of_bias:
        products = torch.bmm(k.to(query_weight.dtype), _by_rows(query_weight, num_heads))
        gradients[2] = (da * products).sum((0, 1)) * scale if of_weight else None
        gradients[3] = (dshift * products).sum((0, 1)) if of_bias else None
    if of_query:
        gradients[4] = torch.bmm(k.transpose(1, 2).to(query_weight.dtype), x.to(query_weight.dtype)).view(dim, dim)
    if of_query_bias:
        gradients[5] = (dshift * k).sum(1).view(dim)
    if of_out:
        gradients[6] = dout = torch.empty_like(out_weight, memory_format=torch.contiguous_format)
        low_dv, low_v = dv.to(dout.dtype), v.to(dout.dtype)
        for head, columns in enumerate(dout.chunk(num_heads, dim=1)):
            torch.mm(low_dv[head].t(), low_v[head], out=columns)
    if of_out_bias:
        gradients[7] = dv.sum((0, 1)) / num_heads
    inputs = kv, value_bias, norm_weight, norm_bias, query_weight, query_bias, out_weight, out_bias
    return tuple(
        kv.new_empty(0) if x is None or gradient is None else gradient.to(x.dtype)
        for x, gradient in zip(inputs, gradients, strict=True)
    )


def _heads(kv: Tensor, value_bias: Tensor | None, num_heads: int) -> tuple[Tensor, Tensor]:
    """Keys and values [H, B * M, D] of [B, M, 2C] in float32, values with their bias."""
    rows, head_dim = kv.shape[0] * kv.shape[1], kv.shape[2] // (2 * num_heads)
    heads = kv.float().reshape(rows, 2 * num_heads, head_dim).transpose(0, 1)
    k, v = heads.chunk(2)
    return k, v if value_bias is None else v + value_bias.view(num_heads, 1, -1)


def _by_rows(weight: Tensor, num_heads: int) -> Tensor:
    """Each head's rows [H, D, C] of a weight [C, C]."""
    return weight.unflatten(0, (num_heads, -1))


def _by_columns(weight: Tensor, num_heads: int) -> Tensor:
    """Each head's columns [H, C, D] of a weight [C, C]."""
    return weight.unflatten(1, (num_heads, -1)).transpose(0, 1)
