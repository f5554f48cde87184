"""Residual addition and LayerNorm, forward and backward in one kernel each.

    z = residual + keep * (branch + branch_bias)      n = (z - mean) / sqrt(var + eps) * weight + bias

Shapes: [..., C] seen as G groups of R rows of C channels. Strides of groups and rows are arguments, so that views of
the stream [B, M, S, C] are read in place; results are contiguous. `keep` holds one factor for each run of keep_rows
rows. The LayerNorm is of every row, or of row 0 of each region (of every S-th row: the representative tokens, which are
then written on their own too, as s [B, M, C]), or of none. A program holds whole rows, C padded to a power of two.

Nothing but z (in a plain LayerNorm, its input), the weight and the factors is kept for the backward pass: it forms mean
and deviation again, from z as it was rounded, which is what the forward pass normalises too. Statistics and sums are
float32 (float64 for float64). Gradients of the parameters are sums of each program in a fixed order, then of programs:
no atomic addition.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from maedfer.kernels._configs import Config, config
from maedfer.kernels._registry import implements, operator
from maedfer.kernels._utils import accumulator, launch, power_of_two, rows_of


@triton.jit
def _offsets(row, rows, group_stride, row_stride, col):
    """Element offsets [ROWS, BLOCK_C] of numbered rows in groups of `rows`."""
    # Rows are counted in 32 bits, since one is divided for each of them; elements are not.
    return ((row // rows).to(tl.int64) * group_stride + (row % rows).to(tl.int64) * row_stride)[:, None] + col[None, :]


@triton.jit
def _normalise(x, row_ok, eps, C: tl.constexpr, BLOCK_C: tl.constexpr):
    """Rows of mean 0 and variance 1 and the factors that made them so; 0 for rows that are not there."""
    mean = tl.sum(x, 1) / C
    centred = tl.where((tl.arange(0, BLOCK_C) < C)[None, :], x - mean[:, None], 0.0)
    rstd = tl.where(row_ok, 1.0 / tl.sqrt(tl.sum(centred * centred, 1) / C + eps), 0.0)
    return centred * rstd[:, None], rstd


@triton.jit
def _store_normed(
    x, weight_ptr, bias_ptr, s_ptr, n_ptr, row, row_ok, eps, C: tl.constexpr, EVERY: tl.constexpr, BLOCK_C: tl.constexpr
):
    """LayerNorm of every EVERY-th row of the tile x [ROWS, BLOCK_C], and those rows as they are."""
    col = tl.arange(0, BLOCK_C)
    weight = tl.load(weight_ptr + col, mask=col < C, other=0.0).to(x.dtype)
    bias = tl.load(bias_ptr + col, mask=col < C, other=0.0).to(x.dtype)
    xhat, _ = _normalise(x, row_ok, eps, C, BLOCK_C)
    n = xhat * weight[None, :] + bias[None, :]
    mask = (row_ok & (row % EVERY == 0))[:, None] & (col < C)[None, :]
    offset = (row // EVERY).to(tl.int64)[:, None] * C + col[None, :]
    tl.store(n_ptr + offset, n.to(n_ptr.dtype.element_ty), mask=mask)
    if s_ptr is not None:
        tl.store(s_ptr + offset, x.to(s_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["rows", "keep_rows", "num_rows"])
def _layer_norm_fwd_kernel(
    x_ptr,  # [G, R, C], strides (x_group, x_row, 1): the stream before the addition
    branch_ptr,  # [G, R, C], strides (branch_group, branch_row, 1), or None where nothing is added
    branch_bias_ptr,  # [C], or None
    keep_ptr,  # [G * R / keep_rows], or None
    weight_ptr,  # [C], or None where nothing is normed
    bias_ptr,  # [C], or None
    z_ptr,  # [G, R, C] contiguous, or None where nothing is added
    s_ptr,  # [G * R / EVERY, C] contiguous, or None
    n_ptr,  # [G * R / EVERY, C] contiguous, or None
    x_group, x_row, branch_group, branch_row, eps, rows, keep_rows, num_rows,
    C: tl.constexpr, EVERY: tl.constexpr, ROWS: tl.constexpr, BLOCK_C: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    start = tl.program_id(0) * ROWS
    row = start + tl.arange(0, ROWS)
    row_ok = row < num_rows
    col = tl.arange(0, BLOCK_C)
    col_ok = col < C
    mask = row_ok[:, None] & col_ok[None, :]
    x = tl.load(x_ptr + _offsets(row, rows, x_group, x_row, col), mask=mask, other=0.0).to(ACC)  # [ROWS, BLOCK_C]
    if branch_ptr is not None:
        offset = _offsets(row, rows, branch_group, branch_row, col)
        branch = tl.load(branch_ptr + offset, mask=mask, other=0.0).to(ACC)
        if branch_bias_ptr is not None:
            branch += tl.load(branch_bias_ptr + col, mask=col_ok, other=0.0).to(ACC)[None, :]
        if keep_ptr is not None:
            branch *= tl.load(keep_ptr + row // keep_rows, mask=row_ok, other=0.0).to(ACC)[:, None]
        z = (x + branch).to(z_ptr.dtype.element_ty)
        tl.store(z_ptr + row.to(tl.int64)[:, None] * C + col[None, :], z, mask=mask)
        # What is normed is the stream as it is stored: the backward pass has no other.
        x = z.to(ACC)
    if n_ptr is not None:
        holds_normed = EVERY == 1
        if EVERY > 1:
            holds_normed = (start + ROWS - 1) // EVERY * EVERY >= start
        if holds_normed:
            _store_normed(x, weight_ptr, bias_ptr, s_ptr, n_ptr, row, row_ok, eps, C, EVERY, BLOCK_C)


@triton.jit
def _through_norm(
    g, dweight, dbias,
    ds_ptr, dn_ptr, z_ptr, weight, row, row_ok, rows,
    ds_group, ds_row, dn_group, dn_row, z_group, z_row, norm_rows, eps,
    C: tl.constexpr, EVERY: tl.constexpr, BLOCK_C: tl.constexpr, AFFINE: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Add what the rows that were normed get from n and s to g, dweight and dbias [ROWS, BLOCK_C]."""
    col = tl.arange(0, BLOCK_C)
    normed = row_ok & (row % EVERY == 0)
    mask = normed[:, None] & (col < C)[None, :]
    if ds_ptr is not None:
        offset = _offsets(row // EVERY, norm_rows, ds_group, ds_row, col)
        g += tl.load(ds_ptr + offset, mask=mask, other=0.0).to(ACC)
    if dn_ptr is not None:
        offset = _offsets(row // EVERY, norm_rows, dn_group, dn_row, col)
        dn = tl.load(dn_ptr + offset, mask=mask, other=0.0).to(ACC)
        z = tl.load(z_ptr + _offsets(row, rows, z_group, z_row, col), mask=mask, other=0.0).to(ACC)
        xhat, rstd = _normalise(z, normed, eps, C, BLOCK_C)
        dxhat = dn * weight[None, :]
        mean, slope = tl.sum(dxhat, 1) / C, tl.sum(dxhat * xhat, 1) / C
        g += (dxhat - mean[:, None] - xhat * slope[:, None]) * rstd[:, None]
        if AFFINE:
            dweight += dn * xhat
            dbias += dn
    return g, dweight, dbias


@triton.jit(do_not_specialize=["rows", "norm_rows", "keep_rows", "num_rows", "blocks_per_program"])
def _layer_norm_bwd_kernel(
    dz_ptr,  # [G, R, C], strides (dz_group, dz_row, 1), or None
    ds_ptr,  # [.., norm_rows, C], strides (ds_group, ds_row, 1), or None
    dn_ptr,  # [.., norm_rows, C], strides (dn_group, dn_row, 1), or None
    z_ptr,  # [G, R, C], strides (z_group, z_row, 1): what was normed; read with dn only
    weight_ptr,  # [C]; read with dn only
    keep_ptr,  # [G * R / keep_rows], or None
    dresidual_ptr,  # [G, R, C] contiguous, or None
    dbranch_ptr,  # [G, R, C] contiguous, or None
    sums_ptr,  # [BRANCH_BIAS + 2 * AFFINE, programs, C]: gradients of branch_bias, weight, bias
    dz_group, dz_row, ds_group, ds_row, dn_group, dn_row, z_group, z_row, eps,
    rows, norm_rows, keep_rows, num_rows, blocks_per_program,
    C: tl.constexpr, EVERY: tl.constexpr, BRANCH_BIAS: tl.constexpr, AFFINE: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_C: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    programs = tl.num_programs(0)
    pid = tl.program_id(0)
    col = tl.arange(0, BLOCK_C)
    col_ok = col < C
    weight = tl.zeros([BLOCK_C], dtype=ACC)
    if dn_ptr is not None:
        weight = tl.load(weight_ptr + col, mask=col_ok, other=0.0).to(ACC)
    # Rows are added up in place and folded once: a fold takes all warps of a program.
    dbranch_bias = tl.zeros([ROWS, BLOCK_C], dtype=ACC)
    dweight = tl.zeros([ROWS, BLOCK_C], dtype=ACC)
    dbias = tl.zeros([ROWS, BLOCK_C], dtype=ACC)
    for block in range(0, blocks_per_program):
        start = (block * programs + pid) * ROWS
        row = start + tl.arange(0, ROWS)
        row_ok = row < num_rows
        mask = row_ok[:, None] & col_ok[None, :]
        g = tl.zeros([ROWS, BLOCK_C], dtype=ACC)
        if dz_ptr is not None:
            g = tl.load(dz_ptr + _offsets(row, rows, dz_group, dz_row, col), mask=mask, other=0.0).to(ACC)
        # Most tiles hold no representative token: z is not read for them.
        holds_normed = EVERY == 1
        if EVERY > 1:
            holds_normed = (start + ROWS - 1) // EVERY * EVERY >= start
        if holds_normed:
            g, dweight, dbias = _through_norm(
                g, dweight, dbias,
                ds_ptr, dn_ptr, z_ptr, weight, row, row_ok, rows,
                ds_group, ds_row, dn_group, dn_row, z_group, z_row, norm_rows, eps, C, EVERY, BLOCK_C, AFFINE, ACC,
            )  # fmt: skip
        offset = row.to(tl.int64)[:, None] * C + col[None, :]
        if dresidual_ptr is not None:
            tl.store(dresidual_ptr + offset, g.to(dresidual_ptr.dtype.element_ty), mask=mask)
        if keep_ptr is not None:
            g *= tl.load(keep_ptr + row // keep_rows, mask=row_ok, other=0.0).to(ACC)[:, None]
        if dbranch_ptr is not None:
            tl.store(dbranch_ptr + offset, g.to(dbranch_ptr.dtype.element_ty), mask=mask)
        if BRANCH_BIAS:
            dbranch_bias += g
    sum_ptr = sums_ptr + pid * C + col
    if BRANCH_BIAS:
        tl.store(sum_ptr, tl.sum(dbranch_bias, 0), mask=col_ok)
        sum_ptr += programs * C
    if AFFINE:
        tl.store(sum_ptr, tl.sum(dweight, 0), mask=col_ok)
        tl.store(sum_ptr + programs * C, tl.sum(dbias, 0), mask=col_ok)


# Channels that one tile can hold.
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


def _layer_norm_fwd(
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
    num_rows, dim = x.shape[:-1].numel(), x.shape[-1]
    dtype = x.dtype if z is None else z.dtype
    chosen = config("layer_norm_fwd", (power_of_two(dim), dtype.itemsize), _default(dim), x.device)
    x, branch = rows_of(x), _rows(branch)
    launch(
        _layer_norm_fwd_kernel,
        (-(-num_rows // chosen.tiles["ROWS"]),),
        x, branch, *map(_contiguous, (branch_bias, keep, weight, bias)), z, s, n,
        *_strides(x), *_strides(branch), eps, x.shape[1], _rows_a_factor(num_rows, keep), num_rows,
        config=chosen, C=dim, EVERY=every, BLOCK_C=power_of_two(dim), ACC=accumulator(dtype),
    )  # fmt: skip


def _default(dim: int) -> Config:
    return Config({"ROWS": max(1, _TILE // power_of_two(dim))}, 4 if dim <= _TILE else 8, 1)


def _rows(x: Tensor | None) -> Tensor | None:
    return None if x is None else rows_of(x)


def _contiguous(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()


def _strides(x: Tensor | None) -> tuple[int, int]:
    return (0, 0) if x is None else (x.stride(0), x.stride(1))


def _rows_a_factor(num_rows: int, keep: Tensor | None) -> int:
    return 1 if keep is None else num_rows // max(1, keep.numel())


@implements("layer_norm_fwd")
def _layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    n = x.new_empty(x.shape, dtype=dtype)
    _layer_norm_fwd(x, None, None, None, weight, bias, None, None, n, eps, 1)
    return n


@implements("residual_add_fwd")
def _residual_add(residual: Tensor, branch: Tensor, branch_bias: Tensor | None, keep: Tensor | None) -> Tensor:
    z = residual.new_empty(residual.shape, dtype=torch.promote_types(residual.dtype, branch.dtype))
    _layer_norm_fwd(residual, branch, branch_bias, keep, None, None, z, None, None, 0.0, 1)
    return z


@implements("residual_layer_norm_fwd")
def _residual_layer_norm(
    residual: Tensor,
    branch: Tensor,
    branch_bias: Tensor | None,
    keep: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    z = residual.new_empty(residual.shape, dtype=torch.promote_types(residual.dtype, branch.dtype))
    n = residual.new_empty(residual.shape, dtype=dtype)
    _layer_norm_fwd(residual, branch, branch_bias, keep, weight, bias, z, None, n, eps, 1)
    return z, n


@implements("residual_layer_norm_representative_fwd")
def _residual_layer_norm_representative(
    residual: Tensor,
    branch: Tensor,
    branch_bias: Tensor | None,
    keep: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    z = residual.new_empty(residual.shape, dtype=torch.promote_types(residual.dtype, branch.dtype))
    s = z.new_empty((*z.shape[:-2], z.shape[-1]))
    n = s.new_empty(s.shape, dtype=dtype)
    _layer_norm_fwd(residual, branch, branch_bias, keep, weight, bias, z, s, n, eps, z.shape[-2])
    return z, s, n


@implements("residual_layer_norm_bwd")
def _residual_layer_norm_bwd(
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
    dz, ds, dn, z = map(_rows, (dz, ds, dn, z))
    launch(
        _layer_norm_bwd_kernel,
        (programs,),
        dz, ds, dn, z, *map(_contiguous, (weight, keep)),
        dresidual if residual_dtype else None, dbranch if branch_dtype else None, sums,
        *_strides(dz), *_strides(ds), *_strides(dn), *_strides(z), eps,
        rows, norm_rows, _rows_a_factor(num_rows, keep), num_rows, -(-blocks // max(1, programs)),
        config=chosen, C=dim, EVERY=rows if representative else 1, BRANCH_BIAS=branch_bias, AFFINE=affine,
        BLOCK_C=power_of_two(dim), ACC=accumulator(stream.dtype),
    )  # fmt: skip
    return dresidual, dbranch, sums.sum(1)


# What a gradient is cast to, of residual, branch, branch_bias, weight and bias; None where it is not wanted.
_Dtypes = tuple[torch.dtype | None, torch.dtype | None, torch.dtype | None, torch.dtype | None, torch.dtype | None]
_Gradients = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]


def _gradients(
    ctx: Any,
    dz: Tensor | None,
    ds: Tensor | None,
    dn: Tensor | None,
    z: Tensor | None,
    weight: Tensor | None,
    keep: Tensor | None,
    dtypes: _Dtypes,
    representative: bool = False,
) -> _Gradients:
    """Gradients of residual (of a plain LayerNorm, its input), branch, branch_bias, weight and bias.

    Args:
        ctx: holds eps.
        dz: gradient of the stream, or None where nothing used it; likewise ds and dn.
        ds: gradient of the representative tokens.
        dn: gradient of the normed rows.
        z: what was normed; needed with dn only, like weight.
        weight: of the LayerNorm.
        keep: the factors of the branch.
        dtypes: of the gradients that are wanted.
        representative: s and n are of the first row of each region.
    """
    if dz is None and ds is None and dn is None:
        return None, None, None, None, None
    residual, branch, branch_bias = dtypes[:3]
    # A sum passes its gradient on, and where nothing tells its terms apart they share one tensor.
    passed = ds is None and dn is None
    shared = keep is None and (passed or branch == residual)
    written = None if passed else residual, None if shared else branch
    affine = dn is not None and any(dtypes[3:])
    dresidual = dbranch = dz
    sums: tuple[Tensor, ...] = ()
    if any(written) or branch_bias or affine:
        own, other, totals = operator("residual_layer_norm_bwd")(
            dz, ds, dn, z, weight, keep, ctx.eps, representative, *written, branch_bias is not None, affine
        )
        dresidual = dz if passed else own
        dbranch = dresidual if shared else other
        sums = totals.unbind(0)
    return (
        _cast(dresidual, residual),
        _cast(dbranch, branch),
        _cast(sums[0], branch_bias) if branch_bias else None,
        _cast(sums[-2], dtypes[3]) if affine else None,
        _cast(sums[-1], dtypes[4]) if affine else None,
    )


def _cast(x: Tensor | None, dtype: torch.dtype | None) -> Tensor | None:
    return None if x is None or dtype is None else x.to(dtype)


def _remember(ctx: Any, eps: float, *inputs: Tensor | None) -> None:
    """Keep what `_wanted` and `_gradients` need besides tensors."""
    ctx.eps = eps
    ctx.dtypes = tuple(None if x is None else x.dtype for x in inputs)
    # Zeros in place of a gradient that is not there would be read like any other. Dynamo knows no other way.
    if not torch.compiler.is_compiling():
        ctx.set_materialize_grads(False)


def _wanted(ctx: Any) -> list[torch.dtype | None]:
    """The dtype of each tensor that was an input, None for those that need no gradient."""
    return [dtype if needed else None for dtype, needed in zip(ctx.dtypes, ctx.needs_input_grad, strict=False)]


class LayerNorm(torch.autograd.Function):
    """LayerNorm of [..., C] in place, whatever the strides of its rows: contiguous [..., C] in `dtype`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        """Keeps the input and the weight."""
        _remember(ctx, eps, x, weight, bias)
        ctx.save_for_backward(x, weight)
        return operator("layer_norm_fwd")(x, weight, bias, eps, dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dn: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of x, weight and bias."""
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = _wanted(ctx)
        dtypes = wants_x, None, None, wants_weight, wants_bias
        dx, _, _, dweight, dbias = _gradients(ctx, None, None, dn, x, weight, None, dtypes)
        return dx, dweight, dbias, None, None


class ResidualAdd(torch.autograd.Function):
    """residual + keep * (branch + branch_bias): [..., C]."""

    @staticmethod
    def forward(ctx: Any, residual: Tensor, branch: Tensor, branch_bias: Tensor | None, keep: Tensor | None) -> Tensor:
        """Keeps the factors only."""
        _remember(ctx, 0.0, residual, branch, branch_bias)
        ctx.save_for_backward(keep)
        return operator("residual_add_fwd")(residual, branch, branch_bias, keep)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dz: Tensor | None) -> tuple[Tensor | None, ...]:
        """The gradient itself for both terms, where there are no factors."""
        (keep,) = ctx.saved_tensors
        wants_residual, wants_branch, wants_bias = _wanted(ctx)
        dtypes = wants_residual, wants_branch, wants_bias, None, None
        return *_gradients(ctx, dz, None, None, None, None, keep, dtypes)[:3], None


class ResidualLayerNorm(torch.autograd.Function):
    """z = residual + keep * (branch + branch_bias) and n = LayerNorm(z): (z, n), [..., C] each, n in `dtype`."""

    @staticmethod
    def forward(
        ctx: Any,
        residual: Tensor,
        branch: Tensor,
        branch_bias: Tensor | None,
        keep: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        """Keeps the stream, the weight and the factors."""
        _remember(ctx, eps, residual, branch, branch_bias, None, weight, bias)
        z, n = operator("residual_layer_norm_fwd")(residual, branch, branch_bias, keep, weight, bias, eps, dtype)
        ctx.save_for_backward(z, weight, keep)
        return z, n

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dz: Tensor | None, dn: Tensor | None) -> tuple[Tensor | None, ...]:
        """One pass for what z and n were used for."""
        z, weight, keep = ctx.saved_tensors
        residual, branch, branch_bias, _, *affine = _wanted(ctx)
        dtypes = residual, branch, branch_bias, affine[0], affine[1]
        gradients = _gradients(ctx, dz, None, dn, z, weight, keep, dtypes)
        return *gradients[:3], None, *gradients[3:], None, None


class ResidualLayerNormRepresentative(torch.autograd.Function):
    """The stream z [B, M, S, C], its rows 0 of each region s [B, M, C], and n = LayerNorm(s) [B, M, C] in `dtype`."""

    @staticmethod
    def forward(
        ctx: Any,
        residual: Tensor,
        branch: Tensor,
        branch_bias: Tensor | None,
        keep: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Keeps the stream, the weight and the factors."""
        _remember(ctx, eps, residual, branch, branch_bias, None, weight, bias)
        z, s, n = operator("residual_layer_norm_representative_fwd")(
            residual, branch, branch_bias, keep, weight, bias, eps, dtype
        )
        ctx.save_for_backward(z, weight, keep)
        return z, s, n

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dz: Tensor | None, ds: Tensor | None, dn: Tensor | None) -> tuple[Tensor | None, ...]:
        """One pass for what z, s and n were used for."""
        z, weight, keep = ctx.saved_tensors
        residual, branch, branch_bias, _, *affine = _wanted(ctx)
        dtypes = residual, branch, branch_bias, affine[0], affine[1]
        gradients = _gradients(ctx, dz, ds, dn, z, weight, keep, dtypes, representative=True)
        return *gradients[:3], None, *gradients[3:], None, None
