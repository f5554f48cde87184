"""The block of the ViT against its equations, written out one head at a time."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from maedfer.models.transformer_block import TransformerBlock
from tests.helpers import randomize, relative_error

DIM, HEADS = 32, 2


def written_out(block: TransformerBlock, x: Tensor, attend_to: Tensor) -> Tensor:
    """One clip [K, C]."""
    attention, size = block.attention, DIM // HEADS
    n = block.norm(x)
    w_q, w_k, w_v = attention.qkv.weight.chunk(3)
    q, k, v = n @ w_q.T + attention.q_bias, n[attend_to] @ w_k.T, n[attend_to] @ w_v.T + attention.v_bias
    parts = [slice(head * size, (head + 1) * size) for head in range(HEADS)]
    heads = [(q[:, part] @ k[:, part].T / size**0.5).softmax(1) @ v[:, part] for part in parts]
    x = x + torch.cat(heads, 1) @ attention.proj.weight.T + attention.proj.bias
    hidden = F.gelu(block.ffn_norm(x) @ block.ffn.fc1.weight.T + block.ffn.fc1.bias)
    return x + hidden @ block.ffn.fc2.weight.T + block.ffn.fc2.bias


@pytest.mark.parametrize("impl", ["reference", "torch"])
def test_block_follows_the_equations(impl: str) -> None:
    torch.manual_seed(0)
    block = TransformerBlock(DIM, HEADS, impl=impl).double()  # type: ignore[arg-type]
    randomize(block)
    x = torch.randn(3, 9, DIM, dtype=torch.float64)
    all_rows, some = torch.ones(3, 9, dtype=torch.bool), torch.rand(3, 9) > 0.4
    for attend_to in (all_rows, some):
        expected = torch.stack([written_out(block, *clip) for clip in zip(x, attend_to, strict=True)])
        mask = None if attend_to is all_rows else attend_to
        assert relative_error(block(x, mask), expected) < 1e-12
    maps: dict[str, Tensor] = {}
    assert relative_error(block(x, maps=maps), block(x)) < 1e-12
    assert torch.allclose(maps["attention"].sum(-1), torch.ones(3, HEADS, 9, dtype=torch.float64))


@pytest.mark.parametrize("impl", ["reference", "torch"])
def test_stochastic_depth_drops_clips(impl: str) -> None:
    torch.manual_seed(0)
    block = TransformerBlock(DIM, HEADS, drop_path=0.7, impl=impl)  # type: ignore[arg-type]
    randomize(block)
    x = torch.randn(32, 5, DIM)
    same = (block(x) == x).flatten(1)
    assert torch.equal(same.all(1), same.any(1)) and 0 < int(same.all(1).sum()) < 32
    assert not (block.eval()(x) == x).all()
