"""Folding by kernels against the folding in PyTorch that specifies it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from maedfer.kernels._dispatch import interpreting
from maedfer.kernels._launch import recording
from maedfer.kernels.interaction import functions as by_kernels
from maedfer.kernels.interaction import triton as triton
from tests.kernels.interaction.cases import Inputs, arguments, factors
from tests.kernels.interaction.cases import fold as plain
from tests.kernels.interaction.cases import fold_inputs as inputs
from tests.kernels.oracle import DTYPES, check, expanded_like, randn


def fast(heads: int, keep: Tensor | None = None) -> Any:
    def run(kv: Tensor, kv_bias: Tensor | None, *rest: Tensor | None) -> tuple[Tensor, ...]:
        return by_kernels.fold(kv, **arguments([*rest], heads, keep), dtype=kv.dtype, kv_bias=kv_bias)

    return run


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("batch", "regions", "heads", "dim", "biased"),
    # Several tiles of rows and columns, with a head of more channels than a product takes; of fewer; one key; no clips.
    [(5, 8, 1, 72, True), (2, 3, 3, 36, False), (1, 1, 4, 16, True), (0, 4, 2, 32, True)],
    ids=str,
)
def test_sizes(
    batch: int, regions: int, heads: int, dim: int, biased: bool, dtype: torch.dtype, device: torch.device
) -> None:
    keep = factors(batch, device) if biased else None
    check(fast(heads, keep), plain(heads, keep), inputs(batch, regions, heads, dim, dtype, device, biased))


def test_strided_inputs_and_gradients(device: torch.device) -> None:
    heads, dim = 2, 32
    _, _, g, _, _, query_bias, _, out_bias = inputs(3, 4, heads, dim, torch.float32, device)
    wide = randn(2 * dim, 3 * dim, dtype=torch.float32, device=device, grad=False)
    views: Inputs = [
        torch.cat([wide[:3, None], wide[3:6, None]], 1).expand(3, 2, 3 * dim)[:, :, dim:],
        wide[:dim, 1],
        g,
        wide[0, :1].expand(dim),
        wide[:dim, 8 : 8 + dim],
        query_bias,
        wide[:dim, :dim].t(),
        out_bias,
    ]
    for gradient in (torch.randn_like, expanded_like):
        leaves = [None if x is None else x.detach().requires_grad_() for x in views]
        check(fast(heads), plain(heads), leaves, gradient)


def test_clips_more_than_31_bits_apart(device: torch.device) -> None:
    kv, *rest = inputs(3, 2, 2, 8, torch.float16, device)
    assert kv is not None
    far = torch.empty(2**31 + 64, dtype=torch.float16, device=device).as_strided((3, 2, 16), (2**30 + 16, 16, 1))
    far.copy_(kv.detach())
    check(fast(2), plain(2), [far.requires_grad_(), *rest])


@pytest.mark.parametrize("wanted", [{0}, {4, 6}, {2}, {3, 7}, {1}, {5}], ids=str)
def test_what_is_frozen_costs_nothing(wanted: set[int], device: torch.device) -> None:
    heads, dim = 2, 32
    tensors = inputs(3, 4, heads, dim, torch.float32, device)
    keep = factors(3, device)
    given = [torch.randn_like(x) for x in fast(heads, keep)(*tensors)]
    everything = torch.ops.maedfer.interaction_fold_bwd(*given, *tensors, keep, [True] * 8)
    leaves = [x.detach().requires_grad_(number in wanted) for number, x in enumerate(tensors) if x is not None]

    def gradients() -> tuple[Tensor, ...]:
        outputs = fast(heads, keep)(*leaves)
        return torch.autograd.grad(outputs, [leaves[number] for number in sorted(wanted)], given)

    assert all(torch.equal(x, everything[number]) for x, number in zip(gradients(), sorted(wanted), strict=True))
    with recording() as launches:
        gradients()
    # There is one tile of rows and one of columns: a program for each head of dk, of dv and of either weight.
    programs = heads * (2 * (0 in wanted) + bool(wanted & {2, 3, 4, 5}) + bool(wanted & {1, 6, 7}))
    vectors_that_are_shared = [(1,)] * bool(wanted & {1, 2, 3, 7})
    assert [one.grid for one in launches[1:]] == [(programs,), *vectors_that_are_shared]


def test_weights_of_another_dtype(device: torch.device) -> None:
    """Rounded to the products' dtype; gradients in their own, offsets exact."""
    tensors = inputs(2, 4, 2, 32, torch.float32, device)
    low = [torch.float16, *[None] * 7]
    mixed = [
        x.detach().to(dtype or x.dtype).requires_grad_() for x, dtype in zip(tensors, low, strict=True) if x is not None
    ]
    got, want = fast(2)(*mixed), plain(2)(*(x.double() for x in mixed))
    assert [x.dtype for x in got] == [torch.float16, torch.float32, torch.float16]
    assert torch.allclose(got[1].double(), want[1], rtol=1e-5, atol=1e-6)
    given = [torch.randn_like(x) for x in got]
    gradients = torch.autograd.grad(got, mixed, given)
    exact = torch.autograd.grad(want, mixed, [x.double() for x in given])
    for x, one, other in zip(mixed, gradients, exact, strict=True):
        assert one.dtype == x.dtype
        assert (one - other).abs().max() < 4e-3 * other.abs().max()


def test_repeats_bit_for_bit(device: torch.device) -> None:
    tensors = inputs(5, 8, 2, 32, torch.float32, device)
    runs = []
    for _ in range(2):
        outputs = fast(2, factors(5, device))(*tensors)
        runs.append([*outputs, *torch.autograd.grad(outputs, tensors, [torch.ones_like(x) for x in outputs])])  # type: ignore[arg-type]
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


@pytest.mark.skipif(not interpreting(), reason="float64 exists under the interpreter only")
def test_gradcheck(device: torch.device) -> None:
    tensors: Any = inputs(2, 2, 1, 4, torch.float64, device)
    assert torch.autograd.gradcheck(fast(1, factors(2, device)), tensors, fast_mode=True)


def test_opcheck(device: torch.device) -> None:
    tensors = [None if x is None else x.detach() for x in inputs(1, 2, 1, 8, torch.float32, device)]
    ops, keep = torch.ops.maedfer, factors(1, device)
    torch.library.opcheck(ops.interaction_fold_fwd.default, (*tensors, keep, 1, torch.float32))
    outputs = ops.interaction_fold_fwd(*tensors, keep, 1, torch.float32)
    for wanted in ([True] * 8, [False, True] * 4):
        torch.library.opcheck(ops.interaction_fold_bwd.default, (*outputs, *tensors, keep, wanted))
