"""Calling autograd.Functions without gradients: the forward pass alone, and the refusals that `apply` has."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from maedfer.kernels._functions import run


class _Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x)
        ctx.set_materialize_grads(False)
        ctx.power = 2
        # Whether there was a node, which wants gradients of inputs that require them.
        return x**ctx.power, torch.tensor(any(ctx.needs_input_grad[:1]))

    @staticmethod
    def backward(ctx: Any, dy: Tensor, _: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return ctx.power * x * dy


def test_a_node_is_made_only_where_gradients_are() -> None:
    x = torch.arange(4.0, requires_grad=True)
    y, wanted = run(_Square, x)
    y.sum().backward()
    assert wanted and x.grad is not None and torch.equal(x.grad, 2 * x.detach())
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            z, wanted = run(_Square, x)
        assert torch.equal(z, y) and not z.requires_grad and not wanted


def test_transforms_are_refused_without_gradients_too() -> None:
    x = torch.ones(2, 3)
    with torch.no_grad():
        with pytest.raises(RuntimeError, match="setup_context"):
            torch.func.vmap(lambda row: run(_Square, row)[0])(x)
        with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="jvp"):
            run(_Square, forward_ad.make_dual(x, x))


def test_a_compiler_traces_it_whole() -> None:
    x = torch.arange(4.0)
    with torch.no_grad():
        found = torch.compile(lambda row: run(_Square, row)[0] + 1, backend="eager", fullgraph=True)(x)
    assert torch.equal(found, x * x + 1)
