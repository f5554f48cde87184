"""Launching what kernels.py computes; formulas and shapes are there."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from maedfer.kernels._configs import Config, config, shared_limit
from maedfer.kernels._launch import accumulator, contiguous, dot_precision, launch, power_of_two, rows_of
from maedfer.kernels._operators import implements, unwritten
from maedfer.kernels.region_attention.kernels import (
    attention_bwd_halves_kernel,
    attention_bwd_kernel,
    attention_bwd_keys_kernel,
    attention_bwd_rows_kernel,
    attention_fwd_kernel,
)

_LOG2_E = 1.4426950408889634

# Keys that one tile can hold, of head dims up to 64; wider ones leave room for half of them.
MOST_KEYS = 256
# Bytes of shared memory that a tile of more than half of the keys takes at most.
_SHARED_FOR_MOST_KEYS = 160 * 1024
# Rows that small groups fill together.
_SHARED_TILE = 64


def not_supported_reasons(keys: int, head_dim: int, device: torch.device | None = None) -> list[str]:
    """Why the kernels cannot run groups of `keys` keys at this head dim; empty when they can."""
    reasons = []
    most = MOST_KEYS if head_dim <= 64 else MOST_KEYS // 2
    if not 1 <= keys <= most:
        reasons.append(f"groups of {keys} keys (the kernels hold 1 to {most}; more is work for full attention)")
    elif keys > most // 2 and device is not None and shared_limit(device) < _SHARED_FOR_MOST_KEYS:
        reasons.append(f"groups of {keys} keys (this GPU has the shared memory for {most // 2})")
    if head_dim > 128:
        reasons.append(f"head dim {head_dim} (the kernels take up to 128)")
    return reasons


class _Sizes(NamedTuple):
    """What a call comes to.

    Attributes:
        key: of its configuration: keys and queries of a program and the head dim, powers of two, and bytes of a number.
        shared: groups of a program.
        packs: programs that hold all groups once, for each head.
        constants: what kernels are compiled for.
        scale: of the scores.
    """

    key: tuple[int, int, int, int]
    shared: int
    packs: int
    constants: dict[str, Any]
    scale: float


def _sizes(q: Tensor, k: Tensor, num_heads: int) -> _Sizes:
    """Of queries [G, NQ, C] and keys [G, NK, C]."""
    groups, queries, dim = q.shape
    keys, head_dim = k.shape[1], dim // num_heads
    shared = max(1, _SHARED_TILE // max(queries, keys))
    block_d = power_of_two(head_dim, 16)
    constants = {
        "NQ": queries, "NK": keys, "HEADS": num_heads, "D": head_dim, "GROUPS": shared, "BLOCK_D": block_d,
        "ACC": accumulator(q.dtype), "PRECISION": dot_precision(q.dtype),
    }  # fmt: skip
    key = power_of_two(shared * keys, 16), power_of_two(shared * queries, 16), block_d, q.element_size()
    return _Sizes(key, shared, -(-groups // shared), constants, head_dim**-0.5)


def _attention_fwd(
    q: Tensor, k: Tensor, v: Tensor, q_bias: Tensor | None, v_bias: Tensor | None, out: Tensor, num_heads: int
) -> None:
    """Attention of [G, NQ, C] to [G, NK, C] views into contiguous `out` of [G, NQ, C], whatever its shape."""
    groups, queries, _ = q.shape
    sizes = _sizes(q, k, num_heads)
    tile = sizes.key[0]
    chosen = config("attention_fwd", sizes.key, _fwd_default(*sizes.key), q.device)
    splits = -(-sizes.shared * queries // chosen.tiles["BLOCK_Q"]) if queries > MOST_KEYS else 1
    launch(
        attention_fwd_kernel,
        (sizes.packs * splits * num_heads,),
        q, k, v, q_bias, v_bias, out,
        *q.stride()[:2], *k.stride()[:2], sizes.scale * _LOG2_E, groups,
        config=chosen, SPLITS=splits, TILE_K=tile, **sizes.constants,
    )  # fmt: skip


@functools.lru_cache(256)
def _fwd_default(tile: int, rows: int, block_d: int, element_size: int) -> Config:
    if element_size > 2:
        return Config({"BLOCK_Q": 16}, 8 if tile <= 128 else 16, 1)
    return Config({"BLOCK_Q": min(rows, 64 if tile > 128 else 128)}, _warps(tile), 1)


class _Inputs(NamedTuple):
    """What the backward pass reads: [G, NQ, C], twice [G, NK, C], [C] or nothing, and [G, NQ, C]."""

    q: Tensor
    k: Tensor
    v: Tensor
    q_bias: Tensor | None
    dout: Tensor


def _attention_bwd(
    inputs: _Inputs, gradients: tuple[Tensor, Tensor, Tensor], num_heads: int, bias_gradients: bool
) -> Tensor:
    """Gradients of `_attention_fwd` into views dq, dk, dv [G, N, C] whose groups follow each other.

    Returns:
        Those of both biases, [2, C] of float32 or float64; of zero rows without `bias_gradients`.
    """
    sizes = _sizes(inputs.q, inputs.k, num_heads)
    run = _attention_bwd_in_one if inputs.q.element_size() == 2 else _attention_bwd_in_two
    return run(inputs, gradients, sizes, bias_gradients)


def _attention_bwd_in_one(
    inputs: _Inputs, gradients: tuple[Tensor, Tensor, Tensor], sizes: _Sizes, bias_gradients: bool
) -> Tensor:
    q, k, _, _, dout = inputs
    dq, dk, _ = gradients
    tile, rows, _, _ = sizes.key
    default = Config({"BLOCK_Q": min(rows, 32 if tile > 64 else 64)}, _warps(tile), 1)
    chosen = config("attention_bwd", sizes.key, default, q.device)
    halves = chosen.tiles["BLOCK_Q"] == rows == tile == 128
    partial = _partial_sums(q, sizes.packs, bias_gradients)
    launch(
        attention_bwd_halves_kernel if halves else attention_bwd_kernel,
        (sizes.packs * sizes.constants["HEADS"],),
        *inputs, *gradients, partial if bias_gradients else None,
        q.stride(0), q.stride(1), k.stride(0), k.stride(1), dout.stride(0), dout.stride(1), dq.stride(1), dk.stride(1),
        sizes.scale, sizes.scale * _LOG2_E, q.shape[0],
        config=chosen, **({"BLOCK_K": tile // 2} if halves else {"TILE_K": tile}), **sizes.constants,
    )  # fmt: skip
    return partial.sum(0)


def _attention_bwd_in_two(
    inputs: _Inputs, gradients: tuple[Tensor, Tensor, Tensor], sizes: _Sizes, bias_gradients: bool
) -> Tensor:
    """For float32: by blocks of rows, then by blocks of keys."""
    q, k, _, _, dout = inputs
    dq, dk, dv = gradients
    default = Config({"BLOCK_Q": 16, "BLOCK_K": min(sizes.key[0], 32)}, 8, 1)
    strides = q.stride(0), q.stride(1), k.stride(0), k.stride(1), dout.stride(0), dout.stride(1)
    scales = sizes.scale, sizes.scale * _LOG2_E, q.shape[0]
    heads = sizes.constants["HEADS"]
    sums = q.new_empty((*q.shape[:2], heads, 2))
    chosen = config("attention_bwd_rows", sizes.key, default, q.device)
    blocks = -(-sizes.shared * q.shape[1] // chosen.tiles["BLOCK_Q"])
    partial = _partial_sums(q, sizes.packs * blocks, bias_gradients)
    launch(
        attention_bwd_rows_kernel, (sizes.packs * blocks * heads,),
        *inputs, dq, sums, partial if bias_gradients else None, *strides, dq.stride(1), *scales,
        config=chosen, BLOCKS=blocks, **sizes.constants,
    )  # fmt: skip
    chosen = config("attention_bwd_keys", sizes.key, default, q.device)
    blocks = -(-sizes.shared * k.shape[1] // chosen.tiles["BLOCK_K"])
    launch(
        attention_bwd_keys_kernel, (sizes.packs * blocks * heads,),
        *inputs, sums, dk, dv, *strides, dk.stride(1), *scales,
        config=chosen, BLOCKS=blocks, **sizes.constants,
    )  # fmt: skip
    return partial.sum(0)


def _partial_sums(q: Tensor, programs: int, wanted: bool) -> Tensor:
    """Where programs write their part of the gradients of both biases."""
    exact = torch.float64 if q.dtype == torch.float64 else torch.float32
    return q.new_empty((programs, 2 if wanted else 0, q.shape[2]), dtype=exact)


def _warps(tile: int) -> int:
    return 4 if tile <= 64 else 8


@implements("region_attention_fwd")
def region_attention_fwd(qkv: Tensor, q_bias: Tensor | None, v_bias: Tensor | None, num_heads: int) -> Tensor:
    out = qkv.new_empty((*qkv.shape[:-1], qkv.shape[-1] // 3))
    q, k, v = rows_of(qkv).chunk(3, dim=-1)
    _attention_fwd(q, k, v, contiguous(q_bias), contiguous(v_bias), out, num_heads)
    return out


@implements("region_attention_bwd")
def region_attention_bwd(
    dout: Tensor, qkv: Tensor, q_bias: Tensor | None, num_heads: int, bias_gradients: bool
) -> tuple[Tensor, Tensor]:
    packed = rows_of(qkv)
    dqkv = unwritten(packed)
    (q, k, v), (dq, dk, dv) = packed.chunk(3, dim=-1), dqkv.chunk(3, dim=-1)
    inputs = _Inputs(q, k, v, contiguous(q_bias), rows_of(dout))
    dbias = _attention_bwd(inputs, (dq, dk, dv), num_heads, bias_gradients)
    return dqkv.view(qkv.shape), dbias


@implements("cross_attention_fwd")
def cross_attention_fwd(q: Tensor, kv: Tensor, q_bias: Tensor | None, v_bias: Tensor | None, num_heads: int) -> Tensor:
    out = unwritten(q)
    k, v = rows_of(kv).chunk(2, dim=-1)
    _attention_fwd(rows_of(q), k, v, contiguous(q_bias), contiguous(v_bias), out, num_heads)
    return out


@implements("cross_attention_bwd")
def cross_attention_bwd(
    dout: Tensor, q: Tensor, kv: Tensor, q_bias: Tensor | None, num_heads: int, bias_gradients: bool
) -> tuple[Tensor, Tensor, Tensor]:
    rows, packed = rows_of(q), rows_of(kv)
    dq, dkv = unwritten(rows), unwritten(packed)
    (k, v), (dk, dv) = packed.chunk(2, dim=-1), dkv.chunk(2, dim=-1)
    inputs = _Inputs(rows, k, v, contiguous(q_bias), rows_of(dout))
    dbias = _attention_bwd(inputs, (dq, dk, dv), num_heads, bias_gradients)
    return dq.view(q.shape), dkv.view(kv.shape), dbias
