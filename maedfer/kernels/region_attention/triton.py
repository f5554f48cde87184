"""Attention inside groups of few rows, forward and backward.

    out = softmax(q k^T / sqrt(D)) v   for every group and head

(equation 2 of the paper, and the attention of equations 3 to 5 with other groups).

Shapes: G groups (B * M regions of B clips), NQ query and NK key rows a group (both S in self-attention), H heads,
D head dim, C = H * D. Queries, keys and values are read in place from the packed products [.., NQ, 3C] or [.., NQ, C]
and [.., NK, 2C]; results are written as [.., NQ, C], gradients into packed buffers of the inputs' shape.

All keys of a group fit one tile, so that each direction is one pass: no online softmax, no split over keys and no
atomic addition. The backward pass of float32 is the exception: exact products take their operands from registers,
which do not hold such tiles, so that it goes over small blocks of keys, once for the queries and once for the keys.
Groups of few rows share a tile, and a row sees the keys of its own group only. Nothing but the inputs is kept for the
backward pass: it forms the probabilities again. Scores, softmax and all sums are float32 (float64 for float64).
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from maedfer.kernels._configs import Config, config, shared_limit
from maedfer.kernels._launch import accumulator, dot_precision, launch, power_of_two, rows_of
from maedfer.kernels._operators import implements, operator

_LOG2_E = 1.4426950408889634


@triton.jit
def _load_rows(ptr, row, row_ok, col, col_ok, first, group_stride, row_stride, N: tl.constexpr):
    """Rows [BLOCK, BLOCK_D] of consecutive groups of N rows from group `first` on, zeros where there are none."""
    offset = (first + row // N) * group_stride + (row % N).to(tl.int64) * row_stride
    return tl.load(ptr + offset[:, None] + col[None, :], mask=row_ok[:, None] & col_ok[None, :], other=0.0)


@triton.jit
def _store_rows(ptr, x, row, row_ok, col, col_ok, row_stride):
    """Write [BLOCK, BLOCK_D] to rows that follow each other, `ptr` at the first one."""
    offset = row.to(tl.int64)[:, None] * row_stride + col[None, :]
    tl.store(ptr + offset, x.to(ptr.dtype.element_ty), mask=row_ok[:, None] & col_ok[None, :])


@triton.jit
def _scores(q, k, scale_log2, row, row_ok, key, key_ok, NQ: tl.constexpr, NK: tl.constexpr,
            ACC: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Scores for the base 2, [BLOCK_Q, TILE_K], -inf for keys of other groups; rows without a group see every key."""
    scores = tl.dot(q, tl.trans(k), out_dtype=ACC, input_precision=PRECISION) * scale_log2
    same = (row // NQ)[:, None] == (key // NK)[None, :]
    # A row outside of all groups must stay finite: its zeros are added to gradients.
    seen = key_ok[None, :] & (same | (row_ok == 0)[:, None])
    return tl.where(seen, scores, float("-inf"))


@triton.jit
def _probabilities(q, k, scale_log2, row, row_ok, key, key_ok, NQ: tl.constexpr, NK: tl.constexpr,
                   ACC: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """exp(scores - their maximum) [BLOCK_Q, TILE_K] and its row sums."""
    scores = _scores(q, k, scale_log2, row, row_ok, key, key_ok, NQ, NK, ACC, PRECISION)
    p = tl.exp2(scores - tl.max(scores, 1)[:, None])
    return p, tl.sum(p, 1)


@triton.jit(do_not_specialize=["num_groups"])
def _attention_fwd_kernel(
    q_ptr,  # [G, NQ, C], strides (q_group, q_row, 1)
    k_ptr,  # [G, NK, C], strides (kv_group, kv_row, 1)
    v_ptr,  # [G, NK, C], strides (kv_group, kv_row, 1)
    out_ptr,  # [G, NQ, C] contiguous
    q_group, q_row, kv_group, kv_row, scale_log2, num_groups,
    NQ: tl.constexpr, NK: tl.constexpr, HEADS: tl.constexpr, D: tl.constexpr,
    GROUPS: tl.constexpr, SPLITS: tl.constexpr, TILE_K: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_D: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0).to(tl.int64)
    head = pid % HEADS
    split = pid // HEADS % SPLITS
    first = pid // (HEADS * SPLITS) * GROUPS
    col = tl.arange(0, BLOCK_D)
    col_ok = col < D
    q_ptr, k_ptr, v_ptr, out_ptr = q_ptr + head * D, k_ptr + head * D, v_ptr + head * D, out_ptr + head * D
    key = tl.arange(0, TILE_K)
    key_ok = (key < GROUPS * NK) & (first + key // NK < num_groups)
    k = _load_rows(k_ptr, key, key_ok, col, col_ok, first, kv_group, kv_row, NK)  # [TILE_K, BLOCK_D]
    v = _load_rows(v_ptr, key, key_ok, col, col_ok, first, kv_group, kv_row, NK)  # [TILE_K, BLOCK_D]
    for block in range(0, tl.cdiv(GROUPS * NQ, SPLITS * BLOCK_Q)):
        row = (block * SPLITS + split) * BLOCK_Q + tl.arange(0, BLOCK_Q)
        row_ok = (row < GROUPS * NQ) & (first + row // NQ < num_groups)
        q = _load_rows(q_ptr, row, row_ok, col, col_ok, first, q_group, q_row, NQ)  # [BLOCK_Q, BLOCK_D]
        p, total = _probabilities(q, k, scale_log2, row, row_ok, key, key_ok, NQ, NK, ACC, PRECISION)
        out = tl.dot(p.to(v.dtype), v, out_dtype=ACC, input_precision=PRECISION) / total[:, None]
        _store_rows(out_ptr + first * NQ * HEADS * D, out, row, row_ok, col, col_ok, HEADS * D)


@triton.jit(do_not_specialize=["num_groups"])
def _attention_bwd_kernel(
    q_ptr,  # [G, NQ, C], strides (q_group, q_row, 1)
    k_ptr,  # [G, NK, C], strides (kv_group, kv_row, 1)
    v_ptr,  # [G, NK, C], strides (kv_group, kv_row, 1)
    dout_ptr,  # [G, NQ, C], strides (dout_group, dout_row, 1)
    dq_ptr,  # [G, NQ, C], rows dq_row apart
    dk_ptr,  # [G, NK, C], rows dkv_row apart
    dv_ptr,  # [G, NK, C], rows dkv_row apart
    q_group, q_row, kv_group, kv_row, dout_group, dout_row, dq_row, dkv_row, scale, scale_log2, num_groups,
    NQ: tl.constexpr, NK: tl.constexpr, HEADS: tl.constexpr, D: tl.constexpr,
    GROUPS: tl.constexpr, TILE_K: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_D: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0).to(tl.int64)
    head = pid % HEADS
    first = pid // HEADS * GROUPS
    col = tl.arange(0, BLOCK_D)
    col_ok = col < D
    q_ptr, k_ptr, v_ptr, dout_ptr = q_ptr + head * D, k_ptr + head * D, v_ptr + head * D, dout_ptr + head * D
    dq_ptr, dk_ptr, dv_ptr = dq_ptr + head * D, dk_ptr + head * D, dv_ptr + head * D
    key = tl.arange(0, TILE_K)
    key_ok = (key < GROUPS * NK) & (first + key // NK < num_groups)
    k = _load_rows(k_ptr, key, key_ok, col, col_ok, first, kv_group, kv_row, NK)  # [TILE_K, BLOCK_D]
    v = _load_rows(v_ptr, key, key_ok, col, col_ok, first, kv_group, kv_row, NK)  # [TILE_K, BLOCK_D]
    dk = tl.zeros([TILE_K, BLOCK_D], dtype=ACC)
    dv = tl.zeros([TILE_K, BLOCK_D], dtype=ACC)
    for start in range(0, GROUPS * NQ, BLOCK_Q):
        row = start + tl.arange(0, BLOCK_Q)
        row_ok = (row < GROUPS * NQ) & (first + row // NQ < num_groups)
        q = _load_rows(q_ptr, row, row_ok, col, col_ok, first, q_group, q_row, NQ)  # [BLOCK_Q, BLOCK_D]
        dout = _load_rows(dout_ptr, row, row_ok, col, col_ok, first, dout_group, dout_row, NQ)
        p, total = _probabilities(q, k, scale_log2, row, row_ok, key, key_ok, NQ, NK, ACC, PRECISION)
        p = p / total[:, None]  # [BLOCK_Q, TILE_K]
        dv += tl.dot(tl.trans(p.to(dout.dtype)), dout, out_dtype=ACC, input_precision=PRECISION)
        dp = tl.dot(dout, tl.trans(v), out_dtype=ACC, input_precision=PRECISION)
        ds = (p * (dp - tl.sum(p * dp, 1)[:, None])).to(q.dtype)
        dk += tl.dot(tl.trans(ds), q, out_dtype=ACC, input_precision=PRECISION)
        dq = tl.dot(ds, k, out_dtype=ACC, input_precision=PRECISION) * scale
        _store_rows(dq_ptr + first * NQ * dq_row, dq, row, row_ok, col, col_ok, dq_row)
    _store_rows(dk_ptr + first * NK * dkv_row, dk * scale, key, key_ok, col, col_ok, dkv_row)
    _store_rows(dv_ptr + first * NK * dkv_row, dv, key, key_ok, col, col_ok, dkv_row)


@triton.jit(do_not_specialize=["num_groups"])
def _attention_bwd_rows_kernel(
    q_ptr,  # [G, NQ, C], strides (q_group, q_row, 1)
    k_ptr,  # [G, NK, C], strides (kv_group, kv_row, 1)
    v_ptr,  # [G, NK, C], strides (kv_group, kv_row, 1)
    dout_ptr,  # [G, NQ, C], strides (dout_group, dout_row, 1)
    dq_ptr,  # [G, NQ, C], rows dq_row apart
    sums_ptr,  # [G, NQ, HEADS, 2] contiguous: log2 of a row's sum of 2^scores, and sum of p * dp
    q_group, q_row, kv_group, kv_row, dout_group, dout_row, dq_row, scale, scale_log2, num_groups,
    NQ: tl.constexpr, NK: tl.constexpr, HEADS: tl.constexpr, D: tl.constexpr, GROUPS: tl.constexpr,
    BLOCKS: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0).to(tl.int64)
    head = pid % HEADS
    first = pid // (HEADS * BLOCKS) * GROUPS
    col = tl.arange(0, BLOCK_D)
    col_ok = col < D
    q_ptr, k_ptr, v_ptr, dout_ptr = q_ptr + head * D, k_ptr + head * D, v_ptr + head * D, dout_ptr + head * D
    row = (pid // HEADS % BLOCKS).to(tl.int32) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    row_ok = (row < GROUPS * NQ) & (first + row // NQ < num_groups)
    # Finite, as a block may hold no key of a row's group.
    peak = tl.full([BLOCK_Q], -3.0e38, dtype=ACC)
    total = tl.zeros([BLOCK_Q], dtype=ACC)
    share = tl.zeros([BLOCK_Q], dtype=ACC)
    for start in range(0, GROUPS * NK, BLOCK_K):
        # Loaded again for each block of keys: operands of exact products that do not change would stay in registers.
        q = _load_rows(q_ptr, row, row_ok, col, col_ok, first, q_group, q_row, NQ)  # [BLOCK_Q, BLOCK_D]
        dout = _load_rows(dout_ptr, row, row_ok, col, col_ok, first, dout_group, dout_row, NQ)
        key = start + tl.arange(0, BLOCK_K)
        key_ok = (key < GROUPS * NK) & (first + key // NK < num_groups)
        k = _load_rows(k_ptr, key, key_ok, col, col_ok, first, kv_group, kv_row, NK)  # [BLOCK_K, BLOCK_D]
        v = _load_rows(v_ptr, key, key_ok, col, col_ok, first, kv_group, kv_row, NK)  # [BLOCK_K, BLOCK_D]
        scores = _scores(q, k, scale_log2, row, row_ok, key, key_ok, NQ, NK, ACC, PRECISION)
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
        q = _load_rows(q_ptr, row, row_ok, col, col_ok, first, q_group, q_row, NQ)
        dout = _load_rows(dout_ptr, row, row_ok, col, col_ok, first, dout_group, dout_row, NQ)
        key = start + tl.arange(0, BLOCK_K)
        key_ok = (key < GROUPS * NK) & (first + key // NK < num_groups)
        k = _load_rows(k_ptr, key, key_ok, col, col_ok, first, kv_group, kv_row, NK)
        v = _load_rows(v_ptr, key, key_ok, col, col_ok, first, kv_group, kv_row, NK)
        scores = _scores(q, k, scale_log2, row, row_ok, key, key_ok, NQ, NK, ACC, PRECISION)
        dp = tl.dot(dout, tl.trans(v), out_dtype=ACC, input_precision=PRECISION)
        ds = tl.exp2(scores - log_total[:, None]) * (dp - share[:, None])
        dq += tl.dot(ds.to(k.dtype), k, out_dtype=ACC, input_precision=PRECISION)
    dq_ptr += first * NQ * dq_row + head * D
    _store_rows(dq_ptr, dq * scale, row, row_ok, col, col_ok, dq_row)


@triton.jit(do_not_specialize=["num_groups"])
def _attention_bwd_keys_kernel(
    q_ptr,  # [G, NQ, C], strides (q_group, q_row, 1)
    k_ptr,  # [G, NK, C], strides (kv_group, kv_row, 1)
    v_ptr,  # [G, NK, C], strides (kv_group, kv_row, 1)
    dout_ptr,  # [G, NQ, C], strides (dout_group, dout_row, 1)
    sums_ptr,  # [G, NQ, HEADS, 2] contiguous, of _attention_bwd_rows_kernel
    dk_ptr,  # [G, NK, C], rows dkv_row apart
    dv_ptr,  # [G, NK, C], rows dkv_row apart
    q_group, q_row, kv_group, kv_row, dout_group, dout_row, dkv_row, scale, scale_log2, num_groups,
    NQ: tl.constexpr, NK: tl.constexpr, HEADS: tl.constexpr, D: tl.constexpr, GROUPS: tl.constexpr,
    BLOCKS: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0).to(tl.int64)
    head = pid % HEADS
    first = pid // (HEADS * BLOCKS) * GROUPS
    col = tl.arange(0, BLOCK_D)
    col_ok = col < D
    q_ptr, k_ptr, v_ptr, dout_ptr = q_ptr + head * D, k_ptr + head * D, v_ptr + head * D, dout_ptr + head * D
    key = (pid // HEADS % BLOCKS).to(tl.int32) * BLOCK_K + tl.arange(0, BLOCK_K)
    key_ok = (key < GROUPS * NK) & (first + key // NK < num_groups)
    dk = tl.zeros([BLOCK_K, BLOCK_D], dtype=ACC)
    dv = tl.zeros([BLOCK_K, BLOCK_D], dtype=ACC)
    for start in range(0, GROUPS * NQ, BLOCK_Q):
        k = _load_rows(k_ptr, key, key_ok, col, col_ok, first, kv_group, kv_row, NK)  # [BLOCK_K, BLOCK_D]
        v = _load_rows(v_ptr, key, key_ok, col, col_ok, first, kv_group, kv_row, NK)  # [BLOCK_K, BLOCK_D]
        row = start + tl.arange(0, BLOCK_Q)
        row_ok = (row < GROUPS * NQ) & (first + row // NQ < num_groups)
        q = _load_rows(q_ptr, row, row_ok, col, col_ok, first, q_group, q_row, NQ)  # [BLOCK_Q, BLOCK_D]
        dout = _load_rows(dout_ptr, row, row_ok, col, col_ok, first, dout_group, dout_row, NQ)
        sums_offset = ((first * NQ + row) * HEADS + head) * 2
        # Rows without a group have no probabilities.
        log_total = tl.load(sums_ptr + sums_offset, mask=row_ok, other=float("inf"))
        share = tl.load(sums_ptr + sums_offset + 1, mask=row_ok, other=0.0)
        scores = _scores(q, k, scale_log2, row, row_ok, key, key_ok, NQ, NK, ACC, PRECISION)
        p = tl.exp2(scores - log_total[:, None])  # [BLOCK_Q, BLOCK_K]
        dv += tl.dot(tl.trans(p.to(dout.dtype)), dout, out_dtype=ACC, input_precision=PRECISION)
        dp = tl.dot(dout, tl.trans(v), out_dtype=ACC, input_precision=PRECISION)
        ds = (p * (dp - share[:, None])).to(q.dtype)
        dk += tl.dot(tl.trans(ds), q, out_dtype=ACC, input_precision=PRECISION)
    offset = first * NK * dkv_row + head * D
    _store_rows(dk_ptr + offset, dk * scale, key, key_ok, col, col_ok, dkv_row)
    _store_rows(dv_ptr + offset, dv, key, key_ok, col, col_ok, dkv_row)


# Keys that one tile can hold.
MOST_KEYS = 256
# Bytes of shared memory that groups of more than 128 keys take at most.
_SHARED_FOR_MOST_KEYS = 160 * 1024
# Rows that small groups fill together.
_SHARED_TILE = 64


def not_supported_reasons(keys: int, head_dim: int, device: torch.device | None = None) -> list[str]:
    """Why the kernels cannot run groups of `keys` keys at this head dim; empty when they can."""
    reasons = []
    if not 1 <= keys <= MOST_KEYS:
        reasons.append(f"groups of {keys} keys (the kernels hold 1 to {MOST_KEYS}; more is work for full attention)")
    elif keys > 128 and device is not None and shared_limit(device) < _SHARED_FOR_MOST_KEYS:
        reasons.append(f"groups of {keys} keys (this GPU has the shared memory for 128)")
    if head_dim > 128:
        reasons.append(f"head dim {head_dim} (the kernels take up to 128)")
    return reasons


def _attention_fwd(q: Tensor, k: Tensor, v: Tensor, out: Tensor, num_heads: int) -> None:
    """Attention of [G, NQ, C] to [G, NK, C] views into contiguous `out` [G, NQ, C]."""
    groups, queries, keys = q.shape[0], q.shape[1], k.shape[1]
    head_dim = q.shape[2] // num_heads
    shared = _groups_per_program(queries, keys)
    tile, block_d = power_of_two(shared * keys, 16), power_of_two(head_dim, 16)
    rows = power_of_two(shared * queries, 16)
    if q.element_size() > 2:
        default = Config({"BLOCK_Q": 16}, 8 if tile <= 128 else 16, 1)
    else:
        default = Config({"BLOCK_Q": min(rows, 64 if tile > 128 else 128)}, _warps(tile), 1)
    chosen = config("attention_fwd", (tile, rows, block_d, q.element_size()), default, q.device)
    splits = -(-shared * queries // chosen.tiles["BLOCK_Q"]) if queries > MOST_KEYS else 1
    launch(
        _attention_fwd_kernel,
        (-(-groups // shared) * splits * num_heads,),
        q, k, v, out,
        q.stride(0), q.stride(1), k.stride(0), k.stride(1), head_dim**-0.5 * _LOG2_E, groups,
        config=chosen, NQ=queries, NK=keys, HEADS=num_heads, D=head_dim, GROUPS=shared, SPLITS=splits, TILE_K=tile,
        BLOCK_D=block_d, ACC=accumulator(q.dtype), PRECISION=dot_precision(q.dtype),
    )  # fmt: skip


def _attention_bwd(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, dq: Tensor, dk: Tensor, dv: Tensor, num_heads: int
) -> None:
    """Gradients of `_attention_fwd` into views [G, N, C] whose groups follow each other."""
    if q.element_size() > 2:
        _attention_bwd_wide(dout, q, k, v, dq, dk, dv, num_heads)
        return
    groups, queries, keys = q.shape[0], q.shape[1], k.shape[1]
    head_dim = q.shape[2] // num_heads
    shared = _groups_per_program(queries, keys)
    tile, block_d = power_of_two(shared * keys, 16), power_of_two(head_dim, 16)
    rows = power_of_two(shared * queries, 16)
    default = Config({"BLOCK_Q": min(rows, 32 if tile > 64 else 64)}, _warps(tile), 1)
    launch(
        _attention_bwd_kernel,
        (-(-groups // shared) * num_heads,),
        q, k, v, dout, dq, dk, dv,
        q.stride(0), q.stride(1), k.stride(0), k.stride(1), dout.stride(0), dout.stride(1), dq.stride(1), dk.stride(1),
        head_dim**-0.5, head_dim**-0.5 * _LOG2_E, groups,
        config=config("attention_bwd", (tile, rows, block_d, q.element_size()), default, q.device),
        NQ=queries, NK=keys, HEADS=num_heads, D=head_dim, GROUPS=shared, TILE_K=tile, BLOCK_D=block_d,
        ACC=accumulator(q.dtype), PRECISION=dot_precision(q.dtype),
    )  # fmt: skip


def _attention_bwd_wide(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, dq: Tensor, dk: Tensor, dv: Tensor, num_heads: int
) -> None:
    """The same for float32: by blocks of rows, then by blocks of keys."""
    groups, queries, keys = q.shape[0], q.shape[1], k.shape[1]
    head_dim = q.shape[2] // num_heads
    shared = _groups_per_program(queries, keys)
    default = Config({"BLOCK_Q": 16, "BLOCK_K": min(power_of_two(shared * keys, 16), 32)}, 8, 1)
    shape = power_of_two(shared * keys, 16), power_of_two(shared * queries, 16), power_of_two(head_dim, 16)
    sums = q.new_empty((groups, queries, num_heads, 2))
    same = {
        "NQ": queries, "NK": keys, "HEADS": num_heads, "D": head_dim, "GROUPS": shared, "BLOCK_D": shape[-1],
        "ACC": accumulator(q.dtype), "PRECISION": dot_precision(q.dtype),
    }  # fmt: skip
    strides = q.stride(0), q.stride(1), k.stride(0), k.stride(1), dout.stride(0), dout.stride(1)
    scales = head_dim**-0.5, head_dim**-0.5 * _LOG2_E
    packs = -(-groups // shared)
    chosen = config("attention_bwd_rows", (*shape, q.element_size()), default, q.device)
    blocks = -(-shared * queries // chosen.tiles["BLOCK_Q"])
    launch(
        _attention_bwd_rows_kernel, (packs * blocks * num_heads,),
        q, k, v, dout, dq, sums, *strides, dq.stride(1), *scales, groups, config=chosen, BLOCKS=blocks, **same,
    )  # fmt: skip
    chosen = config("attention_bwd_keys", (*shape, q.element_size()), default, q.device)
    blocks = -(-shared * keys // chosen.tiles["BLOCK_K"])
    launch(
        _attention_bwd_keys_kernel, (packs * blocks * num_heads,),
        q, k, v, dout, sums, dk, dv, *strides, dk.stride(1), *scales, groups, config=chosen, BLOCKS=blocks, **same,
    )  # fmt: skip


def _groups_per_program(queries: int, keys: int) -> int:
    return max(1, _SHARED_TILE // max(queries, keys))


def _warps(tile: int) -> int:
    return 4 if tile <= 64 else 8


@implements("region_attention_fwd")
def region_attention_fwd(qkv: Tensor, num_heads: int) -> Tensor:
    dim = qkv.shape[-1] // 3
    out = qkv.new_empty((*qkv.shape[:-1], dim))
    packed = rows_of(qkv)
    q, k, v = packed.split(dim, dim=-1)
    _attention_fwd(q, k, v, out.view(packed.shape[0], packed.shape[1], dim), num_heads)
    return out


@implements("region_attention_bwd")
def region_attention_bwd(dout: Tensor, qkv: Tensor, num_heads: int) -> Tensor:
    dim = qkv.shape[-1] // 3
    packed = rows_of(qkv)
    dqkv = packed.new_empty(packed.shape)
    (q, k, v), (dq, dk, dv) = packed.split(dim, dim=-1), dqkv.split(dim, dim=-1)
    _attention_bwd(rows_of(dout), q, k, v, dq, dk, dv, num_heads)
    return dqkv.view(qkv.shape)


@implements("cross_attention_fwd")
def cross_attention_fwd(q: Tensor, kv: Tensor, num_heads: int) -> Tensor:
    dim = q.shape[-1]
    out = q.new_empty(q.shape)
    rows = rows_of(q)
    k, v = rows_of(kv).split(dim, dim=-1)
    _attention_fwd(rows, k, v, out.view(rows.shape), num_heads)
    return out


@implements("cross_attention_bwd")
def cross_attention_bwd(dout: Tensor, q: Tensor, kv: Tensor, num_heads: int) -> tuple[Tensor, Tensor]:
    dim = q.shape[-1]
    rows, packed = rows_of(q), rows_of(kv)
    dq, dkv = rows.new_empty(rows.shape), packed.new_empty(packed.shape)
    (k, v), (dk, dv) = packed.split(dim, dim=-1), dkv.split(dim, dim=-1)
    _attention_bwd(rows_of(dout), rows, k, v, dq, dk, dv, num_heads)
    return dq.view(q.shape), dkv.view(kv.shape)


class TritonRegionAttention(torch.autograd.Function):
    """Self-attention within each group on packed queries, keys and values: [..., S, 3C] -> [..., S, C]."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, num_heads: int) -> Tensor:
        """Keeps the packed product only."""
        ctx.save_for_backward(qkv)
        ctx.num_heads = num_heads
        return operator("region_attention_fwd")(qkv, num_heads)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, None]:
        """One packed gradient."""
        (qkv,) = ctx.saved_tensors
        return operator("region_attention_bwd")(dout, qkv, ctx.num_heads), None


class TritonCrossAttention(torch.autograd.Function):
    """Attention of [..., NQ, C] to packed keys and values [..., NK, 2C] of the same group: [..., NQ, C]."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, kv: Tensor, num_heads: int) -> Tensor:
        """Keeps the inputs only."""
        ctx.save_for_backward(q, kv)
        ctx.num_heads = num_heads
        return operator("cross_attention_fwd")(q, kv, num_heads)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, Tensor, None]:
        """One gradient for the queries, a packed one for keys and values."""
        q, kv = ctx.saved_tensors
        return *operator("cross_attention_bwd")(dout, q, kv, ctx.num_heads), None
