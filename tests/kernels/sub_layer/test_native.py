"""csrc's norms, sums and GELU on a CPU, compiled for every instruction set that runs here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from maedfer._native import build_record
from maedfer.kernels import reference
from maedfer.kernels._dispatch import interpreting
from maedfer.kernels.sub_layer.functions import (
    BiasGelu,
    LayerNorm,
    ResidualAdd,
    ResidualLayerNorm,
    ResidualLayerNormRepresentative,
)
from maedfer.kernels.sub_layer.native import not_supported_reasons
from tests.kernels.oracle import check, expanded_like, randn

pytestmark = [
    pytest.mark.skipif(interpreting(), reason="nothing here is Triton's"),
    pytest.mark.skipif(not build_record()["cpu"]["built"], reason=str(build_record()["cpu"].get("why"))),
]
EVERYWHERE = pytest.mark.usefixtures("variant")

EPS = 1e-5
CPU = torch.device("cpu")
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
# Fewer than a vector, a vector and one, four vectors and some, for every width of vectors; and the model's.
WIDTHS = [3, 17, 67, 384]


def norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return LayerNorm.apply(x, weight, bias, EPS, x.dtype)


def plain_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return reference.layer_norm(x, (weight, bias), eps=EPS)


def plain_add(residual: Tensor, branch: Tensor, bias: Tensor | None, keep: Tensor | None) -> Tensor:
    return reference.residual_add(residual, branch, bias=bias, keep=keep)


def residual_norm(*inputs: Any) -> tuple[Tensor, Tensor]:
    return ResidualLayerNorm.apply(*inputs, EPS, inputs[1].dtype)


def plain_residual_norm(*inputs: Any) -> tuple[Tensor, Tensor]:
    residual, branch, bias, keep, *norm = inputs
    z, n = reference.residual_layer_norm(residual, branch, tuple(norm), eps=EPS, bias=bias, keep=keep)
    return z, n.to(branch.dtype)


def representative_norm(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    return ResidualLayerNormRepresentative.apply(*inputs, EPS, inputs[1].dtype)


def plain_representative_norm(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    residual, branch, bias, keep, *norm = inputs
    normed = reference.residual_layer_norm_representative
    z, s, n = normed(residual, branch, tuple(norm), eps=EPS, bias=bias, keep=keep)
    return z, s, n.to(branch.dtype)


NORMED = pytest.mark.parametrize(
    ("fast", "plain"),
    [(residual_norm, plain_residual_norm), (representative_norm, plain_representative_norm)],
    ids=["all rows", "representative"],
)


def values(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return randn(*shape, dtype=dtype, device=CPU)


def given(*shape: int, dtype: torch.dtype = torch.float32, bias: bool = True, keep: int = 0) -> list[Any]:
    """What the residual operations take; factors over the first `keep` dimensions."""
    dim = shape[-1]
    factors = torch.rand(shape[:keep]).ge(0.3).div(0.7).to(dtype) if keep else None
    branch_bias = values(dim, dtype=dtype) if bias else None
    parts = values(*shape, dtype=dtype), values(*shape, dtype=dtype)
    return [*parts, branch_bias, factors, values(dim, dtype=dtype), values(dim, dtype=dtype)]


@EVERYWHERE
@DTYPES
@pytest.mark.parametrize("dim", WIDTHS)
def test_layer_norm(dim: int, dtype: torch.dtype) -> None:
    for rows in (1, 11):
        check(norm, plain_norm, [values(2, rows, dim, dtype=dtype), values(dim, dtype=dtype), values(dim, dtype=dtype)])


@EVERYWHERE
def test_a_mean_much_larger_than_the_deviation() -> None:
    x = (values(7, 100).detach() + 1000.0).requires_grad_()
    check(norm, plain_norm, [x, values(100), values(100)])


@EVERYWHERE
@pytest.mark.parametrize("keep", [0, 1, 2], ids="keep over {} dimensions".format)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@DTYPES
def test_residuals(dtype: torch.dtype, bias: bool, keep: int) -> None:
    tensors = given(2, 3, 11, 48, dtype=dtype, bias=bias, keep=keep)
    check(ResidualAdd.apply, plain_add, tensors[:4])
    check(ResidualAdd.apply, plain_add, tensors[:4], expanded_like)
    check(residual_norm, plain_residual_norm, tensors)
    check(representative_norm, plain_representative_norm, tensors)


@EVERYWHERE
@NORMED
@DTYPES
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 3), (0, 8, 2, 32), (1, 4, 2, 17), (1, 2, 101, 67), (2, 1, 11, 512)], ids=str
)
def test_shapes(shape: tuple[int, ...], dtype: torch.dtype, fast: Callable, plain: Callable) -> None:
    check(fast, plain, given(*shape, dtype=dtype, keep=1))


@EVERYWHERE
@NORMED
def test_dtypes_in_any_mixture(fast: Callable, plain: Callable) -> None:
    residual, branch, *rest = given(2, 3, 11, 48, keep=1)
    low = branch.detach().bfloat16().requires_grad_()
    check(fast, plain, [residual, low, *rest])
    check(fast, plain, [low.detach().requires_grad_(), residual.detach().requires_grad_(), *rest])
    check(ResidualAdd.apply, plain_add, [residual, low, *rest[:2]])
    x, weight, bias = residual, *rest[2:]
    out = LayerNorm.apply(x, weight, bias, EPS, torch.bfloat16)
    assert out.dtype == torch.bfloat16 and torch.equal(out, norm(x, weight, bias).bfloat16())
    check(norm, lambda x, w, b: plain_norm(x.to(w.dtype), w, b).to(x.dtype), [low, weight, bias])


@EVERYWHERE
def test_strided_and_expanded_inputs() -> None:
    weight, bias = values(32), values(32)
    wide = values(2, 3, 12, 80).detach()
    for x in (
        wide[:, :, 0, :32],
        wide[:, :, 1:, 4:36],
        wide[:, :, ::2, :32],
        wide[:, 1].transpose(0, 1)[..., :32],
        wide[:1, :1, :, :32].expand(4, 3, -1, -1),
        wide[..., ::2][..., :32],
        wide.permute(2, 0, 1, 3)[..., :32],
    ):
        for gradient in (torch.randn_like, expanded_like, transposed_like):
            check(norm, plain_norm, [x.requires_grad_(), weight, bias], gradient)
            check(BiasGelu.apply, reference.bias_gelu, [x, bias], gradient)
        x.requires_grad_(False)
    for residual, branch in (
        (wide[:, :, 1:, 4:36], wide[..., :11, ::2][..., :32]),
        (wide[:, :, :1, :32].expand(-1, -1, 7, -1), wide[:, :, 5:, :32]),
        (wide[:, :, :7, :32].transpose(0, 1), wide[:1, :1, :7, :32].expand(3, 2, -1, -1)),
    ):
        inputs = [residual.detach().requires_grad_(), branch.detach().requires_grad_(), None, None, weight, bias]
        check(residual_norm, plain_residual_norm, inputs, transposed_like)
        check(representative_norm, plain_representative_norm, inputs, expanded_like)


def transposed_like(x: Tensor) -> Tensor:
    """A gradient whose rows lie across each other."""
    return torch.randn_like(x.transpose(-1, -2).contiguous()).transpose(-1, -2)


@EVERYWHERE
@NORMED
@pytest.mark.parametrize("keep", [0, 1], ids=["always kept", "keep"])
def test_only_the_wanted_gradients(keep: int, fast: Callable, plain: Callable) -> None:
    tensors = given(2, 3, 5, 20, keep=keep)
    constants = [None if x is None else x.detach() for x in tensors]
    for number in (0, 1, 2):
        check(fast, plain, [*constants[:number], tensors[number], *constants[number + 1 :]])
        check(fast, plain, [*tensors[:number], constants[number], *tensors[number + 1 :]])
    check(fast, plain, [*tensors[:4], *constants[4:]])
    for number in (4, 5):
        wanted = [*constants[:number], tensors[number], *constants[number + 1 :]]
        check(lambda *x: fast(*x)[-1], lambda *x: plain(*x)[-1], wanted)
    # Of one result nothing is used, so that its gradient is not there.
    for number in range(len(plain(*tensors))):
        used = [x for x in tensors if x is not None and x.requires_grad]
        found, expected = (
            torch.autograd.grad(f(*tensors)[number].square().sum(), used, allow_unused=True) for f in (fast, plain)
        )
        for one, other in zip(found, expected, strict=True):
            assert (one is None) == (other is None or not other.any())
            assert one is None or torch.allclose(one, other, rtol=1e-4, atol=1e-4)


@EVERYWHERE
@DTYPES
@pytest.mark.parametrize("dim", WIDTHS)
def test_bias_gelu(dim: int, dtype: torch.dtype) -> None:
    check(BiasGelu.apply, reference.bias_gelu, [values(2, 11, dim, dtype=dtype), values(dim, dtype=dtype)])
    check(BiasGelu.apply, reference.bias_gelu, [values(2, 1, dim, dtype=dtype), None])
    check(BiasGelu.apply, reference.bias_gelu, [values(0, 11, dim, dtype=dtype), None])


@EVERYWHERE
def test_gelu_of_every_magnitude() -> None:
    x = torch.linspace(-40.0, 40.0, 40001, dtype=torch.float64).float()
    got, plain, exact = (
        (out.detach().double(), torch.autograd.grad(out, u, torch.ones_like(out))[0].double())
        for operation, u in (
            (BiasGelu.apply, x.clone().requires_grad_()),
            (reference.bias_gelu, x.clone().requires_grad_()),
            (erfc_gelu, x.double().requires_grad_()),
        )
        for out in [operation(u, None)]
    )
    for ours, theirs, want in zip(got, plain, exact, strict=True):
        assert (ours - want).abs().max() <= 2 * (theirs - want).abs().max()
    # Digits of the lower tail are kept, relative to what rounding x^2 costs; the slope has a zero near -0.75.
    lower = (x > -12.9) & (x < 0)
    allowed = 4 * torch.finfo(torch.float32).eps * (1.0 + x.double().square() / 2)
    for ours, want, where in zip(got, exact, (lower, lower & (x < -1.5)), strict=True):
        assert ((ours - want).abs() <= allowed * want.abs())[where].all()
    special = torch.tensor([float("nan"), float("inf"), -1e30, 1e30, 0.0])
    assert torch.equal(BiasGelu.apply(special, None)[1:], torch.tensor([float("inf"), 0.0, 1e30, 0.0]))
    assert BiasGelu.apply(special, None)[0].isnan()


def erfc_gelu(x: Tensor, bias: None) -> Tensor:
    """Without the cancellation that the usual formula has for negative x."""
    return 0.5 * x * torch.special.erfc(x * -(0.5**0.5))


@EVERYWHERE
def test_gelu_of_mixed_dtypes_and_wanted_gradients() -> None:
    x, bias = values(3, 11, 100), values(100)
    check(BiasGelu.apply, reference.bias_gelu, [x, bias.detach()])
    check(BiasGelu.apply, reference.bias_gelu, [x.detach(), bias])
    low = x.detach().bfloat16().requires_grad_()
    check(BiasGelu.apply, lambda x, bias: reference.bias_gelu(x.to(bias.dtype), bias).to(x.dtype), [low, bias])


@EVERYWHERE
@DTYPES
def test_the_same_bits_whatever_the_threads(dtype: torch.dtype) -> None:
    tensors = given(2, 3, 101, 48, dtype=dtype, keep=2)
    used = [x for x in tensors if x is not None and x.requires_grad]
    before, runs = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            outputs = [*residual_norm(*tensors), *representative_norm(*tensors), BiasGelu.apply(*tensors[1:3])]
            runs.append([*outputs, *torch.autograd.grad(outputs, used, [x.detach().cos() for x in outputs])])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for run in runs[1:] for one, other in zip(runs[0], run, strict=True))


@EVERYWHERE
def test_one_stream_whatever_is_normed() -> None:
    tensors = given(2, 3, 11, 48, dtype=torch.bfloat16)
    z, n = residual_norm(*tensors)
    assert torch.equal(z, ResidualAdd.apply(*tensors[:4])) and torch.equal(n, norm(z, *tensors[4:]))
    same, s, first = representative_norm(*tensors)
    assert torch.equal(same, z) and torch.equal(s, z[:, :, 0]) and torch.equal(first, n[:, :, 0])
    s, first = torch.ops.maedfer.layer_norm_representative_fwd(z, *tensors[4:], EPS, torch.bfloat16)
    assert torch.equal(s, z[:, :, 0]) and torch.equal(first, n[:, :, 0])


def test_opcheck_and_one_graph() -> None:
    tensors = given(2, 3, 5, 32, keep=1)
    residual, branch, branch_bias, factors, weight, bias = (x.detach() for x in tensors)
    ops, half = torch.ops.maedfer, torch.bfloat16
    norm_ = (weight, bias, EPS, half)
    torch.library.opcheck(ops.layer_norm_fwd.default, (residual[:, :, 0], *norm_))
    torch.library.opcheck(ops.layer_norm_representative_fwd.default, (residual, *norm_))
    torch.library.opcheck(ops.residual_add_fwd.default, (residual, branch.to(half), branch_bias, factors))
    for operator in (ops.residual_layer_norm_fwd, ops.residual_layer_norm_representative_fwd):
        torch.library.opcheck(operator.default, (residual, branch.to(half), branch_bias, factors, *norm_))
    s = residual[:, :, 0]
    for arguments in (
        (residual, None, residual.to(half), residual, weight, factors, EPS, False, torch.float32, half, True, True),
        (residual, s, s.to(half), residual, weight, factors, EPS, True, torch.float32, None, False, True),
        (None, s, None, residual, None, None, EPS, True, torch.float32, half, True, False),
        (residual, None, None, None, None, factors, 0.0, False, None, half, True, False),
    ):
        torch.library.opcheck(ops.residual_layer_norm_bwd.default, arguments)
    torch.library.opcheck(ops.bias_gelu_fwd.default, (residual, bias))
    for wanted in ((True, True), (True, False), (False, True)):
        torch.library.opcheck(ops.bias_gelu_bwd.default, (residual, branch, bias, *wanted))

    def both(*inputs: Any) -> tuple[Tensor, ...]:
        z, n = residual_norm(*inputs)
        return *representative_norm(z, n, *inputs[2:]), BiasGelu.apply(n, inputs[2])

    torch._dynamo.reset()
    compiled = torch.compile(both, backend="aot_eager", fullgraph=True)
    runs = []
    for run in (both, compiled):
        outputs = run(*tensors)
        used = [x for x in tensors if x.requires_grad]
        runs.append([*outputs, *torch.autograd.grad(outputs, used, [x.detach().cos() for x in outputs])])
    assert all(torch.allclose(one, other, rtol=1e-5, atol=1e-5) for one, other in zip(*runs, strict=True))


def test_limits_are_told() -> None:
    assert not not_supported_reasons(torch.float32, torch.bfloat16)
    assert not_supported_reasons(torch.float16, torch.float32, torch.float64) == [
        "torch.float16, torch.float64 (float32 and bfloat16 are read)"
    ]
