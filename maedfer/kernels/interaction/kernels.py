"""Folded local-global interaction with its residual and the LayerNorm that follows, in one pass over the tokens.

    xhat = (x - mean) / std;   p = softmax over m of (xhat A^T + a), for each head;   y = x + p V;   n = LN(y)

(equations 4 to 6 of the paper with the projections folded into A, a and V, see folding.py). x are the local tokens of
the stream z [B, M, S, C], rows 1 and up of each region; row 0 of y is the representative token s as it is given.

Shapes: B clips, M regions and as many keys, S rows a region, H heads, C channels, R = M * S rows a clip.
Keys are laid out as HM = HP * MP columns, heads and keys of a head padded to powers of two.

Kept for the backward pass: z, s, V, A and the probabilities (HM values a row, about an eighth of the row). It goes over
the rows once, writing the gradients of z and s, of y, and of the scores; a second kernel contracts those over the rows
of a clip. Statistics, softmax and sums are float32 (float64 for float64); nothing is added atomically.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _load_rows(z_ptr, s_ptr, row, row_ok, z_region, z_row, s_region, S: tl.constexpr, C: tl.constexpr,
               BLOCK_C: tl.constexpr, ACC: tl.constexpr):  # fmt: skip
    """Rows of the clip that the pointers are at [BLOCK, BLOCK_C]: representative tokens from s, local ones from z."""
    col = tl.arange(0, BLOCK_C)
    local = row_ok & (row % S != 0)
    first = row_ok & (row % S == 0)
    z_offset = (row // S) * z_region + (row % S) * z_row
    s_offset = (row // S) * s_region
    x = tl.load(z_ptr + z_offset[:, None] + col[None, :], mask=local[:, None] & (col < C)[None, :], other=0.0)
    s = tl.load(s_ptr + s_offset[:, None] + col[None, :], mask=first[:, None] & (col < C)[None, :], other=0.0)
    return x.to(ACC) + s.to(ACC)


@triton.jit
def _normalise(x, eps, C: tl.constexpr, BLOCK_C: tl.constexpr):
    """(x - mean) / std over C channels, the mean, and 1 / std."""
    mean = tl.sum(x, 1) / C
    centred = tl.where((tl.arange(0, BLOCK_C) < C)[None, :], x - mean[:, None], 0.0)
    rstd = 1.0 / tl.sqrt(tl.sum(centred * centred, 1) / C + eps)
    return centred * rstd[:, None], mean, rstd


@triton.jit
def _load_keys(ptr, group, head_stride, key_stride, HEADS: tl.constexpr, M: tl.constexpr, C: tl.constexpr,
               HB: tl.constexpr, MP: tl.constexpr, BLOCK_C: tl.constexpr):  # fmt: skip
    """Rows of the clip's A or V for a group of HB heads: [HB * MP, BLOCK_C]."""
    key = tl.arange(0, HB * MP)
    head, m = group * HB + key // MP, key % MP
    # Heads lie as far apart as all clips' keys together.
    offset = head.to(tl.int64) * head_stride + m * key_stride
    col = tl.arange(0, BLOCK_C)
    mask = ((head < HEADS) & (m < M))[:, None] & (col < C)[None, :]
    return tl.load(ptr + offset[:, None] + col[None, :], mask=mask, other=0.0)


@triton.jit
def _head_probabilities(scores, group, HEADS: tl.constexpr, M: tl.constexpr, BLOCK: tl.constexpr, HB: tl.constexpr,
                        MP: tl.constexpr):  # fmt: skip
    """Softmax of [BLOCK, HB * MP] over the M keys of each head; padding gets zero."""
    m = tl.arange(0, HB * MP) % MP
    scores = tl.where((m < M)[None, :], scores, float("-inf"))
    scores = tl.reshape(scores, [BLOCK, HB, MP])
    p = tl.exp2(scores - tl.max(scores, 2)[:, :, None])
    p = tl.reshape(p / tl.sum(p, 2)[:, :, None], [BLOCK, HB * MP])
    head = group * HB + tl.arange(0, HB * MP) // MP
    return tl.where((head < HEADS)[None, :], p, 0.0)


@triton.jit(do_not_specialize=["bias_clip", "bias_head", "bias_key", "tiles", "programs"])
def interaction_fwd_kernel(
    z_ptr,  # [B, M, S, C], strides (z_clip, z_region, z_row, 1)
    s_ptr,  # [B, M, C], strides (s_clip, s_region, 1)
    a_ptr,  # A: [B, H, M, C], strides (a_clip, a_head, a_key, 1)
    bias_ptr,  # a: [B, H, M], strides (bias_clip, bias_head, bias_key)
    v_ptr,  # V: [B, H, M, C], strides (v_clip, v_head, v_key, 1)
    weight_ptr,  # [C] of the next LayerNorm
    shift_ptr,  # [C] of the next LayerNorm
    y_ptr,  # [B, M, S, C] contiguous
    n_ptr,  # [B, M, S, C] contiguous
    p_ptr,  # [B, R, HP * MP] contiguous, not written unless KEEP_P
    z_clip, z_region, z_row, s_clip, s_region, a_clip, a_head, a_key, bias_clip, bias_head, bias_key,
    v_clip, v_head, v_key, eps, tiles, programs,
    M: tl.constexpr, S: tl.constexpr, HEADS: tl.constexpr, C: tl.constexpr, KEEP_P: tl.constexpr,
    GROUPS: tl.constexpr, HB: tl.constexpr, MP: tl.constexpr, BLOCK: tl.constexpr, BLOCK_C: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0).to(tl.int64)
    clip = pid // programs
    first = (pid % programs * tiles).to(tl.int32)
    # Within a clip, offsets are 32 bits wide: registers are what these kernels are short of.
    z_ptr += clip * z_clip
    s_ptr += clip * s_clip
    a_ptr += clip * a_clip
    v_ptr += clip * v_clip
    bias_ptr += clip * bias_clip
    y_ptr += clip * (M * S * C)
    n_ptr += clip * (M * S * C)
    p_ptr += clip * (M * S * GROUPS * HB * MP)
    col = tl.arange(0, BLOCK_C)
    col_ok = col < C
    key = tl.arange(0, HB * MP)
    weight = tl.load(weight_ptr + col, mask=col_ok, other=0.0).to(ACC)
    shift = tl.load(shift_ptr + col, mask=col_ok, other=0.0).to(ACC)
    if GROUPS == 1:
        # One group of all heads stays where it is while the program goes over its tiles.
        a = _load_keys(a_ptr, 0, a_head, a_key, HEADS, M, C, HB, MP, BLOCK_C)
        v = _load_keys(v_ptr, 0, v_head, v_key, HEADS, M, C, HB, MP, BLOCK_C)
    for tile in range(0, tiles):
        row = (first + tile) * BLOCK + tl.arange(0, BLOCK)
        row_ok = row < M * S
        x = _load_rows(z_ptr, s_ptr, row, row_ok, z_region, z_row, s_region, S, C, BLOCK_C, ACC)  # [BLOCK, BLOCK_C]
        xhat, _, _ = _normalise(x, eps, C, BLOCK_C)
        xhat = xhat.to(a_ptr.dtype.element_ty)
        y = x
        for group in range(0, GROUPS):
            if GROUPS > 1:
                a = _load_keys(a_ptr, group, a_head, a_key, HEADS, M, C, HB, MP, BLOCK_C)
                v = _load_keys(v_ptr, group, v_head, v_key, HEADS, M, C, HB, MP, BLOCK_C)
            head, m = group * HB + key // MP, key % MP
            bias_offset = head.to(tl.int64) * bias_head + m * bias_key
            bias = tl.load(bias_ptr + bias_offset, mask=(head < HEADS) & (m < M), other=0.0).to(ACC)
            scores = tl.dot(xhat, tl.trans(a), out_dtype=ACC, input_precision=PRECISION) + bias[None, :]
            p = _head_probabilities(scores * 1.4426950408889634, group, HEADS, M, BLOCK, HB, MP)
            # Representative tokens take no part.
            p = tl.where((row % S != 0)[:, None], p, 0.0).to(v.dtype)  # [BLOCK, HB * MP]
            if KEEP_P:
                p_offset = row * (GROUPS * HB * MP) + group * HB * MP
                tl.store(p_ptr + p_offset[:, None] + key[None, :], p, mask=row_ok[:, None])
            y += tl.dot(p, v, out_dtype=ACC, input_precision=PRECISION)
        out_mask = row_ok[:, None] & col_ok[None, :]
        y = y.to(y_ptr.dtype.element_ty)
        tl.store(y_ptr + row[:, None] * C + col[None, :], y, mask=out_mask)
        yhat, _, _ = _normalise(y.to(ACC), eps, C, BLOCK_C)
        n = yhat * weight[None, :] + shift[None, :]
        tl.store(n_ptr + row[:, None] * C + col[None, :], n.to(n_ptr.dtype.element_ty), mask=out_mask)


@triton.jit(do_not_specialize=["tiles", "programs"])
def interaction_bwd_rows_kernel(
    z_ptr,  # [B, M, S, C], strides (z_clip, z_region, z_row, 1)
    s_ptr,  # [B, M, C], strides (s_clip, s_region, 1)
    a_ptr,  # A: [B, H, M, C], strides (a_clip, a_head, a_key, 1)
    v_ptr,  # V: [B, H, M, C], strides (v_clip, v_head, v_key, 1)
    p_ptr,  # [B, R, HP * MP] contiguous
    weight_ptr,  # [C] of the next LayerNorm
    dy_ptr,  # [B, M, S, C], strides (dy_clip, dy_region, dy_row, 1)
    dn_ptr,  # [B, M, S, C], strides (dn_clip, dn_region, dn_row, 1)
    dz_ptr,  # [B, M, S, C] contiguous; rows 0 get zero
    ds_ptr,  # [B, M, C] contiguous
    total_ptr,  # [B, R, C] contiguous: the whole gradient of y
    dscore_ptr,  # [B, R, HP * MP] contiguous
    stats_ptr,  # [B, R, 2] mean and 1 / std of x
    partial_ptr,  # [B * programs * tiles, 2, C] sums for the next LayerNorm's weight and shift
    z_clip, z_region, z_row, s_clip, s_region, a_clip, a_head, a_key, v_clip, v_head, v_key,
    dy_clip, dy_region, dy_row, dn_clip, dn_region, dn_row, eps, tiles, programs,
    M: tl.constexpr, S: tl.constexpr, HEADS: tl.constexpr, C: tl.constexpr,
    GROUPS: tl.constexpr, HB: tl.constexpr, MP: tl.constexpr, BLOCK: tl.constexpr, BLOCK_C: tl.constexpr,
    PART: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """All of it (PART 0), or up to the gradient of y (PART 1) and from there on (PART 2)."""
    pid = tl.program_id(0).to(tl.int64)
    clip = pid // programs
    first = (pid % programs * tiles).to(tl.int32)
    z_ptr += clip * z_clip
    s_ptr += clip * s_clip
    a_ptr += clip * a_clip
    v_ptr += clip * v_clip
    dy_ptr += clip * dy_clip
    dn_ptr += clip * dn_clip
    dz_ptr += clip * (M * S * C)
    ds_ptr += clip * (M * C)
    total_ptr += clip * (M * S * C)
    stats_ptr += clip * (M * S * 2)
    p_ptr += clip * (M * S * GROUPS * HB * MP)
    dscore_ptr += clip * (M * S * GROUPS * HB * MP)
    col = tl.arange(0, BLOCK_C)
    col_ok = col < C
    key = tl.arange(0, HB * MP)
    if GROUPS == 1:
        a = _load_keys(a_ptr, 0, a_head, a_key, HEADS, M, C, HB, MP, BLOCK_C)
        v = _load_keys(v_ptr, 0, v_head, v_key, HEADS, M, C, HB, MP, BLOCK_C)
    for tile in range(0, tiles):
        row = (first + tile) * BLOCK + tl.arange(0, BLOCK)
        row_ok = row < M * S
        mask = row_ok[:, None] & col_ok[None, :]
        if PART != 2:
            x = _load_rows(z_ptr, s_ptr, row, row_ok, z_region, z_row, s_region, S, C, BLOCK_C, ACC)
            # y again, as it was stored.
            y = x
            for group in range(0, GROUPS):
                if GROUPS > 1:
                    v = _load_keys(v_ptr, group, v_head, v_key, HEADS, M, C, HB, MP, BLOCK_C)
                p_offset = row * (GROUPS * HB * MP) + group * HB * MP
                p = tl.load(p_ptr + p_offset[:, None] + key[None, :], mask=row_ok[:, None], other=0.0)
                y += tl.dot(p, v, out_dtype=ACC, input_precision=PRECISION)
            yhat, _, y_rstd = _normalise(y.to(dz_ptr.dtype.element_ty).to(ACC), eps, C, BLOCK_C)
            dn_offset = (row // S) * dn_region + (row % S) * dn_row
            dn = tl.load(dn_ptr + dn_offset[:, None] + col[None, :], mask=mask, other=0.0).to(ACC)
            # Written for every tile: as sums over a program's tiles they would not fit the registers.
            partial_row = pid * tiles + tile
            tl.store(partial_ptr + (partial_row * 2) * C + col, tl.sum(dn * yhat, 0), mask=col_ok)
            tl.store(partial_ptr + (partial_row * 2 + 1) * C + col, tl.sum(dn, 0), mask=col_ok)
            weight = tl.load(weight_ptr + col, mask=col_ok, other=0.0).to(ACC)
            dn = dn * weight[None, :]
            dn = (dn - (tl.sum(dn, 1) / C)[:, None] - yhat * (tl.sum(dn * yhat, 1) / C)[:, None]) * y_rstd[:, None]
            dy_offset = (row // S) * dy_region + (row % S) * dy_row
            dy = tl.load(dy_ptr + dy_offset[:, None] + col[None, :], mask=mask, other=0.0).to(ACC) + dn
            dy = tl.where(mask, dy, 0.0)
            low = dy.to(v_ptr.dtype.element_ty)
            tl.store(total_ptr + row[:, None] * C + col[None, :], low, mask=mask)
        if PART == 2:
            low = tl.load(total_ptr + row[:, None] * C + col[None, :], mask=mask, other=0.0)
        if PART != 1:
            dxhat = tl.zeros([BLOCK, BLOCK_C], dtype=ACC)
            for group in range(0, GROUPS):
                p_offset = row * (GROUPS * HB * MP) + group * HB * MP
                if GROUPS > 1:
                    v = _load_keys(v_ptr, group, v_head, v_key, HEADS, M, C, HB, MP, BLOCK_C)
                    a = _load_keys(a_ptr, group, a_head, a_key, HEADS, M, C, HB, MP, BLOCK_C)
                p = tl.load(p_ptr + p_offset[:, None] + key[None, :], mask=row_ok[:, None], other=0.0)
                dp = tl.dot(low, tl.trans(v), out_dtype=ACC, input_precision=PRECISION)  # [BLOCK, HB * MP]
                weighted = tl.reshape(p.to(ACC) * dp, [BLOCK, HB, MP])
                inner = tl.broadcast_to(tl.sum(weighted, 2)[:, :, None], [BLOCK, HB, MP])
                dscore = (p.to(ACC) * (dp - tl.reshape(inner, [BLOCK, HB * MP]))).to(a_ptr.dtype.element_ty)
                tl.store(dscore_ptr + p_offset[:, None] + key[None, :], dscore, mask=row_ok[:, None])
                dxhat += tl.dot(dscore, a, out_dtype=ACC, input_precision=PRECISION)
            # Once more from the cache: held all the while it would not fit the registers.
            x = _load_rows(z_ptr, s_ptr, row, row_ok, z_region, z_row, s_region, S, C, BLOCK_C, ACC)
            xhat, mean, rstd = _normalise(x, eps, C, BLOCK_C)
            tl.store(stats_ptr + row * 2, mean, mask=row_ok)
            tl.store(stats_ptr + row * 2 + 1, rstd, mask=row_ok)
            dxhat = dxhat - (tl.sum(dxhat, 1) / C)[:, None] - xhat * (tl.sum(dxhat * xhat, 1) / C)[:, None]
            if PART == 2:
                dy = tl.load(total_ptr + row[:, None] * C + col[None, :], mask=mask, other=0.0).to(ACC)
            # Scores of representative tokens have no gradient, so theirs is that of y.
            dx = dy + dxhat * rstd[:, None]
            representative = row % S == 0
            dz = tl.where(representative[:, None], 0.0, dx).to(dz_ptr.dtype.element_ty)
            tl.store(dz_ptr + row[:, None] * C + col[None, :], dz, mask=mask)
            tl.store(
                ds_ptr + (row // S)[:, None] * C + col[None, :],
                dx.to(ds_ptr.dtype.element_ty),
                mask=mask & representative[:, None],
            )


@triton.jit
def interaction_bwd_keys_kernel(
    z_ptr,  # [B, M, S, C], strides (z_clip, z_region, z_row, 1)
    p_ptr,  # [B, R, HP * MP] contiguous
    dscore_ptr,  # [B, R, HP * MP] contiguous
    total_ptr,  # [B, R, C] contiguous
    stats_ptr,  # [B, R, 2] contiguous
    da_ptr,  # dA: [B, H, M, C], strides (da_clip, da_head, C, 1)
    dbias_ptr,  # da: [B, H, M] contiguous
    dv_ptr,  # dV: [B, H, M, C], strides (da_clip, da_head, C, 1)
    z_clip, z_region, z_row, da_clip, da_head,
    M: tl.constexpr, S: tl.constexpr, HEADS: tl.constexpr, C: tl.constexpr,
    GROUPS: tl.constexpr, HB: tl.constexpr, MP: tl.constexpr, COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_COL: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0).to(tl.int64)
    clip = pid // (COLUMNS * GROUPS)
    group = pid // COLUMNS % GROUPS
    col = pid % COLUMNS * BLOCK_COL + tl.arange(0, BLOCK_COL)
    col_ok = col < C
    key = tl.arange(0, HB * MP)
    da = tl.zeros([HB * MP, BLOCK_COL], dtype=ACC)
    dv = tl.zeros([HB * MP, BLOCK_COL], dtype=ACC)
    dbias = tl.zeros([HB * MP], dtype=ACC)
    for tile in range(0, tl.cdiv(M * S, BLOCK)):
        row = tile * BLOCK + tl.arange(0, BLOCK)
        row_ok = row < M * S
        mask = row_ok[:, None] & col_ok[None, :]
        in_row = clip * M * S + row
        p_offset = in_row * (GROUPS * HB * MP) + group * HB * MP
        p = tl.load(p_ptr + p_offset[:, None] + key[None, :], mask=row_ok[:, None], other=0.0)
        dscore = tl.load(dscore_ptr + p_offset[:, None] + key[None, :], mask=row_ok[:, None], other=0.0)
        total = tl.load(total_ptr + in_row[:, None] * C + col[None, :], mask=mask, other=0.0)
        # Rows 0 of z are not read: their scores have no gradient, but zero times what is not a number is not zero.
        z_offset = clip * z_clip + (row // S) * z_region + (row % S) * z_row
        z_mask = mask & (row % S != 0)[:, None]
        x = tl.load(z_ptr + z_offset[:, None] + col[None, :], mask=z_mask, other=0.0).to(ACC)
        mean = tl.load(stats_ptr + in_row * 2, mask=row_ok, other=0.0)
        rstd = tl.load(stats_ptr + in_row * 2 + 1, mask=row_ok, other=0.0)
        xhat = ((x - mean[:, None]) * rstd[:, None]).to(dscore.dtype)
        da += tl.dot(tl.trans(dscore), xhat, out_dtype=ACC, input_precision=PRECISION)
        dv += tl.dot(tl.trans(p), total, out_dtype=ACC, input_precision=PRECISION)
        dbias += tl.sum(dscore.to(ACC), 0)
    head, m = group * HB + key // MP, key % MP
    key_ok = (head < HEADS) & (m < M)
    out_offset = clip * da_clip + head * da_head + m * C
    out_mask = key_ok[:, None] & col_ok[None, :]
    tl.store(da_ptr + out_offset[:, None] + col[None, :], da.to(da_ptr.dtype.element_ty), mask=out_mask)
    tl.store(dv_ptr + out_offset[:, None] + col[None, :], dv.to(dv_ptr.dtype.element_ty), mask=out_mask)
    if pid % COLUMNS == 0:
        tl.store(dbias_ptr + (clip * HEADS + head) * M + m, dbias.to(dbias_ptr.dtype.element_ty), mask=key_ok)
