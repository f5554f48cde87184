"""Residual addition and LayerNorm, forward and backward in one kernel each.

    z = residual + keep * (branch + branch_bias)      n = (z - mean) / sqrt(var + eps) * weight + bias

Shapes: [..., C] seen as G groups of R rows of C channels. Strides of groups and rows are arguments, so that views of
the stream [B, M, S, C] are read in place; results are contiguous. `keep` holds one factor for each run of keep_rows
rows. The LayerNorm is of every row, or of row 0 of each region (of every S-th row: the representative tokens, which are
then written on their own too, as s [B, M, C]), or of none. A program holds whole rows, C padded to a power of two.

Tiles are taken from the last to the first: products go from the first to the last, so that the end of what one wrote is
still in the L2 cache, and so is the beginning of what is written here when the next one comes to read it.

Nothing but z (in a plain LayerNorm, its input), the weight and the factors is kept for the backward pass: it forms mean
and deviation again, from z as it was rounded, which is what the forward pass normalises too. Statistics and sums are
float32 (float64 for float64). Gradients of the parameters are sums of each program in a fixed order, then of programs:
no atomic addition.
"""

from __future__ import annotations

import triton
import triton.language as tl


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
def layer_norm_fwd_kernel(
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
    start = (tl.num_programs(0) - 1 - tl.program_id(0)) * ROWS
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
def layer_norm_bwd_kernel(
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
        start = ((blocks_per_program - block) * programs - 1 - pid) * ROWS
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
