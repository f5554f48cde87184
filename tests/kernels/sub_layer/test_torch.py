"""What plain PyTorch has of its own: products by oneDNN."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from maedfer.kernels._dispatch import interpreting
from maedfer.kernels.sub_layer import torch as plain
from tests.helpers import relative_error

pytestmark = pytest.mark.skipif(interpreting(), reason="does not concern kernels")


@pytest.mark.skipif(not plain._has_onednn(), reason="this PyTorch has no oneDNN")
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("shape", [(300, 64), (2, 3, 50, 64), (7, 64)], ids=str)
def test_linear(shape: tuple[int, ...], with_bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "_WORTH_IT", 0)
    x = torch.randn(*shape, 2)[..., 0].requires_grad_()
    weight = torch.randn(96, 128)[:, :64].requires_grad_()
    bias = torch.randn(96, requires_grad=True) if with_bias else None
    assert plain._by_onednn(x, weight, bias)
    out, want = plain.linear(x, (weight, bias)), F.linear(x, weight, bias)
    assert out.shape == want.shape and relative_error(out, want) < 1e-5
    leaves = [leaf for leaf in (x, weight, bias) if leaf is not None]
    for gradient in (torch.randn_like(want), torch.ones(()).expand_as(want)):
        got = torch.autograd.grad(out, leaves, gradient, retain_graph=True)
        expected = torch.autograd.grad(want, leaves, gradient, retain_graph=True)
        assert all(relative_error(one, other) < 1e-5 for one, other in zip(got, expected, strict=True))
    with torch.no_grad():
        assert torch.equal(plain.linear(x, (weight, bias)), out)


def test_what_stays_with_the_default_library(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = torch.randn(4096, 256), torch.randn(256, 256)
    for other in ((x[:1], weight), (x.double(), weight.double()), (x.bfloat16(), weight.bfloat16())):
        assert not plain._by_onednn(*other, None)
    with torch.autocast("cpu", torch.bfloat16):
        assert not plain._by_onednn(x, weight, None)
        assert plain.linear(x, (weight, None)).dtype == torch.bfloat16
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    assert not plain._by_onednn(x, weight, None)
