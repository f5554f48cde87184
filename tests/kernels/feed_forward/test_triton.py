"""The feed-forward network's first product with its GELU, and the gradient of both."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from maedfer.kernels import functional, reference
from maedfer.kernels._configs import Config, force, targeting
from maedfer.kernels._dispatch import interpreting
from maedfer.kernels._launch import recording
from maedfer.kernels.feed_forward.functions import FusedFeedForward
from maedfer.kernels.feed_forward.triton import fuses
from tests.kernels.oracle import DTYPES, check, expanded_like, randn

C, F = 48, 96

ops = torch.ops.maedfer


@pytest.fixture(autouse=True)
def _small_tiles() -> Iterator[None]:
    """Tiles of which these sizes take several, the last of them in part."""
    small = Config({"BLOCK_M": 16, "BLOCK_N": 64, "BLOCK_K": 32}, 4, 2)
    with force("linear_gelu_fwd", small), force("linear_gelu_bwd", small):
        yield


def fast(x: Tensor, weight: Tensor, bias: Tensor | None, out_weight: Tensor) -> Tensor:
    low = (part.detach().to(x.dtype) for part in (weight, out_weight))
    return FusedFeedForward.apply(x, weight, bias, out_weight, *low, torch.is_grad_enabled())


def plain(x: Tensor, weight: Tensor, bias: Tensor | None, out_weight: Tensor) -> Tensor:
    return reference.feed_forward(x, (weight, bias), out_weight)


def inputs(
    *shape: int, device: torch.device, dtype: torch.dtype = torch.float32, dim: int = C, hidden: int = F
) -> list[Tensor]:
    """x, weight, bias and out_weight."""
    sizes = ((*shape, dim), 1.0), ((hidden, dim), dim**-0.5), ((hidden,), 0.5), ((dim, hidden), hidden**-0.5)
    return [randn(*size, dtype=dtype, device=device, scale=scale) for size, scale in sizes]


@pytest.mark.parametrize("arch", [80, 90], ids=["pointers", "descriptors"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "dim", "hidden"), [((1,), 8, 16), ((2, 11), C, F)])
def test_feed_forward(
    rows: tuple[int, ...], dim: int, hidden: int, dtype: torch.dtype, arch: int, device: torch.device
) -> None:
    with targeting(arch):
        check(fast, plain, inputs(*rows, device=device, dtype=dtype, dim=dim, hidden=hidden))


@pytest.mark.parametrize("arch", [80, 90], ids=["pointers", "descriptors"])
def test_tiles_that_are_shipped(arch: int, device: torch.device) -> None:
    shipped = Config({"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 64}, 8, 3)
    with targeting(arch), force("linear_gelu_fwd", shipped), force("linear_gelu_bwd", shipped):
        check(fast, plain, inputs(2, 70, device=device, dtype=torch.float16, dim=72, hidden=144))


def test_without_bias(device: torch.device) -> None:
    x, weight, _, out_weight = inputs(21, device=device)
    check(fast, plain, [x, weight, None, out_weight])


def test_only_the_wanted_gradients(device: torch.device) -> None:
    given = inputs(21, device=device)
    constants = [x.detach() for x in given]
    for number in range(4):
        check(fast, plain, [*constants[:number], given[number], *constants[number + 1 :]])
    check(fast, plain, [given[0], *constants[1:3], given[3]])


def test_strided_and_expanded_inputs(device: torch.device) -> None:
    _, *weights = inputs(1, device=device)
    wide = randn(2, 2, 6, 112, dtype=torch.float32, device=device, grad=False)
    for x in (
        wide[:, :, 0, :C],
        wide[:, :, 1:, 4 : 4 + C],
        wide[0, 0, :, 1 : 1 + C],
        wide[:1, :1, :, :C].expand(2, 2, -1, -1),
        wide[..., ::2][..., :C],
    ):
        check(fast, plain, [x.detach().requires_grad_(), *weights])
    x = wide[0, :, 0, :C].detach().requires_grad_()
    check(fast, plain, [x, *weights], expanded_like)
    # Weights that lie across, and one that begins amid 16 bytes.
    weight, out_weight = (part.detach().t().contiguous().t().requires_grad_() for part in weights[::2])
    check(fast, plain, [x, weight, weights[1], out_weight])
    shifted = torch.empty(F * C + 1, dtype=torch.float32, device=device)[1:].view(F, C).copy_(weight.detach())
    check(fast, plain, [x, shifted.requires_grad_(), weights[1], out_weight])


def test_an_empty_batch(device: torch.device) -> None:
    given = inputs(0, 5, device=device)
    out = fast(*given)
    gradients = torch.autograd.grad(out.sum(), given)
    assert out.shape == (0, 5, C)
    assert not any(gradient.any() for gradient in gradients)


def test_weights_wider_than_rows(device: torch.device) -> None:
    given = inputs(21, device=device)
    half = given[0].detach().half().requires_grad_()

    check(fast, lambda x, *weights: plain(x, *(part.to(x.dtype) for part in weights)), [half, *given[1:]])


def slope_of(u: Tensor) -> Tensor:
    u = u.detach().double().requires_grad_()
    return torch.autograd.grad(torch.nn.functional.gelu(u).sum(), u)[0]


@pytest.mark.parametrize("arch", [80, 90], ids=["pointers", "descriptors"])
def test_a_byte_for_each_slope(arch: int, device: torch.device) -> None:
    # As the weight is the identity, u are all numbers between -12 and 12, and the slope's least and greatest.
    weight = torch.eye(F, C, dtype=torch.float16, device=device)
    x = torch.linspace(-12.0, 12.0, 33 * C).view(33, C).to(device, torch.float16)
    x[0, :4] = torch.tensor([-(2.0**0.5), 2.0**0.5, 0.0, 30.0])
    with targeting(arch):
        act, codes = ops.linear_gelu_fwd(x, weight, None, torch.uint8)
        same, slope = ops.linear_gelu_fwd(x, weight, None, torch.float16)
        decoded = (codes.double() - 28) / 200
        want = slope_of(x.double() @ weight.double().t())
        assert torch.equal(act, same) and codes.dtype == torch.uint8
        assert (decoded - want).abs().max() < 1 / 400 + 1e-5 and (slope.double() - want).abs().max() < 1e-3
        assert ((codes == 28) | (want.abs() > 1e-9)).all() and ((codes == 228) | ((want - 1).abs() > 1e-9)).all()
        dy = torch.randn(33, C).to(device, torch.float16)
        out_weight = torch.randn(C, F).to(device, torch.float16)
        du, sums = ops.linear_gelu_bwd(dy, out_weight, codes, True)
    exact = dy.double() @ out_weight.double() * decoded
    assert torch.allclose(du.double(), exact, rtol=2e-3, atol=2e-3)
    assert torch.allclose(sums.double(), du.double().sum(0), rtol=1e-5, atol=1e-5)


def test_the_slope_is_written_for_a_backward_pass_only(device: torch.device) -> None:
    given = inputs(21, device=device, dtype=torch.float16)
    constants = [x.detach() for x in given]

    def slopes(*tensors: Tensor) -> list[object]:
        with recording() as launches:
            fast(*tensors)
        return [launch.args[4] for launch in launches]

    assert slopes(*given) != [None]
    assert slopes(*constants[:3], given[3]) == [None]
    with torch.no_grad():
        assert slopes(*given) == [None]


def test_repeats_bit_for_bit_and_when_recomputed(device: torch.device) -> None:
    given = inputs(40, device=device, dtype=torch.float16)
    runs = []
    for call in (fast, fast, lambda *x: checkpoint(fast, *x, use_reentrant=False)):
        out = call(*given)
        runs.append([out, *torch.autograd.grad(out, given, out.detach().cos())])
    for other in runs[1:]:
        assert all(torch.equal(one, two) for one, two in zip(runs[0], other, strict=True))


@pytest.mark.skipif(not interpreting(), reason="float64 exists under the interpreter only")
def test_gradcheck(device: torch.device) -> None:
    given = inputs(2, 3, device=device, dtype=torch.float64, dim=8, hidden=16)
    assert torch.autograd.gradcheck(fast, given, fast_mode=True)


def test_opcheck(device: torch.device) -> None:
    x, weight, bias, out_weight = (x.detach() for x in inputs(2, 11, device=device, dtype=torch.float16))
    for keep in (None, torch.uint8):
        torch.library.opcheck(ops.linear_gelu_fwd.default, (x, weight, bias, keep))
    _, slope = ops.linear_gelu_fwd(x, weight, bias, torch.uint8)
    for want_bias in (True, False):
        torch.library.opcheck(ops.linear_gelu_bwd.default, (x, out_weight, slope, want_bias))


def test_compiles_in_one_graph(device: torch.device) -> None:
    compiled = torch.compile(fast, backend="aot_eager", fullgraph=True)
    check(compiled, plain, inputs(2, 11, device=device))


def test_what_the_kernels_take(device: torch.device) -> None:
    assert fuses(torch.bfloat16, 2048, 512) and fuses(torch.float16, F, C)
    for other in ((torch.float32, F, C), (torch.float16, F + 8, C), (torch.float16, F, C + 4)):
        assert not fuses(*other)

    def kernels(dtype: torch.dtype, hidden: int) -> list[str]:
        x, weight, bias, out_weight = inputs(2, 11, device=device, dtype=dtype, hidden=hidden)
        layers = (weight, bias), (out_weight, torch.zeros_like(x[0, 0]))
        with recording() as launches:
            functional.feed_forward_residual(x, *layers, x, impl="triton")
        return [launch.kernel.__name__ for launch in launches]

    by_a_pass = ["bias_gelu_fwd_kernel", "layer_norm_fwd_kernel"]
    assert kernels(torch.float16, F) == ["linear_gelu_fwd_kernel", "layer_norm_fwd_kernel"]
    assert kernels(torch.float16, F + 8) == kernels(torch.float32, F) == by_a_pass
