"""GELU of a sum, forward and backward.

    out = u * Phi(u),    u = x + bias,    Phi(u) = (1 + erf(u / sqrt(2))) / 2    (the exact GELU, not the tanh one)

Shapes: x [..., F] seen as G groups of R rows, the strides of groups and rows being arguments; bias [F]. A program takes
tiles of rows and columns. Only x and bias are kept for the backward pass. All arithmetic is float32 (float64 for
float64). The gradient of the bias is a sum of each program in a fixed order, then of programs: no atomic addition.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def normal(u, ERF: tl.constexpr):
    """Phi(u), and its derivative times sqrt(2 pi)."""
    density = tl.exp2(u * u * -0.7213475204444817)  # exp(-u^2 / 2)
    if ERF:
        return 0.5 + 0.5 * tl.erf(u * 0.7071067811865476), density
    # The library's erf compiles to 37 instructions a number for sm_90, this to 22. By an estimate from data sheets, 2
    # bytes in and out leave time for about 34 on an H100; that was not measured.
    # With t as below, Phi(-|u|) = density * t * P(t), and P was fitted to errors of Phi below 2e-8.
    root = tl.rsqrt(1.0 + 0.28 * tl.abs(u))
    t = root * root
    tail = 0.38987597827435194 - 0.10580872739841406 * t
    tail = 0.11652093745642647 + t * (
        0.06749574905309913 + t * (0.2689126921007342 + t * (tail * t - 0.23699663876794547))
    )
    tail *= density * t
    return tl.where(u < 0.0, tail, 1.0 - tail), density


@triton.jit
def _load_sum(x_ptr, bias_ptr, row, rows, x_group, x_row, col, mask, col_ok, ACC: tl.constexpr):
    """x + bias [ROWS, COLS]."""
    # Rows are counted in 32 bits, since each of them takes a division; elements are not.
    offset = (row // rows).to(tl.int64) * x_group + (row % rows).to(tl.int64) * x_row
    u = tl.load(x_ptr + offset[:, None] + col[None, :], mask=mask, other=0.0).to(ACC)
    if bias_ptr is not None:
        u += tl.load(bias_ptr + col, mask=col_ok, other=0.0).to(ACC)[None, :]
    return u


@triton.jit(do_not_specialize=["rows", "num_rows"])
def bias_gelu_fwd_kernel(
    x_ptr,  # [G, R, F], strides (x_group, x_row, 1)
    bias_ptr,  # [F], or None
    out_ptr,  # [G, R, F] contiguous
    x_group, x_row, rows, num_rows,
    F: tl.constexpr, ERF: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    col = pid % tl.cdiv(F, COLS) * COLS + tl.arange(0, COLS)
    row = pid // tl.cdiv(F, COLS) * ROWS + tl.arange(0, ROWS)
    mask = (row < num_rows)[:, None] & (col < F)[None, :]
    u = _load_sum(x_ptr, bias_ptr, row, rows, x_group, x_row, col, mask, col < F, ACC)
    phi, _ = normal(u, ERF)
    offset = row.to(tl.int64)[:, None] * F + col[None, :]
    tl.store(out_ptr + offset, (u * phi).to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["rows", "num_rows", "blocks_per_program"])
def bias_gelu_bwd_kernel(
    dout_ptr,  # [G, R, F], strides (dout_group, dout_row, 1)
    x_ptr,  # [G, R, F], strides (x_group, x_row, 1)
    bias_ptr,  # [F], or None
    dx_ptr,  # [G, R, F] contiguous, or None
    sums_ptr,  # [row programs, F]: gradient of the bias; or None
    dout_group, dout_row, x_group, x_row, rows, num_rows, blocks_per_program,
    F: tl.constexpr, ERF: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0)
    col = pid % tl.cdiv(F, COLS) * COLS + tl.arange(0, COLS)
    col_ok = col < F
    row_program, row_programs = pid // tl.cdiv(F, COLS), tl.num_programs(0) // tl.cdiv(F, COLS)
    # Rows are added up in place and folded once: a fold takes all warps of a program.
    dbias = tl.zeros([ROWS, COLS], dtype=ACC)
    for block in range(0, blocks_per_program):
        row = (block * row_programs + row_program) * ROWS + tl.arange(0, ROWS)
        mask = (row < num_rows)[:, None] & col_ok[None, :]
        offset = (row // rows).to(tl.int64) * dout_group + (row % rows).to(tl.int64) * dout_row
        dout = tl.load(dout_ptr + offset[:, None] + col[None, :], mask=mask, other=0.0).to(ACC)
        u = _load_sum(x_ptr, bias_ptr, row, rows, x_group, x_row, col, mask, col_ok, ACC)
        phi, density = normal(u, ERF)
        dx = dout * (phi + u * density * 0.3989422804014327)
        if dx_ptr is not None:
            offset = row.to(tl.int64)[:, None] * F + col[None, :]
            tl.store(dx_ptr + offset, dx.to(dx_ptr.dtype.element_ty), mask=mask)
        if sums_ptr is not None:
            dbias += dx
    if sums_ptr is not None:
        tl.store(sums_ptr + row_program * F + col, tl.sum(dbias, 0), mask=col_ok)
