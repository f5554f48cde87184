"""The classifier: pooling, features, maps, freezing, compilation, export."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from maedfer.errors import InputError
from maedfer.kernels import use_impl
from maedfer.models import LGIFormer, LGIFormerConfig, MAEDFERConfig, create_model, list_models, model_config
from tests.helpers import randomize, relative_error, small


def video_for(config, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, config.in_channels, *config.clip_size)


def test_names_build_their_sizes() -> None:
    assert {"lgi_former_base", "vit_base", "mae_dfer_small", "video_mae_tiny"} <= set(list_models())
    config = model_config("lgi_former_small", region_size=[1, 5, 10])
    assert isinstance(config, LGIFormerConfig)
    assert (config.embed_dim, config.num_heads, config.region_size) == (384, 6, (1, 5, 10))
    config = model_config("mae_dfer_tiny", clip_size=(16, 64, 64), region_size=(2, 2, 4), decoder_depth=2)
    assert isinstance(config, MAEDFERConfig)
    assert config.encoder.grid == (8, 4, 4) and config.decoder_depth == 2


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("lgi_former_bse", {}, "did you mean 'lgi_former_base'"),
        ("lgi_former_base", {"embed_dims": 3}, "did you mean 'embed_dim'"),
        ("lgi_former_base", {"depth": "deep"}, "model.depth must be a whole number, got 'deep'"),
        ("lgi_former_base", {"region_size": (3, 5, 10)}, r"does not divide the token grid \(8, 10, 10\).*\(2, 5, 10\)"),
        ("lgi_former_base", {"clip_size": (16, 150, 160)}, "does not divide clip_size"),
        ("lgi_former_base", {"num_heads": 7}, "num_heads 7 does not divide embed_dim 512"),
        ("lgi_former_base", {"token_type": "regions"}, "did you mean 'region'"),
        ("mae_dfer_base", {"mask_ratio": 1.5}, "mask_ratio must be between 0 and 1"),
    ],
)
def test_bad_configurations_are_refused_in_one_line(name: str, overrides: dict, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        create_model(name, **overrides)
    assert "\n" not in str(caught.value)


def test_clip_of_another_size_is_refused_with_both_shapes() -> None:
    model = LGIFormer(small())
    with pytest.raises(InputError, match=r"\[B, 3, 8, 32, 32\].*got \[1, 3, 8, 48, 48\]"):
        model(torch.randn(1, 3, 8, 48, 48))


@pytest.mark.parametrize("token_type", ["region", "local", "all"])
def test_pooling_reads_the_chosen_tokens(token_type: str) -> None:
    config = small(token_type=token_type)
    model = LGIFormer(config).eval()
    randomize(model)
    video = video_for(config)
    last = model.forward_intermediates(video)[-1]
    rows = {"region": last[:, :, :1], "local": last[:, :, 1:], "all": last}[token_type]
    assert relative_error(model.forward_features(video), model.head_norm(rows.flatten(1, 2).mean(1))) < 1e-5
    assert model(video).shape == (2, config.num_classes)


def test_pruned_last_block_has_the_gradients_of_the_full_one() -> None:
    config = small()
    model = LGIFormer(config).double()
    randomize(model)
    full = copy.deepcopy(model)
    video = video_for(config).double()
    model(video).square().sum().backward()
    z = full.encoder(video)  # nothing skipped
    full.head(full._pool(z)).square().sum().backward()
    for (name, ours), theirs in zip(model.named_parameters(), full.parameters(), strict=True):
        expected = torch.zeros_like(ours) if theirs.grad is None else theirs.grad
        got = torch.zeros_like(ours) if ours.grad is None else ours.grad
        assert relative_error(got, expected) < 1e-10, name


def test_two_dimensional_inputs_and_other_channel_counts() -> None:
    config = small(clip_size=(64, 32), patch_size=(8, 8), region_size=(4, 2), in_channels=1, feedback="region")
    model = LGIFormer(config)
    assert model(video_for(config)).shape == (2, 5)
    assert model.encoder.representative_tokens.shape == (4, 32)


def test_vit_has_no_regions() -> None:
    config = small(architecture="vit")
    model = LGIFormer(config).eval()
    assert model(video_for(config)).shape == (2, 5)
    maps = model.attention_maps(video_for(config))
    assert maps[0]["attention"].shape == (2, 2, config.num_tokens, config.num_tokens)
    assert not any("representative" in name for name, _ in model.named_parameters())


def test_attention_maps_are_probabilities_at_their_places() -> None:
    config = small()
    model = LGIFormer(config).eval()
    randomize(model)
    maps = model.attention_maps(video_for(config))
    assert len(maps) == config.depth
    assert maps[0]["intra_region"].shape == (2, 2, 8, 2, 2, 2)
    assert maps[0]["inter_region"].shape == (2, 2, 8, 8)
    assert maps[0]["interaction"].shape == (2, 2, 4, 4, 4, 8)
    assert torch.allclose(maps[1]["interaction"].sum(-1), torch.ones(()), atol=1e-5)
    assert (maps[0]["intra_region"].sum((-3, -2, -1)) < 1).all()
    # The interaction's map is in grid order: recompute the first block's by hand for one token.
    z = model.encoder.embed(video := video_for(config))
    block: Any = model.encoder.blocks[0]
    z = block.attend_within_regions(z, None, False, None, None)
    s = block.attend_among_regions(z[:, :, 0], None, None)
    query, context = block.interaction_norm(z[:, :, 1:]), block.interaction_context_norm(s)
    region, row = 3, 5
    token = int(model.encoder.region_order[region, row])
    expected = block.interaction_attention.weights(query[:, region, row : row + 1], context)[:, :, 0]
    got = model.attention_maps(video)[0]["interaction"][:, :, token // 16, token // 4 % 4, token % 4]
    assert relative_error(got, expected) < 1e-5


def test_freezing() -> None:
    model = LGIFormer(small())
    model.freeze(1)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert "encoder.embedding.weight" in frozen and "encoder.blocks.0.ffn.fc1.weight" in frozen
    assert not any(name.startswith(("encoder.blocks.1", "head")) for name in frozen)
    model.freeze()
    assert all(p.requires_grad == (not n.startswith("encoder.")) for n, p in model.named_parameters())
    with pytest.raises(InputError, match="cannot freeze 3 blocks of an encoder that has 2"):
        model.freeze(3)


def test_reset_head() -> None:
    model = LGIFormer(small())
    model.reset_head(3)
    assert model(video_for(model.config)).shape == (2, 3)
    model.reset_head(0)
    assert model(video_for(model.config)).shape == (2, 32)


def test_checkpointed_blocks_change_no_gradient() -> None:
    config = small(drop_path=0.3)
    plain = LGIFormer(config).train()
    saving = LGIFormer(small(drop_path=0.3, checkpoint_blocks=True)).train()
    saving.load_state_dict(plain.state_dict())
    video = video_for(config)
    for model in (plain, saving):
        torch.manual_seed(3)
        model(video).square().sum().backward()
    for (name, a), b in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        assert a.grad is None or b.grad is None or torch.equal(a.grad, b.grad), name


@pytest.mark.parametrize("architecture", ["lgi", "vit"])
def test_compiles_without_a_graph_break(architecture: str) -> None:
    config = small(architecture=architecture)
    model = LGIFormer(config).eval()
    video = video_for(config)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert relative_error(compiled(video), model(video)) < 1e-6
    compiled(video).sum().backward()
    assert model.encoder.embedding.weight.grad is not None


@pytest.mark.parametrize("architecture", ["lgi", "vit"])
def test_exports_with_a_dynamic_batch(architecture: str) -> None:
    config = small(architecture=architecture)
    model = LGIFormer(config).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (video_for(config, 3),), dynamic_shapes=({0: batch},))
    video = video_for(config, 5)
    assert relative_error(program.module()(video), model(video)) < 1e-6


def test_layers_for_learning_rate_decay() -> None:
    model = LGIFormer(small())
    assert model.layer_index("encoder.embedding.weight") == 0
    assert model.layer_index("encoder.blocks.1.ffn.fc1.bias") == 2
    assert {model.layer_index(name) for name in ("head.weight", "encoder.representative_tokens")} == {3}


def test_hooks_on_blocks_see_and_change_the_stream() -> None:
    model = LGIFormer(small()).eval()
    randomize(model)
    video = torch.randn(2, 3, *model.config.clip_size)
    shapes = []

    def double(module: torch.nn.Module, args: tuple, out: torch.Tensor) -> torch.Tensor:
        shapes.append(out.shape)
        return 2 * out

    outputs = []
    model.encoder.blocks[0].register_forward_hook(double)
    for impl in ("reference", "torch"):
        with use_impl(impl):
            outputs.append(model(video))
    assert len(shapes) == 2 and shapes[0] == shapes[1]
    assert relative_error(outputs[1], outputs[0]) < 1e-5


def test_scores_keep_their_digits_under_autocast() -> None:
    model = LGIFormer(small(token_type="all")).eval()
    randomize(model)
    video = video_for(model.config)
    with torch.no_grad():
        exact, features = model(video), model.forward_features(video)
        with torch.autocast("cpu", torch.bfloat16):
            logits, low = model(video), model.forward_features(video)
        torch.testing.assert_close(logits, model.head(low))
    assert logits.dtype == low.dtype == torch.float32
    assert 0 < relative_error(low, features) < 0.05 and relative_error(logits, exact) < 0.05
    # In training, and in weights of bfloat16, they are what autocast and the weights make of them.
    with torch.autocast("cpu", torch.bfloat16):
        assert model(video).dtype == torch.bfloat16
    with torch.no_grad():
        assert model.bfloat16()(video.bfloat16()).dtype == torch.bfloat16
        assert copy.deepcopy(model).double()(video.double()).dtype == torch.float64


def test_a_head_that_is_somebody_elses_is_called_under_autocast() -> None:
    model = LGIFormer(small()).eval()
    model.add_module("head", torch.nn.Sequential(model.head, torch.nn.Linear(5, 3)))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert model(video_for(model.config)).dtype == torch.bfloat16
