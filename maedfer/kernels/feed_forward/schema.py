"""Operators of the feed-forward network: what they take and what they do to shapes."""

from __future__ import annotations

import torch
from torch import Tensor

from maedfer.kernels._operators import define


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, keep: torch.dtype | None) -> tuple[Tensor, Tensor]:
    shape = (*x.shape[:-1], weight.shape[0])
    return x.new_empty(shape), x.new_empty(shape if keep else (0,), dtype=keep)


def _backward(dy: Tensor, weight: Tensor, slope: Tensor, want_bias: bool) -> tuple[Tensor, Tensor]:
    exact = torch.float64 if dy.dtype == torch.float64 else torch.float32
    return dy.new_empty(slope.shape), dy.new_empty(slope.shape[-1] if want_bias else 0, dtype=exact)


# The second result is the slope of the GELU in the dtype `keep`, empty where that is None.
define(
    "linear_gelu_fwd",
    "(Tensor x, Tensor weight, Tensor? bias, ScalarType? keep) -> (Tensor, Tensor)",
    _forward,
)
# Gradients of what the GELU was given, and of the bias in it.
define(
    "linear_gelu_bwd",
    "(Tensor dy, Tensor weight, Tensor slope, bool want_bias) -> (Tensor, Tensor)",
    _backward,
)
