"""csrc's feed-forward network on a CPU: products, finished while their sums are at hand."""

from __future__ import annotations

import torch
from torch import Tensor

from maedfer.kernels import _native_products as products
from maedfer.kernels._operators import implements_on_cpu


@implements_on_cpu("linear_gelu_fwd")
def linear_gelu_fwd(x: Tensor, weight: Tensor, bias: Tensor | None, keep: torch.dtype | None) -> tuple[Tensor, Tensor]:
    return products.product_gelu(x, weight, bias, keep)


@implements_on_cpu("linear_gelu_bwd")
def linear_gelu_bwd(dy: Tensor, weight: Tensor, slope: Tensor, want_bias: bool) -> tuple[Tensor, Tensor]:
    return products.product_times_slope(dy, weight.t(), slope, want_bias)
