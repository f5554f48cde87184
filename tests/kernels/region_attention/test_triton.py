"""Attention within groups: packed self-attention and packed cross-attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from maedfer.kernels import reference
from maedfer.kernels._configs import targeting
from maedfer.kernels._dispatch import interpreting
from maedfer.kernels.region_attention.triton import TritonCrossAttention, TritonRegionAttention, not_supported_reasons
from tests.kernels.oracle import DTYPES, check, expanded_like, randn

ROWS = [1, 2, 11, 16, 17, 41, 51, 100, 101, 128, 201, 256]


def fast_self(qkv: Tensor) -> Tensor:
    return TritonRegionAttention.apply(qkv, 2)


def plain_self(qkv: Tensor) -> Tensor:
    return reference.attention(*qkv.chunk(3, dim=-1), num_heads=2)


def fast_cross(q: Tensor, kv: Tensor) -> Tensor:
    return TritonCrossAttention.apply(q, kv, 2)


def plain_cross(q: Tensor, kv: Tensor) -> Tensor:
    return reference.attention(q, *kv.chunk(2, dim=-1), num_heads=2)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", ROWS)
def test_self_attention(rows: int, dtype: torch.dtype, device: torch.device) -> None:
    check(fast_self, plain_self, [randn(1, 3, rows, 96, dtype=dtype, device=device)])


@pytest.mark.parametrize("head_dim", [8, 16, 24, 32, 48, 64, 96, 128])
def test_head_dims(head_dim: int, device: torch.device) -> None:
    check(fast_self, plain_self, [randn(2, 17, 6 * head_dim, dtype=torch.float32, device=device)])


@pytest.mark.parametrize("groups", [0, 1, 5, 7], ids="{} groups".format)
def test_groups_that_do_not_fill_a_program(groups: int, device: torch.device) -> None:
    check(fast_self, plain_self, [randn(groups, 11, 96, dtype=torch.float32, device=device)])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("queries", "keys"), [(1, 101), (1, 11), (8, 4), (300, 20), (801, 9), (5, 201)])
def test_cross_attention(queries: int, keys: int, dtype: torch.dtype, device: torch.device) -> None:
    inputs = [randn(3, n, c, dtype=dtype, device=device) for n, c in ((queries, 32), (keys, 64))]
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
    qkv = randn(2, 101, 96, dtype=torch.float32, device=device)
    runs = []
    for _ in range(2):
        out = fast_self(qkv)
        runs.append([out, *torch.autograd.grad(out, [qkv], [torch.ones_like(out)])])
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


@pytest.mark.skipif(not interpreting(), reason="float64 exists under the interpreter only")
def test_gradcheck(device: torch.device) -> None:
    make: dict[str, Any] = {"dtype": torch.float64, "device": device}
    assert torch.autograd.gradcheck(fast_self, [randn(2, 3, 12, **make)], fast_mode=True)
    assert torch.autograd.gradcheck(fast_cross, [randn(2, 3, 8, **make), randn(2, 5, 16, **make)], fast_mode=True)


def test_opcheck(device: torch.device) -> None:
    make: dict[str, Any] = {"dtype": torch.float32, "device": device, "grad": False}
    out, q, qkv, kv = randn(2, 5, 32, **make), randn(2, 5, 32, **make), randn(2, 5, 96, **make), randn(2, 3, 64, **make)
    ops = torch.ops.maedfer
    torch.library.opcheck(ops.region_attention_fwd.default, (qkv, 2))
    torch.library.opcheck(ops.region_attention_bwd.default, (out, qkv, 2))
    torch.library.opcheck(ops.cross_attention_fwd.default, (q, kv, 2))
    torch.library.opcheck(ops.cross_attention_bwd.default, (out, q, kv, 2))


def test_limits_are_told() -> None:
    assert not not_supported_reasons(256, 128)
    with targeting(89):
        assert "shared memory for 128" in not_supported_reasons(201, 64, torch.device("meta"))[0]
        assert not not_supported_reasons(101, 64, torch.device("meta"))
    assert "257 keys" in not_supported_reasons(257, 64)[0]
    assert "head dim 160" in not_supported_reasons(8, 160)[0]
