"""The first product of a feed-forward network with its GELU, and the gradient of both, in one kernel each.

    act = u * Phi(u)             u = x W1^T + b1
    du  = (dy W2) * slope        slope = Phi(u) + u * Phi'(u)        db1 = sum of du over rows

Shapes: x [R, C], W1 [F, C], b1 [F], W2 [C, F], act and du [R, F]; dy [R, C] is the gradient of act W2^T. A program
computes one tile of a product and finishes it by halves, as _product_tiles.py has it.

Kept for the backward pass is the slope, not u: the GELU has all of it at hand, and the backward pass is left with one
multiplication. It lies between -0.129 and 1.129. In bfloat16, which rounds there by up to 1/256, it is kept in a byte:
200 slope + 28 to the nearest, off by 1/400 at most, with 0 and 1 exact. (Novikov et al., "Few-bit Backward", 2022, keep
it in fewer bits still.) Other dtypes keep it as they are. The gradient of the bias is a sum of each program in a fixed
order, of du as it is written, then of programs: no atomic addition.
"""

from __future__ import annotations

import triton
import triton.language as tl

from maedfer.kernels._product_tiles import halves, linear_tile, load_tile, store_tile
from maedfer.kernels.sub_layer.gelu_kernels import normal

_STEPS: tl.constexpr = tl.constexpr(200.0)
# 2^23 + 28: a float32 this large has its last bit at 1, so that adding it rounds, and its low byte is the code.
_SHIFT: tl.constexpr = tl.constexpr(8388636.0)
_SHIFT_BITS: tl.constexpr = tl.constexpr(0x4B000000)


@triton.jit
def encode(slope):
    """A byte for each slope."""
    return (slope * _STEPS + _SHIFT).to(tl.int32, bitcast=True).to(tl.uint8)


@triton.jit
def decode(code):
    """What `encode` was given, to the nearest 1/200."""
    return ((code.to(tl.int32) | _SHIFT_BITS).to(tl.float32, bitcast=True) - _SHIFT) * (1.0 / _STEPS)


@triton.jit
def _finish_forward(
    u, bias_ptr, act, slope, row, col, rows,
    F: tl.constexpr, WIDTH: tl.constexpr, CODED: tl.constexpr, ERF: tl.constexpr, DESCRIBED: tl.constexpr,
):  # fmt: skip
    """Activation and slope of the sums u [BLOCK_M, WIDTH], to which the bias is still to be added."""
    if bias_ptr is not None:
        column = col + tl.arange(0, WIDTH)
        u += tl.load(bias_ptr + column, mask=column < F, other=0.0).to(u.dtype)[None, :]
    phi, density = normal(u, ERF)
    store_tile(act, u * phi, row, col, rows, F, DESCRIBED)
    if slope is not None:
        steep = phi + u * density * 0.3989422804014327
        store_tile(slope, encode(steep) if CODED else steep, row, col, rows, F, DESCRIBED)


@triton.jit(do_not_specialize=["rows"])
def linear_gelu_fwd_kernel(
    x,  # [R, C] in tiles [BLOCK_M, BLOCK_K]
    weight,  # W1 [F, C] in tiles [BLOCK_N, BLOCK_K]
    bias_ptr,  # [F], or None
    act,  # [R, F] contiguous, in tiles [BLOCK_M, BLOCK_N / 2]
    slope,  # likewise, or None
    x_row, weight_row, rows,
    C: tl.constexpr, F: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    CODED: tl.constexpr, ERF: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr, DESCRIBED: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) // tl.cdiv(F, BLOCK_N) * BLOCK_M
    col = tl.program_id(0) % tl.cdiv(F, BLOCK_N) * BLOCK_N
    left, right = linear_tile(
        x, weight, row, col, rows, x_row, weight_row,
        C, F, BLOCK_M, BLOCK_N, BLOCK_K, ACC, PRECISION, DESCRIBED,
    )  # fmt: skip
    HALF: tl.constexpr = BLOCK_N // 2
    _finish_forward(left, bias_ptr, act, slope, row, col, rows, F, HALF, CODED, ERF, DESCRIBED)
    _finish_forward(right, bias_ptr, act, slope, row, col + HALF, rows, F, HALF, CODED, ERF, DESCRIBED)


@triton.jit
def _finish_backward(
    dact, slope, du, sums_ptr, row, col, rows, F: tl.constexpr, BLOCK_M: tl.constexpr, WIDTH: tl.constexpr,
    LOW: tl.constexpr, CODED: tl.constexpr, PRECISION: tl.constexpr, DESCRIBED: tl.constexpr,
):  # fmt: skip
    """Gradient of u from that of the activation [BLOCK_M, WIDTH], and its sums over rows."""
    steep = load_tile(slope, row, col, rows, F, F, BLOCK_M, WIDTH, DESCRIBED)
    grad = (dact * (decode(steep) if CODED else steep.to(dact.dtype))).to(LOW)
    store_tile(du, grad, row, col, rows, F, DESCRIBED)
    if sums_ptr is not None:
        # A sum over rows takes 96 shuffles and as many additions of each thread, a product with ones eight matrix
        # instructions. It has no fewer than 16 rows, which are all the same.
        ones = tl.full((16, BLOCK_M), 1.0, dtype=LOW)
        sums = tl.dot(ones, grad, input_precision=PRECISION, out_dtype=dact.dtype)
        column = col + tl.arange(0, WIDTH)
        tl.store(sums_ptr + column, tl.sum(sums, 0) * 0.0625, mask=column < F)


@triton.jit(do_not_specialize=["rows"])
def linear_gelu_bwd_kernel(
    dy,  # [R, C] in tiles [BLOCK_M, BLOCK_K]
    weight,  # W2 [C, F] in tiles [BLOCK_K, BLOCK_N]
    slope,  # [R, F] contiguous, in tiles [BLOCK_M, BLOCK_N / 2]
    du,  # likewise
    sums_ptr,  # [row blocks, F]: gradient of the bias; or None
    dy_row, weight_row, rows,
    C: tl.constexpr, F: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    CODED: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr, DESCRIBED: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0) // tl.cdiv(F, BLOCK_N)
    row, col = block * BLOCK_M, tl.program_id(0) % tl.cdiv(F, BLOCK_N) * BLOCK_N
    acc = tl.zeros([BLOCK_M, BLOCK_N], dtype=ACC)
    for k in range(0, C, BLOCK_K):
        a = load_tile(dy, row, k, rows, dy_row, C, BLOCK_M, BLOCK_K, DESCRIBED)
        b = load_tile(weight, k, col, C, weight_row, F, BLOCK_K, BLOCK_N, DESCRIBED)
        acc = tl.dot(a, b, acc, input_precision=PRECISION, out_dtype=ACC)
    if sums_ptr is not None:
        sums_ptr += block.to(tl.int64) * F
    left, right = halves(acc, BLOCK_M, BLOCK_N)
    HALF: tl.constexpr = BLOCK_N // 2
    LOW: tl.constexpr = du.dtype if DESCRIBED else du.dtype.element_ty
    _finish_backward(left, slope, du, sums_ptr, row, col, rows, F, BLOCK_M, HALF, LOW, CODED, PRECISION, DESCRIBED)
    _finish_backward(
        right, slope, du, sums_ptr, row, col + HALF, rows, F, BLOCK_M, HALF, LOW, CODED, PRECISION, DESCRIBED
    )
