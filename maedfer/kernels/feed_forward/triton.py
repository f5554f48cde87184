"""Launching what kernels.py computes, and gradients; formulas and shapes are there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from maedfer.kernels._launch import accumulator, dot_precision, launch
from maedfer.kernels._operators import implements, operator
from maedfer.kernels._product_tiles import aligned_rows, as_rows, described, product_config, tiles
from maedfer.kernels._products import weight_gradient
from maedfer.kernels.feed_forward.kernels import linear_gelu_bwd_kernel, linear_gelu_fwd_kernel


def fuses(dtype: torch.dtype, hidden: int, dim: int) -> bool:
    """Whether the kernels take a network's products in `dtype`, F = hidden and C = dim.

    They are made for 16-bit products; those of float32, on a GPU, are a library's, with a pass for the GELU. Rows of
    all tensors have to begin at multiples of 16 bytes, those with a byte a number too.
    """
    return dtype in (torch.float16, torch.bfloat16) and dim % 8 == 0 and hidden % 16 == 0


def kept_dtype(dtype: torch.dtype) -> torch.dtype:
    """What the slope of the GELU is kept in for products in `dtype`."""
    return torch.uint8 if dtype == torch.bfloat16 else dtype


@implements("linear_gelu_fwd")
def linear_gelu_fwd(x: Tensor, weight: Tensor, bias: Tensor | None, keep: torch.dtype | None) -> tuple[Tensor, Tensor]:
    rows, (hidden, dim) = x.shape[:-1].numel(), weight.shape
    act = x.new_empty((*x.shape[:-1], hidden))
    slope = x.new_empty(act.shape if keep else (0,), dtype=keep)
    chosen = product_config("linear_gelu_fwd", x, hidden)
    block_m, block_n, block_k = (chosen.tiles[f"BLOCK_{letter}"] for letter in "MNK")
    if rows:
        x, weight = aligned_rows(x), aligned_rows(weight)
        launch(
            linear_gelu_fwd_kernel,
            (-(-rows // block_m) * -(-hidden // block_n),),
            tiles(x, block_m, block_k), tiles(weight, block_n, block_k), bias if bias is None else bias.contiguous(),
            tiles(as_rows(act), block_m, block_n // 2), tiles(as_rows(slope), block_m, block_n // 2) if keep else None,
            x.stride(0), weight.stride(0), rows,
            config=chosen, C=dim, F=hidden, CODED=keep == torch.uint8, ERF=x.element_size() > 2,
            ACC=accumulator(x.dtype), PRECISION=dot_precision(x.dtype), DESCRIBED=described(x.device),
        )  # fmt: skip
    return act, slope


@implements("linear_gelu_bwd")
def linear_gelu_bwd(dy: Tensor, weight: Tensor, slope: Tensor, want_bias: bool) -> tuple[Tensor, Tensor]:
    rows, (dim, hidden) = dy.shape[:-1].numel(), weight.shape
    du = dy.new_empty(slope.shape)
    chosen = product_config("linear_gelu_bwd", dy, hidden)
    block_m, block_n, block_k = (chosen.tiles[f"BLOCK_{letter}"] for letter in "MNK")
    exact = torch.float64 if dy.dtype == torch.float64 else torch.float32
    sums = dy.new_empty((-(-rows // block_m), hidden) if want_bias else (1, 0), dtype=exact)
    if rows:
        dy, weight = aligned_rows(dy), aligned_rows(weight)
        launch(
            linear_gelu_bwd_kernel,
            (-(-rows // block_m) * -(-hidden // block_n),),
            tiles(dy, block_m, block_k), tiles(weight, block_k, block_n),
            tiles(as_rows(slope), block_m, block_n // 2), tiles(as_rows(du), block_m, block_n // 2),
            sums if want_bias else None, dy.stride(0), weight.stride(0), rows,
            config=chosen, C=dim, F=hidden, CODED=slope.dtype == torch.uint8,
            ACC=accumulator(dy.dtype), PRECISION=dot_precision(dy.dtype), DESCRIBED=described(dy.device),
        )  # fmt: skip
    return du, sums.sum(0)


class FusedFeedForward(torch.autograd.Function):
    """GELU(x weight^T + bias) out_weight^T: [..., C] in the dtype of x [..., C].

    The products take `low` and `out_low`, the weights in the dtype of x; gradients are those of the weights.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        out_weight: Tensor,
        low: Tensor,
        out_low: Tensor,
        differentiable: bool,
    ) -> Tensor:
        """Keeps of input, weights as they are multiplied, activation and slope what the wanted gradients need."""
        want_x, want_weight, want_bias, want_out = ctx.needs_input_grad[:4]
        through = want_x or want_weight or want_bias
        keep = kept_dtype(x.dtype) if differentiable and through else None
        act, slope = operator("linear_gelu_fwd")(x, low, bias, keep)
        ctx.dtypes = weight.dtype, None if bias is None else bias.dtype, out_weight.dtype
        ctx.save_for_backward(
            x if want_weight else None,
            low if want_x else None,
            out_low if through else None,
            act if want_out else None,
            slope if through else None,
        )
        return act @ out_low.t()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Only what is asked for."""
        x, low, out_low, act, slope = ctx.saved_tensors
        want_x, want_weight, want_bias, want_out = ctx.needs_input_grad[:4]
        of_weight, of_bias, of_out = ctx.dtypes
        dx = dweight = dbias = dout = None
        if want_out:
            dout = weight_gradient(as_rows(dy), as_rows(act), of_out)
        if want_x or want_weight or want_bias:
            du, sums = operator("linear_gelu_bwd")(dy, out_low, slope, want_bias)
            dx = du @ low if want_x else None
            dweight = weight_gradient(as_rows(du), as_rows(x), of_weight) if want_weight else None
            dbias = sums.to(of_bias) if want_bias else None
        return dx, dweight, dbias, dout, None, None, None
