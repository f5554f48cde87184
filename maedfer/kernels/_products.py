"""Products with float32 weights in autocast's dtype: no cast of a weight, no gradient that is written twice.

Autocast casts each weight by a launch of its own in every forward pass, makes its gradient in two bytes a number, and
casts that to float32 by another launch. Here the weight comes in the low dtype already, where `LowCopies` holds a copy
(low_copies.py), and a library's product writes its gradient in float32, as it was summed.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from maedfer.kernels._autocast import autocast_dtype


class Held:
    """What a parameter carries beside its values: a copy of them, which is neither pickled nor copied with it."""

    def __init__(self, copy: Tensor) -> None:
        self.copy = copy

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()


def low_copy(weight: Tensor) -> Tensor | None:
    """The low copy of a parameter, in the shape of the parameter; None where there is none."""
    held = getattr(weight, "_maedfer_low_copy", None)
    if held is None or held.copy.shape != weight.shape:
        return None
    return held.copy


def lowered(weight: Tensor, dtype: torch.dtype, low: Tensor | None = None) -> Tensor:
    """A weight as an operand in `dtype`, for which the operation itself makes the gradient.

    Args:
        weight: a parameter, or a part of one.
        dtype: of the product.
        low: the same part of the low copy, where `weight` is no parameter itself.
    """
    low = low_copy(weight) if low is None else low
    return low if low is not None and low.dtype == dtype else weight.detach().to(dtype)


def split_rows(weight: Tensor, *rows: int) -> list[tuple[Tensor, Tensor | None]]:
    """Parts of a packed weight [sum(rows), C], and of its low copy.

    Together they give the weight its gradient by one concatenation. A slice each would write all of it, mostly zeros,
    once for every part, and add them up.
    """
    parts, low = weight.split_with_sizes(rows), low_copy(weight)
    copies = [None] * len(rows) if low is None else low.split_with_sizes(rows)
    return list(zip(parts, copies, strict=True))


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None, low: Tensor | None = None) -> Tensor:
    """x weight^T + bias: [..., C], what `F.linear` gives under autocast, whose dtype the result has.

    Args:
        x: [..., F].
        weight: [C, F].
        bias: [C], or None.
        low: see `lowered`.
    """
    dtype = autocast_dtype(x.device.type)
    if dtype is None or dtype.itemsize != 2 or weight.dtype != torch.float32 or x.dtype == torch.float64:
        return F.linear(x, weight, bias)
    # Rows of one matrix: a bias of more dimensions would be added by a pass of its own.
    rows = x.to(dtype).reshape(-1, x.shape[-1])
    operands = lowered(weight, dtype, low), None if bias is None else lowered(bias, dtype)
    out = Product.apply(rows, weight, bias, *operands) if torch.is_grad_enabled() else F.linear(rows, *operands)
    return out.view(*x.shape[:-1], weight.shape[0])


class Product(torch.autograd.Function):
    """rows low^T + low_bias: [R, C] of rows [R, F] and low [C, F]; gradients are those of weight and bias."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None, low: Tensor, low_bias: Tensor | None
    ) -> Tensor:
        """Keeps what the gradients that are wanted need."""
        wants_rows, wants_weight = ctx.needs_input_grad[:2]
        ctx.dtypes = weight.dtype, None if bias is None else bias.dtype
        ctx.save_for_backward(rows if wants_weight else None, low if wants_rows else None)
        return F.linear(rows, low, low_bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        """Only what is asked for."""
        rows, low = ctx.saved_tensors
        wants_rows, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        drows = dout.mm(low) if wants_rows else None
        dweight = weight_gradient(dout, rows, ctx.dtypes[0]) if wants_weight else None
        return drows, dweight, dout.sum(0, dtype=ctx.dtypes[1]) if wants_bias else None, None, None


def weight_gradient(dout: Tensor, x: Tensor, dtype: torch.dtype) -> Tensor:
    """dout^T x in `dtype`: [C, F] of dout [R, C] and x [R, F], written once.

    `dtype` is that of both, or float32.
    """
    if x.dtype == dtype:
        return dout.t().mm(x)
    if x.device.type == "cpu":
        # Only on a GPU can a product be wider than its operands.
        with torch.autocast("cpu", enabled=False):
            return dout.t().to(dtype).mm(x.to(dtype))
    return torch.mm(dout.t(), x, out_dtype=dtype)
