"""The layers that others put into their models, and the page that shows how."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from maedfer import layers as drop_in
from maedfer.errors import InputError
from maedfer.kernels import Impl, use_impl
from maedfer.kernels._dispatch import interpreting
from maedfer.models import LGIFormerConfig
from maedfer.models.attention import Attention
from maedfer.models.encoder import region_order
from tests.helpers import IMPLEMENTATIONS, REPOSITORY, code_blocks, device_of, randomize, relative_error

DIM, HEADS = 32, 2


def stream(*shape: int, device: torch.device | None = None) -> Tensor:
    return torch.randn(*(shape or (2, 4, 7, DIM)), generator=torch.Generator().manual_seed(0)).to(device or "cpu")


def attend(layer: Attention, x: Tensor, context: Tensor) -> Tensor:
    """Rows of matrices, one head after the other."""
    assert layer.q_bias is not None and layer.v_bias is not None
    w_q, w_k, w_v = layer.qkv.weight.chunk(3)
    q, k, v = x @ w_q.T + layer.q_bias, context @ w_k.T, context @ w_v.T + layer.v_bias
    size = DIM // HEADS
    heads = [
        (q[:, part] @ k[:, part].T / size**0.5).softmax(1) @ v[:, part]
        for part in (slice(head * size, (head + 1) * size) for head in range(HEADS))
    ]
    return layer.proj(torch.cat(heads, 1))


def region_attention(layer: drop_in.RegionAttention, z: Tensor, mask: Tensor | None = None) -> Tensor:
    out = z.clone()
    for clip in range(z.shape[0]):
        for region in range(z.shape[1]):
            rows = layer.norm(z[clip, region])
            seen = rows if mask is None else rows[mask.expand(z.shape[:3])[clip, region]]
            out[clip, region] += attend(layer.attention, rows, seen)
    return out


def inter_region_attention(layer: drop_in.InterRegionAttention, z: Tensor) -> Tensor:
    out = z.clone()
    for clip in range(z.shape[0]):
        tokens = layer.norm(z[clip, :, 0])
        out[clip, :, 0] += attend(layer.attention, tokens, tokens)
    return out


def local_global_attention(layer: drop_in.LocalGlobalAttention, z: Tensor) -> Tensor:
    out = z.clone()
    for clip in range(z.shape[0]):
        tokens = layer.context_norm(z[clip, :, 0])
        for region in range(z.shape[1]):
            out[clip, region, 1:] += attend(layer.attention, layer.norm(z[clip, region, 1:]), tokens)
    return out


WRITTEN_OUT = {
    drop_in.RegionAttention: region_attention,
    drop_in.InterRegionAttention: inter_region_attention,
    drop_in.LocalGlobalAttention: local_global_attention,
}


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("kind", WRITTEN_OUT, ids=lambda kind: kind.__name__)
def test_layers_follow_the_equations(kind: Any, impl: Impl) -> None:
    device = device_of(impl)
    layer = kind(DIM, HEADS, eps=1e-5, impl=impl)
    randomize(layer)
    layer.to(device)
    x, gradient = stream(device=device), stream(2, 4, 7, DIM, device=device).flip(0)
    got, want = x.clone().requires_grad_(), x.clone().requires_grad_()
    out, written_out = layer(got), WRITTEN_OUT[kind](layer, want)  # type: ignore[operator]
    assert relative_error(out, written_out) <= 1e-5
    ours = torch.autograd.grad(out, [got, *layer.parameters()], gradient)
    theirs = torch.autograd.grad(written_out, [want, *layer.parameters()], gradient)
    assert all(relative_error(one, other) <= 1e-4 for one, other in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_a_block_is_its_layers_in_turn(impl: Impl) -> None:
    device = device_of(impl)
    block = drop_in.LGIBlock(DIM, HEADS, mlp_ratio=2, impl=impl)
    randomize(block)
    block.to(device)
    steps = [kind(DIM, HEADS, impl=impl).to(device) for kind in WRITTEN_OUT]
    for step, stage in zip(steps, ("intra", "inter", "interaction"), strict=True):
        step.norm.load_state_dict(getattr(block, f"{stage}_norm").state_dict())
        step.attention.load_state_dict(getattr(block, f"{stage}_attention").state_dict())
    steps[2].context_norm.load_state_dict(block.interaction_context_norm.state_dict())
    z = x = stream(device=device)
    for step in steps:
        z = step(z)
    assert relative_error(block(x), z + block.ffn(block.ffn_norm(z))) <= 1e-5


@pytest.mark.parametrize("impl", ["reference", "torch", "auto"])
def test_nothing_attends_to_what_it_must_not(impl: str) -> None:
    torch.manual_seed(0)
    layer = drop_in.RegionAttention(DIM, HEADS, impl=impl)  # type: ignore[arg-type]
    randomize(layer)
    z = stream()
    mask = torch.rand(4, 7) > 0.4
    mask[:, 0] = True
    for one in (mask, mask[None].repeat(2, 1, 1)):
        assert relative_error(layer(z, one), region_attention(layer, z, one)) <= 1e-5


@pytest.mark.parametrize("impl", ["reference", "torch"])
@pytest.mark.parametrize("feedback", ["none", "region", "clip"])
def test_padding_does_not_reach_a_block(feedback: str, impl: str) -> None:
    block = drop_in.LGIBlock(DIM, HEADS, feedback=feedback, impl=impl)  # type: ignore[arg-type]
    randomize(block)
    grid, region = (5, 4), (2, 3)
    mask = drop_in.region_mask(grid, region)
    x = stream(2, *grid, DIM)
    z = drop_in.add_representative_tokens(drop_in.split_regions(x, region), torch.randn(6, DIM))
    noisy = torch.where(mask[..., None], z, 100.0 * torch.randn_like(z))  # type: ignore[index]
    one, other = block(z, attend_to=mask), block(noisy, attend_to=mask)
    assert relative_error(other[:, mask], one[:, mask]) <= 1e-6
    assert relative_error(block(noisy)[:, mask], one[:, mask]) > 1e-3


@pytest.mark.parametrize("feedback", ["region", "clip"])
@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_feedback_is_the_same_by_every_implementation(impl: str, feedback: str) -> None:
    device = device_of(impl)
    block = drop_in.LGIBlock(DIM, HEADS, feedback=feedback)
    randomize(block)
    block.to(device)
    # More local tokens than the kernels take as keys: those are attended to by PyTorch.
    x = stream(2, 3, 100, DIM, device=device)
    for only in (False, True):
        with use_impl("reference"):
            want = block(x, representative_only=only)
        with use_impl(impl):  # type: ignore[arg-type]
            got = block(x, representative_only=only)
        assert relative_error(got, want) <= 1e-5
        assert relative_error(got, block(x)[:, :, : got.shape[2]]) <= 1e-5


@pytest.mark.parametrize("kind", [*WRITTEN_OUT, drop_in.LGIBlock], ids=lambda kind: kind.__name__)
def test_stochastic_depth_is_for_training(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    layer = kind(DIM, HEADS, drop_path=0.9)
    randomize(layer)
    z = stream(8, 4, 7, DIM)
    changed = (layer(z) != z).flatten(2).any(2)  # [B, M]
    assert not changed.all() and changed.any()
    assert (layer.eval()(z) != z).flatten(2).any(2).all()


@pytest.mark.parametrize(
    ("grid", "region"), [((8, 10, 10), (2, 5, 10)), ((4, 6), (2, 3)), ((6,), (2,)), ((2, 2, 4, 4), (1, 2, 2, 4))]
)
def test_regions_and_back(grid: tuple[int, ...], region: tuple[int, ...]) -> None:
    x = stream(2, *grid, 3)
    parts = drop_in.split_regions(x, region)
    assert torch.equal(drop_in.join_regions(parts, grid, region), x) and drop_in.region_mask(grid, region) is None
    if len(grid) == 3:
        order = region_order(LGIFormerConfig(region_size=region))
        assert torch.equal(parts, x.flatten(1, 3)[:, order])


@pytest.mark.parametrize(("grid", "region"), [((5, 7, 3), (2, 3, 3)), ((7, 5), (4, 4)), ((1, 1), (3, 2))])
def test_regions_that_do_not_divide_the_grid(grid: tuple[int, ...], region: tuple[int, ...]) -> None:
    x = stream(2, *grid, 3)
    parts, mask = drop_in.split_regions(x, region), drop_in.region_mask(grid, region)
    assert torch.equal(drop_in.join_regions(parts, grid, region), x)
    assert mask is not None and mask.shape == (parts.shape[1], parts.shape[2] + 1) and mask[:, 0].all()
    assert not parts[:, ~mask[:, 1:]].any() and mask[:, 1:].sum() == x[0, ..., 0].numel()
    # Every region has a token, so that its representative token has something to read.
    assert mask[:, 1:].any(1).all()


def test_wrong_input_is_refused() -> None:
    layer, z = drop_in.RegionAttention(DIM, HEADS), stream()
    with pytest.raises(InputError, match=r"stream must be \[B, M, S, 32\], got \[2, 4, 7, 16\]"):
        layer(z[..., :16])
    with pytest.raises(InputError, match="one local token or more, got 1 rows"):
        layer(z[:, :, :1])
    with pytest.raises(InputError, match=r"attend_to must be bool \[4, 7\] or \[2, 4, 7\], got torch.float32 \[4, 7\]"):
        layer(z, torch.ones(4, 7))
    with pytest.raises(InputError, match="num_heads 3 does not divide dim 32"):
        drop_in.LocalGlobalAttention(DIM, 3)
    with pytest.raises(InputError, match="drop_path must be in"):
        drop_in.LGIBlock(DIM, HEADS, drop_path=1.0)
    with pytest.raises(InputError, match="unknown value for feedback: 'all'"):
        drop_in.LGIBlock(DIM, HEADS, feedback="all")
    with pytest.raises(InputError, match="feedback follows the local-global interaction"):
        drop_in.LGIBlock(DIM, HEADS, feedback="clip", interaction="none")
    with pytest.raises(InputError, match="one number for each dimension"):
        drop_in.split_regions(z, (2, 2, 2))
    with pytest.raises(InputError, match="must be positive"):
        drop_in.region_mask((4, 4), (0, 2))
    with pytest.raises(InputError, match=r"is \[B, 4, 4, C\], got \[2, 4, 5, 3\] .*left out"):
        drop_in.join_regions(stream(2, 4, 5, 3), (4, 4), (2, 2))
    with pytest.raises(InputError, match=r"one representative token for each region is \[4, 32\], got \[1, 32\]"):
        drop_in.add_representative_tokens(z, torch.zeros(1, DIM))


@pytest.mark.skipif(not interpreting(), reason="kernels can run here under TRITON_INTERPRET=1")
def test_kernels_refuse_masks() -> None:
    with pytest.raises(InputError, match="a mask over keys"):
        drop_in.RegionAttention(DIM, HEADS, impl="triton")(stream(), torch.ones(4, 7, dtype=torch.bool))


def examples() -> list[str]:
    return [code for code in code_blocks(REPOSITORY / "docs" / "layers.md", "python") if "torch" in code]


def test_the_page_has_an_example_of_every_layer() -> None:
    assert all(any(f"{kind.__name__}(" in code for code in examples()) for kind in [*WRITTEN_OUT, drop_in.LGIBlock])
    assert all(len(code.splitlines()) <= 10 for code in examples())


def test_layers_need_no_video_library_and_no_trainer() -> None:
    heavy = ("decord", "av", "torchvision", "yaml", "matplotlib", "maedfer.data", "maedfer.train")
    code = f"import sys, maedfer.layers; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert done.stdout.strip() == "[]"
