"""Attention, by the implementation of choice."""

from __future__ import annotations

import torch
from torch import Tensor

from maedfer.errors import InputError, require, unknown
from maedfer.kernels import reference
from maedfer.kernels._autocast import product_dtype, product_operand
from maedfer.kernels._dispatch import Impl, current_impl, resolve
from maedfer.kernels._functions import run
from maedfer.kernels.region_attention import native
from maedfer.kernels.region_attention import torch as plain
from maedfer.kernels.region_attention.functions import GroupCrossAttention, GroupSelfAttention

FULL_ATTENTION = ("sdpa", "xformers")

# They read packed products in place and add biases on the way.
_KERNELS = ("triton", "native")

# Of queries and of values, [C] each, where their products were made without.
Biases = tuple[Tensor | None, Tensor | None]


def region_attention(
    qkv: Tensor, *, num_heads: int, bias: Biases | None = None, mask: Tensor | None = None, impl: Impl = "auto"
) -> Tensor:
    """Self-attention within each region (equation 2 of the paper), read in place from the packed product.

    Args:
        qkv: [..., S, 3C] queries, keys and values side by side; any strides.
        num_heads: H, which divides C.
        bias: [C] and [C], what is still to be added to queries and values; either may be None.
        mask: [..., S] bool, broadcast over the leading dimensions: True for rows that may be attended to; at least
            one of each region.
        impl: the implementation; with a mask, "triton" cannot run.

    Returns:
        [..., S, C], the heads side by side.

    Raises:
        InputError: `num_heads` does not divide C, or `impl` cannot run.
    """
    check_heads(qkv.shape[-1], 3, num_heads)
    qkv = product_operand(qkv)
    q_bias, v_bias = bias or (None, None)
    choice = _resolve(impl, qkv, qkv.dtype, qkv.shape[-2], qkv.shape[-1] // (3 * num_heads), mask)
    if choice in _KERNELS:
        return run(GroupSelfAttention, qkv, q_bias, v_bias, num_heads)
    queries, keys, values = qkv.chunk(3, dim=-1)
    if choice == "reference":
        queries, values = _added(queries, q_bias), _added(values, v_bias)
        return reference.attention(queries, keys, values, num_heads=num_heads, mask=mask)
    if q_bias is not None or v_bias is not None:
        qkv = torch.cat([_added(queries, q_bias), keys, _added(values, v_bias)], dim=-1)
    return plain.region_attention(qkv, num_heads, mask)


def cross_attention(
    q: Tensor,
    kv: Tensor,
    *,
    num_heads: int,
    bias: Biases | None = None,
    mask: Tensor | None = None,
    impl: Impl = "auto",
) -> Tensor:
    """Attention of rows to other rows of the same group.

    Args:
        q: [..., NQ, C] queries.
        kv: [..., NK, 2C] keys and values side by side.
        num_heads: H, which divides C.
        bias: [C] and [C], what is still to be added to queries and values; either may be None.
        mask: [..., NK] bool, broadcast over the leading dimensions: True for keys that may be attended to; at least
            one of each group.
        impl: the implementation; with a mask, "triton" cannot run.

    Returns:
        [..., NQ, C].

    Raises:
        InputError: `num_heads` does not divide C, or `impl` cannot run.
    """
    check_heads(q.shape[-1], 1, num_heads)
    check_heads(kv.shape[-1], 2, num_heads)
    q, kv = product_operand(q), product_operand(kv)
    q_bias, v_bias = bias or (None, None)
    choice = _resolve(impl, q, q.dtype, kv.shape[-2], q.shape[-1] // num_heads, mask)
    if choice in _KERNELS:
        return run(GroupCrossAttention, q, kv, q_bias, v_bias, num_heads)
    q = _added(q, q_bias)
    keys, values = kv.chunk(2, dim=-1)
    if choice == "reference":
        return reference.attention(q, keys, _added(values, v_bias), num_heads=num_heads, mask=mask)
    if v_bias is not None:
        kv = torch.cat([keys, values + v_bias.to(kv.dtype)], dim=-1)
    return plain.cross_attention(q, kv, num_heads, mask)


def attention_adds_biases(context: Tensor, *, num_heads: int, mask: Tensor | None = None, impl: Impl = "auto") -> bool:
    """Whether attention adds biases on the way, so that products are best made without.

    Args:
        context: [..., NK, C] what keys and values are made of.
        num_heads: H, which divides C.
        mask: as attention will be given it.
        impl: likewise.

    Raises:
        InputError: `impl` cannot run.
    """
    keys, head_dim = context.shape[-2], context.shape[-1] // num_heads
    return _resolve(impl, context, product_dtype(context), keys, head_dim, mask) in _KERNELS


def _resolve(impl: Impl, x: Tensor, dtype: torch.dtype, keys: int, head_dim: int, mask: Tensor | None) -> str:
    """Who computes, in products of `dtype`."""

    def reasons() -> list[str]:
        masked = [] if mask is None else ["a mask over keys (the kernels attend to all rows of a group)"]
        return masked + triton_reasons(keys, head_dim, x.device)

    # With a mask it is an operation that csrc does not have.
    compiled = None if mask is not None else {"cpu": lambda: native.not_supported_reasons(dtype, keys)}
    return resolve(impl, x.device, dtype, triton=reasons, native=compiled)


def _added(x: Tensor, bias: Tensor | None) -> Tensor:
    return x if bias is None else x + bias.to(x.dtype)


def full_attention(qkv: Tensor, *, num_heads: int, backend: str = "sdpa", impl: Impl = "auto") -> Tensor:
    """Self-attention over all tokens of a clip, for the decoder and the ViT: work for a library, or for csrc on a CPU.

    Args:
        qkv: [..., K, 3C] queries, keys and values side by side.
        num_heads: H, which divides C.
        backend: "sdpa" for PyTorch's scaled_dot_product_attention, "xformers" for memory_efficient_attention.
        impl: with "sdpa" on a CPU, "auto" takes csrc where it can run, and "native" insists on it; the others leave it
            to PyTorch.

    Returns:
        [..., K, C].

    Raises:
        InputError: unknown backend, `num_heads` does not divide C, or csrc cannot run and `impl` is "native".
        MissingDependencyError: xformers was chosen and is not installed.
    """
    check_heads(qkv.shape[-1], 3, num_heads)
    if backend == "sdpa":
        if _is_for_csrc(impl, qkv):
            return run(GroupSelfAttention, product_operand(qkv), None, None, num_heads)
        return plain.region_attention(qkv, num_heads)
    if backend != "xformers":
        raise unknown("attention backend", backend, FULL_ATTENTION)
    xops = require("xformers.ops", "xformers")
    parts = qkv.unflatten(-1, (3, num_heads, -1)).flatten(0, -5)  # [G, K, 3, H, D]
    return xops.memory_efficient_attention(*parts.unbind(2)).reshape(*qkv.shape[:-1], -1)


def _is_for_csrc(impl: Impl, qkv: Tensor) -> bool:
    """Whether csrc attends in a library's place."""
    wanted = current_impl() if impl == "auto" else impl
    if qkv.device.type != "cpu" or wanted not in ("auto", "native"):
        return False
    dtype = product_dtype(qkv)
    compiled = {"cpu": lambda: native.not_supported_reasons(dtype, qkv.shape[-2])}
    return resolve(wanted, qkv.device, dtype, native=compiled) == "native"


def check_heads(width: int, parts: int, num_heads: int) -> None:
    """Refuse heads that do not divide the channels of each of the `parts` that lie side by side in `width`.

    Raises:
        InputError: with the numbers.
    """
    if num_heads < 1 or width % (parts * num_heads):
        raise InputError(
            f"num_heads {num_heads} does not divide the channels: the last dimension is {parts} * C, "
            f"C a multiple of num_heads, got {width}"
        )


def triton_reasons(keys: int, head_dim: int, device: torch.device) -> list[str]:
    """Why Triton's kernels cannot run groups of `keys` keys at this head dim; empty when they can."""
    from maedfer.kernels.region_attention.triton import not_supported_reasons

    return not_supported_reasons(keys, head_dim, device)
