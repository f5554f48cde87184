"""Products with float32 weights in autocast's dtype: no cast of a weight, no gradient that is written twice.

Autocast casts each weight by a launch of its own in every forward pass, makes its gradient in two bytes a number, and
casts that to float32 by another launch. Here the weight comes in the low dtype already, where `LowCopies` holds a copy
(low_copies.py), and a library's product writes its gradient in float32, as it was summed.

On a CPU the products are csrc's, in every dtype that it takes (_native_products.py). It packs a weight for its products
anyway, and lowers it on the way.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from maedfer._native import MODULES
from maedfer.kernels import _native_products as native
from maedfer.kernels._autocast import autocast_dtype
from maedfer.kernels._dispatch import interpreting


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

    On a CPU it is the weight as it is.

    Args:
        weight: a parameter, or a part of one.
        dtype: of the product.
        low: the same part of the low copy, where `weight` is no parameter itself.
    """
    if by_csrc(weight):
        return weight.detach()
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


def by_csrc(x: Tensor) -> bool:
    """Whether csrc makes the products of kernels' operations: on a CPU, where no kernel is Triton's."""
    return x.device.type == "cpu" and MODULES["cpu"] is not None and not interpreting()


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None, low: Tensor | None = None) -> Tensor:
    """x weight^T + bias: [..., C], what `F.linear` gives under autocast, whose dtype the result has.

    Args:
        x: [..., F].
        weight: [C, F].
        bias: [C], or None.
        low: see `lowered`.
    """
    dtype = autocast_dtype(x.device.type)
    if by_csrc(x):
        x = x if dtype is None else x.to(dtype)
        if torch.is_grad_enabled():
            return Product.apply(x, weight, bias, weight.detach(), None if bias is None else bias.detach())
        return multiplied(x, weight, bias)
    if dtype is None or dtype.itemsize != 2 or weight.dtype != torch.float32 or x.dtype == torch.float64:
        return F.linear(x, weight, bias)
    # Rows of one matrix: a bias of more dimensions would be added by a pass of its own.
    rows = as_rows(x.to(dtype))
    operands = lowered(weight, dtype, low), None if bias is None else lowered(bias, dtype)
    out = Product.apply(rows, weight, bias, *operands) if torch.is_grad_enabled() else F.linear(rows, *operands)
    return out.view(*x.shape[:-1], weight.shape[0])


class Product(torch.autograd.Function):
    """x low^T + low_bias: [..., C] of x [..., F] and low [C, F]; gradients are those of weight and bias."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, low: Tensor, low_bias: Tensor | None
    ) -> Tensor:
        """Keeps what the gradients that are wanted need."""
        wants_x, wants_weight = ctx.needs_input_grad[:2]
        ctx.dtypes = weight.dtype, None if bias is None else bias.dtype
        ctx.save_for_backward(x if wants_weight else None, low if wants_x else None)
        return multiplied(x, low, low_bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        """Only what is asked for."""
        x, low = ctx.saved_tensors
        wants_x, *wanted = ctx.needs_input_grad[:3]
        of_weight, of_bias = (dtype if want else None for dtype, want in zip(ctx.dtypes, wanted, strict=True))
        dx = multiplied(dout, low.t()) if wants_x else None
        return dx, *parameter_gradients(dout, x, of_weight, of_bias), None, None


def multiplied(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weight^T + bias: [..., C] in the dtype of x [..., F], for a weight [C, F] as `lowered` gives it."""
    if by_csrc(x):
        return native.product(x, weight, bias=bias, dtype=x.dtype)
    return F.linear(x, weight, bias)


def parameter_gradients(
    dout: Tensor, x: Tensor | None, of_weight: torch.dtype | None, of_bias: torch.dtype | None
) -> tuple[Tensor | None, Tensor | None]:
    """dout^T x [C, F] and the sums of dout [C] over rows, for dout [..., C] and x [..., F]; what has no dtype is None.

    The product's dtype is that of both, or float32.
    """
    if by_csrc(dout) and x is not None and of_weight is not None:
        want_sums = of_bias is not None
        found, sums = native.weight_gradient(dout, x, dtype=x.dtype, out_dtype=of_weight, want_sums=want_sums)
        return found, None if of_bias is None else sums.to(of_bias)
    rows = as_rows(dout)
    dweight = None if x is None or of_weight is None else weight_gradient(rows, as_rows(x), of_weight)
    return dweight, None if of_bias is None else rows.sum(0, dtype=of_bias)


def as_rows(x: Tensor) -> Tensor:
    """View [..., N] as [R, N]; copies what cannot be viewed so."""
    return x if x.dim() == 2 else x.reshape(-1, x.shape[-1])


def weight_gradient(dout: Tensor, x: Tensor, dtype: torch.dtype) -> Tensor:
    """dout^T x in `dtype`: [C, F] of dout [R, C] and x [R, F], written once by a library.

    `dtype` is that of both, or float32.
    """
    if x.dtype == dtype:
        return dout.t().mm(x)
    if x.device.type == "cpu":
        # Only on a GPU can a product be wider than its operands.
        with torch.autocast("cpu", enabled=False):
            return dout.t().to(dtype).mm(x.to(dtype))
    return torch.mm(dout.t(), x, out_dtype=dtype)
