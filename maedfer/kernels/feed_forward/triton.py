"""Launching what kernels.py computes; formulas and shapes are there."""

from __future__ import annotations

import torch
from torch import Tensor

from maedfer.kernels._launch import accumulator, dot_precision, launch
from maedfer.kernels._operators import implements
from maedfer.kernels._product_tiles import aligned_rows, described, product_config, tiles
from maedfer.kernels._products import as_rows
from maedfer.kernels.feed_forward.kernels import linear_gelu_bwd_kernel, linear_gelu_fwd_kernel


def fuses(dtype: torch.dtype, hidden: int, dim: int) -> bool:
    """Whether the kernels take a network's products in `dtype`, F = hidden and C = dim.

    They are made for 16-bit products; those of float32, on a GPU, are a library's, with a pass for the GELU. Rows of
    all tensors have to begin at multiples of 16 bytes, those with a byte a number too.
    """
    return dtype in (torch.float16, torch.bfloat16) and dim % 8 == 0 and hidden % 16 == 0


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
