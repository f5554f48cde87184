"""What kernels share that finish a product tile by tile: the sums of a tile, and the ways to load and store one.

A program computes one tile [BLOCK_M, BLOCK_N] of a product in float32 (float64 for float64) and finishes it by halves,
which need fewer registers: two programs then share a multiprocessor, and one finishes beside the other's product. Tiles
of one row block follow each other, so that its rows are read once and the weight stays in the L2 cache.

A GPU that moves tiles by descriptors gets those; others get pointers. What is beyond the end of a tensor is read as
zeros and not written. Rows of all tensors have to begin at multiples of 16 bytes.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from maedfer.kernels._configs import Config, architecture, config
from maedfer.kernels._launch import power_of_two
from maedfer.kernels._products import as_rows


@triton.jit
def load_tile(
    x, row, col, rows, stride, COLS: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, DESCRIBED: tl.constexpr
):
    """A tile [HEIGHT, WIDTH] of x [rows, COLS], by its descriptor or by pointers; zeros beyond the ends."""
    if DESCRIBED:
        tile = x.load([row, col])
    else:
        row += tl.arange(0, HEIGHT)
        col += tl.arange(0, WIDTH)
        mask = (row < rows)[:, None] & (col < COLS)[None, :]
        tile = tl.load(x + row.to(tl.int64)[:, None] * stride + col[None, :], mask=mask, other=0)
    return tile


@triton.jit
def store_tile(x, value, row, col, rows, COLS: tl.constexpr, DESCRIBED: tl.constexpr):
    """Write a tile of the contiguous x [rows, COLS]; what is beyond the ends is left out."""
    if DESCRIBED:
        x.store([row, col], value.to(x.dtype))
    else:
        row += tl.arange(0, value.shape[0])
        col += tl.arange(0, value.shape[1])
        mask = (row < rows)[:, None] & (col < COLS)[None, :]
        tl.store(x + row.to(tl.int64)[:, None] * COLS + col[None, :], value.to(x.dtype.element_ty), mask=mask)


@triton.jit
def linear_tile(
    x, weight, row, col, rows, x_row, weight_row,
    K: tl.constexpr, N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr, DESCRIBED: tl.constexpr,
):  # fmt: skip
    """A tile of x weight^T, for x [rows, K] and weight [N, K], in its halves [BLOCK_M, BLOCK_N / 2]."""
    acc = tl.zeros([BLOCK_M, BLOCK_N], dtype=ACC)
    for k in range(0, K, BLOCK_K):
        a = load_tile(x, row, k, rows, x_row, K, BLOCK_M, BLOCK_K, DESCRIBED)
        b = load_tile(weight, col, k, N, weight_row, K, BLOCK_N, BLOCK_K, DESCRIBED)
        acc = tl.dot(a, b.T, acc, input_precision=PRECISION, out_dtype=ACC)
    return halves(acc, BLOCK_M, BLOCK_N)


@triton.jit
def halves(acc, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """The left and the right half of a tile [BLOCK_M, BLOCK_N]."""
    return tl.reshape(acc, (BLOCK_M, 2, BLOCK_N // 2)).permute(0, 2, 1).split()


def aligned_rows(x: Tensor) -> Tensor:
    """The rows of x, copied where they do not begin at multiples of 16 bytes or are not rows of their own."""
    x = as_rows(x)
    row, column = x.stride()
    if column != 1 or row == 0 or row * x.element_size() % 16 or x.data_ptr() % 16:
        return x.clone(memory_format=torch.contiguous_format)
    return x


# Two programs on each multiprocessor.
_LARGE = Config({"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 64}, 8, 3)
_SMALL = Config({"BLOCK_M": 64, "BLOCK_N": 128, "BLOCK_K": 64}, 4, 3)


def product_config(kernel: str, x: Tensor, width: int) -> Config:
    """The configuration of a kernel for products of x [..., K] that are `width` wide."""
    default = _LARGE if described(x.device) else _SMALL
    return config(kernel, (power_of_two(x.shape[-1]), power_of_two(width), x.element_size()), default, x.device)


def described(device: torch.device) -> bool:
    """Whether a GPU moves tiles by descriptors."""
    return architecture(device) >= 90


def tiles(x: Tensor, height: int, width: int) -> Tensor | TensorDescriptor:
    """The way to the rows x [R, N] in tiles: their descriptor, or themselves."""
    return TensorDescriptor.from_tensor(x, [height, width]) if described(x.device) else x
