"""Folding the projections of the interaction into its keys and values, and its gradients; formulas are in folding.py.

With k and v the keys and values (v without its bias bv), Q_h = k_h Wq_h and u_h = Wq_h b + bq_h:

    A_h = scale * g * Q_h;   a_h = scale * k_h . u_h;   V_h = keep * ((v_h + bv_h) Wo_h^T + bo / H)

    dk_h = scale * (dA_h (g * Wq_h)^T + da_h u_h);   dv_h = keep * dV_h Wo_h
    G_h = k_h^T dA_h;   t_h = k_h^T da_h;   f_h = sum of keep * dV_h over the rows
    dWq_h = scale * (g * G_h + t_h b^T);   dbq_h = scale * t_h
    dg = scale * sum of Wq * G over all rows of Wq;   db = scale * Wq^T t
    dWo_h = dV_h^T (keep * (v_h + bv_h));   dbo = sum of f_h / H over the heads;   dbv_h = f_h Wo_h

Shapes: B clips, M keys a clip, R = B * M rows, H heads of D channels, C = H * D. Wq_h [D, C] are rows and Wo_h [C, D]
columns of the weights, which are read where they lie, in whatever dtype they have, and rounded to that of the products
in registers. Channels of a head are taken BLOCK_D at once, in CHUNKS.

Kept for the backward pass: the inputs. Its one pass has a program for each tile of dk and dv, and for each tile of the
weights' gradients, which goes over all rows in order; sums that more than one of those has a part in (dg, db, dbo and
dbv) are added up by a second kernel. u, t, f and all sums are float32 (float64 for float64); nothing is added
atomically.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _clip_rows(row, clip_stride, key_stride, M: tl.constexpr):
    """Where rows of all clips' keys begin."""
    return (row // M).to(tl.int64) * clip_stride + (row % M).to(tl.int64) * key_stride


@triton.jit
def _tile(ptr, row_offset, row_ok, col, col_ok):
    """[rows, columns] of a matrix with adjacent columns; zero outside of it."""
    return tl.load(ptr + row_offset[:, None] + col[None, :], mask=row_ok[:, None] & col_ok[None, :], other=0.0)


@triton.jit
def _vector(ptr, place, ok, absent: tl.constexpr, SIZE: tl.constexpr, ACC: tl.constexpr):
    """[SIZE] of a vector, or of what stands for one that is not there."""
    if ptr is None:
        return tl.full([SIZE], absent, dtype=ACC)
    else:
        return tl.load(ptr + place, mask=ok, other=0.0).to(ACC)


@triton.jit
def _query_shift(wq_ptr, b_ptr, bq_ptr, wq_row, channel, channel_ok, C: tl.constexpr, BLOCK_D: tl.constexpr,
                 BLOCK_COL: tl.constexpr, ACC: tl.constexpr):  # fmt: skip
    """u of some channels [BLOCK_D]."""
    weighted = tl.zeros([BLOCK_D, BLOCK_COL], dtype=ACC)
    for start in range(0, C, BLOCK_COL):
        col = start + tl.arange(0, BLOCK_COL)
        b = _vector(b_ptr, col, col < C, 0.0, BLOCK_COL, ACC)
        weighted += _tile(wq_ptr, channel * wq_row, channel_ok, col, col < C).to(ACC) * b[None, :]
    return tl.sum(weighted, 1) + _vector(bq_ptr, channel, channel_ok, 0.0, BLOCK_D, ACC)


@triton.jit(do_not_specialize=["rows"])
def fold_fwd_kernel(
    kv_ptr,  # [B, M, 2C], strides (kv_clip, kv_key, 1)
    bv_ptr,  # [C] or None
    g_ptr,  # [C]
    b_ptr,  # [C]
    wq_ptr,  # [C, C], strides (wq_row, 1)
    bq_ptr,  # [C] or None
    wo_ptr,  # [C, C], strides (wo_row, 1)
    bo_ptr,  # [C] or None
    keep_ptr,  # [B] or None
    a_ptr,  # A: [H, R, C] contiguous
    offset_ptr,  # a: [H, R] contiguous
    v_ptr,  # V: [H, R, C] contiguous
    kv_clip, kv_key, wq_row, wo_row, rows,
    M: tl.constexpr, HEADS: tl.constexpr, D: tl.constexpr, C: tl.constexpr, SCALE: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_COL: tl.constexpr, BLOCK_D: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A program for each tile of a, of A and of V, in this order."""
    pid = tl.program_id(0)
    tiles = tl.cdiv(rows, BLOCK)
    row = pid % tiles * BLOCK + tl.arange(0, BLOCK)
    head = pid // tiles % HEADS
    part = pid // (tiles * HEADS)
    row_ok = row < rows
    kv_row = _clip_rows(row, kv_clip, kv_key, M)
    low = a_ptr.dtype.element_ty
    if part == 0:
        offset = tl.zeros([BLOCK], dtype=ACC)
        for start in range(0, D, BLOCK_D):
            inner = start + tl.arange(0, BLOCK_D)
            channel = head * D + inner
            shift = _query_shift(wq_ptr, b_ptr, bq_ptr, wq_row, channel, inner < D, C, BLOCK_D, BLOCK_COL, ACC)
            k = _tile(kv_ptr, kv_row, row_ok, channel, inner < D).to(ACC)
            offset += tl.sum(k * shift[None, :], 1)
        tl.store(offset_ptr + head.to(tl.int64) * rows + row, offset * SCALE, mask=row_ok)
    else:
        COLUMNS: tl.constexpr = (C + BLOCK_COL - 1) // BLOCK_COL
        col = (part - 1) % COLUMNS * BLOCK_COL + tl.arange(0, BLOCK_COL)
        col_ok = col < C
        out = (head.to(tl.int64) * rows + row)[:, None] * C + col[None, :]
        mask = row_ok[:, None] & col_ok[None, :]
        acc = tl.zeros([BLOCK, BLOCK_COL], dtype=ACC)
        if part <= COLUMNS:
            for start in range(0, D, BLOCK_D):
                inner = start + tl.arange(0, BLOCK_D)
                channel = head * D + inner
                k = _tile(kv_ptr, kv_row, row_ok, channel, inner < D).to(low)
                wq = _tile(wq_ptr, channel * wq_row, inner < D, col, col_ok).to(low)
                acc += tl.dot(k, wq, out_dtype=ACC, input_precision=PRECISION)
            g = _vector(g_ptr, col, col_ok, 1.0, BLOCK_COL, ACC)
            tl.store(a_ptr + out, (acc * (g * SCALE)[None, :]).to(low), mask=mask)
        else:
            for start in range(0, D, BLOCK_D):
                inner = start + tl.arange(0, BLOCK_D)
                channel = head * D + inner
                bv = _vector(bv_ptr, channel, inner < D, 0.0, BLOCK_D, ACC)
                v = _tile(kv_ptr, kv_row, row_ok, C + channel, inner < D).to(ACC) + bv[None, :]
                wo = _tile(wo_ptr, col * wo_row, col_ok, channel, inner < D).to(low)
                acc += tl.dot(v.to(low), tl.trans(wo), out_dtype=ACC, input_precision=PRECISION)
            bo = _vector(bo_ptr, col, col_ok, 0.0, BLOCK_COL, ACC)
            keep = _vector(keep_ptr, row // M, row_ok, 1.0, BLOCK, ACC)
            tl.store(v_ptr + out, ((acc + (bo / HEADS)[None, :]) * keep[:, None]).to(low), mask=mask)


@triton.jit
def _key_rows(da_ptr, doffset_ptr, g_ptr, b_ptr, wq_ptr, bq_ptr, da_clip, da_key, doffset_clip, doffset_key, wq_row,
              row, row_ok, channel, channel_ok, M: tl.constexpr, C: tl.constexpr, SCALE: tl.constexpr,
              BLOCK: tl.constexpr, BLOCK_COL: tl.constexpr, BLOCK_D: tl.constexpr, ACC: tl.constexpr,
              PRECISION: tl.constexpr):  # fmt: skip
    """dk of some rows and channels [BLOCK, BLOCK_D]; dA and da are those of the head."""
    low = da_ptr.dtype.element_ty
    dk = tl.zeros([BLOCK, BLOCK_D], dtype=ACC)
    weighted = tl.zeros([BLOCK_D, BLOCK_COL], dtype=ACC)
    da_row = _clip_rows(row, da_clip, da_key, M)
    for start in range(0, C, BLOCK_COL):
        col = start + tl.arange(0, BLOCK_COL)
        da = _tile(da_ptr, da_row, row_ok, col, col < C)
        wq = _tile(wq_ptr, channel * wq_row, channel_ok, col, col < C).to(ACC)
        g = _vector(g_ptr, col, col < C, 1.0, BLOCK_COL, ACC)
        dk += tl.dot(da, tl.trans((wq * g[None, :]).to(low)), out_dtype=ACC, input_precision=PRECISION)
        weighted += wq * _vector(b_ptr, col, col < C, 0.0, BLOCK_COL, ACC)[None, :]
    shift = tl.sum(weighted, 1) + _vector(bq_ptr, channel, channel_ok, 0.0, BLOCK_D, ACC)
    doffset = tl.load(doffset_ptr + _clip_rows(row, doffset_clip, doffset_key, M), mask=row_ok, other=0.0).to(ACC)
    return (dk + doffset[:, None] * shift[None, :]) * SCALE


@triton.jit
def _value_rows(dv_ptr, wo_ptr, keep_ptr, dv_clip, dv_key, wo_row, row, row_ok, channel, channel_ok,
                M: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr, BLOCK_COL: tl.constexpr, BLOCK_D: tl.constexpr,
                ACC: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """dv of some rows and channels [BLOCK, BLOCK_D]; dV is that of the head."""
    out = tl.zeros([BLOCK, BLOCK_D], dtype=ACC)
    dv_row = _clip_rows(row, dv_clip, dv_key, M)
    for start in range(0, C, BLOCK_COL):
        col = start + tl.arange(0, BLOCK_COL)
        dv = _tile(dv_ptr, dv_row, row_ok, col, col < C)
        wo = _tile(wo_ptr, col * wo_row, col < C, channel, channel_ok).to(dv.dtype)
        out += tl.dot(dv, wo, out_dtype=ACC, input_precision=PRECISION)
    return out * _vector(keep_ptr, row // M, row_ok, 1.0, BLOCK, ACC)[:, None]


@triton.jit
def _query_products(da_ptr, doffset_ptr, kv_ptr, da_clip, da_key, doffset_clip, doffset_key, kv_clip, kv_key, rows,
                    channel, channel_ok, col, M: tl.constexpr, C: tl.constexpr,
                    BLOCK: tl.constexpr, BLOCK_COL: tl.constexpr, BLOCK_D: tl.constexpr, ACC: tl.constexpr,
                    PRECISION: tl.constexpr):  # fmt: skip
    """G [BLOCK_D, BLOCK_COL] and t [BLOCK_D] of some channels and columns."""
    product = tl.zeros([BLOCK_D, BLOCK_COL], dtype=ACC)
    weighted = tl.zeros([BLOCK, BLOCK_D], dtype=ACC)
    for start in range(0, rows, BLOCK):
        row = start + tl.arange(0, BLOCK)
        row_ok = row < rows
        k = _tile(kv_ptr, _clip_rows(row, kv_clip, kv_key, M), row_ok, channel, channel_ok)
        da = _tile(da_ptr, _clip_rows(row, da_clip, da_key, M), row_ok, col, col < C)
        product += tl.dot(tl.trans(k.to(da.dtype)), da, out_dtype=ACC, input_precision=PRECISION)
        doffset = tl.load(doffset_ptr + _clip_rows(row, doffset_clip, doffset_key, M), mask=row_ok, other=0.0).to(ACC)
        weighted += k.to(ACC) * doffset[:, None]
    return product, tl.sum(weighted, 0)


@triton.jit
def _output_products(dv_ptr, kv_ptr, bv_ptr, keep_ptr, dv_clip, dv_key, kv_clip, kv_key, rows, channel, channel_ok,
                     col, M: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr, BLOCK_COL: tl.constexpr,
                     BLOCK_D: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """dWo [BLOCK_COL, BLOCK_D] and f [BLOCK_COL] of some columns and channels."""
    product = tl.zeros([BLOCK_COL, BLOCK_D], dtype=ACC)
    weighted = tl.zeros([BLOCK, BLOCK_COL], dtype=ACC)
    bv = _vector(bv_ptr, channel, channel_ok, 0.0, BLOCK_D, ACC)
    for start in range(0, rows, BLOCK):
        row = start + tl.arange(0, BLOCK)
        row_ok = row < rows
        keep = _vector(keep_ptr, row // M, row_ok, 1.0, BLOCK, ACC)[:, None]
        v = _tile(kv_ptr, _clip_rows(row, kv_clip, kv_key, M), row_ok, C + channel, channel_ok).to(ACC)
        dv = _tile(dv_ptr, _clip_rows(row, dv_clip, dv_key, M), row_ok, col, col < C)
        v = ((v + bv[None, :]) * keep).to(dv.dtype)
        product += tl.dot(tl.trans(dv), v, out_dtype=ACC, input_precision=PRECISION)
        weighted += dv.to(ACC) * keep
    return product, tl.sum(weighted, 0)


@triton.jit(do_not_specialize=["doffset_clip", "doffset_head", "doffset_key", "rows", "row_programs"])
def fold_bwd_kernel(
    da_ptr,  # dA: [B, H, M, C], strides (da_clip, da_head, da_key, 1)
    doffset_ptr,  # da: [B, H, M], strides (doffset_clip, doffset_head, doffset_key)
    dv_ptr,  # dV: [B, H, M, C], strides (dv_clip, dv_head, dv_key, 1)
    kv_ptr,  # [B, M, 2C], strides (kv_clip, kv_key, 1)
    bv_ptr,  # [C] or None
    g_ptr,  # [C]
    b_ptr,  # [C]
    wq_ptr,  # [C, C], strides (wq_row, 1)
    bq_ptr,  # [C] or None
    wo_ptr,  # [C, C], strides (wo_row, 1)
    keep_ptr,  # [B] or None
    dkv_ptr,  # [R, 2C] contiguous
    dwq_ptr,  # [C, C] contiguous, or None
    dbq_ptr,  # [C] or None
    dwo_ptr,  # [C, C] contiguous, or None
    sums_ptr,  # [2 * H * CHUNKS + H + COLUMNS, C] parts of dg, db, dbo and dbv, or None
    da_clip, da_head, da_key, doffset_clip, doffset_head, doffset_key, dv_clip, dv_head, dv_key,
    kv_clip, kv_key, wq_row, wo_row, rows, row_programs,
    M: tl.constexpr, HEADS: tl.constexpr, D: tl.constexpr, C: tl.constexpr, SCALE: tl.constexpr,
    QUERY: tl.constexpr, BLOCK: tl.constexpr, BLOCK_COL: tl.constexpr, BLOCK_D: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """`row_programs` for tiles of dk and dv, then those for the query's weights, if QUERY, and for the output's."""
    COLUMNS: tl.constexpr = (C + BLOCK_COL - 1) // BLOCK_COL
    CHUNKS: tl.constexpr = (D + BLOCK_D - 1) // BLOCK_D
    pid = tl.program_id(0)
    of_rows = pid < row_programs
    if not of_rows:
        pid -= row_programs
    chunk = pid % (HEADS * CHUNKS)
    head = chunk // CHUNKS
    inner = chunk % CHUNKS * BLOCK_D + tl.arange(0, BLOCK_D)
    channel, channel_ok = head * D + inner, inner < D
    place = pid // (HEADS * CHUNKS)
    da_ptr += head.to(tl.int64) * da_head
    dv_ptr += head.to(tl.int64) * dv_head
    doffset_ptr += head.to(tl.int64) * doffset_head
    if of_rows:
        if dkv_ptr is not None:
            tiles = tl.cdiv(rows, BLOCK)
            row = place % tiles * BLOCK + tl.arange(0, BLOCK)
            row_ok = row < rows
            dkv_out = dkv_ptr + row.to(tl.int64)[:, None] * (2 * C) + channel[None, :]
            dkv_ok = row_ok[:, None] & channel_ok[None, :]
            if place < tiles:
                dk = _key_rows(
                    da_ptr, doffset_ptr, g_ptr, b_ptr, wq_ptr, bq_ptr, da_clip, da_key, doffset_clip, doffset_key,
                    wq_row, row, row_ok, channel, channel_ok, M, C, SCALE, BLOCK, BLOCK_COL, BLOCK_D, ACC, PRECISION,
                )  # fmt: skip
                tl.store(dkv_out, dk.to(dkv_ptr.dtype.element_ty), mask=dkv_ok)
            else:
                dv = _value_rows(
                    dv_ptr, wo_ptr, keep_ptr, dv_clip, dv_key, wo_row, row, row_ok, channel, channel_ok, M, C,
                    BLOCK, BLOCK_COL, BLOCK_D, ACC, PRECISION,
                )  # fmt: skip
                tl.store(dkv_out + C, dv.to(dkv_ptr.dtype.element_ty), mask=dkv_ok)
    else:
        column = place % COLUMNS
        col = column * BLOCK_COL + tl.arange(0, BLOCK_COL)
        col_ok = col < C
        if QUERY and place < COLUMNS:
            product, total = _query_products(
                da_ptr, doffset_ptr, kv_ptr, da_clip, da_key, doffset_clip, doffset_key, kv_clip, kv_key, rows,
                channel, channel_ok, col, M, C, BLOCK, BLOCK_COL, BLOCK_D, ACC, PRECISION,
            )  # fmt: skip
            if dwq_ptr is not None:
                g = _vector(g_ptr, col, col_ok, 1.0, BLOCK_COL, ACC)
                b = _vector(b_ptr, col, col_ok, 0.0, BLOCK_COL, ACC)
                dwq = (product * g[None, :] + total[:, None] * b[None, :]) * SCALE
                dwq_out = dwq_ptr + channel[:, None] * C + col[None, :]
                tl.store(dwq_out, dwq.to(dwq_ptr.dtype.element_ty), mask=channel_ok[:, None] & col_ok[None, :])
            if dbq_ptr is not None:
                dbq = (total * SCALE).to(dbq_ptr.dtype.element_ty)
                tl.store(dbq_ptr + channel, dbq, mask=channel_ok & (column == 0))
            if sums_ptr is not None:
                wq = _tile(wq_ptr, channel * wq_row, channel_ok, col, col_ok).to(ACC) * SCALE
                tl.store(sums_ptr + chunk * C + col, tl.sum(wq * product, 0), mask=col_ok)
                tl.store(sums_ptr + (HEADS * CHUNKS + chunk) * C + col, tl.sum(wq * total[:, None], 0), mask=col_ok)
        else:
            dwo, shared = _output_products(
                dv_ptr, kv_ptr, bv_ptr, keep_ptr, dv_clip, dv_key, kv_clip, kv_key, rows, channel, channel_ok, col,
                M, C, BLOCK, BLOCK_COL, BLOCK_D, ACC, PRECISION,
            )  # fmt: skip
            if dwo_ptr is not None:
                dwo_out = dwo_ptr + col[:, None] * C + channel[None, :]
                tl.store(dwo_out, dwo.to(dwo_ptr.dtype.element_ty), mask=col_ok[:, None] & channel_ok[None, :])
            if sums_ptr is not None:
                rest_ptr = sums_ptr + 2 * HEADS * CHUNKS * C
                tl.store(rest_ptr + head * C + col, shared / HEADS, mask=col_ok & (chunk % CHUNKS == 0))
                wo = _tile(wo_ptr, col * wo_row, col_ok, channel, channel_ok).to(ACC)
                tl.store(rest_ptr + (HEADS + column) * C + channel, tl.sum(wo * shared[:, None], 0), mask=channel_ok)


@triton.jit
def fold_sums_kernel(
    sums_ptr,  # [2 * CHUNKS + HEADS + COLUMNS, C] as fold_bwd_kernel has them
    dg_ptr,  # [C] or None
    db_ptr,  # [C] or None
    dbo_ptr,  # [C] or None
    dbv_ptr,  # [C] or None
    C: tl.constexpr, CHUNKS: tl.constexpr, HEADS: tl.constexpr, COLUMNS: tl.constexpr, MOST: tl.constexpr,
    BLOCK_COL: tl.constexpr,
):  # fmt: skip
    """Add up the parts of each vector; CHUNKS are those of all heads."""
    col = tl.program_id(0) * BLOCK_COL + tl.arange(0, BLOCK_COL)
    _add_up(sums_ptr, dg_ptr, col, CHUNKS, C, MOST)
    _add_up(sums_ptr + CHUNKS * C, db_ptr, col, CHUNKS, C, MOST)
    _add_up(sums_ptr + 2 * CHUNKS * C, dbo_ptr, col, HEADS, C, MOST)
    _add_up(sums_ptr + (2 * CHUNKS + HEADS) * C, dbv_ptr, col, COLUMNS, C, MOST)


@triton.jit
def _add_up(parts_ptr, out_ptr, col, COUNT: tl.constexpr, C: tl.constexpr, MOST: tl.constexpr):
    if out_ptr is not None:
        part = tl.arange(0, MOST)
        total = tl.sum(_tile(parts_ptr, part * C, part < COUNT, col, col < C), 0)
        tl.store(out_ptr + col, total.to(out_ptr.dtype.element_ty), mask=col < C)
