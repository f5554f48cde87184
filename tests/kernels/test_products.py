"""Products of float32 weights in autocast's dtype, and the copies that they take."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maedfer._native import MODULES
from maedfer.kernels._products import low_copy, product, split_rows, weight_gradient
from maedfer.kernels.low_copies import LowCopies
from maedfer.models.low_precision import low_precision_weights
from tests.helpers import relative_error

LOW = (torch.bfloat16, torch.float16)


@pytest.fixture(autouse=True)
def _seed(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    # By a library, as on a GPU.
    monkeypatch.setitem(MODULES, "cpu", None)


def layer(out: int = 6, inside: int = 4) -> tuple[nn.Parameter, nn.Parameter]:
    return nn.Parameter(torch.randn(out, inside)), nn.Parameter(torch.randn(out))


def gradients(out: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(out, inputs, torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out))


def views() -> Iterator[Tensor]:
    """Inputs [..., 4] of all dimensions, strided and expanded."""
    wide = torch.randn(2, 3, 5, 8)
    yield from (wide[0, 0, 0, :4], wide[0, 0, :, 4:], wide[:, :, 0, :4], wide[..., ::2], wide[:, :, 1:, :4])
    yield wide[:1, :, :, :4].expand(4, -1, -1, -1)


@pytest.mark.parametrize("dtype", LOW, ids=str)
@pytest.mark.parametrize("biased", [True, False])
def test_a_product_is_that_of_autocast_with_exact_sums(dtype: torch.dtype, biased: bool) -> None:
    weight, bias = layer()
    for x in views():
        x = x.detach().requires_grad_()
        with torch.autocast("cpu", dtype), LowCopies([weight, bias], dtype):
            want = F.linear(x, weight, bias if biased else None)
            got = product(x, weight, bias if biased else None)
        assert got.dtype == dtype and torch.equal(got, want)
        inputs = (x, weight, bias) if biased else (x, weight)
        rounded = (x.detach().to(dtype).double(), weight.detach().to(dtype).double(), bias.detach().double())
        exact = [part.requires_grad_() for part in rounded[: len(inputs)]]
        true = F.linear(*exact)
        for number, (one, other, far) in enumerate(
            zip(gradients(got, *inputs), gradients(true.to(dtype), *exact), gradients(want, *inputs), strict=True)
        ):
            assert one.dtype == torch.float32 and one.shape == other.shape
            # Autocast rounds all of them to two bytes; a gradient of the input is of that dtype by nature.
            assert relative_error(far.double(), other) < 0.01
            assert relative_error(one.double(), other) < (0.01 if number == 0 else 1e-5)
    empty = torch.zeros(2, 0, 4, requires_grad=True)
    with torch.autocast("cpu", dtype):
        out = product(empty, weight, bias)
    assert out.shape == (2, 0, 6) and not torch.autograd.grad(out.sum(), weight)[0].any()


def test_only_the_wanted_gradients_and_nothing_kept_without_them() -> None:
    weight, bias = layer()
    x = torch.randn(3, 4)
    with torch.autocast("cpu", torch.bfloat16):
        for wanted in ((True, False, False), (False, True, False), (False, False, True), (True, True, True)):
            inputs = [part.detach().requires_grad_(want) for part, want in zip((x, weight, bias), wanted, strict=True)]
            product(*inputs).float().sum().backward()
            assert [part.grad is not None for part in inputs] == list(wanted)
        with torch.no_grad():
            assert not product(x, weight, bias).requires_grad


def test_without_autocast_it_is_a_plain_product() -> None:
    weight, bias = layer()
    x = torch.randn(2, 3, 4)
    assert torch.equal(product(x, weight, bias), F.linear(x, weight, bias))
    with torch.autocast("cpu", torch.bfloat16):
        assert product(x.double(), weight.double(), bias.double()).dtype == torch.float64
    with pytest.raises(RuntimeError):
        product(x.bfloat16(), weight, bias)


def test_a_weight_used_twice_and_in_parts() -> None:
    weight, _ = layer(6, 4)
    x = torch.randn(3, 4)
    with LowCopies([weight], torch.bfloat16), torch.autocast("cpu", torch.bfloat16):
        (first, low), (second, other) = split_rows(weight, 2, 4)
        assert low is not None and other is not None and torch.equal(torch.cat([low, other]), low_copy(weight))  # type: ignore[arg-type]
        # A wrong copy of the right shape shows that it is taken.
        got = product(x, first, low=low + 1) - x.sum(1, keepdim=True).bfloat16(), product(x, second, low=other)
        whole = product(x, weight)
        assert relative_error(torch.cat(got, 1), whole) < 0.05
        (dweight,) = torch.autograd.grad([*got, whole], weight, [got[0] * 0 + 1, got[1] * 0 + 2, whole * 0 + 1])
    factors = torch.tensor([2.0, 2, 3, 3, 3, 3])[:, None]
    assert torch.allclose(dweight, factors * x.bfloat16().float().sum(0), rtol=1e-6)


def test_backward_inside_of_autocast_sums_in_float32() -> None:
    dout, x = torch.randn(64, 3).bfloat16(), torch.randn(64, 5).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        got = weight_gradient(dout, x, torch.float32)
    assert got.dtype == torch.float32 and relative_error(got.double(), dout.double().t() @ x.double()) < 1e-6


def test_large_gradients_of_many_rows_are_finite_under_a_loss_scale() -> None:
    weight, bias = layer(3, 2)
    with torch.autocast("cpu", torch.float16):
        out = product(torch.ones(4096, 2), weight, bias)
    out.backward(torch.full_like(out, 65504.0))
    assert weight.grad is not None and torch.equal(weight.grad, torch.full_like(weight, 4096 * 65504.0))
    assert bias.grad is not None and torch.isfinite(bias.grad).all()


def test_copies_live_inside_of_the_block_and_follow_the_weights() -> None:
    weight, bias = layer()
    whole = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    copies = LowCopies([weight, bias, whole, weight], torch.bfloat16)
    places = set()
    optimizer = torch.optim.AdamW([weight, bias], lr=0.1, fused=True)
    for _ in range(3):
        with copies:
            for part in (weight, bias):
                low = low_copy(part)
                assert low is not None and torch.equal(low, part.detach().bfloat16())
            assert low_copy(whole) is None
            places.add(low.data_ptr())  # type: ignore[union-attr]
            with copies:
                pass
            assert low_copy(weight) is not None
        assert low_copy(weight) is None
        weight.grad, bias.grad = torch.ones_like(weight), torch.ones_like(bias)
        optimizer.step()
        weight.data.mul_(2)
    assert len(places) == 1
    with pytest.raises(ZeroDivisionError), copies:
        raise ZeroDivisionError
    assert low_copy(weight) is None
    weight.data = torch.randn(3, 4)
    with copies:
        assert torch.equal(low_copy(weight), weight.bfloat16())  # type: ignore[arg-type]
        # Somebody else's parameter in its place, of another shape.
        weight.data = torch.randn(12)
        assert low_copy(weight) is None
    with LowCopies([weight], torch.float32):
        assert low_copy(weight) is None


def test_a_model_has_one_set_of_copies() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    copies = low_precision_weights(model, torch.bfloat16)
    assert low_precision_weights(model, torch.bfloat16) is copies
    model[0] = nn.Linear(4, 4)
    with low_precision_weights(model, torch.bfloat16):
        assert low_copy(model[0].weight) is not None  # type: ignore[arg-type]
    with low_precision_weights(model, torch.float16) as others:
        assert others.dtype == low_copy(model[0].weight).dtype == torch.float16  # type: ignore[arg-type, union-attr]
        assert low_copy(model[0].bias) is None and low_copy(model[1].weight) is None  # type: ignore[arg-type]


def test_neither_copied_nor_saved_with_a_model() -> None:
    model = nn.Linear(4, 4)
    with low_precision_weights(model, torch.bfloat16):
        assert low_copy(model.weight) is not None
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert low_copy(other.weight) is None
        saved = io.BytesIO()
        torch.save(model.state_dict(), saved)
    plain = io.BytesIO()
    torch.save(model.state_dict(), plain)
    assert len(saved.getvalue()) == len(plain.getvalue())
