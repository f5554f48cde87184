"""Products on a CPU by csrc, in float32 or bfloat16, finished while their sums are in the cache.

Operands are float32 or bfloat16 in any mixture, of any strides. They are rounded to the dtype of the product as they
are read; its sums and all that is done to them are float32, rounded once when the result is written.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from maedfer.errors import InputError
from maedfer.kernels._multiplier import BY_ROWS, BY_ROWS_TRANSPOSED, OVER_ROWS, Product, library_product, multiplier
from maedfer.kernels._native_calls import ELEMENTS, module, rows_of
from maedfer.kernels._operators import define, implements_on_cpu, operator
from maedfer.kernels._packed_weights import pack, pack_rows, packed

DTYPES = (torch.float32, torch.bfloat16)
# Numbers of csrc's `Activation`.
_GELU, _SLOPE = 1, 2


def not_supported_reasons(*dtypes: torch.dtype) -> list[str]:
    """Why csrc cannot multiply what is of these dtypes; empty when it can."""
    return [f"{dtype} (products take float32 and bfloat16)" for dtype in dict.fromkeys(dtypes) if dtype not in DTYPES]


def product(
    x: Tensor,
    weight: Tensor,
    *,
    dtype: torch.dtype,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    keep: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """residual + keep * (x weight^T + bias): [..., N].

    Args:
        x: [..., K].
        weight: [N, K]; `weight.t()` of a weight gives the gradient of an input.
        dtype: of the product.
        bias: [N], or None.
        residual: [..., N], or None.
        keep: factors over the leading dimensions, or None.
        out_dtype: of the result; by default what residual and product are promoted to, and `dtype` without one.

    Raises:
        InputError: an operand is neither float32 nor bfloat16, or shapes do not fit.
    """
    if out_dtype is None:
        out_dtype = dtype if residual is None else torch.promote_types(residual.dtype, dtype)
    return operator("native_product")(x, weight, bias, residual, keep, dtype, out_dtype)


def weight_gradient(
    dout: Tensor, x: Tensor, *, dtype: torch.dtype, out_dtype: torch.dtype = torch.float32, want_sums: bool = False
) -> tuple[Tensor, Tensor]:
    """dout^T x summed over rows, and the sums of dout over rows: [N, K] and [N], the latter float32.

    Args:
        dout: [..., N].
        x: [..., K].
        dtype: of the product.
        out_dtype: of the gradient.
        want_sums: whether the sums are made; they are empty otherwise.

    Raises:
        InputError: see `product`.
    """
    return operator("native_weight_gradient")(dout, x, dtype, out_dtype, want_sums)


def product_gelu(
    x: Tensor, weight: Tensor, bias: Tensor | None, keep_slope: torch.dtype | None
) -> tuple[Tensor, Tensor]:
    """GELU(x weight^T + bias) and the slope of the GELU there: [..., N] each; not an operator.

    Args:
        x: [..., K]; its dtype is that of the product and of the result.
        weight: [N, K].
        bias: [N], or None.
        keep_slope: what the slope is kept in: float32, bfloat16, or uint8 for 200 slope + 28; None for no slope, which
            is empty then.
    """
    out = x.new_empty((*x.shape[:-1], weight.shape[0]))
    slope = x.new_empty(out.shape if keep_slope else (0,), dtype=keep_slope)
    _multiply(x, weight, out, x.dtype, bias=bias, activation=_GELU, slope=slope if keep_slope else None)
    return out, slope


def product_times_slope(dy: Tensor, weight: Tensor, slope: Tensor, want_sums: bool) -> tuple[Tensor, Tensor]:
    """du = (dy weight^T) * slope and its sums over rows: [..., N] and [N], the latter float32; not an operator.

    Args:
        dy: [..., K]; its dtype is that of the product and of the result.
        weight: [N, K], a transposed view as a rule.
        slope: [..., N] as `product_gelu` has kept it.
        want_sums: whether the sums are made; they are empty otherwise.
    """
    out = dy.new_empty(slope.shape)
    sums = dy.new_empty(out.shape[-1] if want_sums else 0, dtype=torch.float32)
    _multiply(dy, weight, out, dy.dtype, activation=_SLOPE, slope=slope, sums=sums if want_sums else None)
    return out, sums


def _multiply(x: Tensor, weight: Tensor, out: Tensor, dtype: torch.dtype, **finish: Any) -> None:
    """Write a product."""
    _check(x, weight, out, finish)
    compiled, threads = module("cpu"), torch.get_num_threads()
    epilogue, _held = _epilogue(compiled, out, **finish)
    kind = BY_ROWS_TRANSPOSED if weight.stride(0) == 1 and weight.stride(1) != 1 else BY_ROWS
    size = weight.shape[0], weight.shape[1]
    choice = multiplier(kind, out.shape[:-1].numel(), size, dtype, _trial)
    if choice == "csrc":
        left, _left = rows_of(compiled, x)
        panels = packed(weight, dtype)
        compiled.product(left, panels.data_ptr(), ELEMENTS[dtype], epilogue, threads)
    else:
        rows = x.reshape(out.shape[:-1].numel(), size[1]).to(dtype)
        made, _made = rows_of(compiled, library_product(choice, kind, rows, weight.detach().to(dtype)))
        compiled.finish(made, epilogue, threads)


def _trial(kind: str, dtype: torch.dtype) -> Product:
    """csrc's product of a kind as `multiplier` tries it: of a packed weight, or of rows that are packed on the way."""
    held: dict[int, Tensor] = {}

    def run(x: Tensor, other: Tensor) -> Tensor:
        compiled, over_rows = module("cpu"), kind == OVER_ROWS
        if over_rows or id(other) not in held:
            held[id(other)] = pack_rows(other, dtype) if over_rows else pack(other, dtype)
        panels, (left, _left) = held[id(other)], rows_of(compiled, x)
        shape = (x.shape[1], other.shape[1]) if over_rows else (x.shape[0], other.shape[0])
        out = x.new_empty(shape)
        epilogue, _out = _epilogue(compiled, out)
        last = panels.data_ptr(), ELEMENTS[dtype], epilogue, torch.get_num_threads()
        compiled.product_of_transpose(left, 0, *last) if over_rows else compiled.product(left, *last)
        return out

    return run


def _epilogue(
    compiled: Any,
    out: Tensor,
    *,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    keep: Tensor | None = None,
    activation: int = 0,
    slope: Tensor | None = None,
    sums: Tensor | None = None,
) -> tuple[Any, list[Tensor]]:
    """csrc's `Epilogue`, and the tensors that hold what it points to."""
    matrices, held = [], [out]
    for one in (out, bias, residual, slope):
        matrix = None
        if one is not None:
            matrix, one = rows_of(compiled, one)
            held.append(one)
        matrices.append(matrix)
    rows_a_factor, factors = 1, 0
    if keep is not None:
        keep = keep.to(torch.float32).contiguous()
        held.append(keep)
        rows_a_factor, factors = max(1, out.shape[:-1].numel() // max(1, keep.numel())), keep.data_ptr()
    written, added, before, steep = matrices
    total = 0 if sums is None else sums.data_ptr()
    return compiled.Epilogue(written, added, before, factors, rows_a_factor, activation, steep, total), held


def _check(x: Tensor, weight: Tensor, out: Tensor, finish: dict[str, Any]) -> None:
    """Refuse what would be read as something else.

    Raises:
        InputError: naming it.
    """
    bias, residual, slope = (finish.get(name) for name in ("bias", "residual", "slope"))
    operands = [one for one in (x, weight, bias, residual, out) if one is not None]
    reasons = not_supported_reasons(*(one.dtype for one in operands))
    if reasons:
        raise InputError(f'csrc cannot multiply {reasons[0]}: convert it, or choose impl="torch"')
    size = out.shape[-1]
    fits = x.shape[-1:] == weight.shape[1:] and weight.dim() == 2 and (bias is None or bias.shape == (size,))
    if not fits or any(one is not None and one.shape != out.shape for one in (residual, slope)):
        shapes = ", ".join(
            f"{name} {list(one.shape)}"
            for name, one in (("x", x), ("weight", weight), ("bias", bias), ("residual", residual), ("slope", slope))
            if one is not None
        )
        raise InputError(f"operands of a product do not fit: {shapes}")


define(
    "native_product",
    "(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, Tensor? keep, ScalarType dtype, ScalarType out) "
    "-> Tensor",
    lambda x, weight, bias, residual, keep, dtype, out: x.new_empty((*x.shape[:-1], weight.shape[0]), dtype=out),
)


@implements_on_cpu("native_product")
def _product(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    keep: Tensor | None,
    dtype: torch.dtype,
    out: torch.dtype,
) -> Tensor:
    written = x.new_empty((*x.shape[:-1], weight.shape[0]), dtype=out)
    _multiply(x, weight, written, dtype, bias=bias, residual=residual, keep=keep)
    return written


def _gradient_fake(
    dout: Tensor, x: Tensor, dtype: torch.dtype, out: torch.dtype, want_sums: bool
) -> tuple[Tensor, Tensor]:
    size = dout.shape[-1]
    return dout.new_empty((size, x.shape[-1]), dtype=out), dout.new_empty(size if want_sums else 0, dtype=torch.float32)


define(
    "native_weight_gradient",
    "(Tensor dout, Tensor x, ScalarType dtype, ScalarType out, bool want_sums) -> (Tensor, Tensor)",
    _gradient_fake,
)


@implements_on_cpu("native_weight_gradient")
def _weight_gradient(
    dout: Tensor, x: Tensor, dtype: torch.dtype, out: torch.dtype, want_sums: bool
) -> tuple[Tensor, Tensor]:
    gradient, sums = _gradient_fake(dout, x, dtype, out, want_sums)
    if dout.shape[:-1] != x.shape[:-1] or not_supported_reasons(dout.dtype, x.dtype, out):
        what = f"dout {dout.dtype} {list(dout.shape)} and x {x.dtype} {list(x.shape)}"
        raise InputError(f"csrc sums float32 or bfloat16 rows that belong together, got {what}")
    size = dout.shape[-1]
    if not gradient.numel():
        # Without a column nothing is multiplied, which is when the sums are made.
        rows = dout.to(dtype).reshape(x.shape[:-1].numel(), size)
        return gradient, rows.sum(0, dtype=torch.float32) if want_sums else sums
    choice = multiplier(OVER_ROWS, x.shape[:-1].numel(), (size, x.shape[-1]), dtype, _trial)
    if choice != "csrc":
        left, right = (one.reshape(-1, one.shape[-1]).to(dtype) for one in (dout, x))
        made = library_product(choice, OVER_ROWS, left, right).to(out)
        return made, left.sum(0, dtype=torch.float32) if want_sums else sums
    compiled = module("cpu")
    rows, _rows = rows_of(compiled, dout)
    panels = pack_rows(x, dtype)
    epilogue, _held = _epilogue(compiled, gradient)
    total = sums.data_ptr() if want_sums else 0
    threads = torch.get_num_threads()
    compiled.product_of_transpose(rows, total, panels.data_ptr(), ELEMENTS[dtype], epilogue, threads)
    return gradient, sums
