"""Attention inside groups of few rows, forward and backward.

    out = softmax((q + q_bias) k^T / sqrt(D)) (v + v_bias)   for every group and head

(equation 2 of the paper, and the attention of equations 3 to 5 with other groups). Both biases may be left out: they
are those of a projection that was made without. Probabilities sum to one, so that v_bias is added to the result, and it
cancels in the gradient of the scores.

Shapes: G groups (B * M regions of B clips), NQ query and NK key rows a group (both S in self-attention), H heads,
D head dim, C = H * D. Queries, keys and values are read in place from the packed products [.., NQ, 3C] or [.., NQ, C]
and [.., NK, 2C]; results are written as [.., NQ, C], gradients into packed buffers of the inputs' shape.

All keys of a group fit one tile, so that each direction is one pass: no online softmax, no split over keys and no
atomic addition. Where all queries fit one too, the backward pass may hold them at once and take the keys in two halves,
which leaves registers for a second program. That of float32 is the exception: exact products take their operands from
registers, which do not hold such tiles, so that it goes over small blocks of keys, once for the queries and once for
the keys.
Groups of few rows share a tile, and a row sees the keys of its own group only. Nothing but the inputs is kept for the
backward pass: it forms the probabilities again. Scores, softmax and all sums are float32 (float64 for float64);
gradients of the biases are sums of each program, then of programs in a fixed order.

Programs go over groups from the last to the first. Products before and after go from the first to the last: each begins
with what the one before it left in the cache.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _is_there(row, first, num_groups, N: tl.constexpr, GROUPS: tl.constexpr):
    """Which rows of a program's GROUPS groups of N rows exist; there is a group for every program."""
    there = row < GROUPS * N
    if GROUPS > 1:
        there = there & (first + row // N < num_groups)
    return there


@triton.jit
def _load_rows(ptr, row, row_ok, col, col_ok, first, group_stride, row_stride, N: tl.constexpr, GROUPS: tl.constexpr):
    """Rows [BLOCK, BLOCK_D] of consecutive groups of N rows from group `first` on, zeros where there are none."""
    if GROUPS == 1:
        offset = first * group_stride + row.to(tl.int64) * row_stride
    else:
        offset = (first + row // N) * group_stride + (row % N).to(tl.int64) * row_stride
    return tl.load(ptr + offset[:, None] + col[None, :], mask=row_ok[:, None] & col_ok[None, :], other=0.0)


@triton.jit
def _load_queries(ptr, bias_ptr, row, row_ok, col, col_ok, first, group_stride, row_stride,
                  N: tl.constexpr, GROUPS: tl.constexpr, ACC: tl.constexpr):  # fmt: skip
    """The same plus a bias [D], where there is one; rows that do not exist are then the bias."""
    q = _load_rows(ptr, row, row_ok, col, col_ok, first, group_stride, row_stride, N, GROUPS)
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + col, mask=col_ok, other=0.0).to(ACC)
        q = (q.to(ACC) + bias[None, :]).to(q.dtype)
    return q


@triton.jit
def _store_rows(ptr, x, row, row_ok, col, col_ok, row_stride):
    """Write [BLOCK, BLOCK_D] to rows that follow each other, `ptr` at the first one, as wide numbers as `row` has."""
    offset = row[:, None] * row_stride + col[None, :]
    tl.store(ptr + offset, x.to(ptr.dtype.element_ty), mask=row_ok[:, None] & col_ok[None, :])


@triton.jit
def _add_rows(x, sums, ACC: tl.constexpr):
    """Add the sum of the rows of x [BLOCK, BLOCK_D] to each row of `sums`: a product, as a fold takes all warps."""
    ones = tl.full([sums.shape[0], x.shape[0]], 1.0, dtype=x.dtype)
    return tl.dot(ones, x, acc=sums, out_dtype=ACC)


@triton.jit
def _store_first_row(ptr, x, col, col_ok):
    """Write row 0 of x [ROWS, BLOCK_D]."""
    row = tl.arange(0, x.shape[0])[:, None]
    tl.store(ptr + row * 0 + col[None, :], x, mask=(row == 0) & col_ok[None, :])


@triton.jit
def _scores(q, k, row, row_ok, key, key_ok, NQ: tl.constexpr, NK: tl.constexpr, GROUPS: tl.constexpr,
            ACC: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """q k^T [BLOCK_Q, TILE_K], -inf for keys of other groups; rows without a group see every key."""
    scores = tl.dot(q, tl.trans(k), out_dtype=ACC, input_precision=PRECISION)
    seen = key_ok[None, :]
    if GROUPS > 1:
        # A row outside of all groups must stay finite: its zeros are added to gradients.
        same = (row // NQ)[:, None] == (key // NK)[None, :]
        seen = seen & (same | (row_ok == 0)[:, None])
    return tl.where(seen, scores, float("-inf"))


@triton.jit
def _probabilities(q, k, scale_log2, row, row_ok, key, key_ok, NQ: tl.constexpr, NK: tl.constexpr,
                   GROUPS: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """2^(scores - their maximum) [BLOCK_Q, TILE_K] and one over its row sums."""
    scores = _scores(q, k, row, row_ok, key, key_ok, NQ, NK, GROUPS, ACC, PRECISION)
    p = tl.exp2(scores * scale_log2 - (tl.max(scores, 1) * scale_log2)[:, None])
    return p, 1.0 / tl.sum(p, 1)


@triton.jit(do_not_specialize=["num_groups"])
def attention_fwd_kernel(
    q_ptr,  # [G, NQ, C], strides (q_group, q_row, 1)
    k_ptr,  # [G, NK, C], strides (kv_group, kv_row, 1)
    v_ptr,  # [G, NK, C], strides (kv_group, kv_row, 1)
    q_bias_ptr,  # [C], or None
    v_bias_ptr,  # [C], or None
    out_ptr,  # [G, NQ, C] contiguous
    q_group, q_row, kv_group, kv_row, scale_log2, num_groups,
    NQ: tl.constexpr, NK: tl.constexpr, HEADS: tl.constexpr, D: tl.constexpr,
    GROUPS: tl.constexpr, SPLITS: tl.constexpr, TILE_K: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_D: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    pid = (tl.num_programs(0) - 1 - tl.program_id(0)).to(tl.int64)
    head = pid % HEADS
    split = pid // HEADS % SPLITS
    first = pid // (HEADS * SPLITS) * GROUPS
    col = tl.arange(0, BLOCK_D)
    col_ok = col < D
    q_ptr, k_ptr, v_ptr, out_ptr = q_ptr + head * D, k_ptr + head * D, v_ptr + head * D, out_ptr + head * D
    if q_bias_ptr is not None:
        q_bias_ptr += head * D
    key = tl.arange(0, TILE_K)
    key_ok = _is_there(key, first, num_groups, NK, GROUPS)
    k = _load_rows(k_ptr, key, key_ok, col, col_ok, first, kv_group, kv_row, NK, GROUPS)  # [TILE_K, BLOCK_D]
    v = _load_rows(v_ptr, key, key_ok, col, col_ok, first, kv_group, kv_row, NK, GROUPS)  # [TILE_K, BLOCK_D]
    for block in range(0, tl.cdiv(GROUPS * NQ, SPLITS * BLOCK_Q)):
        row = (block * SPLITS + split) * BLOCK_Q + tl.arange(0, BLOCK_Q)
        row_ok = _is_there(row, first, num_groups, NQ, GROUPS)
        q = _load_queries(q_ptr, q_bias_ptr, row, row_ok, col, col_ok, first, q_group, q_row, NQ, GROUPS, ACC)
        p, inverse = _probabilities(q, k, scale_log2, row, row_ok, key, key_ok, NQ, NK, GROUPS, ACC, PRECISION)
        out = tl.dot(p.to(v.dtype), v, out_dtype=ACC, input_precision=PRECISION) * inverse[:, None]
        if v_bias_ptr is not None:
            # Probabilities sum to one.
            out += tl.load(v_bias_ptr + head * D + col, mask=col_ok, other=0.0).to(ACC)[None, :]
        _store_rows(out_ptr + first * NQ * HEADS * D, out, row.to(tl.int64), row_ok, col, col_ok, HEADS * D)


@triton.jit(do_not_specialize=["num_groups"])
def attention_bwd_kernel(
    q_ptr,  # [G, NQ, C], strides (q_group, q_row, 1)
    k_ptr,  # [G, NK, C], strides (kv_group, kv_row, 1)
    v_ptr,  # [G, NK, C], strides (kv_group, kv_row, 1)
    q_bias_ptr,  # [C], or None
    dout_ptr,  # [G, NQ, C], strides (dout_group, dout_row, 1)
    dq_ptr,  # [G, NQ, C], rows dq_row apart
    dk_ptr,  # [G, NK, C], rows dkv_row apart
    dv_ptr,  # [G, NK, C], rows dkv_row apart
    dbias_ptr,  # [programs / HEADS, 2, C]: gradients of both biases by one program of each head, or None
    q_group, q_row, kv_group, kv_row, dout_group, dout_row, dq_row, dkv_row, scale, scale_log2, num_groups,
    NQ: tl.constexpr, NK: tl.constexpr, HEADS: tl.constexpr, D: tl.constexpr,
    GROUPS: tl.constexpr, TILE_K: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_D: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    pid = (tl.num_programs(0) - 1 - tl.program_id(0)).to(tl.int64)
    head = pid % HEADS
    first = pid // HEADS * GROUPS
    col = tl.arange(0, BLOCK_D)
    col_ok = col < D
    q_ptr, k_ptr, v_ptr, dout_ptr = q_ptr + head * D, k_ptr + head * D, v_ptr + head * D, dout_ptr + head * D
    dq_ptr, dk_ptr, dv_ptr = dq_ptr + head * D, dk_ptr + head * D, dv_ptr + head * D
    if q_bias_ptr is not None:
        q_bias_ptr += head * D
    key = tl.arange(0, TILE_K)
    key_ok = _is_there(key, first, num_groups, NK, GROUPS)
    k = _load_rows(k_ptr, key, key_ok, col, col_ok, first, kv_group, kv_row, NK, GROUPS)  # [TILE_K, BLOCK_D]
    v = _load_rows(v_ptr, key, key_ok, col, col_ok, first, kv_group, kv_row, NK, GROUPS)  # [TILE_K, BLOCK_D]
    dk = tl.zeros([TILE_K, BLOCK_D], dtype=ACC)
    dv = tl.zeros([TILE_K, BLOCK_D], dtype=ACC)
    dq_bias = tl.zeros([16, BLOCK_D], dtype=ACC)
    dv_bias = tl.zeros([16, BLOCK_D], dtype=ACC)
    for start in range(0, GROUPS * NQ, BLOCK_Q):
        row = start + tl.arange(0, BLOCK_Q)
        row_ok = _is_there(row, first, num_groups, NQ, GROUPS)
        q = _load_queries(q_ptr, q_bias_ptr, row, row_ok, col, col_ok, first, q_group, q_row, NQ, GROUPS, ACC)
        dout = _load_rows(dout_ptr, row, row_ok, col, col_ok, first, dout_group, dout_row, NQ, GROUPS)
        p, inverse = _probabilities(q, k, scale_log2, row, row_ok, key, key_ok, NQ, NK, GROUPS, ACC, PRECISION)
        p *= inverse[:, None]  # [BLOCK_Q, TILE_K]
        dv += tl.dot(tl.trans(p.to(dout.dtype)), dout, out_dtype=ACC, input_precision=PRECISION)
        dp = tl.dot(dout, tl.trans(v), out_dtype=ACC, input_precision=PRECISION)
        ds = (p * (dp - tl.sum(p * dp, 1)[:, None])).to(q.dtype)
        dk += tl.dot(tl.trans(ds), q, out_dtype=ACC, input_precision=PRECISION)
        dq = (tl.dot(ds, k, out_dtype=ACC, input_precision=PRECISION) * scale).to(q.dtype)
        _store_rows(dq_ptr + first * NQ * dq_row, dq, row.to(tl.int64), row_ok, col, col_ok, dq_row)
        if dbias_ptr is not None:
            dq_bias, dv_bias = _add_rows(dq, dq_bias, ACC), _add_rows(dout, dv_bias, ACC)
    _store_rows(dk_ptr + first * NK * dkv_row, dk * scale, key.to(tl.int64), key_ok, col, col_ok, dkv_row)
    _store_rows(dv_ptr + first * NK * dkv_row, dv, key.to(tl.int64), key_ok, col, col_ok, dkv_row)
    if dbias_ptr is not None:
        dbias_ptr += (pid // HEADS * 2 * HEADS + head) * D
        _store_first_row(dbias_ptr, dq_bias, col, col_ok)
        _store_first_row(dbias_ptr + HEADS * D, dv_bias, col, col_ok)


@triton.jit
def _store_values_gradient(p, dout, ptr, key, key_ok, col, col_ok, dkv_row, ACC: tl.constexpr):
    """p^T dout for the keys of one half."""
    dv = tl.dot(tl.trans(p.to(dout.dtype)), dout, out_dtype=ACC)
    _store_rows(ptr, dv, key, key_ok, col, col_ok, dkv_row)


@triton.jit
def _through_scores(p, share, q, v, dout, ptr, key, key_ok, col, col_ok, dkv_row, scale, ACC: tl.constexpr):
    """ds [BLOCK_Q, BLOCK_K] of one half, whose gradient of the keys it writes."""
    dp = tl.dot(dout, tl.trans(v), acc=tl.zeros(p.shape, dtype=ACC) - share[:, None], out_dtype=ACC)
    ds = (p * dp).to(q.dtype)
    dk = tl.dot(tl.trans(ds), q, out_dtype=ACC) * scale
    _store_rows(ptr, dk, key, key_ok, col, col_ok, dkv_row)
    return ds


@triton.jit(do_not_specialize=["num_groups"])
def attention_bwd_halves_kernel(
    q_ptr,  # [G, NQ, C], strides (q_group, q_row, 1)
    k_ptr,  # [G, NK, C], strides (kv_group, kv_row, 1)
    v_ptr,  # [G, NK, C], strides (kv_group, kv_row, 1)
    q_bias_ptr,  # [C], or None
    dout_ptr,  # [G, NQ, C], strides (dout_group, dout_row, 1)
    dq_ptr,  # [G, NQ, C], rows dq_row apart
    dk_ptr,  # [G, NK, C], rows dkv_row apart
    dv_ptr,  # [G, NK, C], rows dkv_row apart
    dbias_ptr,  # [programs / HEADS, 2, C]: gradients of both biases by one program of each head, or None
    q_group, q_row, kv_group, kv_row, dout_group, dout_row, dq_row: tl.constexpr, dkv_row: tl.constexpr,
    scale, scale_log2, num_groups,
    NQ: tl.constexpr, NK: tl.constexpr, HEADS: tl.constexpr, D: tl.constexpr,
    GROUPS: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """All queries of one group at once, keys in two halves, so that two programs fit the registers.

    dp is computed twice: a row's mean of it comes from both halves, of which not both can be kept.
    """
    pid = (tl.num_programs(0) - 1 - tl.program_id(0)).to(tl.int64)
    head = pid % HEADS
    group = pid // HEADS
    col = tl.arange(0, BLOCK_D)
    col_ok = col < D
    q_ptr, k_ptr, v_ptr, dout_ptr = q_ptr + head * D, k_ptr + head * D, v_ptr + head * D, dout_ptr + head * D
    dq_ptr += group * NQ * dq_row + head * D
    dk_ptr += group * NK * dkv_row + head * D
    dv_ptr += group * NK * dkv_row + head * D
    if q_bias_ptr is not None:
        q_bias_ptr += head * D
    if dbias_ptr is not None:
        dbias_ptr += (group * 2 * HEADS + head) * D
    row = tl.arange(0, BLOCK_Q)
    row_ok = row < NQ
    key1, key2 = tl.arange(0, BLOCK_K), BLOCK_K + tl.arange(0, BLOCK_K)
    ok1, ok2 = key1 < NK, key2 < NK
    q = _load_queries(q_ptr, q_bias_ptr, row, row_ok, col, col_ok, group, q_group, q_row, NQ, GROUPS, ACC)
    k1 = _load_rows(k_ptr, key1, ok1, col, col_ok, group, kv_group, kv_row, NK, GROUPS)  # [BLOCK_K, BLOCK_D]
    k2 = _load_rows(k_ptr, key2, ok2, col, col_ok, group, kv_group, kv_row, NK, GROUPS)
    dout = _load_rows(dout_ptr, row, row_ok, col, col_ok, group, dout_group, dout_row, NQ, GROUPS)
    v1 = _load_rows(v_ptr, key1, ok1, col, col_ok, group, kv_group, kv_row, NK, GROUPS)
    v2 = _load_rows(v_ptr, key2, ok2, col, col_ok, group, kv_group, kv_row, NK, GROUPS)
    if dbias_ptr is not None:
        dv_bias = _add_rows(dout, tl.zeros([16, BLOCK_D], dtype=ACC), ACC)
        _store_first_row(dbias_ptr + HEADS * D, dv_bias, col, col_ok)
    s1 = _scores(q, k1, row, row_ok, key1, ok1, NQ, NK, GROUPS, ACC, PRECISION)
    s2 = _scores(q, k2, row, row_ok, key2, ok2, NQ, NK, GROUPS, ACC, PRECISION)
    peak = tl.maximum(tl.max(s1, 1), tl.max(s2, 1)) * scale_log2
    p1 = tl.exp2(s1 * scale_log2 - peak[:, None])
    p2 = tl.exp2(s2 * scale_log2 - peak[:, None])
    total2 = tl.sum(p2, 1)
    inverse = 1.0 / (tl.sum(p1, 1) + total2)
    p1 *= inverse[:, None]
    p2 *= inverse[:, None]
    _store_values_gradient(p1, dout, dv_ptr, key1, ok1, col, col_ok, dkv_row, ACC)
    _store_values_gradient(p2, dout, dv_ptr, key2, ok2, col, col_ok, dkv_row, ACC)
    # The barrier, and beginning with the first half's share, keep steps apart in time, and so in registers.
    tl.debug_barrier()
    share = tl.sum(p1 * tl.dot(dout, tl.trans(v1), out_dtype=ACC), 1)
    dp = tl.dot(dout, tl.trans(v2), acc=tl.zeros(p2.shape, dtype=ACC) - share[:, None], out_dtype=ACC)
    share += share * total2 * inverse + tl.sum(p2 * dp, 1)
    ds = _through_scores(p1, share, q, v1, dout, dk_ptr, key1, ok1, col, col_ok, dkv_row, scale, ACC)
    dq = tl.dot(ds, k1, out_dtype=ACC)
    ds = _through_scores(p2, share, q, v2, dout, dk_ptr, key2, ok2, col, col_ok, dkv_row, scale, ACC)
    dq = (tl.dot(ds, k2, acc=dq, out_dtype=ACC) * scale).to(q.dtype)
    _store_rows(dq_ptr, dq, row, row_ok, col, col_ok, dq_row)
    if dbias_ptr is not None:
        dq_bias = _add_rows(dq, tl.zeros([16, BLOCK_D], dtype=ACC), ACC)
        _store_first_row(dbias_ptr, dq_bias, col, col_ok)


@triton.jit(do_not_specialize=["num_groups"])
def attention_bwd_rows_kernel(
    q_ptr,  # [G, NQ, C], strides (q_group, q_row, 1)
    k_ptr,  # [G, NK, C], strides (kv_group, kv_row, 1)
    v_ptr,  # [G, NK, C], strides (kv_group, kv_row, 1)
    q_bias_ptr,  # [C], or None
    dout_ptr,  # [G, NQ, C], strides (dout_group, dout_row, 1)
    dq_ptr,  # [G, NQ, C], rows dq_row apart
    sums_ptr,  # [G, NQ, HEADS, 2] contiguous: log2 of a row's sum of 2^scores, and sum of p * dp
    dbias_ptr,  # [programs / HEADS, 2, C]: gradients of both biases by one program of each head, or None
    q_group, q_row, kv_group, kv_row, dout_group, dout_row, dq_row, scale, scale_log2, num_groups,
    NQ: tl.constexpr, NK: tl.constexpr, HEADS: tl.constexpr, D: tl.constexpr, GROUPS: tl.constexpr,
    BLOCKS: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    pid = (tl.num_programs(0) - 1 - tl.program_id(0)).to(tl.int64)
    head = pid % HEADS
    first = pid // (HEADS * BLOCKS) * GROUPS
    col = tl.arange(0, BLOCK_D)
    col_ok = col < D
    q_ptr, k_ptr, v_ptr, dout_ptr = q_ptr + head * D, k_ptr + head * D, v_ptr + head * D, dout_ptr + head * D
    if q_bias_ptr is not None:
        q_bias_ptr += head * D
    row = (pid // HEADS % BLOCKS).to(tl.int32) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    row_ok = _is_there(row, first, num_groups, NQ, GROUPS)
    # Finite, as a block may hold no key of a row's group.
    peak = tl.full([BLOCK_Q], -3.0e38, dtype=ACC)
    total = tl.zeros([BLOCK_Q], dtype=ACC)
    share = tl.zeros([BLOCK_Q], dtype=ACC)
    for start in range(0, GROUPS * NK, BLOCK_K):
        # Loaded again for each block of keys: operands of exact products that do not change would stay in registers.
        q = _load_queries(q_ptr, q_bias_ptr, row, row_ok, col, col_ok, first, q_group, q_row, NQ, GROUPS, ACC)
        dout = _load_rows(dout_ptr, row, row_ok, col, col_ok, first, dout_group, dout_row, NQ, GROUPS)
        key = start + tl.arange(0, BLOCK_K)
        key_ok = _is_there(key, first, num_groups, NK, GROUPS)
        k = _load_rows(k_ptr, key, key_ok, col, col_ok, first, kv_group, kv_row, NK, GROUPS)  # [BLOCK_K, BLOCK_D]
        v = _load_rows(v_ptr, key, key_ok, col, col_ok, first, kv_group, kv_row, NK, GROUPS)  # [BLOCK_K, BLOCK_D]
        scores = _scores(q, k, row, row_ok, key, key_ok, NQ, NK, GROUPS, ACC, PRECISION) * scale_log2
        dp = tl.dot(dout, tl.trans(v), out_dtype=ACC, input_precision=PRECISION)
        higher = tl.maximum(peak, tl.max(scores, 1))
        p = tl.exp2(scores - higher[:, None])
        shrink = tl.exp2(peak - higher)
        total = total * shrink + tl.sum(p, 1)
        share = share * shrink + tl.sum(p * dp, 1)
        peak = higher
    log_total = peak + tl.log2(total)
    share = share / total
    sums_offset = ((first * NQ + row) * HEADS + head) * 2
    tl.store(sums_ptr + sums_offset, log_total, mask=row_ok)
    tl.store(sums_ptr + sums_offset + 1, share, mask=row_ok)
    dq = tl.zeros([BLOCK_Q, BLOCK_D], dtype=ACC)
    for start in range(0, GROUPS * NK, BLOCK_K):
        q = _load_queries(q_ptr, q_bias_ptr, row, row_ok, col, col_ok, first, q_group, q_row, NQ, GROUPS, ACC)
        dout = _load_rows(dout_ptr, row, row_ok, col, col_ok, first, dout_group, dout_row, NQ, GROUPS)
        key = start + tl.arange(0, BLOCK_K)
        key_ok = _is_there(key, first, num_groups, NK, GROUPS)
        k = _load_rows(k_ptr, key, key_ok, col, col_ok, first, kv_group, kv_row, NK, GROUPS)
        v = _load_rows(v_ptr, key, key_ok, col, col_ok, first, kv_group, kv_row, NK, GROUPS)
        scores = _scores(q, k, row, row_ok, key, key_ok, NQ, NK, GROUPS, ACC, PRECISION) * scale_log2
        dp = tl.dot(dout, tl.trans(v), out_dtype=ACC, input_precision=PRECISION)
        ds = tl.exp2(scores - log_total[:, None]) * (dp - share[:, None])
        dq += tl.dot(ds.to(k.dtype), k, out_dtype=ACC, input_precision=PRECISION)
    dq *= scale
    _store_rows(dq_ptr + first * NQ * dq_row + head * D, dq, row.to(tl.int64), row_ok, col, col_ok, dq_row)
    if dbias_ptr is not None:
        dout = _load_rows(dout_ptr, row, row_ok, col, col_ok, first, dout_group, dout_row, NQ, GROUPS)
        dbias_ptr += (pid // HEADS * 2 * HEADS + head) * D + col
        tl.store(dbias_ptr, tl.sum(dq, 0), mask=col_ok)
        tl.store(dbias_ptr + HEADS * D, tl.sum(dout, 0), mask=col_ok)


@triton.jit(do_not_specialize=["num_groups"])
def attention_bwd_keys_kernel(
    q_ptr,  # [G, NQ, C], strides (q_group, q_row, 1)
    k_ptr,  # [G, NK, C], strides (kv_group, kv_row, 1)
    v_ptr,  # [G, NK, C], strides (kv_group, kv_row, 1)
    q_bias_ptr,  # [C], or None
    dout_ptr,  # [G, NQ, C], strides (dout_group, dout_row, 1)
    sums_ptr,  # [G, NQ, HEADS, 2] contiguous, of attention_bwd_rows_kernel
    dk_ptr,  # [G, NK, C], rows dkv_row apart
    dv_ptr,  # [G, NK, C], rows dkv_row apart
    q_group, q_row, kv_group, kv_row, dout_group, dout_row, dkv_row, scale, scale_log2, num_groups,
    NQ: tl.constexpr, NK: tl.constexpr, HEADS: tl.constexpr, D: tl.constexpr, GROUPS: tl.constexpr,
    BLOCKS: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    pid = (tl.num_programs(0) - 1 - tl.program_id(0)).to(tl.int64)
    head = pid % HEADS
    first = pid // (HEADS * BLOCKS) * GROUPS
    col = tl.arange(0, BLOCK_D)
    col_ok = col < D
    q_ptr, k_ptr, v_ptr, dout_ptr = q_ptr + head * D, k_ptr + head * D, v_ptr + head * D, dout_ptr + head * D
    if q_bias_ptr is not None:
        q_bias_ptr += head * D
    key = (pid // HEADS % BLOCKS).to(tl.int32) * BLOCK_K + tl.arange(0, BLOCK_K)
    key_ok = _is_there(key, first, num_groups, NK, GROUPS)
    dk = tl.zeros([BLOCK_K, BLOCK_D], dtype=ACC)
    dv = tl.zeros([BLOCK_K, BLOCK_D], dtype=ACC)
    for start in range(0, GROUPS * NQ, BLOCK_Q):
        k = _load_rows(k_ptr, key, key_ok, col, col_ok, first, kv_group, kv_row, NK, GROUPS)  # [BLOCK_K, BLOCK_D]
        v = _load_rows(v_ptr, key, key_ok, col, col_ok, first, kv_group, kv_row, NK, GROUPS)  # [BLOCK_K, BLOCK_D]
        row = start + tl.arange(0, BLOCK_Q)
        row_ok = _is_there(row, first, num_groups, NQ, GROUPS)
        q = _load_queries(q_ptr, q_bias_ptr, row, row_ok, col, col_ok, first, q_group, q_row, NQ, GROUPS, ACC)
        dout = _load_rows(dout_ptr, row, row_ok, col, col_ok, first, dout_group, dout_row, NQ, GROUPS)
        sums_offset = ((first * NQ + row) * HEADS + head) * 2
        # Rows without a group have no probabilities.
        log_total = tl.load(sums_ptr + sums_offset, mask=row_ok, other=float("inf"))
        share = tl.load(sums_ptr + sums_offset + 1, mask=row_ok, other=0.0)
        scores = _scores(q, k, row, row_ok, key, key_ok, NQ, NK, GROUPS, ACC, PRECISION) * scale_log2
        p = tl.exp2(scores - log_total[:, None])  # [BLOCK_Q, BLOCK_K]
        dv += tl.dot(tl.trans(p.to(dout.dtype)), dout, out_dtype=ACC, input_precision=PRECISION)
        dp = tl.dot(dout, tl.trans(v), out_dtype=ACC, input_precision=PRECISION)
        ds = (p * (dp - share[:, None])).to(q.dtype)
        dk += tl.dot(tl.trans(ds), q, out_dtype=ACC, input_precision=PRECISION)
    offset = first * NK * dkv_row + head * D
    _store_rows(dk_ptr + offset, dk * scale, key.to(tl.int64), key_ok, col, col_ok, dkv_row)
    _store_rows(dv_ptr + offset, dv, key.to(tl.int64), key_ok, col, col_ok, dkv_row)
