"""What sub-layers begin and end with, by the implementation of choice."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from maedfer.kernels import reference
from maedfer.kernels._autocast import product_dtype, product_operand
from maedfer.kernels._dispatch import Impl, resolve
from maedfer.kernels._functions import run
from maedfer.kernels._native_calls import operator_reasons
from maedfer.kernels._pairs import Linear, Norm
from maedfer.kernels._products import lowered, product
from maedfer.kernels.sub_layer import torch as plain
from maedfer.kernels.sub_layer.functions import (
    LayerNorm,
    LinearResidual,
    LinearResidualLayerNorm,
    LinearResidualLayerNormRepresentative,
    ResidualAdd,
    ResidualLayerNorm,
    ResidualLayerNormRepresentative,
)


def linear(x: Tensor, linear: Linear, *, low: Tensor | None = None, impl: Impl = "auto") -> Tensor:
    """x weight^T + bias: csrc's product on a CPU (_native_products.py), else a library's.

    Args:
        x: [..., F].
        linear: [C, F] and [C], or None for the second.
        low: the low copy of a weight that is a part of a parameter (see `functional.split_rows`); that of a parameter
            is found. "triton" takes it under autocast.
        impl: the implementation.

    Returns:
        [..., C].
    """
    choice = resolve(impl, x.device, x.dtype, triton=list, native={"cpu": lambda: operator_reasons(x, *linear)})
    if choice in ("triton", "native"):
        return product(x, *linear, low)
    return F.linear(x, *linear) if choice == "reference" else plain.linear(x, linear)


def layer_norm(x: Tensor, norm: Norm, *, eps: float, impl: Impl = "auto") -> Tensor:
    """LayerNorm over the last dimension.

    Args:
        x: [..., C]; rows may be strided, a subset of the stream is read in place.
        norm: [C] and [C].
        eps: added to the variance.
        impl: the implementation.

    Returns:
        [..., C].
    """
    choice = _resolve(impl, x)
    if choice in ("triton", "native"):
        return run(LayerNorm, x, *norm, eps, product_dtype(x))
    if choice == "torch":
        return plain.layer_norm(x, norm, eps)
    return reference.layer_norm(x, norm, eps=eps)


def linear_residual(
    x: Tensor, linear: Linear, residual: Tensor, *, keep: Tensor | None = None, impl: Impl = "auto"
) -> Tensor:
    """The end of a sub-layer: residual + keep * (x weight^T + bias).

    Args:
        x: [..., F] the input of the sub-layer's last product.
        linear: [C, F] and [C], that product.
        residual: [..., C] the stream.
        keep: stochastic depth's factors over the leading dimensions, [B] or [B, M], or None.
        impl: the implementation.

    Returns:
        [..., C].
    """
    choice = _resolve(impl, residual, x, *linear)
    weight, bias = linear
    if choice == "native":
        return run(LinearResidual, residual, product_operand(x), bias, keep, weight)
    if choice == "triton":
        return run(ResidualAdd, residual, product(x, weight), bias, keep)
    if choice == "torch":
        return plain.linear_residual(x, linear, residual, keep)
    return reference.residual_add(residual, F.linear(x, weight), bias=bias, keep=keep)


def linear_residual_layer_norm(
    x: Tensor,
    linear: Linear,
    residual: Tensor,
    norm: Norm,
    *,
    eps: float,
    keep: Tensor | None = None,
    impl: Impl = "auto",
) -> tuple[Tensor, Tensor]:
    """`linear_residual` and the LayerNorm that begins the next sub-layer: the stream and its norm, [..., C] each."""
    choice = _resolve(impl, residual, x, *linear)
    weight, bias = linear
    if choice == "native":
        rows, dtype = product_operand(x), product_dtype(residual)
        return run(LinearResidualLayerNorm, residual, rows, bias, keep, *norm, weight, eps, dtype)
    if choice == "triton":
        return run(ResidualLayerNorm, residual, product(x, weight), bias, keep, *norm, eps, product_dtype(residual))
    if choice == "torch":
        z = plain.linear_residual(x, linear, residual, keep)
        return z, plain.layer_norm(z, norm, eps)
    return reference.residual_layer_norm(residual, F.linear(x, weight), norm, eps=eps, bias=bias, keep=keep)


def linear_residual_layer_norm_representative(
    x: Tensor,
    linear: Linear,
    residual: Tensor,
    norm: Norm,
    *,
    eps: float,
    keep: Tensor | None = None,
    impl: Impl = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """`linear_residual` on [B, M, S, C], and the LayerNorm of the representative tokens alone.

    Returns:
        The stream [B, M, S, C], its representative tokens [B, M, C], and those normed [B, M, C].
    """
    choice = _resolve(impl, residual, x, *linear)
    weight, bias = linear
    if choice == "native":
        weights, after = (weight, weight.detach()), product_dtype(residual)
        return run(
            LinearResidualLayerNormRepresentative, residual, product_operand(x), bias, keep, *norm, *weights, eps, after
        )
    if choice == "triton":
        dtype, after = product_dtype(x), product_dtype(residual)
        from maedfer.kernels.sub_layer.product import fuses

        if fuses(dtype, residual.dtype, *weight.shape):
            weights = weight, lowered(weight, dtype)
            return run(
                LinearResidualLayerNormRepresentative, residual, x.to(dtype), bias, keep, *norm, *weights, eps, after
            )
        return run(ResidualLayerNormRepresentative, residual, product(x, weight), bias, keep, *norm, eps, after)
    if choice == "torch":
        z = plain.linear_residual(x, linear, residual, keep)
        s = z[:, :, 0]
        return z, s, plain.layer_norm(s, norm, eps)
    branch = F.linear(x, weight)
    return reference.residual_layer_norm_representative(residual, branch, norm, eps=eps, bias=bias, keep=keep)


def _resolve(impl: Impl, stream: Tensor, x: Tensor | None = None, *weights: Tensor | None) -> str:
    """Who computes on a stream; x and weights are those of a product."""

    def triton() -> list[str]:
        return triton_reasons(stream.shape[-1])

    def native_reasons() -> list[str]:
        return operator_reasons(stream) + ([] if x is None else operator_reasons(x, *weights))

    return resolve(impl, stream.device, stream.dtype, triton=triton, native={"cpu": native_reasons})


def triton_reasons(dim: int) -> list[str]:
    """Why Triton's kernels cannot run rows of `dim` channels; empty when they can."""
    from maedfer.kernels.sub_layer.triton import not_supported_reasons

    return not_supported_reasons(dim)
