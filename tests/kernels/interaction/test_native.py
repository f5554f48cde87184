"""csrc's folded interaction on a CPU against the formula it folds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from maedfer._native import MODULES
from maedfer.kernels._dispatch import interpreting
from maedfer.kernels.interaction.api import adds_value_bias
from maedfer.kernels.interaction.functions import FoldedInteraction, fold
from maedfer.kernels.interaction.native import interaction_bwd, interaction_fwd, not_supported_reasons
from tests.kernels.interaction.cases import EPS, Inputs, arguments, factors, fold_inputs
from tests.kernels.interaction.cases import fold as plain_fold
from tests.kernels.interaction.cases import interaction as plain
from tests.kernels.interaction.cases import interaction_inputs as inputs
from tests.kernels.oracle import check, expanded_like, randn

pytestmark = pytest.mark.skipif(interpreting(), reason="nothing here is Triton's")

CPU = torch.device("cpu")
# Stream and products.
DTYPES = [
    (torch.float32, torch.float32),
    (torch.bfloat16, torch.bfloat16),
    (torch.float32, torch.bfloat16),
    (torch.bfloat16, torch.float32),
]
# Clips, regions, rows, heads, channels: several chunks, the last of them odd; panels and words that are not full;
# one key; one token; no token; no clip.
SIZES = [
    (2, 8, 14, 8, 64),
    (1, 3, 35, 3, 37),
    (2, 20, 5, 7, 72),
    (1, 1, 2, 1, 16),
    (1, 4, 50, 1, 1),
    (2, 3, 1, 2, 8),
    (0, 2, 3, 2, 8),
]


def fast(*inputs: Tensor) -> tuple[Tensor, Tensor]:
    return FoldedInteraction.apply(*inputs, EPS, inputs[0].dtype, torch.is_grad_enabled())


def stream(*inputs: Tensor) -> Tensor:
    return fast(*inputs)[0]


def specified(*inputs: Tensor) -> tuple[Tensor, Tensor]:
    """The formula, for a stream that is shorter than its products too."""
    y, n = plain(*inputs)
    return y.to(inputs[0].dtype), n.to(inputs[0].dtype)


def specified_stream(*inputs: Tensor) -> Tensor:
    return specified(*inputs)[0]


def mixed(sizes: tuple[int, int, int, int, int], dtype: torch.dtype, products: torch.dtype) -> list[Tensor]:
    """Inputs of the interaction, A and V in the dtype of the products; the norm is frozen."""
    tensors = inputs(*sizes, dtype, CPU)
    tensors[5:] = [x.detach().float() for x in tensors[5:]]
    for number in (2, 4):
        tensors[number] = tensors[number].detach().to(products).requires_grad_()
    return tensors


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("dtype", "products"), DTYPES, ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_sizes(variant: str, sizes: tuple[int, int, int, int, int], dtype: torch.dtype, products: torch.dtype) -> None:
    tensors = mixed(sizes, dtype, products)
    with torch.no_grad():
        check(fast, specified, [x.detach() for x in tensors])
    check(stream, specified_stream, tensors)


def test_rows_far_from_zero(variant: str) -> None:
    for products in (torch.float32, torch.bfloat16):
        tensors = mixed((1, 4, 9, 2, 160), torch.float32, products)
        with torch.no_grad():
            # Rows of different means, and in a region channels that stand apart from the others.
            tensors[0] += torch.linspace(-1000, 1000, 9)[:, None]
            tensors[0][:, 1, :, 40:50] -= 50
        check(stream, specified_stream, tensors)


def test_strided_inputs_and_gradients(variant: str) -> None:
    _, _, matrix, offset, values, weight, bias = mixed((2, 4, 7, 2, 33), torch.float32, torch.float32)
    wide = randn(2, 5, 9, 65, dtype=torch.float32, device=CPU, grad=False)
    views = [
        wide[:, 1:, ::2, 16:49][:, :, :5],
        wide[:, :4, 0, :33],
        matrix.detach().transpose(0, 1).contiguous().transpose(0, 1),
        offset.detach().transpose(1, 2).contiguous().transpose(1, 2),
        values.detach().transpose(2, 3).contiguous().transpose(2, 3),
        weight,
        bias,
    ]
    leaves = [view.detach().requires_grad_() for view in views[:5]] + views[5:]
    upstream = randn(2, 5, 9, 65, dtype=torch.float32, device=CPU, grad=False)[:, :4, 2:7, 1:34]
    for gradient in (torch.randn_like, expanded_like, lambda x: upstream):
        check(stream, specified_stream, leaves, gradient)
    expanded = wide[:1, :4, :5, ::2].expand(2, -1, -1, -1).detach().requires_grad_()
    check(stream, specified_stream, [expanded, *leaves[1:]])


def test_representative_tokens_in_the_stream_are_not_read(variant: str) -> None:
    tensors = mixed((1, 4, 5, 2, 32), torch.float32, torch.float32)
    with torch.no_grad():
        tensors[0][:, :, 0] = float("nan")
    out = stream(*tensors)
    gradients = torch.autograd.grad(out, tensors[:5], torch.randn_like(out))
    assert all(bool(torch.isfinite(x).all()) for x in (out, *gradients))
    assert not gradients[0][:, :, 0].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("batch", [1, 3])
def test_number_of_threads_changes_no_bit(variant: str, threads: None, batch: int, dtype: torch.dtype) -> None:
    z, s, matrix, offset, values, weight, bias = (x.detach() for x in inputs(batch, 8, 20, 4, 130, dtype, CPU))
    results = []
    for number in (1, 2):
        torch.set_num_threads(number)
        y, n, p = interaction_fwd(z, s, matrix, offset, values, weight, bias, EPS, dtype, True)
        results.append([y, n, *interaction_bwd(y, z, s, matrix, values, p, EPS, torch.float32)])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_opcheck(variant: str) -> None:
    tensors = [x.detach() for x in inputs(2, 4, 5, 4, 32, torch.float32, CPU)]
    ops = torch.ops.maedfer
    torch.library.opcheck(ops.interaction_fwd.default, (*tensors, EPS, torch.float32, False))
    y, _, p = ops.interaction_fwd(*tensors, EPS, torch.float32, True)
    torch.library.opcheck(ops.interaction_bwd.default, (y, *tensors[:3], tensors[4], p, EPS, torch.float32))


@pytest.mark.skipif(MODULES["cpu"] is None, reason="csrc's CPU part is not compiled")
def test_folds_where_it_takes_fewer_multiply_adds() -> None:
    """Also where PyTorch's products would not: 8 * 9 keys and 64 channels."""
    folded = [adds_value_bias(torch.zeros(1, regions, 2, 64), num_heads=8, impl="native") for regions in (4, 9, 10)]
    assert folded == [True, True, False]


def test_other_dtypes_are_not_taken() -> None:
    assert not not_supported_reasons(torch.float32, torch.bfloat16)
    assert "float64" in not_supported_reasons(torch.float64, torch.float64)[0]
    assert "float16" in not_supported_reasons(torch.float32, torch.float16)[0]


def fast_fold(heads: int, keep: Tensor | None = None) -> Any:
    def run(kv: Tensor, kv_bias: Tensor | None, *rest: Tensor | None) -> tuple[Tensor, ...]:
        return fold(kv, **arguments([*rest], heads, keep), dtype=kv.dtype, kv_bias=kv_bias)

    return run


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("batch", "regions", "heads", "dim", "biased"),
    # Several tiles, one head; words and panels that are not full; one key; no clips.
    [(5, 8, 1, 72, True), (2, 3, 5, 35, False), (1, 1, 4, 148, True), (0, 4, 2, 32, True)],
    ids=str,
)
def test_folding(
    variant: str, batch: int, regions: int, heads: int, dim: int, biased: bool, dtype: torch.dtype
) -> None:
    keep = factors(batch, CPU) if biased else None
    check(fast_fold(heads, keep), plain_fold(heads, keep), fold_inputs(batch, regions, heads, dim, dtype, CPU, biased))


def test_folding_of_strided_inputs(variant: str) -> None:
    heads, dim = 2, 32
    _, _, g, _, _, query_bias, _, out_bias = fold_inputs(3, 4, heads, dim, torch.float32, CPU)
    wide = randn(2 * dim, 3 * dim, dtype=torch.float32, device=CPU, grad=False)
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
        check(fast_fold(heads), plain_fold(heads), leaves, gradient)


@pytest.mark.parametrize("wanted", [{0}, {4, 6}, {2}, {3, 7}, {1}, {5}], ids=str)
def test_gradients_of_folding_that_are_asked_for_alone(wanted: set[int]) -> None:
    tensors = fold_inputs(3, 4, 2, 32, torch.float32, CPU)
    keep = factors(3, CPU)
    given = [torch.randn_like(x) for x in fast_fold(2, keep)(*tensors)]
    everything = torch.ops.maedfer.interaction_fold_bwd(*given, *tensors, keep, [True] * 8)
    some = torch.ops.maedfer.interaction_fold_bwd(*given, *tensors, keep, [number in wanted for number in range(8)])
    for number, (one, other) in enumerate(zip(some, everything, strict=True)):
        assert torch.equal(one, other) if number in wanted else not one.numel()


def test_folding_of_weights_of_another_dtype(variant: str) -> None:
    """As under autocast: gradients in their own dtype, offsets exact."""
    kv, *rest = fold_inputs(2, 4, 2, 32, torch.float32, CPU)
    assert kv is not None
    tensors = [kv.detach().bfloat16().requires_grad_(), *(x for x in rest if x is not None)]
    got, want = fast_fold(2)(*tensors), plain_fold(2)(*(x.double() for x in tensors))
    assert [x.dtype for x in got] == [torch.bfloat16, torch.float32, torch.bfloat16]
    assert torch.allclose(got[1].double(), want[1], rtol=1e-5, atol=1e-6)
    given = [torch.randn_like(x) for x in got]
    gradients = torch.autograd.grad(got, tensors, given)
    exact = torch.autograd.grad(want, tensors, [x.double() for x in given])
    for x, one, other in zip(tensors, gradients, exact, strict=True):
        assert one.dtype == x.dtype
        assert (one - other).abs().max() < 8e-3 * other.abs().max()


def test_opcheck_of_folding() -> None:
    tensors = [None if x is None else x.detach() for x in fold_inputs(2, 4, 2, 32, torch.float32, CPU)]
    ops = torch.ops.maedfer
    torch.library.opcheck(ops.interaction_fold_fwd.default, (*tensors, None, 2, torch.float32))
    given = [torch.randn_like(x) for x in ops.interaction_fold_fwd(*tensors, None, 2, torch.float32)]
    torch.library.opcheck(ops.interaction_fold_bwd.default, (*given, *tensors, None, [True] * 8))
