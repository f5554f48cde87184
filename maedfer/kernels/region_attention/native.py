"""csrc's attention within regions on a GPU, with tiles that Triton cannot have.

It takes groups of up to 128 rows in tiles of 16 (101 rows in 112), forward and backward. It is proved by an emulator of
the kernels' threads (tests/csrc), and has to be asked for until it has been timed. Queries, keys and values are in one
16-bit dtype; sums are float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from maedfer.kernels import _native_calls as calls
from maedfer.kernels._operators import implements, operator
from maedfer.kernels.region_attention.schema import like_queries


def not_supported_reasons(qkv: Tensor, num_heads: int) -> list[str]:
    """Why the compiled attention cannot run on packed [..., S, 3C]; empty when it can."""
    reasons = calls.half_reasons(qkv.dtype)
    rows, head_dim = qkv.shape[-2], qkv.shape[-1] // (3 * num_heads)
    if not reasons and not _supported(rows, head_dim):
        reasons.append(f"groups of {rows} rows with head dim {head_dim} (the kernels take up to 128, and 64)")
    return reasons


@calls.constant
def _supported(rows: int, head_dim: int) -> bool:
    return calls.module("cuda").region_attention_supported(rows, head_dim)


class NativeRegionAttention(torch.autograd.Function):
    """Self-attention within each group on packed queries, keys and values: [..., S, 3C] -> [..., S, C]."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, num_heads: int) -> Tensor:
        """Keeps the packed product only."""
        ctx.save_for_backward(qkv)
        ctx.num_heads = num_heads
        return operator("native_region_attention_fwd")(qkv, num_heads)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor, None]:
        """One packed gradient."""
        (qkv,) = ctx.saved_tensors
        return operator("native_region_attention_bwd")(dout, qkv, ctx.num_heads), None


@implements("native_region_attention_fwd")
def _attention_fwd(qkv: Tensor, num_heads: int) -> Tensor:
    out = like_queries(qkv, num_heads)
    packed = _rows(qkv)
    with calls.current_stream(qkv) as stream:
        error = calls.module("cuda").region_attention_forward(*_attention(packed, num_heads), out.data_ptr(), stream)
        calls.launched(error)
    return out


@implements("native_region_attention_bwd")
def _attention_bwd(dout: Tensor, qkv: Tensor, num_heads: int) -> Tensor:
    packed, dout = _rows(qkv), _rows(dout)
    dqkv = packed.new_empty(packed.shape)
    gradients = [part.data_ptr() for part in dqkv.chunk(3, dim=-1)]
    with calls.current_stream(qkv) as stream:
        error = calls.module("cuda").region_attention_backward(
            *_attention(packed, num_heads),
            dout.data_ptr(),
            *dout.stride()[:2],
            gradients,
            *dqkv.stride()[:2],
            stream,
        )
        calls.launched(error)
    return dqkv.view(qkv.shape)


def _attention(packed: Tensor, num_heads: int) -> tuple[Any, ...]:
    groups, rows, width = packed.shape
    sizes = [groups, rows, num_heads, width // (3 * num_heads)]
    addresses = [part.data_ptr() for part in packed.chunk(3, dim=-1)]
    return calls.ELEMENTS[packed.dtype], sizes, addresses, *packed.stride()[:2]


def _rows(x: Tensor) -> Tensor:
    """[..., S, C] as [G, S, C] that the kernels can read in place."""
    x = x.unsqueeze(0) if x.dim() == 2 else x.flatten(0, -3)
    return calls.aligned(x)
