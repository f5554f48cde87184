"""Calling autograd.Functions, with no more than the forward pass where no gradients are to come."""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd import forward_ad


class _Nothing:
    """The context of a forward pass that no backward pass follows: no input has a gradient, and nothing is kept."""

    needs_input_grad = (False,) * 16

    def save_for_backward(self, *tensors: Any) -> None:
        """Keep nothing."""

    def set_materialize_grads(self, value: bool) -> None:
        """Do nothing."""


def run(function: type[torch.autograd.Function], *inputs: Any) -> Any:
    """`function.apply`, without the node for a backward pass where that is not to be: it takes longer than kernels do.

    Compilers are left to trace `apply`; transforms and forward-mode differentiation, to be refused by it.
    """
    if (
        torch.is_grad_enabled()
        or torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    ):
        return function.apply(*inputs)
    return function.forward(_Nothing(), *inputs)
