"""GELU of a product and its bias."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from maedfer.kernels import reference
from maedfer.kernels._dispatch import interpreting
from maedfer.kernels.sub_layer import triton as triton
from maedfer.kernels.sub_layer.functions import BiasGelu
from tests.kernels.oracle import DTYPES, check, expanded_like, randn


def fast(x: Tensor, bias: Tensor | None) -> Tensor:
    return BiasGelu.apply(x, bias)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "dim"), [(1, 32), (2, 48), (11, 100), (101, 384), (11, 1536), (2, 2048), (1, 1)])
def test_bias_gelu(rows: int, dim: int, dtype: torch.dtype, device: torch.device) -> None:
    check(
        fast,
        reference.bias_gelu,
        [randn(2, rows, dim, dtype=dtype, device=device), randn(dim, dtype=dtype, device=device)],
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(7, 32), (1, 3, 5, 100), (0, 8, 2, 32)], ids=str)
def test_without_bias(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    check(fast, reference.bias_gelu, [randn(*shape, dtype=dtype, device=device), None])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_magnitude(dtype: torch.dtype, device: torch.device) -> None:
    x = torch.linspace(-12.0, 12.0, 4096, dtype=torch.float64).to(device, dtype).view(4, 1024).requires_grad_()
    check(fast, reference.bias_gelu, [x, None])
    out = fast(x, None)
    (gradient,) = torch.autograd.grad(out, x, torch.ones_like(out))
    # Tails must not be lost to cancellation in the types that are rounded the most.
    if dtype in (torch.float16, torch.bfloat16):
        for got, want in ((out, reference.bias_gelu(x.double(), None)), (gradient, derivative(x.double()))):
            error = (got.double() - want).abs() / (want.abs() + 1e-4)
            assert error.max() < 2 * torch.finfo(dtype).eps


def derivative(x: Tensor) -> Tensor:
    """Of the GELU, in the type of x."""
    x = x.detach().requires_grad_()
    return torch.autograd.grad(reference.bias_gelu(x, None).sum(), x)[0]


def test_strided_and_expanded_inputs(device: torch.device) -> None:
    bias = randn(32, dtype=torch.float32, device=device)
    wide = randn(2, 3, 12, 80, dtype=torch.float32, device=device, grad=False)
    for x in (
        wide[:, :, 0, :32],
        wide[:, :, 1:, 4:36],
        wide[:, :, ::2, :32],
        wide[:, 1].transpose(0, 1)[..., :32],
        wide[:1, :1, :, :32].expand(4, 3, -1, -1),
        wide[..., ::2][..., :32],
    ):
        for gradient in (torch.randn_like, expanded_like):
            check(fast, reference.bias_gelu, [x.requires_grad_(), bias], gradient)
        x.requires_grad_(False)


def test_a_bias_wider_than_the_rows(device: torch.device) -> None:
    x, bias = randn(3, 11, 100, dtype=torch.float16, device=device), randn(100, dtype=torch.float32, device=device)
    check(fast, lambda x, bias: reference.bias_gelu(x.to(bias.dtype), bias).to(x.dtype), [x, bias])


def test_only_the_wanted_gradients(device: torch.device) -> None:
    x, bias = randn(3, 11, 100, dtype=torch.float32, device=device), randn(100, dtype=torch.float32, device=device)
    check(fast, reference.bias_gelu, [x, bias.detach()])
    check(fast, reference.bias_gelu, [x.detach(), bias])


def test_more_rows_than_programs(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maedfer.kernels.sub_layer.triton.resident_programs", lambda device: 4)
    x, bias = randn(3, 11, 1100, dtype=torch.float32, device=device), randn(1100, dtype=torch.float32, device=device)
    check(fast, reference.bias_gelu, [x, bias])


def test_offsets_of_more_than_31_bits(device: torch.device) -> None:
    # The stride fits 31 bits, twice the stride does not; what lies between the rows is never touched.
    far = torch.empty(2**31 + 64, dtype=torch.float16, device=device).as_strided((3, 1, 32), (2**30 + 16, 32, 1))
    far.copy_(torch.randn(3, 1, 32))
    check(fast, reference.bias_gelu, [far.requires_grad_(), None])
    check(fast, reference.bias_gelu, [far.detach().transpose(0, 1).requires_grad_(), None])


def test_repeats_bit_for_bit(device: torch.device) -> None:
    x, bias = randn(3, 101, 100, dtype=torch.float32, device=device), randn(100, dtype=torch.float32, device=device)
    runs = []
    for _ in range(2):
        out = fast(x, bias)
        runs.append([out, *torch.autograd.grad(out, [x, bias], out.detach().cos())])
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


@pytest.mark.skipif(not interpreting(), reason="float64 exists under the interpreter only")
def test_gradcheck(device: torch.device) -> None:
    x, bias = randn(2, 3, 5, dtype=torch.float64, device=device), randn(5, dtype=torch.float64, device=device)
    assert torch.autograd.gradcheck(fast, (x, bias))


def test_opcheck(device: torch.device) -> None:
    x, bias = (randn(*shape, dtype=torch.float32, device=device, grad=False) for shape in ((2, 3, 40), (40,)))
    torch.library.opcheck(torch.ops.maedfer.bias_gelu_fwd.default, (x, bias))
    torch.library.opcheck(torch.ops.maedfer.bias_gelu_fwd.default, (x, None))
    for wanted in ((True, True), (True, False), (False, True)):
        torch.library.opcheck(torch.ops.maedfer.bias_gelu_bwd.default, (x, x, bias, *wanted))


def test_compiles_in_one_graph(device: torch.device) -> None:
    compiled = torch.compile(fast, backend="aot_eager", fullgraph=True)
    check(
        compiled,
        reference.bias_gelu,
        [randn(*shape, dtype=torch.float32, device=device) for shape in ((2, 3, 40), (40,))],
    )
