"""Attention within groups: packed self-attention and packed cross-attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from maedfer.kernels import Impl, reference
from maedfer.kernels._configs import targeting
from maedfer.kernels._dispatch import interpreting
from maedfer.kernels._launch import recording
from maedfer.kernels.region_attention.functions import GroupCrossAttention, GroupSelfAttention
from maedfer.kernels.region_attention.kernels import attention_bwd_halves_kernel
from maedfer.kernels.region_attention.triton import not_supported_reasons, region_attention_bwd
from maedfer.models.attention import Attention
from tests.kernels.oracle import DTYPES, check, expanded_like, randn

ROWS = [1, 2, 11, 16, 17, 41, 51, 100, 101, 128, 201, 256]
QUERIES_KEYS = [(1, 101), (1, 11), (8, 4), (300, 20), (801, 9), (5, 201)]
# What an interpreter needs a minute for, and another one has of the same size or the same dtype.
LONG = [(201, torch.float32), (256, torch.float64), ((801, 9), torch.float32)] if interpreting() else []


def sizes_and_dtypes(sizes: list[Any]) -> list[Any]:
    """Every size in every dtype, but for `LONG`."""
    pairs = [(size, dtype) for size in sizes for dtype in DTYPES if (size, dtype) not in LONG]
    return [pytest.param(size, dtype, id=f"{size}-{dtype}") for size, dtype in pairs]


Bias = Tensor | None


def fast_self(qkv: Tensor, q_bias: Bias = None, v_bias: Bias = None) -> Tensor:
    return GroupSelfAttention.apply(qkv, q_bias, v_bias, 2)


def plain_self(qkv: Tensor, q_bias: Bias = None, v_bias: Bias = None) -> Tensor:
    q, k, v = qkv.chunk(3, dim=-1)
    return reference.attention(added(q, q_bias), k, added(v, v_bias), num_heads=2)


def fast_cross(q: Tensor, kv: Tensor, q_bias: Bias = None, v_bias: Bias = None) -> Tensor:
    return GroupCrossAttention.apply(q, kv, q_bias, v_bias, 2)


def plain_cross(q: Tensor, kv: Tensor, q_bias: Bias = None, v_bias: Bias = None) -> Tensor:
    k, v = kv.chunk(2, dim=-1)
    return reference.attention(added(q, q_bias), k, added(v, v_bias), num_heads=2)


def added(x: Tensor, bias: Bias) -> Tensor:
    return x if bias is None else x + bias.to(x.dtype)


@pytest.mark.parametrize(("rows", "dtype"), sizes_and_dtypes(ROWS))
def test_self_attention(rows: int, dtype: torch.dtype, device: torch.device) -> None:
    make: dict[str, Any] = {"dtype": dtype, "device": device}
    # The only key has a probability of one: the gradient of the queries' bias would be nothing but roundings.
    pair = [randn(32, **make), randn(32, **make)] if rows > 1 else []
    check(fast_self, plain_self, [randn(1, 3, rows, 96, **make), *pair])


def biases(parameters: torch.dtype, device: torch.device) -> list[list[Bias]]:
    """Both, one of them, one that wants no gradient, strided ones: as large as what they are added to."""
    q, v = (randn(32, dtype=parameters, device=device) for _ in range(2))
    wide = randn(32, 3, dtype=parameters, device=device, grad=False)
    return [[q, v], [q, None], [None, v], [q.detach(), v], [wide[:, 0].requires_grad_(), wide[:, 2]]]


@pytest.mark.parametrize("parameters", [torch.float32, torch.float16], ids="parameters {}".format)
@pytest.mark.parametrize("rows", [5, 67])
def test_biases(rows: int, parameters: torch.dtype, device: torch.device) -> None:
    """In the dtype of the parameters, as autocast leaves them, and in that of the products."""
    for pair in biases(parameters, device):
        check(fast_self, plain_self, [randn(4, rows, 96, dtype=torch.float16, device=device), *pair])
        q, kv = (randn(4, n, c, dtype=torch.float16, device=device) for n, c in ((1, 32), (rows, 64)))
        check(fast_cross, plain_cross, [q, kv, *pair])


@pytest.mark.parametrize(("rows", "head_dim"), [(65, 64), (101, 64), (128, 40)])
def test_keys_in_two_halves(rows: int, head_dim: int, device: torch.device) -> None:
    """With heads of these sizes all queries are held at once, and keys are taken in two halves."""
    make: dict[str, Any] = {"dtype": torch.float16, "device": device}
    q_bias, v_bias = randn(2 * head_dim, **make), randn(2 * head_dim, **make)
    qkv = randn(2, rows, 6 * head_dim, **make)
    with recording() as launches, targeting(90):
        region_attention_bwd(qkv[..., : 2 * head_dim].detach(), qkv.detach(), q_bias.detach(), 2, True)
    assert [launch.kernel for launch in launches] == [attention_bwd_halves_kernel]
    check(fast_self, plain_self, [qkv, q_bias, v_bias])
    check(fast_self, plain_self, [qkv])
    # A common part of all values, which no gradient of queries and keys may see.
    with torch.no_grad():
        qkv[..., 4 * head_dim :] += 30.0
    check(fast_self, plain_self, [qkv])


def test_a_large_bias_of_values_leaves_the_other_gradients_alone(device: torch.device) -> None:
    qkv, q_bias = randn(2, 67, 96, dtype=torch.float16, device=device), randn(32, dtype=torch.float32, device=device)
    v_bias = torch.full((32,), 1000.0, device=device)
    out = [fast_self(qkv, q_bias, v_bias), fast_self(qkv, q_bias)]
    gradient = torch.randn_like(out[0])
    one, other = (torch.autograd.grad(x, [qkv, q_bias], gradient) for x in out)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_layer_leaves_its_biases_to_the_kernels(device: torch.device) -> None:
    layer = Attention(32, 2).to(device)
    parameters = [layer.get_parameter(name) for name in ("q_bias", "v_bias", "qkv.weight")]
    for parameter in parameters:
        torch.nn.init.normal_(parameter)
    x = randn(2, 3, 5, 32, dtype=torch.float32, device=device, grad=False)

    def run(impl: Impl) -> tuple[list[Tensor], list[str]]:
        layer.impl = impl
        with _Seen() as seen:
            outputs = [layer.heads(x), layer.heads(x[..., :1, :], x)]
        return [*outputs, *torch.autograd.grad([out.square().mean() for out in outputs], parameters)], seen.names

    (got, seen), (want, elsewhere) = run("triton"), run("torch")
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert "aten.cat.default" not in seen and "aten.cat.default" in elsewhere


class _Seen(TorchDispatchMode):
    """The names of operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("head_dim", [8, 16, 24, 32, 48, 64, 96, 128])
def test_head_dims(head_dim: int, device: torch.device) -> None:
    check(fast_self, plain_self, [randn(2, 17, 6 * head_dim, dtype=torch.float32, device=device)])


@pytest.mark.parametrize("groups", [0, 1, 5, 7], ids="{} groups".format)
def test_groups_that_do_not_fill_a_program(groups: int, device: torch.device) -> None:
    check(fast_self, plain_self, [randn(groups, 11, 96, dtype=torch.float32, device=device)])


@pytest.mark.parametrize(("size", "dtype"), sizes_and_dtypes(QUERIES_KEYS))
def test_cross_attention(size: tuple[int, int], dtype: torch.dtype, device: torch.device) -> None:
    inputs = [randn(3, n, c, dtype=dtype, device=device) for n, c in zip(size, (32, 64), strict=True)]
    check(fast_cross, plain_cross, inputs)


def test_strided_and_expanded_inputs(device: torch.device) -> None:
    wide = randn(2, 3, 12, 200, dtype=torch.float32, device=device, grad=False)
    for qkv in (
        wide[:, :, 1:, 4:100],
        wide[:, :, ::2, :96],
        wide[:, 1].transpose(0, 1)[..., :96],
        wide[:1, :1, :, :96].expand(4, 3, -1, -1),
        wide[..., ::2][..., :96],
    ):
        check(fast_self, plain_self, [qkv.requires_grad_()])
        qkv.requires_grad_(False)
    stream = randn(2, 3, 12, 32, dtype=torch.float32, device=device)
    kv = randn(2, 3, 12, 64, dtype=torch.float32, device=device)
    check(lambda z, kv: fast_cross(z[:, :, :1], kv), lambda z, kv: plain_cross(z[:, :, :1], kv), [stream, kv])


def test_groups_more_than_31_bits_apart(device: torch.device) -> None:
    # The stride fits 31 bits, twice the stride does not; what lies between the groups is never touched.
    far = torch.empty(2**31 + 256, dtype=torch.float16, device=device).as_strided((3, 2, 48), (2**30 + 48, 48, 1))
    far.copy_(torch.randn(3, 2, 48))
    check(fast_self, plain_self, [far.requires_grad_()])
    check(fast_self, plain_self, [far.detach().transpose(0, 1).requires_grad_()])


def test_gradients_of_stride_zero(device: torch.device) -> None:
    check(fast_self, plain_self, [randn(3, 11, 96, dtype=torch.float32, device=device)], expanded_like)
    inputs = [randn(3, n, c, dtype=torch.float32, device=device) for n, c in ((7, 32), (5, 64))]
    check(fast_cross, plain_cross, inputs, expanded_like)


def test_only_the_wanted_gradients(device: torch.device) -> None:
    q, kv = (randn(3, n, c, dtype=torch.float32, device=device) for n, c in ((7, 32), (5, 64)))
    check(fast_cross, plain_cross, [q, kv.detach()])
    check(fast_cross, plain_cross, [q.detach(), kv])


def test_large_scores_do_not_overflow(device: torch.device) -> None:
    check(fast_self, plain_self, [randn(2, 17, 96, dtype=torch.float32, device=device, scale=30.0)])


def test_repeats_bit_for_bit(device: torch.device) -> None:
    inputs = [randn(*shape, dtype=torch.float32, device=device) for shape in ((2, 101, 96), (32,), (32,))]
    runs = []
    for _ in range(2):
        out = fast_self(*inputs)
        runs.append([out, *torch.autograd.grad(out, inputs, [torch.ones_like(out)])])
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


@pytest.mark.skipif(not interpreting(), reason="float64 exists under the interpreter only")
def test_gradcheck(device: torch.device) -> None:
    make: dict[str, Any] = {"dtype": torch.float64, "device": device}
    pair = [randn(n, **make) for n in (8, 8)]
    assert torch.autograd.gradcheck(fast_self, [randn(2, 3, 24, **make), *pair], fast_mode=True)
    inputs = [randn(2, 3, 8, **make), randn(2, 5, 16, **make), *pair]
    assert torch.autograd.gradcheck(fast_cross, inputs, fast_mode=True)


def test_opcheck(device: torch.device) -> None:
    make: dict[str, Any] = {"dtype": torch.float32, "device": device, "grad": False}
    out, q, qkv, kv = randn(2, 5, 32, **make), randn(2, 5, 32, **make), randn(2, 5, 96, **make), randn(2, 3, 64, **make)
    bias, ops = randn(32, **make), torch.ops.maedfer
    for q_bias, v_bias in ((bias, bias), (None, None)):
        torch.library.opcheck(ops.region_attention_fwd.default, (qkv, q_bias, v_bias, 2))
        torch.library.opcheck(ops.cross_attention_fwd.default, (q, kv, q_bias, v_bias, 2))
    for q_bias, wanted in ((bias, True), (None, False)):
        torch.library.opcheck(ops.region_attention_bwd.default, (out, qkv, q_bias, 2, wanted))
        torch.library.opcheck(ops.cross_attention_bwd.default, (out, q, kv, q_bias, 2, wanted))


def test_limits_are_told() -> None:
    assert not not_supported_reasons(256, 64) and not not_supported_reasons(128, 128)
    assert "1 to 128" in not_supported_reasons(129, 128)[0]
    with targeting(89):
        assert "shared memory for 128" in not_supported_reasons(201, 64, torch.device("meta"))[0]
        assert "shared memory for 64" in not_supported_reasons(101, 96, torch.device("meta"))[0]
        assert not not_supported_reasons(101, 64, torch.device("meta"))
    assert "257 keys" in not_supported_reasons(257, 64)[0]
    assert "head dim 160" in not_supported_reasons(8, 160)[0]
