"""csrc's attention within regions and folded interaction on a GPU, with tiles that Triton cannot have.

Attention takes groups of up to 128 rows in tiles of 16 (101 rows in 112), forward and backward. The interaction keeps
its folded weights in shared memory while blocks walk over the tokens of a clip; its backward pass is that of
local_global_interaction.py. Both are proved by an emulator of the kernels' threads (tests/csrc) and behind impl="cuda"
until they have been timed. Queries, keys, values and the stream are in one 16-bit dtype; sums are float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from maedfer._native import MODULES, absent
from maedfer.errors import InputError
from maedfer.kernels import native
from maedfer.kernels._configs import shared_limit
from maedfer.kernels._registry import implements, interaction_fwd_fake, like_queries, operator

_DTYPES = (torch.bfloat16, torch.float16)


def attention_reasons(qkv: Tensor, num_heads: int, mask: Tensor | None) -> list[str]:
    """Why the compiled attention cannot run on packed [..., S, 3C]; empty when it can."""
    against = _common_reasons(qkv)
    if mask is not None:
        against.append("a mask over keys (the kernels attend to all rows of a group)")
    rows, head_dim = qkv.shape[-2], qkv.shape[-1] // (3 * num_heads)
    if not against and not _attention_supported(rows, head_dim):
        against.append(f"groups of {rows} rows with head dim {head_dim} (the kernels take up to 128, and 64)")
    return against


def interaction_reasons(z: Tensor, num_heads: int, dtype: torch.dtype) -> list[str]:
    """Why the compiled interaction cannot run on a stream [B, M, S, C] with products in `dtype`; empty when it can."""
    against = _common_reasons(z)
    if z.dtype != dtype:
        against.append(f"a stream of {z.dtype} with products in {dtype} (they must be the same)")
    regions, dim = z.shape[1], z.shape[3]
    if not against and not _interaction_supported(regions, num_heads, dim, shared_limit(z.device)):
        against.append(
            f"{regions} regions, {num_heads} heads and {dim} channels (256, 384 or 512 channels with up to 64 keys of "
            "all heads, where the GPU has the shared memory)"
        )
    return against


def _common_reasons(x: Tensor) -> list[str]:
    if MODULES["cuda"] is None:
        return [absent("cuda")]
    return [] if x.dtype in _DTYPES else [f"{x.dtype} (the kernels take bfloat16 and float16)"]


# Plain numbers in, a truth value out: torch.compile need not look inside.
@torch.compiler.assume_constant_result
def _attention_supported(rows: int, head_dim: int) -> bool:
    return MODULES["cuda"].region_attention_supported(rows, head_dim)  # type: ignore[union-attr]


@torch.compiler.assume_constant_result
def _interaction_supported(regions: int, heads: int, dim: int, limit: int) -> bool:
    compiled: Any = MODULES["cuda"]
    return compiled.local_global_interaction_supported(regions, heads, dim, limit)


class RegionAttention(torch.autograd.Function):
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
    with native.current_stream(qkv) as stream:
        native.launched(_cuda().region_attention_forward(*_attention(packed, num_heads), out.data_ptr(), stream))
    return out


@implements("native_region_attention_bwd")
def _attention_bwd(dout: Tensor, qkv: Tensor, num_heads: int) -> Tensor:
    packed, dout = _rows(qkv), _rows(dout)
    dqkv = packed.new_empty(packed.shape)
    gradients = [part.data_ptr() for part in dqkv.chunk(3, dim=-1)]
    with native.current_stream(qkv) as stream:
        error = _cuda().region_attention_backward(
            *_attention(packed, num_heads),
            dout.data_ptr(),
            *dout.stride()[:2],
            gradients,
            *dqkv.stride()[:2],
            stream,
        )
        native.launched(error)
    return dqkv.view(qkv.shape)


def _attention(packed: Tensor, num_heads: int) -> tuple[Any, ...]:
    groups, rows, width = packed.shape
    sizes = [groups, rows, num_heads, width // (3 * num_heads)]
    addresses = [part.data_ptr() for part in packed.chunk(3, dim=-1)]
    return native.ELEMENTS[packed.dtype], sizes, addresses, *packed.stride()[:2]


@implements("native_interaction_fwd")
def _interaction_fwd(
    z: Tensor,
    s: Tensor,
    matrix: Tensor,
    offset: Tensor,
    values: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    dtype: torch.dtype,
    keep_p: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, regions, rows, dim = z.shape
    heads = matrix.shape[1]
    y, n, p = interaction_fwd_fake(z, s, matrix, offset, values, weight, bias, eps, dtype, keep_p)
    z, s, matrix, values = (_aligned(x) for x in (z, s, matrix, values))
    # Both in float32, or both in the dtype of the stream.
    exact = weight.dtype != z.dtype or bias.dtype != z.dtype
    weight, bias = ((x.float() if exact else x).contiguous() for x in (weight, bias))
    offset = offset.float()
    inputs = (z, s, matrix, offset, values, weight, bias, y, n)
    strides = [*z.stride()[:3], *s.stride()[:2], *matrix.stride()[:3], *offset.stride(), *values.stride()[:3]]
    with native.current_stream(z) as stream:
        error = _cuda().local_global_interaction_forward(
            native.ELEMENTS[z.dtype],
            [batch, regions, rows, heads, dim],
            [*(x.data_ptr() for x in inputs), p.data_ptr() if keep_p else 0],
            strides,
            exact,
            eps,
            stream,
        )
        native.launched(error)
    return y, n, p


def _cuda() -> Any:
    if MODULES["cuda"] is None:
        raise InputError(absent("cuda"))
    return MODULES["cuda"]


def _rows(x: Tensor) -> Tensor:
    """[..., S, C] as [G, S, C] that the kernels can read in place."""
    x = x.unsqueeze(0) if x.dim() == 2 else x.flatten(0, -3)
    return _aligned(x)


def _aligned(x: Tensor) -> Tensor:
    """Copied unless 16 bytes can be read at once everywhere."""
    fits = x.stride(-1) == 1 and x.data_ptr() % 16 == 0 and not any(stride % 8 for stride in x.stride()[:-1])
    return x if fits else x.clone(memory_format=torch.contiguous_format)
