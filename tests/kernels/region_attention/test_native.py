"""csrc's attention on a CPU: every variant that runs here, against the formula in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from maedfer._native import MODULES, absent
from maedfer.errors import InputError
from maedfer.kernels import functional, reference
from maedfer.kernels._dispatch import interpreting
from maedfer.kernels.region_attention.functions import GroupCrossAttention, GroupSelfAttention
from maedfer.kernels.region_attention.native import not_supported_reasons
from tests.kernels.oracle import check, expanded_like, randn

pytestmark = [
    pytest.mark.skipif(interpreting(), reason="the CPU is that of Triton's interpreter"),
    pytest.mark.skipif(MODULES["cpu"] is None, reason=absent("cpu") if MODULES["cpu"] is None else ""),
]
EVERYWHERE = pytest.mark.usefixtures("variant")

DTYPES = [torch.float32, torch.bfloat16]
CPU = torch.device("cpu")

Bias = Tensor | None


def self_attention(heads: int) -> tuple[Any, Any]:
    """Ours and the specification."""

    def fast(qkv: Tensor, q_bias: Bias = None, v_bias: Bias = None) -> Tensor:
        return GroupSelfAttention.apply(qkv, q_bias, v_bias, heads)

    def plain(qkv: Tensor, q_bias: Bias = None, v_bias: Bias = None) -> Tensor:
        q, k, v = qkv.chunk(3, dim=-1)
        return reference.attention(added(q, q_bias), k, added(v, v_bias), num_heads=heads)

    return fast, plain


def cross_attention(heads: int) -> tuple[Any, Any]:
    def fast(q: Tensor, kv: Tensor, q_bias: Bias = None, v_bias: Bias = None) -> Tensor:
        return GroupCrossAttention.apply(q, kv, q_bias, v_bias, heads)

    def plain(q: Tensor, kv: Tensor, q_bias: Bias = None, v_bias: Bias = None) -> Tensor:
        k, v = kv.chunk(2, dim=-1)
        return reference.attention(added(q, q_bias), k, added(v, v_bias), num_heads=heads)

    return fast, plain


def added(x: Tensor, bias: Bias) -> Tensor:
    return x if bias is None else x + bias.to(x.dtype)


def tensors(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32, **options: Any) -> list[Tensor]:
    return [randn(*shape, dtype=dtype, device=CPU, **options) for shape in shapes]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", [1, 2, 8, 11, 17, 41, 51, 101, 128, 201, 300])
@EVERYWHERE
def test_self_attention(rows: int, dtype: torch.dtype) -> None:
    # The only key has a probability of one: the gradient of the queries' bias would be nothing but roundings.
    biases = tensors((32,), (32,)) if rows > 1 else []
    check(*self_attention(2), [*tensors((3, rows, 96), dtype=dtype), *biases])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("queries", "keys"), [(1, 101), (1, 11), (8, 4), (300, 20), (801, 9), (5, 201), (7, 800), (130, 2)]
)
@EVERYWHERE
def test_cross_attention(queries: int, keys: int, dtype: torch.dtype) -> None:
    check(*cross_attention(2), tensors((3, queries, 32), (3, keys, 64), dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("head_dim", [1, 3, 8, 24, 40, 64, 72, 129])
@EVERYWHERE
def test_head_dims(head_dim: int, dtype: torch.dtype) -> None:
    inputs = tensors((2, 19, 9 * head_dim), dtype=dtype)
    check(*self_attention(3), [*inputs, *tensors((3 * head_dim,), (3 * head_dim,))])


def biases(dtype: torch.dtype) -> list[list[Bias]]:
    """Both, one of them, one that wants no gradient, strided ones."""
    (q, v), wide = tensors((32,), (32,), dtype=dtype), tensors((32, 3), dtype=dtype, grad=False)[0]
    return [[q, v], [q, None], [None, v], [q.detach(), v], [wide[:, 0].requires_grad_(), wide[:, 2]]]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("parameters", DTYPES, ids="parameters {}".format)
def test_biases(parameters: torch.dtype, dtype: torch.dtype) -> None:
    for pair in biases(parameters):
        check(*self_attention(2), [*tensors((4, 67, 96), dtype=dtype), *pair])
        check(*cross_attention(2), [*tensors((4, 3, 32), (4, 67, 64), dtype=dtype), *pair])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@EVERYWHERE
def test_strided_and_expanded_inputs(dtype: torch.dtype) -> None:
    wide = tensors((2, 3, 12, 200), dtype=dtype, grad=False)[0]
    for qkv in (
        wide[:, :, 1:, 4:100],
        wide[:, :, ::2, 1:97],
        wide[:, 1].transpose(0, 1)[..., :96],
        wide[:1, :1, :, :96].expand(4, 3, -1, -1),
        wide[..., ::2][..., :96],
        wide[0, 0, :, 7:103],
    ):
        check(*self_attention(2), [qkv.requires_grad_()])
        qkv.requires_grad_(False)
    z, kv = tensors((2, 3, 12, 32), (2, 3, 12, 64), dtype=dtype)
    for q in (z[:, :, :1], z[:, :, 5:], z[:, :, ::3]):
        check(*cross_attention(2), [q.detach().requires_grad_(), kv])


def test_gradients_of_stride_zero() -> None:
    check(*self_attention(2), tensors((3, 11, 96)), expanded_like)
    check(*cross_attention(2), tensors((3, 7, 32), (3, 5, 64)), expanded_like)


def test_only_the_wanted_gradients() -> None:
    q, kv = tensors((3, 7, 32), (3, 5, 64))
    check(*cross_attention(2), [q, kv.detach()])
    check(*cross_attention(2), [q.detach(), kv])


@pytest.mark.parametrize("shape", [(0, 11, 96), (2, 0, 96)], ids=str)
def test_nothing_to_do(shape: tuple[int, ...]) -> None:
    qkv, *pair = tensors(shape, (32,), (32,))
    out = functional.cross_attention(qkv[..., :32], tensors((shape[0], 3, 64))[0], num_heads=2, bias=(pair[0], pair[1]))
    assert out.shape == (*shape[:2], 32)
    dq, *dbias = torch.autograd.grad(out.sum(), [qkv, *pair])
    assert dq.shape == qkv.shape and all(not x.any() for x in dbias)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@EVERYWHERE
def test_large_scores_do_not_overflow(dtype: torch.dtype) -> None:
    check(*self_attention(2), tensors((2, 17, 96), dtype=dtype, scale=30.0))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@EVERYWHERE
def test_what_is_not_finite_stays_in_its_group(dtype: torch.dtype) -> None:
    qkv = tensors((3, 19, 96), dtype=dtype)[0]
    fast, _ = self_attention(2)
    want = fast(qkv)
    for value in (torch.nan, torch.inf):
        with torch.no_grad():
            bad = qkv.clone()
            bad[1, 5, 7] = value
        bad.requires_grad_()
        out = fast(bad)
        # A row of queries of the first head.
        assert out[1, 5, :16].isnan().all()
        seen = torch.zeros_like(out, dtype=torch.bool)
        seen[1, 5, :16] = True
        assert torch.equal(out[~seen], want[~seen])
        gradient = torch.autograd.grad(out.sum(), bad)[0]
        assert gradient[1, 5, :16].isnan().all() and gradient[[0, 2]].isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@EVERYWHERE
def test_the_number_of_threads_changes_no_bit(dtype: torch.dtype) -> None:
    inputs = [*tensors((5, 67, 96), dtype=dtype), *tensors((32,), (32,))]
    fast, runs, before = self_attention(2)[0], [], torch.get_num_threads()
    try:
        for threads in (1, 2, 7):
            torch.set_num_threads(threads)
            out = fast(*inputs)
            runs.append([out, *torch.autograd.grad(out, inputs, torch.cos(out.detach()))])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for run in runs[1:] for one, other in zip(runs[0], run, strict=True))


def test_a_large_bias_of_values_leaves_the_other_gradients_alone() -> None:
    qkv, q_bias = tensors((2, 67, 96), (32,))
    out = [GroupSelfAttention.apply(qkv, q_bias, bias, 2) for bias in (torch.full((32,), 1000.0), None)]
    gradient = torch.randn_like(out[0])
    one, other = (torch.autograd.grad(x, [qkv, q_bias], gradient) for x in out)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_opcheck() -> None:
    out, q, qkv, kv, bias = tensors((2, 5, 32), (2, 5, 32), (2, 5, 96), (2, 3, 64), (32,), grad=False)
    ops = torch.ops.maedfer
    for q_bias, v_bias in ((bias, bias), (None, None)):
        torch.library.opcheck(ops.region_attention_fwd.default, (qkv, q_bias, v_bias, 2))
        torch.library.opcheck(ops.cross_attention_fwd.default, (q, kv, q_bias, v_bias, 2))
    for q_bias, wanted in ((bias, True), (None, False)):
        torch.library.opcheck(ops.region_attention_bwd.default, (out, qkv, q_bias, 2, wanted))
        torch.library.opcheck(ops.cross_attention_bwd.default, (out, q, kv, q_bias, 2, wanted))


def test_compiles_without_a_graph_break() -> None:
    inputs = tensors((2, 5, 96), (2, 3, 32), (32,), (32,))

    def step(qkv: Tensor, q: Tensor, q_bias: Tensor, v_bias: Tensor) -> Tensor:
        how: dict[str, Any] = {"num_heads": 2, "bias": (q_bias, v_bias)}
        heads = functional.region_attention(qkv, **how)
        return heads.sum() + functional.cross_attention(q, qkv[..., 32:], **how).square().sum()

    torch._dynamo.reset()
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    eager, traced = (torch.autograd.grad(run(*inputs), inputs) for run in (step, compiled))
    assert all(torch.equal(one, other) for one, other in zip(eager, traced, strict=True))


def test_auto_takes_it_and_torch_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    qkv = tensors((2, 5, 96))[0]
    names = {
        impl: type(functional.region_attention(qkv, num_heads=2, impl=impl).grad_fn).__name__
        for impl in ("auto", "native", "torch")
    }
    assert names["auto"] == names["native"] == "GroupSelfAttentionBackward" != names["torch"]
    # A mask makes it another operation, which csrc does not have.
    mask = torch.ones(5, dtype=torch.bool)
    masked = functional.region_attention(qkv, num_heads=2, mask=mask, impl="native")
    torch.testing.assert_close(masked, functional.region_attention(qkv, num_heads=2), rtol=1e-5, atol=1e-6)
    assert functional.attention_adds_biases(qkv[..., :32], num_heads=2)
    monkeypatch.setitem(MODULES, "cpu", None)
    assert not functional.attention_adds_biases(qkv[..., :32], num_heads=2)


def test_attention_to_all_tokens_is_csrcs_where_it_is_not_left_to_pytorch() -> None:
    qkv = tensors((2, 150, 96))[0]
    outputs = {impl: functional.full_attention(qkv, num_heads=2, impl=impl) for impl in ("auto", "native", "torch")}
    names = [type(out.grad_fn).__name__ for out in outputs.values()]
    assert [name == "GroupSelfAttentionBackward" for name in names] == [True, True, False]
    assert torch.equal(outputs["auto"], outputs["native"])
    torch.testing.assert_close(outputs["auto"], outputs["torch"], rtol=1e-5, atol=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert functional.full_attention(qkv, num_heads=2).dtype == torch.bfloat16
    assert functional.full_attention(qkv.double(), num_heads=2).dtype == torch.float64
    with pytest.raises(InputError, match='impl="native" cannot run here: torch.float64 .csrc'):
        functional.full_attention(qkv.double(), num_heads=2, impl="native")


def test_limits_are_told() -> None:
    assert not not_supported_reasons(torch.float32, 1) and not not_supported_reasons(torch.bfloat16, 800)
    assert "float16" in not_supported_reasons(torch.float16, 8)[0]
    assert "without keys" in not_supported_reasons(torch.float32, 0)[0]
    with pytest.raises(InputError, match='impl="native" cannot run here: torch.float64 .csrc'):
        functional.region_attention(torch.zeros(1, 4, 24, dtype=torch.float64), num_heads=1, impl="native")
