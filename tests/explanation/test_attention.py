"""Attention maps: probabilities as the formula has them, each at its place on the grid."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from maedfer.errors import InputError
from maedfer.explanation import ClipAttention, attention_maps
from maedfer.explanation.overlay import to_pixels
from maedfer.models import MAEDFER, LGIFormer, LGIFormerConfig, MAEDFERConfig, normalize_frames
from tests.helpers import randomize, small

# Three sides of the grid and of the region that no two axes can be mistaken for one another by.
SIDES: dict[str, Any] = {"clip_size": (8, 24, 48), "patch_size": (2, 4, 8), "region_size": (2, 3, 2)}


def model_of(seed: int = 0, **changes: Any) -> LGIFormer:
    torch.manual_seed(seed)
    model = LGIFormer(small(**changes)).eval()
    randomize(model)
    return model


def clip_for(config: LGIFormerConfig, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*config.clip_size, 3), np.uint8)


def by_hand(attention: Any, q_rows: Tensor, k_rows: Tensor) -> np.ndarray:
    """softmax(q k^T / sqrt(D)) of rows [Sq, C] and [Sk, C] from the packed weights: [H, Sq, Sk], in float64."""
    weight = attention.qkv.weight.double()
    dim, heads = weight.shape[1], attention.num_heads
    q = q_rows.double() @ weight[:dim].T + attention.q_bias.double()
    k = k_rows.double() @ weight[dim : 2 * dim].T
    found = []
    for head in range(heads):
        part = slice(head * dim // heads, (head + 1) * dim // heads)
        scores = q[:, part] @ k[:, part].T / math.sqrt(dim // heads)
        powers = (scores - scores.max(1, keepdim=True).values).exp()
        found.append(powers / powers.sum(1, keepdim=True))
    return torch.stack(found).detach().numpy()


def test_an_lgi_former_reads_as_queries_and_keys_say() -> None:
    model = model_of(**SIDES)
    config = model.config
    found = attention_maps(model, clip := clip_for(config))
    assert found.blocks == (1, 2) and found.kinds == ("intra_region", "inter_region", "interaction", "rollout")
    frames = torch.from_numpy(clip).permute(3, 0, 1, 2)[None]
    with torch.no_grad():
        z = model.encoder.embed(frames)
        for place, block in enumerate(model.encoder.blocks):
            layers: Any = block
            n = layers.intra_norm(z[0])
            for region in range(config.num_regions):
                row = by_hand(layers.intra_attention, n[region, :1], n[region])[:, 0]  # [H, 1 + N]
                assert found.intra_own is not None and found.intra_region is not None
                np.testing.assert_allclose(found.intra_own[place, :, region], row[:, 0], atol=2e-6)
                local = row[:, 1:].reshape(-1, *config.region)
                np.testing.assert_allclose(found.intra_region[place, :, region], local, atol=2e-6)
            z1 = z + layers.intra_attention(layers.intra_norm(z))
            s = layers.inter_norm(z1[0, :, 0])
            assert found.inter_region is not None and found.interaction is not None
            np.testing.assert_allclose(found.inter_region[place], by_hand(layers.inter_attention, s, s), atol=2e-6)
            s = z1[:, :, 0] + layers.inter_attention(layers.inter_norm(z1[:, :, 0]))
            context = layers.interaction_context_norm(s)[0]
            queries = layers.interaction_norm(z1[0, :, 1:])
            for region, local_row in ((0, 0), (3, 7), (config.num_regions - 1, config.region_tokens - 1)):
                token = int(model.encoder.region_order[region, local_row])
                t, h, w = np.unravel_index(token, config.grid)
                expected = by_hand(layers.interaction_attention, queries[region, local_row][None], context)[:, 0]
                np.testing.assert_allclose(found.interaction[place, :, t, h, w], expected, atol=2e-6)
            z = layers(z)


def test_rows_sum_to_one_whatever_the_model() -> None:
    for changes in ({}, {"intra_region": "cross"}, {"inter_region": False}, {"feedback": "region"}):
        found = attention_maps(model := model_of(**changes), clip_for(model.config))
        assert found.intra_region is not None and found.intra_own is not None and found.interaction is not None
        np.testing.assert_allclose(found.intra_region.sum((3, 4, 5)) + found.intra_own, 1, atol=1e-5)
        np.testing.assert_allclose(found.interaction.sum(-1), 1, atol=1e-5)
        if found.inter_region is not None:
            np.testing.assert_allclose(found.inter_region.sum(-1), 1, atol=1e-5)
        assert (found.inter_region is None) == (changes == {"inter_region": False})


def test_a_vit_reads_as_queries_and_keys_say() -> None:
    model = model_of(architecture="vit", clip_size=(4, 8, 16), patch_size=(2, 4, 4))
    found = attention_maps(model, clip := clip_for(model.config))
    assert found.kinds == ("attention", "rollout") and found.intra_region is None
    layers: Any = model.encoder.blocks[1]
    with torch.no_grad():
        z = model.encoder.embed(torch.from_numpy(clip).permute(3, 0, 1, 2)[None])
        rows = layers.norm(model.encoder.blocks[0](z))[0, 0]
        weights = by_hand(layers.attention, rows, rows)
    assert found.attention is not None
    np.testing.assert_allclose(found.attention[1].reshape(2, -1), weights.mean(1), atol=2e-6)
    np.testing.assert_allclose(found.attention.sum((2, 3, 4)), 1, atol=1e-5)
    # What one token reads: row-major number 13 of the grid (2, 2, 4) is the token (1, 1, 1).
    np.testing.assert_allclose(found.map("attention", 2, of=(1, 1, 1)).ravel(), weights.mean(0)[13], atol=2e-6)
    np.testing.assert_allclose(found.map("attention", 2, head=1).ravel(), weights[1].mean(0), atol=2e-6)


@pytest.mark.parametrize("changes", [{"feedback": "region"}, {"feedback": "clip"}, {"interaction": "self"}], ids=str)
def test_every_attention_is_told_as_it_is_called(changes: Any) -> None:
    model = model_of(**SIDES, **changes)
    called: dict[str, list[Tensor]] = {}
    names = {"intra_region": "intra", "inter_region": "inter", "interaction": "interaction"} | (
        {"feedback": "feedback"} if "feedback" in changes else {"again": "interaction"}
    )
    block: Any = model.encoder.blocks[1]
    for name in {*names.values()}:
        keep = called.setdefault(name, [])
        getattr(block, f"{name}_attention").register_forward_pre_hook(lambda _, inputs, keep=keep: keep.extend(inputs))
    stages = attention_maps(model, clip_for(model.config)).stages[1]
    assert {*stages} == {*names} - ({"interaction"} if "again" in names else set())
    for stage, weights in stages.items():
        layer = getattr(block, f"{names[stage]}_attention")
        # Self-attention is called with its rows alone.
        queries, context = (called[names[stage]] * 2)[:2]
        groups = [(queries[0], context[0])] if queries.dim() == 3 else zip(queries[0], context[0], strict=True)
        expected = np.stack([by_hand(layer, *group).mean(0) for group in groups])
        np.testing.assert_allclose(weights, expected.reshape(weights.shape), atol=2e-6)


def seeing(config: LGIFormerConfig) -> LGIFormer:
    """A model whose representative tokens read, in the first block, whatever cube of their region is bright."""
    model = LGIFormer(config).eval()
    encoder: Any = model.encoder
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.zero_()
        encoder.embedding.weight[0] = 1.0
        block = encoder.blocks[0]
        block.intra_norm.weight.fill_(1.0)
        dim = config.embed_dim
        block.intra_attention.qkv.weight[dim : 2 * dim] = torch.eye(dim)
        block.intra_attention.q_bias[0] = 20.0
    return model


def test_a_bright_cube_is_found_where_it_is() -> None:
    config = small(position="learned", depth=1, num_heads=1, **SIDES)
    model = seeing(config)
    for cube in ((0, 0, 0), (3, 1, 4), (2, 5, 3), (1, 4, 5)):
        clip = np.zeros((*config.clip_size, 3), np.uint8)
        frames, rows, columns = (
            slice(at * size, (at + 1) * size) for at, size in zip(cube, config.patch_size, strict=True)
        )
        clip[frames, rows, columns] = 255
        found = attention_maps(model, clip)
        seen = found.map("intra_region")
        assert seen.shape == config.grid
        assert np.unravel_index(int(seen.argmax()), config.grid) == cube and seen.max() > 0.99
        # Over the pixels, each token's value is that of its cube; and pictures are brightest there.
        size = (8, 24, 48)
        pixels = to_pixels(seen, size, smooth=False)
        bright = np.zeros(size, bool)
        bright[frames, rows, columns] = True
        assert pixels[bright].min() > 0.99 and pixels[~bright].max() < 0.5
        smooth = to_pixels(seen, size)
        assert bright[np.unravel_index(int(smooth.argmax()), smooth.shape)]


def test_maps_by_region_and_head() -> None:
    model = model_of(**SIDES)
    found = attention_maps(model, clip_for(model.config), blocks=[2])
    assert found.blocks == (2,) and found.intra_region is not None and found.inter_region is not None
    assert found.intra_region.shape == (1, 2, 12, 2, 3, 2)
    # Region (1, 0, 2) of the grid (2, 2, 3) of regions is number 8, and begins at the token (2, 0, 4).
    mean = found.intra_region[0].mean(0)
    np.testing.assert_array_equal(found.map("intra_region")[2:, :3, 4:], mean[8])
    np.testing.assert_array_equal(found.map("intra_region", 2, head=1)[2:, :3, 4:], found.intra_region[0, 1, 8])
    np.testing.assert_allclose(found.map("inter_region", of=3)[3, 2, 5], found.inter_region[0].mean(0)[3, 8])
    np.testing.assert_allclose(found.map("inter_region")[3, 2, 5], found.inter_region[0].mean(0)[:, 8].mean())
    assert found.interaction is not None
    np.testing.assert_array_equal(found.map("interaction", of=8), found.interaction[0].mean(0)[..., 8])
    by_region = found.interaction[0].mean(0)[2:, :3, 4:].mean((0, 1, 2))
    np.testing.assert_allclose(found.interaction_by_region()[8], by_region, rtol=1e-5)
    assert found.even("intra_region") == 1 / 13 and found.even("interaction") == 1 / 12


def test_an_autoencoder_is_looked_at_by_its_encoder_and_left_as_it_was() -> None:
    torch.manual_seed(0)
    model = MAEDFER(MAEDFERConfig(encoder=small(num_classes=0), decoder_dim=16, decoder_depth=1, decoder_heads=2))
    clip = clip_for(model.config.encoder)
    model.train()
    found = attention_maps(model, clip)
    assert model.training and found.kinds[0] == "intra_region" and found.frames is not None
    np.testing.assert_array_equal(found.frames, clip)
    # As floats that were normalised it is the same clip.
    again = attention_maps(model, normalize_frames(torch.from_numpy(clip).permute(3, 0, 1, 2)[None])[0])
    assert again.frames is not None and found.intra_region is not None and again.intra_region is not None
    np.testing.assert_array_equal(again.frames, clip)
    np.testing.assert_allclose(again.intra_region, found.intra_region, atol=1e-5)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda model, clip: attention_maps(model, clip, blocks=[3]), "block 3 is out of range.*blocks 1 to 2"),
        (lambda model, clip: attention_maps(model, clip, blocks=[0]), "block 0 is out of range"),
        (lambda model, clip: attention_maps(model, clip, blocks=[1, 1]), "different numbers from 1 to 2"),
        (lambda model, clip: attention_maps(model, clip[:-1]), r"the model takes one clip \[3, 8, 32, 32\].*7, 32"),
        (lambda model, clip: attention_maps(model, clip.astype(np.int64)), "bytes or floats, got torch.int64"),
        (lambda model, clip: attention_maps(model.head, clip), "an LGIFormer or a MAEDFER, got Linear"),
        (lambda model, clip: attention_maps(model, clip).map("atention"), "unknown kind of attention map 'atention'"),
        (lambda model, clip: attention_maps(model, clip).map("attention"), "unknown kind.*'lgi'"),
        (lambda model, clip: attention_maps(model, clip, blocks=[2]).map("intra_region", 1), "block 1.*kept: 2"),
        (lambda model, clip: attention_maps(model, clip).map("intra_region", head=2), "head 2.*2 heads, from 0"),
        (lambda model, clip: attention_maps(model, clip).map("interaction"), "of one region.*of=0"),
        (lambda model, clip: attention_maps(model, clip).map("interaction", of=8), "region 8.*8 regions"),
        (lambda model, clip: attention_maps(model, clip).rollout(3), "block 3 is none of the model's 2"),
        (lambda model, clip: attention_maps(model, clip).map("rollout", head=0), "leave head out"),
        (lambda model, clip: attention_maps(model, clip).plot(["attention"]), "unknown kind"),
    ],
)
def test_what_cannot_be_shown_is_told(ask: Any, message: str) -> None:
    model = model_of()
    with pytest.raises(InputError, match=message) as caught:
        ask(model, clip_for(model.config))
    assert "\n" not in str(caught.value)


def test_pictures_have_a_row_for_each_map() -> None:
    model = model_of()
    found: ClipAttention = attention_maps(model, clip_for(model.config))
    figure: Any = found.plot(blocks=[2])
    # The clip, one block, the rollout; four cubes of two frames; two colour bars.
    assert len(figure.axes) == 3 * 4 + 2
    assert [text.get_text() for text in figure.texts] == ["the clip", "intra-region\nblock 2", "rollout,\nall blocks"]
    assert [axis.get_title() for axis in figure.axes[:4]] == ["frames 1–2", "3–4", "5–6", "7–8"]
    regions: Any = found.plot_regions()
    names = [label.get_text() for label in regions.axes[0].get_yticklabels()]
    assert names[:3] == ["1–4 upper left", "1–4 upper right", "1–4 lower left"] and names[-1] == "5–8 lower right"
    assert found.inter_region is not None
    numbers = [text.get_text() for text in regions.axes[0].texts]
    assert numbers == [f"{100 * share:.0f}" for share in found.inter_region[-1].mean(0).ravel()]
    figure = found.plot(["interaction"], blocks=[1])
    assert len(figure.texts) == 9
    with pytest.raises(InputError, match="block 3"):
        found.plot_regions(3)
