"""Blocks against the paper's equations, written out one region and one head at a time."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maedfer.kernels._dispatch import interpreting
from maedfer.models.attention import Attention
from maedfer.models.lgi_block import LGIBlock
from tests.helpers import randomize, relative_error, small


def plain_attention(layer: Attention, queries: Tensor, keys: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(D)) v for matrices [S, C], one head after the other."""
    dim, heads = queries.shape[1], layer.num_heads
    head_dim = dim // heads
    w_q, w_k, w_v = layer.qkv.weight.chunk(3)
    q = queries @ w_q.T + (0 if layer.q_bias is None else layer.q_bias)
    k = keys @ w_k.T
    v = keys @ w_v.T + (0 if layer.v_bias is None else layer.v_bias)
    out = []
    for head in range(heads):
        part = slice(head * head_dim, (head + 1) * head_dim)
        out.append(torch.softmax(q[:, part] @ k[:, part].T / head_dim**0.5, dim=1) @ v[:, part])
    return torch.cat(out, dim=1) @ layer.proj.weight.T + layer.proj.bias


def norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    return (x - mean) / (x.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt() * layer.weight + layer.bias


def plain_block(block: LGIBlock, z: Tensor) -> Tensor:
    """One clip [M, S, C] through the stages of section 3.2."""
    z = z.clone()
    for i, region in enumerate(z.clone()):
        if block.intra_region == "self":
            normed = norm(block.intra_norm, region)
            z[i] = region + plain_attention(block.intra_attention, normed, normed)
        else:
            query, context = norm(block.intra_norm, region[:1]), norm(block.intra_context_norm, region[1:])
            z[i, :1] = region[:1] + plain_attention(block.intra_attention, query, context)
    if block.inter_region:
        s = z[:, 0].clone()
        normed = norm(block.inter_norm, s)
        z[:, 0] = s + plain_attention(block.inter_attention, normed, normed)
    if block.interaction == "self":
        for i, region in enumerate(z.clone()):
            normed = norm(block.interaction_norm, region)
            z[i] = region + plain_attention(block.interaction_attention, normed, normed)
    elif block.interaction == "cross":
        context = norm(block.interaction_context_norm, z[:, 0])
        for i, region in enumerate(z.clone()):
            query = norm(block.interaction_norm, region[1:])
            z[i, 1:] = region[1:] + plain_attention(block.interaction_attention, query, context)
    if block.feedback != "none":
        local = z[:, 1:].clone()
        for i, s in enumerate(z[:, :1, :].clone()):
            seen = local[i] if block.feedback == "region" else local.flatten(0, 1)
            context = norm(block.feedback_context_norm, seen)
            z[i, :1] = s + plain_attention(block.feedback_attention, norm(block.feedback_norm, s), context)
    hidden = F.gelu(norm(block.ffn_norm, z) @ block.ffn.fc1.weight.T + block.ffn.fc1.bias)
    return z + hidden @ block.ffn.fc2.weight.T + block.ffn.fc2.bias


NEEDS_INTERPRETER = pytest.mark.skipif(not interpreting(), reason="float64 kernels exist under the interpreter only")

SWITCHES = {
    "full": {},
    "no_inter": {"inter_region": False},
    "no_interaction": {"interaction": "none"},
    "intra_only": {"inter_region": False, "interaction": "none"},
    "third_self": {"interaction": "self"},
    "first_cross": {"intra_region": "cross"},
    "share_first_third": {"share_attention": "first_third"},
    "share_all": {"share_attention": "all"},
    "feedback_region": {"feedback": "region"},
    "feedback_clip": {"feedback": "clip"},
    "no_bias": {"qkv_bias": False},
}


@pytest.mark.parametrize("impl", ["reference", "torch", pytest.param("triton", marks=NEEDS_INTERPRETER)])
@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES)
def test_block_follows_the_equations(switches: dict, impl: str) -> None:
    config = small(**switches, impl=impl)
    block = LGIBlock.from_config(config).double()
    randomize(block)
    z = torch.randn(2, config.num_regions, 1 + config.region_tokens, config.embed_dim, dtype=torch.float64)
    expected = torch.stack([plain_block(block, clip) for clip in z])
    assert relative_error(block(z), expected) < 1e-12
    # Skipping what cannot reach the representative tokens changes nothing for them.
    assert relative_error(block(z, representative_only=True), expected[:, :, :1]) < 1e-12


def test_shared_attention_is_one_module() -> None:
    block = LGIBlock.from_config(small(share_attention="all"))
    assert block.inter_attention is block.intra_attention is block.interaction_attention
    block = LGIBlock.from_config(small(share_attention="first_third"))
    assert block.interaction_attention is block.intra_attention is not block.inter_attention


@pytest.mark.parametrize("impl", ["reference", "torch"])
def test_stochastic_depth_drops_regions_in_stages_1_and_5_and_clips_in_the_others(impl: str) -> None:
    config = small(embed_dim=8, impl=impl)
    block = LGIBlock.from_config(config, drop_path=0.5).train()
    randomize(block)
    z = torch.randn(16, config.num_regions, 1 + config.region_tokens, 8)
    keep = block.draw(z)
    assert [None if one is None else tuple(one.shape) for one in keep] == [(16, 8), (16,), (16,), None, (16, 8)]
    out = block(z, keep=keep)
    attention, interaction, ffn = keep.attention, keep.interaction, keep.ffn
    assert attention is not None and interaction is not None and ffn is not None
    # What was drawn is what is done: local tokens whose three branches were all dropped are as they were.
    untouched = (attention == 0) & (interaction == 0)[:, None] & (ffn == 0)
    same = (out[:, :, 1:] == z[:, :, 1:]).flatten(2).all(dim=2)
    assert untouched.any() and torch.equal(untouched, same)
