"""Launching what layer_norm_kernels.py and gelu_kernels.py compute; formulas and shapes are there."""

from __future__ import annotations

import functools
import itertools

import torch
from torch import Tensor

from maedfer.kernels._configs import Config, config
from maedfer.kernels._launch import accumulator, contiguous, launch, power_of_two, rows_of
from maedfer.kernels._operators import implements, unwritten
from maedfer.kernels.sub_layer.gelu_kernels import bias_gelu_bwd_kernel, bias_gelu_fwd_kernel
from maedfer.kernels.sub_layer.layer_norm_kernels import layer_norm_bwd_kernel, layer_norm_fwd_kernel

MOST_CHANNELS = 4096
# Numbers that one tile does hold where rows are shorter.
_TILE = 2048


def not_supported_reasons(dim: int) -> list[str]:
    """Why the kernels cannot normalise rows of `dim` channels; empty when they can."""
    if not 1 <= dim <= MOST_CHANNELS:
        return [f"{dim} channels (the kernels hold 1 to {MOST_CHANNELS})"]
    return []


@functools.cache
def resident_programs(device: torch.device) -> int:
    """Programs that share a loop over all rows: three a processor, as many as registers allow it to run at once."""
    return 3 * torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 384


def _forward(
    x: Tensor,
    branch: Tensor | None,
    branch_bias: Tensor | None,
    keep: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    z: Tensor | None,
    s: Tensor | None,
    n: Tensor | None,
    eps: float,
    every: int,
) -> None:
    """Write the contiguous z, s and n, those of them that are given; every `every`-th row is normed."""
    num_rows, rows, dim = x.shape[:-1].numel(), x.shape[-2], x.shape[-1]
    dtype = x.dtype if z is None else z.dtype
    chosen = config("layer_norm_fwd", (power_of_two(dim), dtype.itemsize), _default(dim), x.device)
    stream, *stream_strides = _rows(x)
    branch, *branch_strides = _rows(branch)
    launch(
        layer_norm_fwd_kernel,
        (-(-num_rows // chosen.tiles["ROWS"]),),
        stream, branch, *map(contiguous, (branch_bias, keep, weight, bias)), z, s, n,
        *stream_strides, *branch_strides, eps, rows, rows_a_factor(num_rows, keep), num_rows,
        config=chosen, C=dim, EVERY=every, BLOCK_C=power_of_two(dim), ACC=accumulator(dtype),
    )  # fmt: skip


@functools.lru_cache(256)
def _default(dim: int) -> Config:
    return Config({"ROWS": max(1, _TILE // power_of_two(dim))}, 4 if dim <= _TILE else 8, 1)


def _rows(x: Tensor | None) -> tuple[Tensor | None, int, int]:
    """x [..., R, C] to be read as [G, R, C], and its strides of groups and rows."""
    if x is None:
        return None, 0, 0
    if x.is_contiguous():
        # As it is, without a view.
        rows, dim = x.shape[-2:]
        return x, rows * dim, dim
    x = rows_of(x)
    return x, x.stride(0), x.stride(1)


def rows_a_factor(num_rows: int, keep: Tensor | None) -> int:
    """How many rows have one factor of stochastic depth."""
    return 1 if keep is None else num_rows // max(1, keep.numel())


@implements("layer_norm_fwd")
def layer_norm_fwd(x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    n = unwritten(x, dtype)
    _forward(x, None, None, None, weight, bias, None, None, n, eps, 1)
    return n


@implements("layer_norm_representative_fwd")
def layer_norm_representative_fwd(
    z: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    s = z.new_empty((*z.shape[:-2], z.shape[-1]))
    n = unwritten(s, dtype)
    _forward(z[..., 0, :], None, None, None, weight, bias, None, s, n, eps, 1)
    return s, n


@implements("residual_add_fwd")
def residual_add_fwd(residual: Tensor, branch: Tensor, branch_bias: Tensor | None, keep: Tensor | None) -> Tensor:
    z = unwritten(residual, torch.promote_types(residual.dtype, branch.dtype))
    _forward(residual, branch, branch_bias, keep, None, None, z, None, None, 0.0, 1)
    return z


@implements("residual_layer_norm_fwd")
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
    z = unwritten(residual, torch.promote_types(residual.dtype, branch.dtype))
    n = unwritten(residual, dtype)
    _forward(residual, branch, branch_bias, keep, weight, bias, z, None, n, eps, 1)
    return z, n


@implements("residual_layer_norm_representative_fwd")
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
    z = unwritten(residual, torch.promote_types(residual.dtype, branch.dtype))
    s = z.new_empty((*z.shape[:-2], z.shape[-1]))
    n = unwritten(s, dtype)
    _forward(residual, branch, branch_bias, keep, weight, bias, z, s, n, eps, z.shape[-2])
    return z, s, n


@implements("residual_layer_norm_bwd")
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
    stream = next(x for x in (z, dz) if x is not None)
    num_rows, dim = stream.shape[:-1].numel(), stream.shape[-1]
    dresidual, dbranch = (
        stream.new_empty(stream.shape if dtype else 0, dtype=dtype) for dtype in (residual_dtype, branch_dtype)
    )
    chosen = config("layer_norm_bwd", (power_of_two(dim), stream.element_size()), _default(dim), stream.device)
    blocks = -(-num_rows // chosen.tiles["ROWS"])
    programs = min(blocks, resident_programs(stream.device))
    exact = torch.float64 if stream.dtype == torch.float64 else torch.float32
    sums = stream.new_empty((branch_bias + 2 * affine, programs, dim), dtype=exact)
    rows, norm_rows = stream.shape[-2], stream.shape[-3 if representative else -2]
    read, group_strides, row_strides = zip(*map(_rows, (dz, ds, dn, z)), strict=True)
    launch(
        layer_norm_bwd_kernel,
        (programs,),
        *read, *map(contiguous, (weight, keep)),
        dresidual if residual_dtype else None, dbranch if branch_dtype else None, sums,
        *itertools.chain(*zip(group_strides, row_strides, strict=True)), eps,
        rows, norm_rows, rows_a_factor(num_rows, keep), num_rows, -(-blocks // max(1, programs)),
        config=chosen, C=dim, EVERY=rows if representative else 1, BRANCH_BIAS=branch_bias, AFFINE=affine,
        BLOCK_C=power_of_two(dim), ACC=accumulator(stream.dtype),
    )  # fmt: skip
    return dresidual, dbranch, sums.sum(1)


# Numbers in a tile, and its widest row.
_GELU_TILE, _MOST_COLUMNS = 4096, 512


@functools.lru_cache(256)
def _gelu_default(dim: int) -> Config:
    columns = min(power_of_two(dim), _MOST_COLUMNS)
    return Config({"ROWS": _GELU_TILE // columns, "COLS": columns}, 4, 1)


def _gelu_tiles(x: Tensor, chosen: Config) -> tuple[int, int]:
    """How many tiles cover the rows of x [..., F], and its columns."""
    return -(-x.shape[:-1].numel() // chosen.tiles["ROWS"]), -(-x.shape[-1] // chosen.tiles["COLS"])


@implements("bias_gelu_fwd")
def bias_gelu_fwd(x: Tensor, bias: Tensor | None) -> Tensor:
    dim = x.shape[-1]
    chosen = config("bias_gelu_fwd", (power_of_two(dim), x.element_size()), _gelu_default(dim), x.device)
    row_tiles, column_tiles = _gelu_tiles(x, chosen)
    out, rows = unwritten(x), rows_of(x)
    launch(
        bias_gelu_fwd_kernel,
        (row_tiles * column_tiles,),
        rows, bias if bias is None else bias.contiguous(), out,
        rows.stride(0), rows.stride(1), rows.shape[1], x.shape[:-1].numel(),
        config=chosen, F=dim, ERF=x.element_size() > 2, ACC=accumulator(x.dtype),
    )  # fmt: skip
    return out


@implements("bias_gelu_bwd")
def bias_gelu_bwd(dout: Tensor, x: Tensor, bias: Tensor | None, want_x: bool, want_bias: bool) -> tuple[Tensor, Tensor]:
    dim = x.shape[-1]
    chosen = config("bias_gelu_bwd", (power_of_two(dim), x.element_size()), _gelu_default(dim), x.device)
    row_tiles, column_tiles = _gelu_tiles(x, chosen)
    row_programs = min(row_tiles, max(1, resident_programs(x.device) // column_tiles))
    exact = torch.float64 if x.dtype == torch.float64 else torch.float32
    dx = x.new_empty(x.shape if want_x else 0)
    sums = x.new_empty((row_programs, dim) if want_bias else (1, 0), dtype=exact)
    douts, rows = rows_of(dout), rows_of(x)
    launch(
        bias_gelu_bwd_kernel,
        (row_programs * column_tiles,),
        douts, rows, bias if bias is None else bias.contiguous(), dx if want_x else None, sums if want_bias else None,
        douts.stride(0), douts.stride(1), rows.stride(0), rows.stride(1), rows.shape[1], x.shape[:-1].numel(),
        -(-row_tiles // max(1, row_programs)),
        config=chosen, F=dim, ERF=x.element_size() > 2, ACC=accumulator(x.dtype),
    )  # fmt: skip
    return dx, sums.sum(0)
