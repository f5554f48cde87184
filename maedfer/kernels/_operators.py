"""Declaring operators: each is one boundary for torch.compile, torch.export and CUDA graphs. Needs no Triton.

What an operator takes and what it does to shapes is in its folder's schema.py. Its implementation is bound when the
file that launches it is imported, and gradients are autograd.Functions around operators. Names that begin with "native"
are csrc's, as is "tubelets"; the others are Triton's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

NAMESPACE = "maedfer"


def define(name: str, schema: str, fake: Callable[..., Any]) -> None:
    """Declare an operator and its fake implementation."""
    torch.library.define(f"{NAMESPACE}::{name}", schema)
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake)


def implements(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Bind a launcher as the operator's implementation (Triton's run on a CPU under its interpreter only)."""

    def bind(launcher: Callable[..., Any]) -> Callable[..., Any]:
        torch.library.impl(f"{NAMESPACE}::{name}", ("cuda", "cpu"), launcher)
        return launcher

    return bind


def operator(name: str) -> Any:
    """The callable operator."""
    return getattr(getattr(torch.ops, NAMESPACE), name).default


def unwritten(x: Tensor) -> Tensor:
    """A contiguous tensor of the shape and dtype of x, for a kernel to write."""
    return x.new_empty(x.shape)
