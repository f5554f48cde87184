"""Launching what product_kernels.py computes; formula and shapes are there."""

from __future__ import annotations

import torch
from torch import Tensor

from maedfer.kernels._launch import accumulator, contiguous, dot_precision, launch
from maedfer.kernels._operators import implements, unwritten
from maedfer.kernels._product_tiles import aligned_rows, described, product_config, tiles
from maedfer.kernels._products import as_rows
from maedfer.kernels.sub_layer.product_kernels import linear_residual_fwd_kernel
from maedfer.kernels.sub_layer.triton import rows_a_factor


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
    z = unwritten(residual, torch.promote_types(residual.dtype, x.dtype))
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
