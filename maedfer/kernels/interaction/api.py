"""The local-global interaction, by the implementation of choice."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from maedfer.kernels import reference
from maedfer.kernels._autocast import product_dtype
from maedfer.kernels._dispatch import Impl, resolve
from maedfer.kernels._functions import run
from maedfer.kernels._native_calls import operator_reasons
from maedfer.kernels._pairs import Linear, Norm
from maedfer.kernels.interaction import torch as plain
from maedfer.kernels.interaction.folding import folds
from maedfer.kernels.interaction.functions import FoldedInteraction, fold
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
    kv_bias: Tensor | None = None,
    folded: bool | None = None,
    impl: Impl = "auto",
) -> tuple[Tensor, Tensor]:
    """Local-global interaction (equations 4 and 5) with its residual and the LayerNorm that follows.

    Arguments and results are those of `reference.local_global_interaction`, and:

    Args:
        folded: whether all but "reference" fold the projections into keys and values; by default where that takes
            fewer multiply-adds (H * M < C + M), in "torch" on a CPU where it also takes less time.
        impl: the implementation.

    Raises:
        InputError: `num_heads` does not divide C, or `impl` cannot run.
    """
    attention.check_heads(kv.shape[-1], 2, num_heads)
    choice, by_kernels = _choose(z, kv, num_heads, folded, impl)
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
            kv_bias=kv_bias,
        )
    if choice == "torch":
        z = plain.local_global_interaction(
            z,
            s,
            kv,
            norm=norm,
            query=query,
            output=output,
            num_heads=num_heads,
            eps=eps,
            keep=keep,
            folded=folded,
            kv_bias=kv_bias,
        )
        return z, layer_norm(z, next_norm, eps)
    if by_kernels:
        matrices = fold(
            kv,
            norm=norm,
            query=query,
            output=output,
            num_heads=num_heads,
            dtype=product_dtype(kv),
            keep=keep,
            kv_bias=kv_bias,
        )
        return run(FoldedInteraction, z, s, *matrices, *next_norm, eps, product_dtype(z), torch.is_grad_enabled())
    kv = plain.with_value_bias(kv, kv_bias)
    x, (regions, rows) = z[:, :, 1:], z.shape[1:3]
    n = sub_layer.layer_norm(x, norm, eps=eps, impl=impl).flatten(1, 2)
    q = sub_layer.linear(n, query, impl=impl) if choice == "native" else F.linear(n, *query)
    heads = attention.cross_attention(q, kv, num_heads=num_heads, impl=impl).unflatten(1, (regions, rows - 1))
    x = sub_layer.linear_residual(heads, output, x, keep=keep, impl=impl)
    z = torch.cat([s.unsqueeze(2), x], dim=2)
    return z, sub_layer.layer_norm(z, next_norm, eps=eps, impl=impl)


def adds_value_bias(z: Tensor, *, num_heads: int, impl: Impl = "auto") -> bool:
    """Whether `local_global_interaction` on z [B, M, S, C] adds the bias of the values in a pass that it makes anyway.

    Where it does, the product that makes keys and values is better left without a bias; elsewhere that product adds it.

    Raises:
        InputError: `impl` cannot run.
    """
    choice, by_kernels = _choose(z, z, num_heads, None, impl)
    return by_kernels and choice in ("triton", "native")


def _choose(z: Tensor, kv: Tensor, num_heads: int, folded: bool | None, impl: Impl) -> tuple[str, bool]:
    """Who computes, and whether kernels do so with folded projections."""
    _, regions, _, dim = z.shape
    by_kernels = folds(num_heads, regions, dim) if folded is None else folded

    def triton_reasons() -> list[str]:
        return _triton_reasons(by_kernels, regions, dim, num_heads, z.device)

    def native_reasons() -> list[str]:
        return operator_reasons(z) + operator_reasons(kv)

    return resolve(impl, z.device, z.dtype, triton=triton_reasons, native={"cpu": native_reasons}), by_kernels


def _triton_reasons(folded: bool, regions: int, dim: int, num_heads: int, device: torch.device) -> list[str]:
    if not folded:
        return sub_layer.triton_reasons(dim) + attention.triton_reasons(regions, dim // num_heads, device)
    from maedfer.kernels.interaction.triton import not_supported_reasons

    return not_supported_reasons(regions, dim)
