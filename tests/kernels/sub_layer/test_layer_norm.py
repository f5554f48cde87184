"""Residual addition and LayerNorm: of all rows, of none, and of the representative tokens alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from maedfer.kernels import reference
from maedfer.kernels._dispatch import interpreting
from maedfer.kernels._launch import recording
from maedfer.kernels.sub_layer.functions import (
    LayerNorm,
    ResidualAdd,
    ResidualLayerNorm,
    ResidualLayerNormRepresentative,
)
from maedfer.kernels.sub_layer.triton import not_supported_reasons
from tests.kernels.oracle import DTYPES, check, expanded_like, randn

EPS = 1e-5

# Tensors, and None where there is no bias or nothing is dropped.
Inputs = list[Any]


def detached(x: Any) -> Any:
    return None if x is None else x.detach()


def fast_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return LayerNorm.apply(x, weight, bias, EPS, x.dtype)


def plain_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return reference.layer_norm(x, (weight, bias), eps=EPS)


def plain_add(residual: Tensor, branch: Tensor, bias: Tensor | None, keep: Tensor | None) -> Tensor:
    return reference.residual_add(residual, branch, bias=bias, keep=keep)


def fast_residual(*inputs: Any) -> tuple[Tensor, Tensor]:
    return ResidualLayerNorm.apply(*inputs, EPS, inputs[1].dtype)


def plain_residual(*inputs: Any) -> tuple[Tensor, Tensor]:
    residual, branch, bias, keep, *norm = inputs
    z, n = reference.residual_layer_norm(residual, branch, tuple(norm), eps=EPS, bias=bias, keep=keep)
    return z, n.to(inputs[1].dtype)


def fast_representative(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    return ResidualLayerNormRepresentative.apply(*inputs, EPS, inputs[1].dtype)


def plain_representative(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    residual, branch, bias, keep, *norm = inputs
    normed = reference.residual_layer_norm_representative
    z, s, n = normed(residual, branch, tuple(norm), eps=EPS, bias=bias, keep=keep)
    return z, s, n.to(inputs[1].dtype)


NORMED = pytest.mark.parametrize(
    ("fast", "plain"),
    [(fast_residual, plain_residual), (fast_representative, plain_representative)],
    ids=["all rows", "representative"],
)


def inputs(
    *shape: int, dtype: torch.dtype = torch.float32, device: torch.device, bias: bool = True, keep: int = 0
) -> Inputs:
    """What the residual operations take; factors over the first `keep` dimensions."""
    dim = shape[-1]
    residual, branch = (randn(*shape, dtype=dtype, device=device) for _ in range(2))
    branch_bias = randn(dim, dtype=dtype, device=device) if bias else None
    factors = torch.rand(shape[:keep]).ge(0.3).div(0.7).to(device, dtype) if keep else None
    return [residual, branch, branch_bias, factors, *(randn(dim, dtype=dtype, device=device) for _ in range(2))]


def required(tensors: Inputs) -> list[Tensor]:
    return [x for x in tensors if x is not None and x.requires_grad]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "dim"), [(1, 32), (2, 48), (11, 100), (101, 384), (11, 512)])
def test_layer_norm(rows: int, dim: int, dtype: torch.dtype, device: torch.device) -> None:
    x, _, _, _, weight, bias = inputs(2, rows, dim, dtype=dtype, device=device)
    check(fast_norm, plain_norm, [x, weight, bias])


@pytest.mark.parametrize("keep", [0, 1, 2], ids="keep over {} dimensions".format)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_residual_add(dtype: torch.dtype, bias: bool, keep: int, device: torch.device) -> None:
    tensors = inputs(2, 3, 11, 48, dtype=dtype, device=device, bias=bias, keep=keep)
    check(ResidualAdd.apply, plain_add, tensors[:4])
    check(ResidualAdd.apply, plain_add, tensors[:4], expanded_like)


@NORMED
@pytest.mark.parametrize("keep", [0, 1, 2], ids="keep over {} dimensions".format)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_residual_layer_norm(
    dtype: torch.dtype, bias: bool, keep: int, fast: Callable, plain: Callable, device: torch.device
) -> None:
    check(fast, plain, inputs(2, 3, 11, 48, dtype=dtype, device=device, bias=bias, keep=keep))


@NORMED
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 32), (0, 8, 2, 32), (1, 4, 2, 100), (1, 2, 101, 384), (2, 1, 11, 512)], ids=str
)
def test_shapes(
    shape: tuple[int, ...], dtype: torch.dtype, fast: Callable, plain: Callable, device: torch.device
) -> None:
    check(fast, plain, inputs(*shape, dtype=dtype, device=device))


def test_rows_without_regions(device: torch.device) -> None:
    residual, branch, branch_bias, _, weight, bias = inputs(7, 32, device=device)
    check(fast_norm, plain_norm, [residual, weight, bias])
    check(fast_residual, plain_residual, [residual, branch, branch_bias, None, weight, bias])


@NORMED
@pytest.mark.parametrize("keep", [0, 1], ids=["always kept", "keep"])
def test_a_stream_wider_than_its_branches(keep: int, fast: Callable, plain: Callable, device: torch.device) -> None:
    residual, branch, *rest = inputs(2, 3, 11, 48, device=device, keep=keep)
    # The branch's own rounding is in the measure too: the reference adds its bias in float16.
    half = branch.detach().half().requires_grad_()
    check(fast, plain, [residual, half, *rest])
    check(fast, plain, [half.detach().requires_grad_(), residual.detach().requires_grad_(), *rest])
    check(ResidualAdd.apply, plain_add, [residual, half, *rest[:2]])


def test_parameters_wider_than_rows(device: torch.device) -> None:
    x, _, _, _, weight, bias = inputs(3, 11, 48, device=device)
    half = x.detach().half().requires_grad_()
    check(fast_norm, lambda x, w, b: plain_norm(x.to(w.dtype), w, b).to(x.dtype), [half, weight, bias])
    n = LayerNorm.apply(x, weight, bias, EPS, torch.float16)
    assert n.dtype == torch.float16 and torch.equal(n, fast_norm(x, weight, bias).half())


def test_strided_and_expanded_inputs(device: torch.device) -> None:
    weight, bias = (randn(32, dtype=torch.float32, device=device) for _ in range(2))
    wide = randn(2, 3, 12, 80, dtype=torch.float32, device=device, grad=False)
    for x in (
        wide[:, :, 0, :32],
        wide[:, :, 1:, 4:36],
        wide[:, :, ::2, :32],
        wide[:, 1].transpose(0, 1)[..., :32],
        wide[:1, :1, :, :32].expand(4, 3, -1, -1),
        wide[..., ::2][..., :32],
    ):
        check(fast_norm, plain_norm, [x.requires_grad_(), weight, bias])
        x.requires_grad_(False)
    stream = wide[..., :32].contiguous().requires_grad_()
    check(lambda z, *p: fast_norm(z[:, :, 0], *p), lambda z, *p: plain_norm(z[:, :, 0], *p), [stream, weight, bias])


@NORMED
def test_strided_and_expanded_residuals(fast: Callable, plain: Callable, device: torch.device) -> None:
    wide = randn(2, 4, 12, 80, dtype=torch.float32, device=device, grad=False)
    rest = [None, None, *(randn(32, dtype=torch.float32, device=device) for _ in range(2))]
    for residual, branch in (
        (wide[:, 1:, 1:, 4:36], wide[:, :3, ::2, :32][:, :, :5]),
        (wide[:, :, :1, :32].expand(-1, -1, 7, -1), wide[..., ::2][:, :, :7, :32]),
        (wide[:, :, :7, :32].transpose(0, 1), wide[:1, :1, :7, :32].expand(4, 2, -1, -1)),
    ):
        rows = min(residual.shape[2], branch.shape[2])
        views = [x[:, :, :rows].detach().requires_grad_() for x in (residual, branch)]
        for gradient in (torch.randn_like, expanded_like, transposed_like):
            check(fast, plain, [*views, *rest], gradient)


def transposed_like(x: Tensor) -> Tensor:
    """A gradient whose rows lie across each other."""
    return torch.randn_like(x.transpose(-1, -2).contiguous()).transpose(-1, -2)


@NORMED
def test_only_the_wanted_gradients(fast: Callable, plain: Callable, device: torch.device) -> None:
    for keep in (0, 1):
        tensors = inputs(2, 3, 5, 32, device=device, keep=keep)
        constants = [None if x is None else x.detach() for x in tensors]
        for number in (0, 1, 2):
            check(fast, plain, [*constants[:number], tensors[number], *constants[number + 1 :]])
            check(fast, plain, [*tensors[:number], constants[number], *tensors[number + 1 :]])
        check(fast, plain, [*tensors[:4], *constants[4:]])
        # Here z and s are constants in the reference.
        for number in (4, 5):
            wanted = [*constants[:number], tensors[number], *constants[number + 1 :]]
            check(lambda *x: fast(*x)[-1], lambda *x: plain(*x)[-1], wanted)
    check(fast_norm, plain_norm, [tensors[0].detach(), *tensors[4:]])
    check(fast_norm, plain_norm, [tensors[0], *(x.detach() for x in tensors[4:])])


@NORMED
@pytest.mark.parametrize("keep", [0, 1], ids=["always kept", "keep"])
def test_outputs_that_nothing_uses(keep: int, fast: Callable, plain: Callable, device: torch.device) -> None:
    tensors = inputs(2, 3, 5, 32, device=device, keep=keep)
    for number in range(len(plain(*tensors))):
        found, wanted = (
            torch.autograd.grad(f(*tensors)[number].square().sum(), required(tensors), allow_unused=True)
            for f in (fast, plain)
        )
        for one, other in zip(found, wanted, strict=True):
            assert (one is None) == (other is None or not other.any())
            assert one is None or torch.allclose(one, other, rtol=1e-4, atol=1e-4)


def test_a_sum_passes_its_gradient_on(device: torch.device) -> None:
    residual, branch, _, _, weight, bias = inputs(2, 3, 5, 32, device=device, bias=False)
    gradient = torch.randn_like(residual)
    sums = [
        ResidualAdd.apply(residual, branch, None, None),
        fast_residual(residual, branch, None, None, weight, bias)[0],
        fast_representative(residual, branch, None, None, weight, bias)[0],
    ]
    for z in sums:
        with recording() as launches:
            gradients = torch.autograd.grad(z, [residual, branch], gradient)
        assert not launches and all(x.data_ptr() == gradient.data_ptr() for x in gradients)


@NORMED
def test_repeats_bit_for_bit(fast: Callable, plain: Callable, device: torch.device) -> None:
    tensors = inputs(2, 3, 101, 48, device=device, keep=2)
    runs = []
    for _ in range(2):
        outputs = fast(*tensors)
        runs.append([*outputs, *torch.autograd.grad(outputs, required(tensors), [x.cos() for x in outputs])])
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


def test_one_stream_whatever_is_normed(device: torch.device) -> None:
    tensors = inputs(2, 3, 11, 48, dtype=torch.float16, device=device)
    z, n = fast_residual(*tensors)
    assert torch.equal(z, ResidualAdd.apply(*tensors[:4])) and torch.equal(n, fast_norm(z, *tensors[4:]))
    same, s, first = fast_representative(*tensors)
    assert torch.equal(same, z) and torch.equal(s, z[:, :, 0]) and torch.equal(first, n[:, :, 0])


@NORMED
def test_more_rows_than_programs(
    fast: Callable, plain: Callable, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maedfer.kernels.sub_layer.triton.resident_programs", lambda device: 3)
    check(fast, plain, inputs(2, 5, 21, 100, device=device))


@NORMED
def test_float16_under_a_loss_scale(fast: Callable, plain: Callable, device: torch.device) -> None:
    """Gradients near the largest of float16: their sums over rows are beyond it and must not be made in it."""
    residual, branch, bias, _, weight, norm_bias = inputs(2, 3, 41, 32, device=device)
    small = (weight.detach() / 8).requires_grad_()
    half = branch.detach().half().requires_grad_()

    def scaled(out: Tensor) -> Tensor:
        return (1.0 + torch.rand_like(out)) * 2**13

    check(fast, plain, [residual, half, bias, None, small, norm_bias], scaled)


def test_offsets_of_more_than_31_bits(device: torch.device) -> None:
    # The stride fits 31 bits, twice the stride does not; what lies between the rows is never touched.
    far = torch.empty(2**31 + 64, dtype=torch.float16, device=device).as_strided((3, 1, 32), (2**30 + 16, 32, 1))
    far.copy_(torch.randn(3, 1, 32))
    weight, bias = (randn(32, dtype=torch.float16, device=device) for _ in range(2))
    check(fast_norm, plain_norm, [far.requires_grad_(), weight, bias])
    check(fast_norm, plain_norm, [far.detach().transpose(0, 1).requires_grad_(), weight, bias])


@pytest.mark.skipif(not interpreting(), reason="float64 exists under the interpreter only")
def test_gradcheck(device: torch.device) -> None:
    tensors = inputs(2, 2, 3, 5, dtype=torch.float64, device=device, keep=1)
    for operation in (fast_residual, fast_representative):
        assert torch.autograd.gradcheck(operation, tensors, fast_mode=True)
    assert torch.autograd.gradcheck(ResidualAdd.apply, tensors[:4], fast_mode=True)
    assert torch.autograd.gradcheck(fast_norm, [tensors[0], *tensors[4:]], fast_mode=True)


@pytest.mark.parametrize("keep", [0, 1], ids=["always kept", "keep"])
def test_opcheck(keep: int, device: torch.device) -> None:
    given = inputs(2, 3, 5, 32, device=device, keep=keep)
    residual, branch, branch_bias, factors, weight, bias = map(detached, given)
    half, ops = torch.float16, torch.ops.maedfer
    branch = branch.half()
    norm = (weight, bias, EPS, half)
    torch.library.opcheck(ops.layer_norm_fwd.default, (residual[:, :, 0], *norm))
    torch.library.opcheck(ops.residual_add_fwd.default, (residual, branch, branch_bias, factors))
    for operator in (ops.residual_layer_norm_fwd, ops.residual_layer_norm_representative_fwd):
        torch.library.opcheck(operator.default, (residual, branch, branch_bias, factors, *norm))
    backward, s = ops.residual_layer_norm_bwd.default, residual[:, :, 0]
    for arguments in (
        (residual, None, residual.half(), residual, weight, factors, EPS, False, torch.float32, half, True, True),
        (residual, s, s.half(), residual, weight, factors, EPS, True, torch.float32, None, False, True),
        (residual, None, None, None, None, factors, 0.0, False, None, half, True, False),
    ):
        torch.library.opcheck(backward, arguments)


@NORMED
def test_compiles_in_one_graph(fast: Callable, plain: Callable, device: torch.device) -> None:
    tensors = inputs(2, 3, 5, 32, device=device, keep=1)
    compiled = torch.compile(fast, backend="aot_eager", fullgraph=True)
    check(compiled, plain, tensors)
    wanted = [*tensors[:4], *(x.detach() for x in tensors[4:])]
    check(lambda *x: compiled(*x)[0], lambda *x: plain(*x)[0], wanted)


def test_limits_are_told() -> None:
    assert not not_supported_reasons(4096) and not not_supported_reasons(1)
    assert "4097 channels" in not_supported_reasons(4097)[0]
