"""The feed-forward network with its residual, by the implementation of choice."""

from __future__ import annotations

import torch
from torch import Tensor

from maedfer.kernels import reference
from maedfer.kernels._autocast import product_dtype, product_operand
from maedfer.kernels._dispatch import Impl, resolve
from maedfer.kernels._functions import run
from maedfer.kernels._native_calls import operator_reasons
from maedfer.kernels._pairs import Linear, Norm
from maedfer.kernels._products import lowered, product
from maedfer.kernels.feed_forward.functions import FeedForwardResidual, FeedForwardResidualLayerNorm, FusedFeedForward
from maedfer.kernels.sub_layer import api as sub_layer
from maedfer.kernels.sub_layer import torch as plain
from maedfer.kernels.sub_layer.functions import BiasGelu, ResidualAdd, ResidualLayerNorm


def feed_forward_residual(
    x: Tensor, fc1: Linear, fc2: Linear, residual: Tensor, *, keep: Tensor | None = None, impl: Impl = "auto"
) -> Tensor:
    """residual + keep * fc2(GELU(fc1(x))) with the exact (erf) GELU.

    Args:
        x: [..., C] the normed stream.
        fc1: [F, C] and [F].
        fc2: [C, F] and [C].
        residual: [..., C] the stream.
        keep: stochastic depth's factors over the leading dimensions, [B] or [B, M], or None.
        impl: the implementation.

    Returns:
        [..., C].
    """
    choice = _resolve(impl, x, fc1, fc2, residual)
    out_weight, out_bias = fc2
    if choice == "native":
        network = product_operand(x), *fc1, out_weight, torch.is_grad_enabled()
        return run(FeedForwardResidual, residual, out_bias, keep, *network)
    if choice == "triton":
        return run(ResidualAdd, residual, _branch(x, fc1, out_weight), out_bias, keep)
    if choice == "torch":
        return plain.linear_residual(plain.linear_gelu(x, fc1), fc2, residual, keep)
    return reference.residual_add(residual, reference.feed_forward(x, fc1, out_weight), bias=out_bias, keep=keep)


def feed_forward_residual_layer_norm(
    x: Tensor,
    fc1: Linear,
    fc2: Linear,
    residual: Tensor,
    norm: Norm,
    *,
    eps: float,
    keep: Tensor | None = None,
    impl: Impl = "auto",
) -> tuple[Tensor, Tensor]:
    """`feed_forward_residual` and the LayerNorm that begins the next sub-layer: stream and norm, [..., C] each."""
    choice = _resolve(impl, x, fc1, fc2, residual)
    out_weight, out_bias = fc2
    if choice == "native":
        network, dtype = (product_operand(x), *fc1, out_weight), product_dtype(residual)
        return run(
            FeedForwardResidualLayerNorm, residual, out_bias, keep, *network, *norm, eps, dtype, torch.is_grad_enabled()
        )
    if choice == "triton":
        branch, dtype = _branch(x, fc1, out_weight), product_dtype(residual)
        return run(ResidualLayerNorm, residual, branch, out_bias, keep, *norm, eps, dtype)
    if choice == "torch":
        z = plain.linear_residual(plain.linear_gelu(x, fc1), fc2, residual, keep)
        return z, plain.layer_norm(z, norm, eps)
    branch = reference.feed_forward(x, fc1, out_weight)
    return reference.residual_layer_norm(residual, branch, norm, eps=eps, bias=out_bias, keep=keep)


def _resolve(impl: Impl, x: Tensor, fc1: Linear, fc2: Linear, residual: Tensor) -> str:
    def native_reasons() -> list[str]:
        return operator_reasons(residual) + operator_reasons(x, *fc1, *fc2)

    def triton() -> list[str]:
        return sub_layer.triton_reasons(residual.shape[-1])

    return resolve(impl, residual.device, residual.dtype, triton=triton, native={"cpu": native_reasons})


def _branch(x: Tensor, fc1: Linear, out_weight: Tensor) -> Tensor:
    """What the network adds, but for its last bias."""
    weight, bias = fc1
    dtype = product_dtype(x)
    from maedfer.kernels.feed_forward.triton import fuses

    if fuses(dtype, *weight.shape):
        low = lowered(weight, dtype), lowered(out_weight, dtype)
        return run(FusedFeedForward, x.to(dtype), weight, bias, out_weight, *low, torch.is_grad_enabled())
    return product(run(BiasGelu, product(x, weight), bias), out_weight)
