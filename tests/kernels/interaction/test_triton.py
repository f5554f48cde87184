"""The folded interaction against the formula it folds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from maedfer.kernels._dispatch import interpreting
from maedfer.kernels._launch import recording
from maedfer.kernels.interaction.folding import fold, folds, key_layout
from maedfer.kernels.interaction.functions import FoldedInteraction
from maedfer.kernels.interaction.kernels import interaction_fwd_kernel
from maedfer.kernels.interaction.triton import not_supported_reasons, row_alignment
from tests.kernels.interaction.cases import EPS
from tests.kernels.interaction.cases import interaction as plain
from tests.kernels.interaction.cases import interaction_inputs as inputs
from tests.kernels.oracle import DTYPES, check, expanded_like, interaction, randn


def fast(*inputs: Tensor) -> tuple[Tensor, Tensor]:
    return FoldedInteraction.apply(*inputs, EPS, inputs[0].dtype, torch.is_grad_enabled())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("regions", [1, 4, 8, 9, 16, 20])
def test_regions(regions: int, dtype: torch.dtype, device: torch.device) -> None:
    check(fast, plain, inputs(2, regions, 6, 2, 32, dtype, device))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("batch", "regions", "rows", "heads", "dim"),
    [
        (1, 8, 21, 8, 64),
        (1, 2, 101, 8, 64),
        (2, 8, 11, 6, 48),
        (0, 4, 3, 2, 32),
        (1, 3, 2, 1, 16),
        (2, 20, 5, 8, 40),
        (1, 2, 35, 3, 160),
        (1, 64, 2, 3, 16),
    ],
    ids=str,
)
def test_sizes(
    batch: int, regions: int, rows: int, heads: int, dim: int, dtype: torch.dtype, device: torch.device
) -> None:
    check(fast, plain, inputs(batch, regions, rows, heads, dim, dtype, device))


def test_stream_wider_than_products(device: torch.device) -> None:
    tensors = inputs(2, 8, 11, 4, 96, torch.float32, device)
    for number in (2, 4):
        tensors[number] = tensors[number].detach().half().requires_grad_()
    check(fast, plain, tensors)


@pytest.mark.parametrize(
    ("stream", "products", "far"),
    [
        (torch.float32, torch.float32, 1000),
        (torch.float32, torch.float16, 1000),
        (torch.float16, torch.float16, 30),
    ],
    ids=str,
)
def test_rows_far_from_zero(stream: torch.dtype, products: torch.dtype, far: int, device: torch.device) -> None:
    tensors = inputs(1, 4, 9, 2, 160, torch.float32, device)
    with torch.no_grad():
        # Rows of different means, and in a region channels that stand apart from the others.
        tensors[0] += torch.linspace(-far, far, 9, device=device)[:, None]
        tensors[0][:, 1, :, 40:50] -= 50
    low = [x.detach().to(products if number in (2, 4) else stream).requires_grad_() for number, x in enumerate(tensors)]
    check(fast, plain, low)


# A's own gradient leaves float16.
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_float16_under_a_loss_scale(device: torch.device) -> None:
    tensors = inputs(1, 8, 101, 2, 64, torch.float16, device)
    for number in (3, 5, 6):
        tensors[number] = tensors[number].detach().float().requires_grad_()
    with torch.no_grad():
        tensors[2] *= 0.1
        # Gradients of head 0's scores leave float16, and so does its A's; what follows from them otherwise does not.
        tensors[4][:, 0] *= 100
        tensors[4][:, 1] *= 0.2
    upstream = [torch.randn_like(tensors[0]) * 2000 for _ in range(2)]
    got = torch.autograd.grad(fast(*tensors), tensors, upstream)
    exact = [x.detach().double().requires_grad_() for x in tensors]
    want = torch.autograd.grad(plain(*exact), exact, [x.double() for x in upstream])
    dscore = want[3].abs().max()
    assert dscore > torch.finfo(torch.float16).max
    # Of A, head 1: where head 0's is held at all, it is a small difference of large numbers.
    held = got[2][want[2].abs() < 0.99 * torch.finfo(torch.float16).max]
    assert torch.isfinite(held).all() and not torch.isnan(got[2]).any()
    pairs = [
        (one[:, 1:], other[:, 1:]) if one is got[2] else (one, other) for one, other in zip(got, want, strict=True)
    ]
    for number, (one, other) in enumerate(pairs):
        assert (one.double() - other).norm() < 0.001 * other.norm(), number


def test_strided_inputs_and_gradients(device: torch.device) -> None:
    z, s, matrix, offset, values, weight, bias = inputs(2, 4, 7, 2, 32, torch.float32, device)
    wide = randn(2, 5, 9, 64, dtype=torch.float32, device=device, grad=False)
    views = [
        wide[:, 1:, ::2, 16:48][:, :, :5],
        wide[:, :4, 0, :32],
        matrix.detach().transpose(0, 1).contiguous().transpose(0, 1),
        offset.detach().transpose(1, 2).contiguous().transpose(1, 2),
        values.detach().transpose(0, 1).contiguous().transpose(0, 1),
        weight,
        bias,
    ]
    for gradient in (torch.randn_like, expanded_like):
        check(fast, plain, [view.detach().requires_grad_() for view in views], gradient)
    check(fast, plain, [wide[:1, :4, :7, :32].expand(2, -1, -1, -1).detach().requires_grad_(), *views[1:]])
    frozen = [z, s, matrix, offset, values, weight.detach(), bias.detach()]
    check(lambda *x: fast(*x)[0], lambda *x: plain(*x)[0], frozen)
    check(lambda *x: fast(*x)[1], lambda *x: plain(*x)[1], [z, s, matrix, offset, values, weight, bias])


def test_rows_of_representative_tokens_in_the_stream_are_not_read(device: torch.device) -> None:
    tensors = inputs(1, 4, 5, 2, 32, torch.float32, device)
    with torch.no_grad():
        tensors[0][:, :, 0] = float("nan")
    outputs = fast(*tensors)
    gradients = torch.autograd.grad(outputs, tensors, [torch.randn_like(out) for out in outputs])
    assert all(bool(torch.isfinite(x).all()) for x in (*outputs, *gradients))
    assert not gradients[0][:, :, 0].any()


def test_clips_more_than_31_bits_apart(device: torch.device) -> None:
    tensors = inputs(3, 1, 2, 2, 16, torch.float16, device)
    # The stride fits 31 bits, twice the stride does not; what lies between the clips is never touched.
    far = torch.empty(2**31 + 64, dtype=torch.float16, device=device).as_strided((3, 1, 2, 16), (2**30 + 16, 32, 16, 1))
    far.copy_(tensors[0].detach())
    check(fast, plain, [far.requires_grad_(), *tensors[1:]])


def test_regions_that_32_bits_do_not_reach_are_copied(device: torch.device) -> None:
    tensors = inputs(1, 3, 2, 2, 16, torch.float16, device)
    far = torch.empty(2**31 + 64, dtype=torch.float16, device=device).as_strided((1, 3, 2, 16), (64, 2**30 + 16, 16, 1))
    far.copy_(tensors[0].detach())
    check(fast, plain, [far.requires_grad_(), *tensors[1:]])


def test_probabilities_are_written_for_a_backward_pass_only(device: torch.device) -> None:
    tensors = inputs(1, 4, 3, 2, 32, torch.float32, device)
    # The norm's parameters are leaves in evaluation too.
    with recording() as launches, torch.no_grad():
        fast(*tensors)
    with recording() as kept:
        fast(*tensors)
    written = interaction_fwd_kernel.arg_names.index("p_ptr")
    assert launches[0].args[written] is None and isinstance(kept[0].args[written], Tensor)


def test_repeats_bit_for_bit(device: torch.device) -> None:
    tensors = inputs(2, 8, 9, 4, 64, torch.float32, device)
    runs = []
    for _ in range(2):
        outputs = fast(*tensors)
        runs.append([*outputs, *torch.autograd.grad(outputs, tensors, [torch.ones_like(out) for out in outputs])])
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


@pytest.mark.skipif(not interpreting(), reason="float64 exists under the interpreter only")
def test_gradcheck(device: torch.device) -> None:
    assert torch.autograd.gradcheck(fast, inputs(1, 2, 3, 2, 4, torch.float64, device), fast_mode=True)


def test_opcheck(device: torch.device) -> None:
    tensors = [x.detach() for x in inputs(2, 4, 5, 2, 32, torch.float32, device)]
    ops = torch.ops.maedfer
    torch.library.opcheck(ops.interaction_fwd.default, (*tensors, EPS, torch.float32, True))
    y, _, p = ops.interaction_fwd(*tensors, EPS, torch.float32, True)
    torch.library.opcheck(ops.interaction_bwd.default, (y, *tensors[:3], tensors[4], p, EPS, torch.float32))


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("with_keep", [True, False])
@pytest.mark.parametrize("regions", [1, 4, 9])
def test_folding_is_exact(regions: int, with_keep: bool, with_bias: bool) -> None:
    batch, rows, heads, dim = 2, 4, 3, 12
    make: dict[str, Any] = {"dtype": torch.float64, "device": torch.device("cpu")}
    z, s = randn(batch, regions, rows, dim, **make), randn(batch, regions, dim, **make)
    kv = randn(batch, regions, 2 * dim, **make)
    weights: list[Any] = [randn(*shape, **make) for shape in ((dim,), (dim,), (dim, dim), (dim,), (dim, dim), (dim,))]
    if not with_bias:
        weights[3] = weights[5] = None
    keep = torch.tensor([0.0, 1.25], dtype=torch.float64) if with_keep else None
    after = [randn(dim, **make), randn(dim, **make)]
    want = interaction(z, s, kv, *weights, *after, num_heads=heads, eps=EPS, keep=keep)
    norm, query, output = zip(weights[::2], weights[1::2], strict=True)
    got = plain(z, s, *fold(kv, norm=norm, query=query, output=output, num_heads=heads, keep=keep), *after)
    leaves = [x for x in (z, s, kv, *weights, *after) if x is not None]
    grads = [torch.randn_like(x) for x in want]
    results = [[*outputs, *torch.autograd.grad(outputs, leaves, grads)] for outputs in (got, want)]
    pairs = zip(*results, strict=True)
    for one, other in pairs:
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-10)


def test_when_folding_pays() -> None:
    assert folds(8, 8, 512) and folds(8, 16, 512) and folds(8, 20, 512) and not folds(8, 80, 512)
    assert key_layout(8, 8) == (1, 8, 8) and key_layout(8, 20) == (4, 2, 32) and key_layout(1, 1) == (1, 16, 1)
    assert not not_supported_reasons(20, 512)
    assert "80 regions" in not_supported_reasons(80, 512)[0] and "8192 channels" in not_supported_reasons(8, 8192)[0]


def test_alignment_of_rows() -> None:
    half = torch.zeros(4, 3, 512, dtype=torch.float16)
    assert row_alignment(half, half[:, 1:, 8:]) == 16
    assert row_alignment(half, half[..., 4:]) == 8 and row_alignment(half[..., 1:], half) == 2
    # Rows of 72 bytes.
    assert row_alignment(torch.zeros(4, 36, dtype=torch.float16)) == 8
