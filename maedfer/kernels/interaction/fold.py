"""Launching what fold_kernels.py computes; formulas and shapes are there."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from maedfer.kernels._configs import Config, config
from maedfer.kernels._launch import accumulator, contiguous, dot_precision, launch, power_of_two
from maedfer.kernels._operators import implements, unwritten
from maedfer.kernels.interaction.fold_kernels import fold_bwd_kernel, fold_fwd_kernel, fold_sums_kernel

# Channels of a head that one product takes at once.
_MOST_CHANNELS = 64


# Rows, columns, warps and stages.
_Defaults = tuple[tuple[int, int, int, int], tuple[int, int, int, int]]


def _common(kv: Tensor, num_heads: int, dim: int, dtype: torch.dtype) -> dict[str, Any]:
    """Constants of both directions."""
    head_dim = dim // num_heads
    return {
        "M": kv.shape[1],
        "HEADS": num_heads,
        "D": head_dim,
        "C": dim,
        "SCALE": head_dim**-0.5,
        "BLOCK_D": min(_MOST_CHANNELS, power_of_two(head_dim, 16)),
        "ACC": accumulator(kv.dtype),
        "PRECISION": dot_precision(dtype),
    }


def _chosen(kernel: str, constants: dict[str, Any], kv: Tensor, dtype: torch.dtype, defaults: _Defaults) -> Config:
    """The configuration: the default is for narrow or for wide products."""
    most = power_of_two(constants["C"], 16)
    default = _default(most, *defaults[dtype.itemsize > 2])
    return config(kernel, (constants["BLOCK_D"], most, dtype.itemsize), default, kv.device)


@functools.lru_cache(256)
def _default(most: int, rows: int, columns: int, warps: int, stages: int) -> Config:
    return Config({"BLOCK": rows, "BLOCK_COL": min(most, columns)}, warps, stages)


@implements("interaction_fold_fwd")
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
    batch, regions, dim = kv.shape[0], kv.shape[1], query_weight.shape[1]
    shape = (num_heads, batch, regions, dim)
    exact = torch.float64 if kv.dtype == torch.float64 else torch.float32
    matrix, values = kv.new_empty(shape, dtype=dtype), kv.new_empty(shape, dtype=dtype)
    offset = kv.new_empty(shape[:3], dtype=exact)
    constants = _common(kv, num_heads, dim, dtype)
    chosen = _chosen("interaction_fold_fwd", constants, kv, dtype, ((128, 64, 8, 1), (32, 32, 4, 1)))
    kv, query_weight, out_weight = (_adjacent(x) for x in (kv, query_weight, out_weight))
    rows = batch * regions
    columns = -(-dim // chosen.tiles["BLOCK_COL"])
    launch(
        fold_fwd_kernel,
        (num_heads * -(-rows // chosen.tiles["BLOCK"]) * (1 + 2 * columns),),
        kv, contiguous(value_bias), contiguous(norm_weight), contiguous(norm_bias), query_weight,
        contiguous(query_bias), out_weight, contiguous(out_bias), contiguous(keep), matrix, offset, values,
        *kv.stride()[:2], query_weight.stride(0), out_weight.stride(0), rows,
        config=chosen, **constants,
    )  # fmt: skip
    return matrix.transpose(0, 1), offset.transpose(0, 1), values.transpose(0, 1)


@implements("interaction_fold_bwd")
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
    batch, num_heads, regions, dim = dmatrix.shape
    inputs = (kv, value_bias, norm_weight, norm_bias, query_weight, query_bias, out_weight, out_bias)
    gradients = [unwritten(x) if x is not None and want else None for x, want in zip(inputs, wanted, strict=True)]
    dkv, dvalue_bias, dnorm_weight, dnorm_bias, dquery_weight, dquery_bias, dout_weight, dout_bias = gradients
    summed = (dnorm_weight, dnorm_bias, dout_bias, dvalue_bias)
    constants = _common(kv, num_heads, dim, dmatrix.dtype)
    chosen = _chosen("interaction_fold_bwd", constants, kv, dmatrix.dtype, ((64, 64, 4, 2), (32, 64, 8, 1)))
    chunks = num_heads * -(-constants["D"] // constants["BLOCK_D"])
    columns = -(-dim // chosen.tiles["BLOCK_COL"])
    exact = torch.float64 if kv.dtype == torch.float64 else torch.float32
    sums = None
    if any(x is not None for x in summed):
        sums = kv.new_empty((2 * chunks + num_heads + columns, dim), dtype=exact)
    rows = batch * regions
    row_programs = 0 if dkv is None else 2 * chunks * -(-rows // chosen.tiles["BLOCK"])
    of_query = any(x is not None for x in (dnorm_weight, dnorm_bias, dquery_weight, dquery_bias))
    of_output = any(x is not None for x in (dout_weight, dout_bias, dvalue_bias))
    kv, query_weight, out_weight = (_adjacent(x) for x in (kv, query_weight, out_weight))
    dmatrix, dvalues = _adjacent(dmatrix), _adjacent(dvalues)
    launch(
        fold_bwd_kernel,
        (row_programs + chunks * columns * (of_query + of_output),),
        dmatrix, doffset, dvalues,
        kv, contiguous(value_bias), contiguous(norm_weight), contiguous(norm_bias), query_weight,
        contiguous(query_bias), out_weight, contiguous(keep), dkv, dquery_weight, dquery_bias, dout_weight, sums,
        *dmatrix.stride()[:3], *doffset.stride(), *dvalues.stride()[:3], *kv.stride()[:2],
        query_weight.stride(0), out_weight.stride(0), rows, row_programs,
        config=chosen, QUERY=of_query, **constants,
    )  # fmt: skip
    if sums is not None:
        launch(
            fold_sums_kernel,
            (-(-dim // _SUMMED),),
            sums, *summed,
            config=Config({"BLOCK_COL": _SUMMED}, 4, 1), C=dim, CHUNKS=chunks, HEADS=num_heads, COLUMNS=columns,
            MOST=power_of_two(max(chunks, columns)),
        )  # fmt: skip
    return tuple(kv.new_empty(0) if x is None else x for x in gradients)


# Columns that a program adds up.
_SUMMED = 64


def _adjacent(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()
