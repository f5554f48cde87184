"""csrc's product with a residual on a CPU."""

from __future__ import annotations

from torch import Tensor

from maedfer.kernels import _native_products as products
from maedfer.kernels._operators import implements_on_cpu


@implements_on_cpu("linear_residual_fwd")
def linear_residual_fwd(
    x: Tensor, weight: Tensor, bias: Tensor | None, keep: Tensor | None, residual: Tensor
) -> Tensor:
    return products.product(x, weight, dtype=x.dtype, bias=bias, residual=residual, keep=keep)
