"""Folded local-global interaction with its residual and the LayerNorm that follows.

    xhat = (x - mean) / std;   p = softmax over m of (xhat A^T + a), for each head;   y = x + p V;   n = LN(y)

(equations 4 to 6 of the paper with the projections folded into A, a and V, see folding.py). x are the local tokens of
the stream z [B, M, S, C], rows 1 and up of each region; row 0 of y is the representative token s as it is given, and
row 0 of z is never read.

Shapes: B clips, M regions and as many keys, S rows a region, H heads, C channels, R = M * S rows a clip.
Keys are laid out as HM = HP * MP columns, heads and keys of a head padded to powers of two.

A program has ROWS rows of one clip and goes over their channels in chunks of COLS, so that it keeps sums and no rows,
and several programs share a multiprocessor. What it reads twice is still in the L2 cache. Products are taken of rows
as they lie, and the norm is a correction of the scores:

    xhat A^T = (x A^T - mean * rowsum(A)) / std

Where the stream is wider than the products are, the mean of a row's first chunk is taken off before rounding. Mean and
deviation of the chunks are merged (Chan, Golub and LeVeque), which is as stable as two passes over the row.

Backward, given the whole gradient g of y, the LayerNorm's part in it (sub_layer/layer_norm_kernels.py):

    dscore = p * (g V^T - sum over m of p * (g V^T));   dxhat = dscore A
    dx = g + (dxhat - mean(dxhat) - xhat * mean(dxhat * xhat)) / std
    dA = (dscore / std)^T (x - mean);   dV = p^T g;   da = sum of dscore

Both means follow from scores alone: sum over C of dxhat = dscore . rowsum(A), of dxhat * xhat = dscore . (xhat A^T).

Kept for the backward pass: z, s, y, V, A and the probabilities (HM values a row, about an eighth of the row). One
kernel writes the gradients of z and s, and dscore / std; another contracts that over the rows of a clip. Statistics,
softmax and sums are float32 (float64 for float64); nothing is added atomically. Gradients of scores are kept in the
dtype of the products, but float32 beside float16, which they may leave where none of the results does.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _stream_rows(z_ptr, s_ptr, row, z_region, z_row, s_region, S: tl.constexpr, COLS: tl.constexpr,
                 ALIGN: tl.constexpr):  # fmt: skip
    """Where the first COLS channels of a clip's rows lie: of representative tokens in s, of local ones in z.

    One load for both, since they never overlap; the choice between addresses hides how they are aligned.
    """
    local = z_ptr + ((row // S) * z_region + (row % S) * z_row)
    start = tl.where(row % S == 0, s_ptr + (row // S) * s_region, local)
    return tl.multiple_of(tl.max_contiguous(start[:, None] + tl.arange(0, COLS)[None, :], [1, COLS]), [1, ALIGN])


@triton.jit
def _there(start, COLS: tl.constexpr, C: tl.constexpr):
    """Which of COLS channels from `start` on there are; where all chunks are whole, no mask is left."""
    return start + tl.arange(0, COLS) < C if C % COLS else tl.full([COLS], True, tl.int1)


@triton.jit
def _pivot(start, row_ok, WIDE: tl.constexpr, C: tl.constexpr, COLS: tl.constexpr, ACC: tl.constexpr):
    """What is taken off each row before it is rounded for a product; nothing where it is not rounded."""
    if WIDE:
        mask = row_ok[:, None] & _there(0, COLS, C)[None, :]
        pivot = tl.sum(tl.load(start, mask=mask, other=0.0).to(ACC), 1) / min(C, COLS)
    else:
        pivot = tl.zeros([start.shape[0]], dtype=ACC)
    return pivot


@triton.jit
def _merge(mean, square, x, chunk, C: tl.constexpr, COLS: tl.constexpr):
    """Mean and sum of squared deviations of the channels before a chunk, and the chunk's x [ROWS, COLS] with them."""
    before = tl.cast(chunk * COLS, x.dtype)
    count = tl.cast(tl.minimum(C - chunk * COLS, COLS), x.dtype)
    own = tl.sum(x, 1) / count
    centred = tl.where(_there(chunk * COLS, COLS, C)[None, :], x - own[:, None], 0.0)
    share = count / (before + count)
    shift = own - mean
    return mean + shift * share, square + tl.sum(centred * centred, 1) + shift * shift * (before * share)


@triton.jit
def _keys(ptr, group, head_stride, key_stride, HEADS: tl.constexpr, M: tl.constexpr, HB: tl.constexpr,
          MP: tl.constexpr):  # fmt: skip
    """Where the keys of a group of HB heads lie in a clip's A or V, and which of the HB * MP there are."""
    key = tl.arange(0, HB * MP)
    head, m = group * HB + key // MP, key % MP
    # Heads lie as far apart as all clips' keys together.
    there = tl.full([HB * MP], True, tl.int1) if M == MP and HEADS % HB == 0 else (head < HEADS) & (m < M)
    return ptr + (head.to(tl.int64) * head_stride + m * key_stride), there


@triton.jit
def _head_probabilities(scores, taking_part, key_ok, M: tl.constexpr, HB: tl.constexpr, MP: tl.constexpr):
    """Softmax of [ROWS, HB * MP] over the M keys of each head; zero for padding and rows that take no part."""
    ROWS: tl.constexpr = scores.shape[0]
    m = tl.arange(0, HB * MP) % MP
    scores = tl.where((m < M)[None, :], scores * 1.4426950408889634, float("-inf"))
    scores = tl.reshape(scores, [ROWS, HB, MP])
    p = tl.exp2(scores - tl.max(scores, 2)[:, :, None])
    p = tl.reshape(p / tl.sum(p, 2)[:, :, None], [ROWS, HB * MP])
    return tl.where(taking_part[:, None] & key_ok[None, :], p, 0.0)


@triton.jit(do_not_specialize=["bias_clip", "bias_head", "bias_key", "tiles"])
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
    p_ptr,  # [B, R, HP * MP] contiguous, or None where one group's are enough and nobody keeps them
    z_clip, z_region, z_row, s_clip, s_region, a_clip, a_head, a_key, bias_clip, bias_head, bias_key,
    v_clip, v_head, v_key, eps, tiles,
    M: tl.constexpr, S: tl.constexpr, HEADS: tl.constexpr, C: tl.constexpr, GROUPS: tl.constexpr, HB: tl.constexpr,
    MP: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, STAGES: tl.constexpr, ALIGN: tl.constexpr,
    WIDE: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # Backwards: what was written last is still in the cache.
    pid = (tl.num_programs(0) - 1 - tl.program_id(0)).to(tl.int64)
    clip = pid // tiles
    row = (pid % tiles).to(tl.int32) * ROWS + tl.arange(0, ROWS)
    row_ok = row < M * S
    # Within a clip, offsets are 32 bits wide: registers are what these kernels are short of.
    start = _stream_rows(z_ptr + clip * z_clip, s_ptr + clip * s_clip, row, z_region, z_row, s_region, S, COLS, ALIGN)
    a_ptr += clip * a_clip
    v_ptr += clip * v_clip
    bias_ptr += clip * bias_clip
    y_ptr += clip * (M * S * C)
    n_ptr += clip * (M * S * C)
    if p_ptr is not None:
        p_ptr += clip * (M * S * GROUPS * HB * MP)
    CHUNKS: tl.constexpr = (C + COLS - 1) // COLS
    col = tl.arange(0, COLS)
    key = tl.arange(0, HB * MP)
    low: tl.constexpr = a_ptr.dtype.element_ty
    pivot = _pivot(start, row_ok, WIDE, C, COLS, ACC)
    for group in tl.static_range(GROUPS):
        a_start, key_ok = _keys(a_ptr, group, a_head, a_key, HEADS, M, HB, MP)
        scores = tl.zeros([ROWS, HB * MP], dtype=ACC)
        a_mean = tl.zeros([HB * MP], dtype=ACC)
        mean = tl.zeros([ROWS], dtype=ACC)
        square = tl.zeros([ROWS], dtype=ACC)
        for chunk in tl.range(0, CHUNKS, num_stages=STAGES):
            at = chunk * COLS
            col_ok = _there(at, COLS, C)[None, :]
            x = tl.load(start + at, mask=row_ok[:, None] & col_ok, other=0.0)
            a = tl.load(a_start[:, None] + (at + col)[None, :], mask=key_ok[:, None] & col_ok, other=0.0)
            part = (x.to(ACC) - pivot[:, None]).to(low) if WIDE else x
            scores = tl.dot(part, tl.trans(a), acc=scores, out_dtype=ACC, input_precision=PRECISION)
            a_mean += tl.sum(a.to(ACC), 1) / C
            mean, square = _merge(mean, square, x.to(ACC), chunk, C, COLS)
        rstd = 1.0 / tl.sqrt(square / C + eps)
        head, m = group * HB + key // MP, key % MP
        bias = tl.load(bias_ptr + (head.to(tl.int64) * bias_head + m * bias_key), mask=key_ok, other=0.0).to(ACC)
        scores = (scores - ((mean - pivot) * C)[:, None] * a_mean[None, :]) * rstd[:, None] + bias[None, :]
        # Representative tokens take no part.
        p = _head_probabilities(scores, row % S != 0, key_ok, M, HB, MP).to(v_ptr.dtype.element_ty)
        if p_ptr is not None:
            p_start = p_ptr + (row * (GROUPS * HB * MP) + group * HB * MP)
            tl.store(p_start[:, None] + key[None, :], p, mask=row_ok[:, None])
    if GROUPS > 1:
        tl.debug_barrier()
    mean = tl.zeros([ROWS], dtype=ACC)
    square = tl.zeros([ROWS], dtype=ACC)
    for chunk in tl.range(0, CHUNKS, num_stages=STAGES):
        at = chunk * COLS
        col_ok = _there(at, COLS, C)[None, :]
        x = tl.load(start + at, mask=row_ok[:, None] & col_ok, other=0.0)
        y = x.to(ACC)
        for group in tl.static_range(GROUPS):
            v_start, key_ok = _keys(v_ptr, group, v_head, v_key, HEADS, M, HB, MP)
            v = tl.load(v_start[:, None] + (at + col)[None, :], mask=key_ok[:, None] & col_ok, other=0.0)
            if GROUPS > 1:
                p_start = p_ptr + (row * (GROUPS * HB * MP) + group * HB * MP)
                p = tl.load(p_start[:, None] + key[None, :], mask=row_ok[:, None], other=0.0)
            y = tl.dot(p, v, acc=y, out_dtype=ACC, input_precision=PRECISION)
        y = y.to(y_ptr.dtype.element_ty)
        tl.store(y_ptr + (row * C)[:, None] + (at + col)[None, :], y, mask=row_ok[:, None] & col_ok)
        # What is normed is y as it is stored.
        mean, square = _merge(mean, square, y.to(ACC), chunk, C, COLS)
    rstd = 1.0 / tl.sqrt(square / C + eps)
    tl.debug_barrier()
    for chunk in tl.range(0, CHUNKS, num_stages=STAGES):
        at = chunk * COLS
        col_ok = _there(at, COLS, C)
        mask = row_ok[:, None] & col_ok[None, :]
        offset = (row * C)[:, None] + (at + col)[None, :]
        y = tl.load(y_ptr + offset, mask=mask, other=0.0).to(ACC)
        weight = tl.load(weight_ptr + (at + col), mask=col_ok, other=0.0).to(ACC)
        shift = tl.load(shift_ptr + (at + col), mask=col_ok, other=0.0).to(ACC)
        n = (y - mean[:, None]) * rstd[:, None] * weight[None, :] + shift[None, :]
        tl.store(n_ptr + offset, n.to(n_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _as_tf32(x):
    """x rounded to what a TF32 product takes of it: sums of x are then those that the product has."""
    bits = (x.to(tl.uint32, bitcast=True) + 0x1000) & 0xFFFFE000
    # What is not a number may have all bits set, and must stay what it is.
    return tl.where(x == x, bits.to(tl.float32, bitcast=True), x)


@triton.jit(do_not_specialize=["tiles"])
def interaction_bwd_rows_kernel(
    g_ptr,  # [B, M, S, C], strides (g_clip, g_region, g_row, 1): the whole gradient of y
    z_ptr,  # [B, M, S, C], strides (z_clip, z_region, z_row, 1)
    s_ptr,  # [B, M, C], strides (s_clip, s_region, 1)
    a_ptr,  # A: [B, H, M, C], strides (a_clip, a_head, a_key, 1)
    v_ptr,  # V: [B, H, M, C], strides (v_clip, v_head, v_key, 1)
    p_ptr,  # [B, R, HP * MP] contiguous
    dz_ptr,  # [B, M, S, C] contiguous; rows 0 get zero
    ds_ptr,  # [B, M, C] contiguous
    dscore_ptr,  # [B, R, HP * MP] contiguous: gradients of the scores / std
    mean_ptr,  # [B, R] of x
    sums_ptr,  # [B * tiles, 2, HP * MP]: sums over rows of dscore and of dscore / std * mean
    g_clip, g_region, g_row, z_clip, z_region, z_row, s_clip, s_region, a_clip, a_head, a_key, v_clip, v_head, v_key,
    eps, tiles,
    M: tl.constexpr, S: tl.constexpr, HEADS: tl.constexpr, C: tl.constexpr, GROUPS: tl.constexpr, HB: tl.constexpr,
    MP: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, STAGES: tl.constexpr, ALIGN: tl.constexpr,
    WIDE: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # Backwards: what was written last is still in the cache.
    pid = (tl.num_programs(0) - 1 - tl.program_id(0)).to(tl.int64)
    clip = pid // tiles
    row = (pid % tiles).to(tl.int32) * ROWS + tl.arange(0, ROWS)
    row_ok = row < M * S
    representative = row % S == 0
    start = _stream_rows(z_ptr + clip * z_clip, s_ptr + clip * s_clip, row, z_region, z_row, s_region, S, COLS, ALIGN)
    dz_ptr += clip * (M * S * C)
    out = _stream_rows(dz_ptr, ds_ptr + clip * (M * C), row, S * C, C, C, S, COLS, ALIGN)
    g_ptr += clip * g_clip
    a_ptr += clip * a_clip
    v_ptr += clip * v_clip
    p_ptr += clip * (M * S * GROUPS * HB * MP)
    dscore_ptr += clip * (M * S * GROUPS * HB * MP)
    CHUNKS: tl.constexpr = (C + COLS - 1) // COLS
    col = tl.arange(0, COLS)
    key = tl.arange(0, HB * MP)
    low: tl.constexpr = a_ptr.dtype.element_ty
    kept: tl.constexpr = dscore_ptr.dtype.element_ty
    g_start = g_ptr + ((row // S) * g_region + (row % S) * g_row)
    pivot = _pivot(start, row_ok, WIDE, C, COLS, ACC)
    # Of the gradient of xhat, / std: its mean, and that of its product with xhat.
    average = tl.zeros([ROWS], dtype=ACC)
    slope = tl.zeros([ROWS], dtype=ACC)
    for group in tl.static_range(GROUPS):
        a_start, key_ok = _keys(a_ptr, group, a_head, a_key, HEADS, M, HB, MP)
        v_start, _ = _keys(v_ptr, group, v_head, v_key, HEADS, M, HB, MP)
        dp = tl.zeros([ROWS, HB * MP], dtype=ACC)
        scores = tl.zeros([ROWS, HB * MP], dtype=ACC)
        a_mean = tl.zeros([HB * MP], dtype=ACC)
        mean = tl.zeros([ROWS], dtype=ACC)
        square = tl.zeros([ROWS], dtype=ACC)
        for chunk in tl.range(0, CHUNKS, num_stages=STAGES):
            at = chunk * COLS
            col_ok = _there(at, COLS, C)[None, :]
            x = tl.load(start + at, mask=row_ok[:, None] & col_ok, other=0.0)
            a = tl.load(a_start[:, None] + (at + col)[None, :], mask=key_ok[:, None] & col_ok, other=0.0)
            part = (x.to(ACC) - pivot[:, None]).to(low) if WIDE else x
            scores = tl.dot(part, tl.trans(a), acc=scores, out_dtype=ACC, input_precision=PRECISION)
            g = tl.load(g_start[:, None] + (at + col)[None, :], mask=row_ok[:, None] & col_ok, other=0.0)
            v = tl.load(v_start[:, None] + (at + col)[None, :], mask=key_ok[:, None] & col_ok, other=0.0)
            dp = tl.dot(g.to(low), tl.trans(v), acc=dp, out_dtype=ACC, input_precision=PRECISION)
            a_mean += tl.sum(a.to(ACC), 1) / C
            mean, square = _merge(mean, square, x.to(ACC), chunk, C, COLS)
        deviation = tl.sqrt(square / C + eps)
        rstd = tl.where(row_ok, 1.0 / deviation, 0.0)
        p_offset = (row * (GROUPS * HB * MP) + group * HB * MP)[:, None] + key[None, :]
        p = tl.load(p_ptr + p_offset, mask=row_ok[:, None], other=0.0).to(ACC)
        inner = tl.sum(tl.reshape(p * dp, [ROWS, HB, MP]), 2)
        inner = tl.reshape(tl.broadcast_to(inner[:, :, None], [ROWS, HB, MP]), [ROWS, HB * MP])
        scaled = tl.where(representative[:, None], 0.0, p * (dp - inner) * rstd[:, None]).to(kept)
        if kept != low:
            scaled = _as_tf32(scaled)
        tl.store(dscore_ptr + p_offset, scaled, mask=row_ok[:, None])
        rounded = scaled.to(ACC)
        average += tl.sum(rounded * a_mean[None, :], 1)
        scores = (scores - ((mean - pivot) * C)[:, None] * a_mean[None, :]) * rstd[:, None]
        slope += tl.sum(rounded * scores, 1) / C
        sum_ptr = sums_ptr + pid * (2 * GROUPS * HB * MP) + group * HB * MP + key
        tl.store(sum_ptr, tl.sum(rounded * deviation[:, None], 0))
        tl.store(sum_ptr + GROUPS * HB * MP, tl.sum(rounded * mean[:, None], 0))
    tl.store(mean_ptr + clip * (M * S) + row, mean, mask=row_ok)
    slope *= rstd
    if GROUPS > 1:
        tl.debug_barrier()
    for chunk in tl.range(0, CHUNKS, num_stages=STAGES):
        at = chunk * COLS
        col_ok = _there(at, COLS, C)[None, :]
        mask = row_ok[:, None] & col_ok
        dx = tl.zeros([ROWS, COLS], dtype=ACC)
        for group in tl.static_range(GROUPS):
            a_start, key_ok = _keys(a_ptr, group, a_head, a_key, HEADS, M, HB, MP)
            a = tl.load(a_start[:, None] + (at + col)[None, :], mask=key_ok[:, None] & col_ok, other=0.0)
            if GROUPS > 1:
                p_offset = (row * (GROUPS * HB * MP) + group * HB * MP)[:, None] + key[None, :]
                scaled = tl.load(dscore_ptr + p_offset, mask=row_ok[:, None], other=0.0)
            dx = tl.dot(scaled, a.to(kept), acc=dx, out_dtype=ACC, input_precision=PRECISION)
        x = tl.load(start + at, mask=mask, other=0.0).to(ACC)
        g = tl.load(g_start[:, None] + (at + col)[None, :], mask=mask, other=0.0).to(ACC)
        # Scores of representative tokens have no gradient, so theirs is that of y.
        dx += g - average[:, None] - (x - mean[:, None]) * slope[:, None]
        tl.store(out + at, dx.to(dz_ptr.dtype.element_ty), mask=mask)
        nothing = tl.zeros([ROWS, COLS], dtype=dz_ptr.dtype.element_ty)
        offset = (row * C)[:, None] + (at + col)[None, :]
        tl.store(dz_ptr + offset, nothing, mask=mask & representative[:, None])


@triton.jit(do_not_specialize=["tiles"])
def interaction_bwd_keys_kernel(
    z_ptr,  # [B, M, S, C], strides (z_clip, z_region, z_row, 1)
    g_ptr,  # [B, M, S, C], strides (g_clip, g_region, g_row, 1)
    p_ptr,  # [B, R, HP * MP] contiguous
    dscore_ptr,  # [B, R, HP * MP] contiguous
    mean_ptr,  # [B, R] contiguous
    sums_ptr,  # [B * tiles, 2, HP * MP]
    da_ptr,  # dA: [B, H, M, C], strides (da_clip, da_head, C, 1)
    dbias_ptr,  # da: [B, H, M] contiguous
    dv_ptr,  # dV: [B, H, M, C], strides (da_clip, da_head, C, 1)
    z_clip, z_region, z_row, g_clip, g_region, g_row, da_clip, da_head, tiles,
    M: tl.constexpr, S: tl.constexpr, HEADS: tl.constexpr, C: tl.constexpr, GROUPS: tl.constexpr, HB: tl.constexpr,
    MP: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, STAGES: tl.constexpr, WIDE: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0).to(tl.int64)
    COLUMNS: tl.constexpr = (C + COLS - 1) // COLS
    clip = pid // (COLUMNS * GROUPS)
    group = (pid // COLUMNS % GROUPS).to(tl.int32)
    at = (pid % COLUMNS).to(tl.int32) * COLS
    col = at + tl.arange(0, COLS)
    col_ok = _there(at, COLS, C)[None, :]
    key = tl.arange(0, HB * MP)
    z_ptr += clip * z_clip
    g_ptr += clip * g_clip
    p_ptr += clip * (M * S * GROUPS * HB * MP) + group * HB * MP
    dscore_ptr += clip * (M * S * GROUPS * HB * MP) + group * HB * MP
    low: tl.constexpr = p_ptr.dtype.element_ty
    kept: tl.constexpr = dscore_ptr.dtype.element_ty
    da = tl.zeros([HB * MP, COLS], dtype=ACC)
    dv = tl.zeros([HB * MP, COLS], dtype=ACC)
    for tile in tl.range(0, (M * S + ROWS - 1) // ROWS, num_stages=STAGES):
        row = tile * ROWS + tl.arange(0, ROWS)
        row_ok = row < M * S
        p_offset = (row * (GROUPS * HB * MP))[:, None] + key[None, :]
        dscore = tl.load(dscore_ptr + p_offset, mask=row_ok[:, None], other=0.0)
        # Rows 0 of z are not read: their scores have no gradient, but zero times what is not a number is not zero.
        z_offset = ((row // S) * z_region + (row % S) * z_row)[:, None] + col[None, :]
        x = tl.load(z_ptr + z_offset, mask=(row_ok & (row % S != 0))[:, None] & col_ok, other=0.0)
        if WIDE:
            mean = tl.load(mean_ptr + clip * (M * S) + row, mask=row_ok, other=0.0)
            x = (x.to(ACC) - mean[:, None]).to(low)
        da = tl.dot(tl.trans(dscore), x.to(kept), acc=da, out_dtype=ACC, input_precision=PRECISION)
        p = tl.load(p_ptr + p_offset, mask=row_ok[:, None], other=0.0)
        g_offset = ((row // S) * g_region + (row % S) * g_row)[:, None] + col[None, :]
        g = tl.load(g_ptr + g_offset, mask=row_ok[:, None] & col_ok, other=0.0)
        dv = tl.dot(tl.trans(p), g.to(low), acc=dv, out_dtype=ACC, input_precision=PRECISION)
    dbias = tl.zeros([HB * MP], dtype=ACC)
    for tile in range(0, tiles):
        sum_ptr = sums_ptr + (clip * tiles + tile) * (2 * GROUPS * HB * MP) + group * HB * MP + key
        dbias += tl.load(sum_ptr)
        if not WIDE:
            da -= tl.load(sum_ptr + GROUPS * HB * MP)[:, None]
    head, m = group * HB + key // MP, key % MP
    key_ok = (head < HEADS) & (m < M)
    # Heads lie as far apart as all clips' keys together.
    out_offset = clip * da_clip + head.to(tl.int64) * da_head + m * C
    out_mask = key_ok[:, None] & col_ok
    tl.store(da_ptr + out_offset[:, None] + col[None, :], da.to(da_ptr.dtype.element_ty), mask=out_mask)
    tl.store(dv_ptr + out_offset[:, None] + col[None, :], dv.to(dv_ptr.dtype.element_ty), mask=out_mask)
    if pid % COLUMNS == 0:
        tl.store(dbias_ptr + (clip * HEADS + head) * M + m, dbias.to(dbias_ptr.dtype.element_ty), mask=key_ok)
