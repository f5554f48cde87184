"""Declaring operators: each is one boundary for torch.compile, torch.export and CUDA graphs. Needs no Triton.

What an operator takes and what it does to shapes is in its folder's schema.py. Its implementations are bound when the
files that launch them are imported: triton.py's for GPUs, and native.py's, of csrc, for a CPU. Where Triton's
interpreter runs, the CPU is Triton's. Gradients are autograd.Functions around operators, in functions.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from maedfer.kernels._dispatch import interpreting

NAMESPACE = "maedfer"


def define(name: str, schema: str, fake: Callable[..., Any]) -> None:
    """Declare an operator and its fake implementation."""
    torch.library.define(f"{NAMESPACE}::{name}", schema)
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake)


def implements(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Bind a launcher of Triton's kernels as the operator's implementation."""
    return _bind(name, "cuda", *["cpu"] * interpreting())


def implements_on_cpu(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Bind a caller of csrc as the CPU's implementation of an operator that Triton's kernels implement too."""
    return _bind(name, *["cpu"] * (not interpreting()))


def implements_everywhere(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Bind a caller of csrc as the implementation of an operator that is csrc's alone, on a CPU and on GPUs."""
    return _bind(name, "cpu", "cuda")


def _bind(name: str, *kinds: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def bind(launcher: Callable[..., Any]) -> Callable[..., Any]:
        for kind in kinds:
            torch.library.impl(f"{NAMESPACE}::{name}", kind, launcher)
        return launcher

    return bind


def operator(name: str) -> Any:
    """The callable operator."""
    return getattr(getattr(torch.ops, NAMESPACE), name).default


def unwritten(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A contiguous tensor of the shape and dtype of x, or of another dtype, for a kernel to write."""
    # In half the time that new_empty takes.
    return torch.empty_like(x, dtype=dtype, memory_format=torch.contiguous_format)
