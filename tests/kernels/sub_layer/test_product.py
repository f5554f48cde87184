"""The last product of a sub-layer with its residual in one kernel, and the LayerNorm of the representative tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from maedfer.kernels import functional, reference
from maedfer.kernels._configs import Config, force, targeting
from maedfer.kernels._dispatch import interpreting
from maedfer.kernels._launch import recording
from maedfer.kernels.sub_layer.functions import LayerNorm, LinearResidualLayerNormRepresentative
from maedfer.kernels.sub_layer.product import fuses
from tests.kernels.oracle import DTYPES, check, expanded_like, randn

C, K, EPS = 72, 48, 1e-5

ops = torch.ops.maedfer

# Tensors, and None where there is no bias or nothing is dropped.
Inputs = list[Any]


@pytest.fixture(autouse=True)
def _small_tiles() -> Iterator[None]:
    """Tiles of which these sizes take several, the last of them in part."""
    with force("linear_residual_fwd", Config({"BLOCK_M": 16, "BLOCK_N": 64, "BLOCK_K": 32}, 4, 2)):
        yield


def fast(residual: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, keep: Tensor | None, *norm: Tensor) -> Any:
    low = weight.detach().to(x.dtype)
    return LinearResidualLayerNormRepresentative.apply(residual, x, bias, keep, *norm, weight, low, EPS, x.dtype)


def plain(residual: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, keep: Tensor | None, *norm: Tensor) -> Any:
    branch = F.linear(x, weight.to(x.dtype))
    z, s, n = reference.residual_layer_norm_representative(
        residual, branch, (norm[0], norm[1]), eps=EPS, bias=bias, keep=keep
    )
    return z, s, n.to(x.dtype)


def inputs(
    *shape: int,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    width: int = K,
    dim: int = C,
    bias: bool = True,
    keep: int = 0,
) -> Inputs:
    """Residual, x, weight, bias, factors over the first `keep` dimensions, and the norm's weight and bias."""

    def make(*sizes: int, scale: float = 1.0) -> Tensor:
        return randn(*sizes, dtype=dtype, device=device, scale=scale)

    factors = torch.rand(shape[:keep]).ge(0.3).div(0.7).to(device, dtype) if keep else None
    product = make(dim, width, scale=width**-0.5), make(dim) if bias else None
    return [make(*shape, dim), make(*shape, width), *product, factors, make(dim), make(dim)]


def required(tensors: Inputs) -> list[Tensor]:
    return [x for x in tensors if x is not None and x.requires_grad]


ARCHITECTURES = pytest.mark.parametrize("arch", [80, 90], ids=["pointers", "descriptors"])


@ARCHITECTURES
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("shape", "width", "dim", "bias", "keep"),
    [((1, 1, 1), 16, 8, True, 0), ((2, 3, 7), K, C, False, 1), ((2, 2, 11), K, C, True, 2)],
    ids=str,
)
def test_the_formula(
    shape: tuple[int, ...],
    width: int,
    dim: int,
    bias: bool,
    keep: int,
    dtype: torch.dtype,
    arch: int,
    device: torch.device,
) -> None:
    with targeting(arch):
        given = inputs(*shape, device=device, dtype=dtype, width=width, dim=dim, bias=bias, keep=keep)
        check(fast, plain, given)


@ARCHITECTURES
def test_tiles_that_are_shipped(arch: int, device: torch.device) -> None:
    shipped = Config({"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 64}, 8, 3)
    with targeting(arch), force("linear_residual_fwd", shipped):
        check(fast, plain, inputs(2, 2, 35, device=device, dtype=torch.float16, width=72, dim=144, keep=1))


@ARCHITECTURES
def test_a_stream_wider_than_its_product(arch: int, device: torch.device) -> None:
    residual, x, *rest = inputs(2, 3, 7, device=device, keep=1)
    with targeting(arch):
        check(fast, plain, [residual, x.detach().half().requires_grad_(), *rest])


def test_representative_tokens_are_those_of_the_stream(device: torch.device) -> None:
    *given, weight, bias = inputs(2, 3, 7, device=device, dtype=torch.float16)
    z, s, n = fast(*given, weight, bias)
    assert torch.equal(s, z[:, :, 0]) and s.is_contiguous()
    assert torch.equal(n, LayerNorm.apply(s, weight, bias, EPS, torch.float16))


@pytest.mark.parametrize("keep", [0, 1], ids=["always kept", "keep"])
def test_only_the_wanted_gradients(keep: int, device: torch.device) -> None:
    given = inputs(1, 2, 5, device=device, keep=keep)
    constants = [x if x is None else x.detach() for x in given]
    for number in (0, 1, 2, 3):
        check(fast, plain, [*constants[:number], given[number], *constants[number + 1 :]])
        check(fast, plain, [*given[:number], constants[number], *given[number + 1 :]])
    # Here z and s are constants in the reference.
    for number in (5, 6):
        wanted = [*constants[:number], given[number], *constants[number + 1 :]]
        check(lambda *x: fast(*x)[2], lambda *x: plain(*x)[2], wanted)


@pytest.mark.parametrize("keep", [0, 1], ids=["always kept", "keep"])
def test_outputs_that_nothing_uses(keep: int, device: torch.device) -> None:
    given = inputs(1, 2, 5, device=device, keep=keep)
    for number in range(3):
        found, wanted = (
            torch.autograd.grad(f(*given)[number].square().sum(), required(given), allow_unused=True)
            for f in (fast, plain)
        )
        for one, other in zip(found, wanted, strict=True):
            assert (one is None) == (other is None or not other.any())
            assert one is None or torch.allclose(one, other, rtol=1e-4, atol=1e-4)


@ARCHITECTURES
def test_strided_and_expanded_inputs(arch: int, device: torch.device) -> None:
    *_, weight, bias, _, norm_weight, norm_bias = inputs(1, 1, 1, device=device)
    wide = randn(2, 2, 5, 160, dtype=torch.float32, device=device, grad=False)
    # Weights that are a part of a wider one, that lie across, and one that begins amid 16 bytes.
    part = F.pad(weight.detach(), (0, 16))[:, :K]
    across = weight.detach().t().contiguous().t()
    shifted = torch.empty(C * K + 1, dtype=torch.float32, device=device)[1:].view(C, K).copy_(weight.detach())
    rest = bias, None, norm_weight, norm_bias
    for residual, x, matrix in (
        # Rows at one distance are read in place.
        (wide[..., 8 : 8 + C], wide[..., 84 : 84 + K], part),
        (wide[:, :, 1:, 4 : 4 + C], wide[:, :, :4, :K], weight),
        (wide[:, :, :, 1 : 1 + C], wide[..., ::2][..., :K], across),
        (wide[:1, :1, :, :C].expand(2, 2, -1, -1), wide[:, :1, :, 8 : 8 + K].expand(-1, 2, -1, -1), shifted),
        (wide[..., :C].transpose(0, 1), wide[..., :K].transpose(0, 1), weight),
    ):
        views = [view.detach().requires_grad_() for view in (residual, x, matrix)]
        with targeting(arch):
            check(fast, plain, [*views, *rest], expanded_like if matrix is shifted else torch.randn_like)


def test_an_empty_batch(device: torch.device) -> None:
    given = inputs(0, 3, 5, device=device, keep=2)
    outputs = fast(*given)
    gradients = torch.autograd.grad(sum(x.sum() for x in outputs), required(given))
    assert [x.shape for x in outputs] == [(0, 3, 5, C), (0, 3, C), (0, 3, C)]
    assert not any(gradient.any() for gradient in gradients)


def test_repeats_bit_for_bit_and_when_recomputed(device: torch.device) -> None:
    given = inputs(2, 1, 11, device=device, dtype=torch.float16, keep=2)
    runs = []
    for call in (fast, fast, lambda *x: checkpoint(fast, *x, use_reentrant=False)):
        outputs = call(*given)
        runs.append([*outputs, *torch.autograd.grad(outputs, required(given), [x.detach().cos() for x in outputs])])
    for other in runs[1:]:
        assert all(torch.equal(one, two) for one, two in zip(runs[0], other, strict=True))


@pytest.mark.skipif(not interpreting(), reason="float64 exists under the interpreter only")
def test_gradcheck(device: torch.device) -> None:
    given = inputs(1, 2, 3, device=device, dtype=torch.float64, width=16, dim=8, keep=1)
    assert torch.autograd.gradcheck(fast, given, fast_mode=True)


@pytest.mark.parametrize("keep", [0, 1], ids=["always kept", "keep"])
def test_opcheck(keep: int, device: torch.device) -> None:
    given = inputs(2, 2, 5, device=device, bias=not keep, keep=keep)
    residual, x, weight, bias, factors, norm_weight, norm_bias = (x if x is None else x.detach() for x in given)
    assert residual is not None and x is not None and weight is not None
    half = torch.float16
    torch.library.opcheck(ops.linear_residual_fwd.default, (x.half(), weight.half(), bias, factors, residual))
    torch.library.opcheck(
        ops.layer_norm_representative_fwd.default, (residual.transpose(0, 1), norm_weight, norm_bias, EPS, half)
    )


def test_compiles_in_one_graph(device: torch.device) -> None:
    compiled = torch.compile(fast, backend="aot_eager", fullgraph=True)
    check(compiled, plain, inputs(1, 2, 5, device=device, keep=1))


def test_what_the_kernel_takes(device: torch.device) -> None:
    half, single = torch.float16, torch.float32
    assert fuses(torch.bfloat16, single, 512, 512) and fuses(half, half, C, K)
    for other in ((single, single, C, K), (half, torch.float64, C, K), (half, half, C + 4, K), (half, half, C, K + 4)):
        assert not fuses(*other)

    def kernels(width: int) -> list[str]:
        """Launches for a float32 stream."""
        residual, x, weight, bias, _, *norm = inputs(2, 2, 5, device=device, width=width)
        with recording() as launches:
            z, s, n = functional.linear_residual_layer_norm_representative(
                x, (weight, bias), residual, tuple(norm), eps=EPS, impl="triton"
            )
        assert z.dtype == s.dtype == single and n.dtype == (half if torch.is_autocast_enabled(device.type) else single)
        return [launch.kernel.__name__ for launch in launches]

    by_a_pass = ["layer_norm_fwd_kernel"]
    assert kernels(K) == by_a_pass
    with torch.autocast(device.type, half):
        assert kernels(K) == ["linear_residual_fwd_kernel", "layer_norm_fwd_kernel"]
        assert kernels(K + 4) == by_a_pass
