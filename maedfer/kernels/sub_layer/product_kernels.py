"""The last product of a sub-layer with its bias, stochastic depth and residual, in one kernel.

    z = residual + keep * (x W^T + b)

Shapes: x [R, K], W [C, K], b [C], residual and z [R, C]; `keep` holds one factor for each run of keep_rows rows. What
the product adds to the stream is in registers alone. All sums are float32 (float64 for float64), and rounded once, as z
is written; the stream may be wider than what is multiplied. A program computes one tile of the product and finishes it
by halves, as _product_tiles.py has it. The backward pass is that of the separate operations (triton.py, product.py).
"""

from __future__ import annotations

import triton
import triton.language as tl

from maedfer.kernels._product_tiles import linear_tile, load_tile, store_tile


@triton.jit
def _finish(
    branch, bias_ptr, keep_ptr, residual, z, row, col, rows, residual_row, keep_rows,
    C: tl.constexpr, BLOCK_M: tl.constexpr, WIDTH: tl.constexpr, DESCRIBED: tl.constexpr,
):  # fmt: skip
    """Add the sums `branch` [BLOCK_M, WIDTH], to which the bias is still to be added, to the stream."""
    before = load_tile(residual, row, col, rows, residual_row, C, BLOCK_M, WIDTH, DESCRIBED)
    if bias_ptr is not None:
        column = col + tl.arange(0, WIDTH)
        branch += tl.load(bias_ptr + column, mask=column < C, other=0.0).to(branch.dtype)[None, :]
    if keep_ptr is not None:
        at = row + tl.arange(0, BLOCK_M)
        branch *= tl.load(keep_ptr + at // keep_rows, mask=at < rows, other=0.0).to(branch.dtype)[:, None]
    store_tile(z, before.to(branch.dtype) + branch, row, col, rows, C, DESCRIBED)


@triton.jit(do_not_specialize=["rows", "keep_rows"])
def linear_residual_fwd_kernel(
    x,  # [R, K] in tiles [BLOCK_M, BLOCK_K]
    weight,  # W [C, K] in tiles [BLOCK_N, BLOCK_K]
    bias_ptr,  # [C], or None
    keep_ptr,  # [R / keep_rows], or None
    residual,  # [R, C] in tiles [BLOCK_M, BLOCK_N / 2]
    z,  # [R, C] contiguous, likewise
    x_row, weight_row, residual_row, keep_rows, rows,
    K: tl.constexpr, C: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr, DESCRIBED: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) // tl.cdiv(C, BLOCK_N) * BLOCK_M
    col = tl.program_id(0) % tl.cdiv(C, BLOCK_N) * BLOCK_N
    left, right = linear_tile(
        x, weight, row, col, rows, x_row, weight_row,
        K, C, BLOCK_M, BLOCK_N, BLOCK_K, ACC, PRECISION, DESCRIBED,
    )  # fmt: skip
    HALF: tl.constexpr = BLOCK_N // 2
    _finish(left, bias_ptr, keep_ptr, residual, z, row, col, rows, residual_row, keep_rows, C, BLOCK_M, HALF, DESCRIBED)
    _finish(
        right, bias_ptr, keep_ptr, residual, z, row, col + HALF, rows, residual_row, keep_rows,
        C, BLOCK_M, HALF, DESCRIBED,
    )  # fmt: skip
