"""The local-global interaction, by the implementation of choice."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from maedfer.kernels import reference
from maedfer.kernels._autocast import product_dtype
from maedfer.kernels._dispatch import Impl, resolve
from maedfer.kernels._pairs import Linear, Norm
from maedfer.kernels.interaction import native
from maedfer.kernels.interaction import torch as plain
from maedfer.kernels.interaction.folding import fold, folds
from maedfer.kernels.region_attention import api as attention
from maedfer.kernels.sub_layer import api as sub_layer
from maedfer.kernels.sub_layer.torch import layer_norm


def local_global_interaction(
    z: Tensor,
    s: Tensor,
    kv: Tensor,
    *,
    norm: Norm,
    query: Linear,
    output: Linear,
    next_norm: Norm,
    num_heads: int,
    eps: float,
    keep: Tensor | None = None,
    folded: bool | None = None,
    impl: Impl = "auto",
) -> tuple[Tensor, Tensor]:
    """Local-global interaction (equations 4 and 5) with its residual and the LayerNorm that follows.

    Arguments and results are those of `reference.local_global_interaction`, and:

    Args:
        folded: whether "torch" and "triton" fold the projections into keys and values; by default where that takes
            fewer multiply-adds (H * M < C + M), on a CPU where it also takes less time. csrc has the folded form.
        impl: the implementation.

    Raises:
        InputError: `num_heads` does not divide C, or `impl` cannot run.
    """
    attention.check_heads(kv.shape[-1], 2, num_heads)
    _, regions, rows, dim = z.shape
    dtype = product_dtype(z)
    by_kernels = folds(num_heads, regions, dim) if folded is None else folded

    def triton_reasons() -> list[str]:
        return _triton_reasons(by_kernels, regions, dim, num_heads, z.device)

    def native_reasons() -> list[str]:
        # The backward pass is Triton's.
        return native.not_supported_reasons(z, num_heads, dtype) or triton_reasons()

    choice = resolve(
        impl, z.device, z.dtype, triton=triton_reasons, native={"cuda": native_reasons} if by_kernels else None
    )
    if choice == "reference":
        return reference.local_global_interaction(
            z,
            s,
            kv,
            norm=norm,
            query=query,
            output=output,
            next_norm=next_norm,
            num_heads=num_heads,
            eps=eps,
            keep=keep,
        )
    if choice == "torch":
        z = plain.local_global_interaction(
            z, s, kv, norm=norm, query=query, output=output, num_heads=num_heads, eps=eps, keep=keep, folded=folded
        )
        return z, layer_norm(z, next_norm, eps)
    if by_kernels:
        from maedfer.kernels.interaction.triton import FoldedInteraction

        matrices = fold(kv, norm=norm, query=query, output=output, num_heads=num_heads, keep=keep)
        forward = "native_interaction_fwd" if choice == "native" else "interaction_fwd"
        return FoldedInteraction.apply(z, s, *matrices, *next_norm, eps, dtype, forward)
    x = z[:, :, 1:]
    q = F.linear(sub_layer.layer_norm(x, norm, eps=eps, impl=impl).flatten(1, 2), *query)
    heads = attention.cross_attention(q, kv, num_heads=num_heads, impl=impl).unflatten(1, (regions, rows - 1))
    x = sub_layer.linear_residual(heads, output, x, keep=keep, impl=impl)
    z = torch.cat([s.unsqueeze(2), x], dim=2)
    return z, sub_layer.layer_norm(z, next_norm, eps=eps, impl=impl)


def _triton_reasons(folded: bool, regions: int, dim: int, num_heads: int, device: torch.device) -> list[str]:
    if not folded:
        return sub_layer.triton_reasons(dim) + attention.triton_reasons(regions, dim // num_heads, device)
    from maedfer.kernels.interaction.triton import not_supported_reasons

    return not_supported_reasons(regions, dim)
