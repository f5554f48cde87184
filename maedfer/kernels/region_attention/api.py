"""Attention, by the implementation of choice."""

from __future__ import annotations

import torch
from torch import Tensor

from maedfer.errors import InputError, require, unknown
from maedfer.kernels import reference
from maedfer.kernels._autocast import product_operand
from maedfer.kernels._dispatch import Impl, resolve
from maedfer.kernels.region_attention import native
from maedfer.kernels.region_attention import torch as plain

FULL_ATTENTION = ("sdpa", "xformers")


def region_attention(qkv: Tensor, *, num_heads: int, mask: Tensor | None = None, impl: Impl = "auto") -> Tensor:
    """Self-attention within each region (equation 2 of the paper), read in place from the packed product.

    Args:
        qkv: [..., S, 3C] queries, keys and values side by side; any strides.
        num_heads: H, which divides C.
        mask: [..., S] bool, broadcast over the leading dimensions: True for rows that may be attended to; at least
            one of each region.
        impl: the implementation; with a mask, "triton" cannot run, nor "native" on a GPU.

    Returns:
        [..., S, C], the heads side by side.

    Raises:
        InputError: `num_heads` does not divide C, or `impl` cannot run.
    """
    check_heads(qkv.shape[-1], 3, num_heads)
    qkv = product_operand(qkv)
    head_dim = qkv.shape[-1] // (3 * num_heads)
    choice = resolve(
        impl,
        qkv.device,
        qkv.dtype,
        triton=lambda: _mask_reasons(mask) + triton_reasons(qkv.shape[-2], head_dim, qkv.device),
        native={"cuda": lambda: _mask_reasons(mask) + native.not_supported_reasons(qkv, num_heads)},
    )
    if choice == "native":
        return native.NativeRegionAttention.apply(qkv, num_heads)
    if choice == "triton":
        from maedfer.kernels.region_attention.triton import TritonRegionAttention

        return TritonRegionAttention.apply(qkv, num_heads)
    if choice == "torch":
        return plain.region_attention(qkv, num_heads, mask)
    queries, keys, values = qkv.chunk(3, dim=-1)
    return reference.attention(queries, keys, values, num_heads=num_heads, mask=mask)


def cross_attention(
    q: Tensor, kv: Tensor, *, num_heads: int, mask: Tensor | None = None, impl: Impl = "auto"
) -> Tensor:
    """Attention of rows to other rows of the same group.

    Args:
        q: [..., NQ, C] queries.
        kv: [..., NK, 2C] keys and values side by side.
        num_heads: H, which divides C.
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
    choice = resolve(
        impl,
        q.device,
        q.dtype,
        triton=lambda: _mask_reasons(mask) + triton_reasons(kv.shape[-2], q.shape[-1] // num_heads, q.device),
    )
    if choice == "triton":
        from maedfer.kernels.region_attention.triton import TritonCrossAttention

        return TritonCrossAttention.apply(q, kv, num_heads)
    if choice == "torch":
        return plain.cross_attention(q, kv, num_heads, mask)
    keys, values = kv.chunk(2, dim=-1)
    return reference.attention(q, keys, values, num_heads=num_heads, mask=mask)


def full_attention(qkv: Tensor, *, num_heads: int, backend: str = "sdpa") -> Tensor:
    """Self-attention over all tokens of a clip, for the decoder and the ViT: work for a library.

    Args:
        qkv: [..., K, 3C] queries, keys and values side by side.
        num_heads: H, which divides C.
        backend: "sdpa" for PyTorch's scaled_dot_product_attention, "xformers" for memory_efficient_attention.

    Returns:
        [..., K, C].

    Raises:
        InputError: unknown backend, or `num_heads` does not divide C.
        MissingDependencyError: xformers was chosen and is not installed.
    """
    check_heads(qkv.shape[-1], 3, num_heads)
    if backend == "sdpa":
        return plain.region_attention(qkv, num_heads)
    if backend != "xformers":
        raise unknown("attention backend", backend, FULL_ATTENTION)
    xops = require("xformers.ops", "xformers")
    parts = qkv.unflatten(-1, (3, num_heads, -1)).flatten(0, -5)  # [G, K, 3, H, D]
    return xops.memory_efficient_attention(*parts.unbind(2)).reshape(*qkv.shape[:-1], -1)


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


def _mask_reasons(mask: Tensor | None) -> list[str]:
    return [] if mask is None else ["a mask over keys (the kernels attend to all rows of a group)"]


def triton_reasons(keys: int, head_dim: int, device: torch.device) -> list[str]:
    """Why Triton's kernels cannot run groups of `keys` keys at this head dim; empty when they can."""
    from maedfer.kernels.region_attention.triton import not_supported_reasons

    return not_supported_reasons(keys, head_dim, device)
