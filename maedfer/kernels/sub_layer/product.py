"""Launching what product_kernels.py computes, and gradients; formula and shapes are there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from maedfer.kernels._launch import accumulator, contiguous, dot_precision, launch
from maedfer.kernels._operators import implements, operator
from maedfer.kernels._product_tiles import aligned_rows, as_rows, described, product_config, tiles
from maedfer.kernels._products import weight_gradient
from maedfer.kernels.sub_layer.product_kernels import linear_residual_fwd_kernel
from maedfer.kernels.sub_layer.triton import gradient_dtypes, gradients, remember, rows_a_factor


def fuses(dtype: torch.dtype, stream: torch.dtype, dim: int, width: int) -> bool:
    """Whether the kernel takes a product in `dtype` with the residual of a stream, C = dim and K = width.

    It is made for 16-bit products; those of float32, on a GPU, are a library's, with a pass for the residual. Rows of
    all tensors have to begin at multiples of 16 bytes.
    """
    low = dtype in (torch.float16, torch.bfloat16)
    return low and stream != torch.float64 and width % 8 == 0 and dim % 8 == 0


@implements("linear_residual_fwd")
def linear_residual_fwd(
    x: Tensor, weight: Tensor, bias: Tensor | None, keep: Tensor | None, residual: Tensor
) -> Tensor:
    rows, (dim, width) = x.shape[:-1].numel(), weight.shape
    z = residual.new_empty(residual.shape, dtype=torch.promote_types(residual.dtype, x.dtype))
    chosen = product_config("linear_residual_fwd", x, dim)
    block_m, block_n, block_k = (chosen.tiles[f"BLOCK_{letter}"] for letter in "MNK")
    if rows:
        x, weight, residual = aligned_rows(x), aligned_rows(weight), aligned_rows(residual)
        launch(
            linear_residual_fwd_kernel,
            (-(-rows // block_m) * -(-dim // block_n),),
            tiles(x, block_m, block_k), tiles(weight, block_n, block_k), contiguous(bias), contiguous(keep),
            tiles(residual, block_m, block_n // 2), tiles(as_rows(z), block_m, block_n // 2),
            x.stride(0), weight.stride(0), residual.stride(0), rows_a_factor(rows, keep), rows,
            config=chosen, K=width, C=dim,
            ACC=accumulator(x.dtype), PRECISION=dot_precision(x.dtype), DESCRIBED=described(x.device),
        )  # fmt: skip
    return z


class LinearResidualLayerNormRepresentative(torch.autograd.Function):
    """z = residual + keep * (x weight^T + bias) [B, M, S, C], its rows 0 of each region s [B, M, C], and LayerNorm(s).

    The product takes `low`, the weight in the dtype of x; the gradient is that of the weight.
    """

    @staticmethod
    def forward(
        ctx: Any,
        residual: Tensor,
        x: Tensor,
        bias: Tensor | None,
        keep: Tensor | None,
        norm_weight: Tensor,
        norm_bias: Tensor,
        weight: Tensor,
        low: Tensor,
        eps: float,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Keeps the stream, the norm's weight, the factors, and of the product what the wanted gradients need."""
        remember(ctx, eps, residual, x, bias, None, norm_weight, norm_bias, weight)
        z = operator("linear_residual_fwd")(x, low, bias, keep, residual)
        s, n = operator("layer_norm_representative_fwd")(z, norm_weight, norm_bias, eps, dtype)
        wants_x, wants_weight = ctx.needs_input_grad[1], ctx.needs_input_grad[6]
        ctx.branch = x.dtype if wants_x or wants_weight else None
        ctx.save_for_backward(z, norm_weight, keep, x if wants_weight else None, low if wants_x else None)
        return z, s, n

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dz: Tensor | None, ds: Tensor | None, dn: Tensor | None) -> tuple[Tensor | None, ...]:
        """One pass for what z, s and n were used for, and the product's two products."""
        z, norm_weight, keep, x, low = ctx.saved_tensors
        residual, of_x, of_bias, _, of_norm_weight, of_norm_bias, of_weight = gradient_dtypes(ctx)
        dtypes = residual, ctx.branch, of_bias, of_norm_weight, of_norm_bias
        dresidual, dbranch, *parameters = gradients(ctx, dz, ds, dn, z, norm_weight, keep, dtypes, representative=True)
        dx = dweight = None
        if dbranch is not None and of_x:
            dx = dbranch @ low
        if dbranch is not None and of_weight:
            dweight = weight_gradient(as_rows(dbranch), as_rows(x), of_weight)
        dbias, *dnorm = parameters
        return dresidual, dx, dbias, None, *dnorm, dweight, None, None, None
