"""csrc's folded interaction on a GPU, forward.

Its weights stay in shared memory while blocks walk over the tokens of a clip; the backward pass is Triton's. It is
proved by an emulator of the kernel's threads (tests/csrc), and has to be asked for until it has been timed. The stream
and products are in one 16-bit dtype; sums are float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from maedfer.kernels import _native_calls as calls
from maedfer.kernels._configs import shared_limit
from maedfer.kernels._operators import implements
from maedfer.kernels.interaction.schema import interaction_fwd_fake


def not_supported_reasons(z: Tensor, num_heads: int, dtype: torch.dtype) -> list[str]:
    """Why the compiled interaction cannot run on a stream [B, M, S, C] with products in `dtype`; empty when it can."""
    reasons = calls.half_reasons(z.dtype)
    if z.dtype != dtype:
        reasons.append(f"a stream of {z.dtype} with products in {dtype} (they must be the same)")
    regions, dim = z.shape[1], z.shape[3]
    if not reasons and not _supported(regions, num_heads, dim, shared_limit(z.device)):
        reasons.append(
            f"{regions} regions, {num_heads} heads and {dim} channels (256, 384 or 512 channels with up to 64 keys of "
            "all heads, where the GPU has the shared memory)"
        )
    return reasons


@calls.constant
def _supported(regions: int, heads: int, dim: int, limit: int) -> bool:
    return calls.module("cuda").local_global_interaction_supported(regions, heads, dim, limit)


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
    z, s, matrix, values = (calls.aligned(x) for x in (z, s, matrix, values))
    # Both in float32, or both in the dtype of the stream.
    exact = weight.dtype != z.dtype or bias.dtype != z.dtype
    weight, bias = ((x.float() if exact else x).contiguous() for x in (weight, bias))
    offset = offset.float()
    inputs = (z, s, matrix, offset, values, weight, bias, y, n)
    strides = [*z.stride()[:3], *s.stride()[:2], *matrix.stride()[:3], *offset.stride(), *values.stride()[:3]]
    with calls.current_stream(z) as stream:
        error = calls.module("cuda").local_global_interaction_forward(
            calls.ELEMENTS[z.dtype],
            [batch, regions, rows, heads, dim],
            [*(x.data_ptr() for x in inputs), p.data_ptr() if keep_p else 0],
            strides,
            exact,
            eps,
            stream,
        )
        calls.launched(error)
    return y, n, p
