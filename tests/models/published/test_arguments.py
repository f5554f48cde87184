"""Models under published names and back, with every setting; what the published code cannot express is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

import maedfer
from maedfer.dataclass_tree import keys_of
from maedfer.errors import InputError
from maedfer.models import (
    MAEDFER,
    ClipSettings,
    LGIFormer,
    LGIFormerConfig,
    MAEDFERConfig,
    load_published,
    to_published,
)
from maedfer.models.published.arguments import published_arguments, read_arguments
from maedfer.models.published.checkpoints import published_file, published_table
from maedfer.models.published.inference import infer_arguments
from tests.helpers import randomize, small, small_mae

# One change at a time, none of which the weights tell unless their shapes do.
ENCODER: dict[str, dict[str, Any]] = {
    "clip_size": {"clip_size": (8, 32, 48), "region_size": (2, 2, 3)},
    "patch_size": {"patch_size": (4, 16, 8), "region_size": (1, 2, 2)},
    "in_channels": {"in_channels": 1},
    "architecture": {"architecture": "vit"},
    "embed_dim": {"embed_dim": 48},
    "depth": {"depth": 3},
    "num_heads": {"num_heads": 4},
    "mlp_ratio": {"mlp_ratio": 2.66},
    "qkv_bias": {"qkv_bias": False},
    "region_size": {"region_size": (4, 2, 1)},
    "intra_region": {"intra_region": "cross"},
    "inter_region": {"inter_region": False},
    "interaction": {"interaction": "self"},
    "interaction none": {"interaction": "none"},
    "feedback": {"feedback": "clip"},
    "share_attention": {"share_attention": "first_third"},
    "share_attention all": {"share_attention": "all"},
    "token_type": {"token_type": "local"},
    "token_type all": {"token_type": "all"},
    "position": {"position": "learned"},
    "drop_path": {"drop_path": 0.3},
    "num_classes": {"num_classes": 0},
    "init_scale": {"init_scale": 0.5},
}
# Settings for which the published code has no name, and a file of it no place.
REFUSED: dict[str, dict[str, Any]] = {"feedback": {"feedback": "region"}, "position_grid": {"position_grid": (4, 8, 8)}}
AUTOENCODER: dict[str, dict[str, Any]] = {
    "decoder_dim": {"decoder_dim": 48},
    "decoder_depth": {"decoder_depth": 2},
    "decoder_heads": {"decoder_heads": 4},
    "mask_ratio": {"mask_ratio": 0.75},
    "decoder_order": {"decoder_order": "published"},
    "target": {"target": "pixels"},
    "target appearance": {"target": "appearance"},
    "target motion": {"target": "motion"},
    "appearance_weight": {"appearance_weight": 0.3},
    "normalize_target": {"normalize_target": False},
    "decoder_keep": {"decoder_keep": 0.5},
}
# Of an autoencoder the published code has the weights, but no name for these. A half of the target alone is the whole
# target with all weight on that half.
OURS_ALONE: dict[str, Any] = {
    "decoder_order": "published",
    "decoder_keep": 1.0,
    "target": "joint",
    "appearance_weight": 1.0,
}
OF_CLASSIFIERS = ("token_type", "num_classes", "init_scale")


def test_every_setting_of_a_model_is_tried() -> None:
    for kind, changes in ((LGIFormerConfig, {**ENCODER, **REFUSED}), (MAEDFERConfig, AUTOENCODER)):
        wanted = {key for key in keys_of(kind, "weights", "results") if not key.startswith("encoder.")}
        assert wanted == {name.split()[0] for name in changes}


CLASSIFIERS = [pytest.param(small(**change), id=f"classifier {name}") for name, change in ENCODER.items()]
AUTOENCODERS = [pytest.param(small_mae(**change), id=f"autoencoder {name}") for name, change in AUTOENCODER.items()]
BOTH = [
    pytest.param(small_mae(encoder=small(num_classes=0, **change)), id=f"autoencoder {name}")
    for name, change in ENCODER.items()
    if name.split()[0] not in OF_CLASSIFIERS
]


@pytest.mark.parametrize("config", CLASSIFIERS + AUTOENCODERS + BOTH)
def test_a_published_file_gives_the_same_model_again(config: LGIFormerConfig | MAEDFERConfig, tmp_path: Path) -> None:
    model: Any = maedfer.models.build_model(config)
    randomize(model)
    torch.save(published_file(model.eval()), tmp_path / "w.pth")
    # Nothing but tensors and plain values, so that torch.load of other people's code reads it.
    content = torch.load(tmp_path / "w.pth", weights_only=True)
    assert content["model"].keys() == to_published(model).keys() and type(content["args"]) is dict
    encoder = config if isinstance(config, LGIFormerConfig) else config.encoder
    video = torch.randn(2, encoder.in_channels, *encoder.clip_size)
    inputs: tuple[torch.Tensor, ...] = (video,)
    if isinstance(model, MAEDFER):
        inputs = (video, *model.token_numbers(*model.random_masks(2, torch.Generator().manual_seed(0))))
    again: Any = maedfer.load(tmp_path / "w.pth")
    assert again.config == config and not again.training
    assert torch.equal(again(*inputs), model(*inputs))


@pytest.mark.parametrize("config", CLASSIFIERS + AUTOENCODERS)
def test_published_arguments_alone_give_the_same_encoder(config: LGIFormerConfig | MAEDFERConfig) -> None:
    """What the constructors of the published code need: read back, it is the same architecture."""
    model: Any = maedfer.models.build_model(config)
    randomize(model)
    task = "finetune" if isinstance(config, LGIFormerConfig) else "pretrain"
    found = infer_arguments(to_published(model), task, published_arguments(config), {}, "w.pth")
    assert not found.assumed
    again: Any = read_arguments(found.arguments, task, "w.pth")
    encoder: Any = again
    same: Any = config
    if isinstance(config, MAEDFERConfig):
        encoder, same = again.encoder, config.encoder
    # A hidden width tells the ratio only up to its rounding; a ViT has no regions.
    alike: dict[str, Any] = {"mlp_ratio": same.mlp_ratio}
    if task == "pretrain":
        alike |= {"num_classes": same.num_classes, "init_scale": same.init_scale}
        assert dataclasses.replace(again, encoder=same, **OURS_ALONE) == dataclasses.replace(config, **OURS_ALONE)
    if same.architecture == "vit":
        alike |= {"region_size": same.region_size, "token_type": same.token_type}
    assert dataclasses.replace(encoder, **alike) == same
    assert int(encoder.embed_dim * encoder.mlp_ratio) == int(same.embed_dim * same.mlp_ratio)


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_published_code_cannot_express_is_refused_by_name(name: str) -> None:
    for model in (LGIFormer(small(**REFUSED[name])), MAEDFER(small_mae(encoder=small(**REFUSED[name])))):
        for write in (to_published, published_file):
            with pytest.raises(InputError, match=f"no counterpart of {name}=.*keep it as a folder of save_pretrained"):
                write(model)


def test_pictures_and_parts_of_ones_own_are_refused() -> None:
    pictures = LGIFormer(small(clip_size=(32, 32), patch_size=(8, 8), region_size=(2, 2)))
    with pytest.raises(InputError, match=r"no counterpart of clip_size=\(32, 32\)"):
        to_published(pictures)
    model = LGIFormer(small())
    model.temperature = torch.nn.Parameter(torch.ones(1))  # type: ignore[assignment]
    with pytest.raises(InputError, match="no counterpart of temperature of LGIFormer"):
        to_published(model)


def test_class_names_and_clip_settings_go_along(tmp_path: Path) -> None:
    model = LGIFormer(small(num_classes=2))
    model.clip_settings = ClipSettings(classes=("sad", "happy"), stride=2, fit="crop")
    torch.save(published_file(model), tmp_path / "w.pth")
    assert maedfer.load(tmp_path / "w.pth").clip_settings == model.clip_settings


def test_a_described_file_is_held_to_its_description(tmp_path: Path) -> None:
    content = published_file(LGIFormer(small(share_attention="all")))
    for args in ({"num_heads": 2}, {}):
        with pytest.raises(InputError, match="says what its model is, under 'maedfer'"):
            load_published(content, args=args)
    with pytest.raises(InputError, match="is a model of task finetune, not of pretrain"):
        load_published(content, "pretrain")
    with pytest.raises(InputError, match=r"maedfer: model_type is None, expected one of lgi_former, mae_dfer"):
        load_published({**content, "maedfer": {}})
    with pytest.raises(InputError, match="does not fit the model that it describes under 'maedfer': missing"):
        load_published({**content, "maedfer": {**content["maedfer"], "depth": 3}})
    content["model"]["blocks.0.third_attn.proj.bias"] += 1
    with pytest.raises(InputError, match=r"first_attn\.proj\.bias and .*third_attn\.proj\.bias are one and the same"):
        load_published(content)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"num_heads": "4"}, "num_heads must be a whole number, got '4'"),
        ({"num_heads": True}, "num_heads must be a whole number"),
        ({"num_heads": 3}, "num_heads 3 does not divide"),
        ({"num_heads": 0}, "num_heads must be .* 1.*, got 0"),
        ({"img_size": [32, 32, 32]}, "img_size must be a whole number or two"),
        ({"img_size": 0}, "img_size must be a whole number or two"),
        ({"img_size": 33}, "does not divide clip_size|representative tokens"),
        ({"lg_region_size": 5}, "lg_region_size must be three whole numbers"),
        ({"lg_region_size": [2, 2]}, "lg_region_size must be three whole numbers"),
        ({"lg_classify_token_type": "cls"}, "lg_classify_token_type must be 'region' or 'org' or 'all'"),
        ({"drop_path_rate": "0.1"}, "drop_path_rate must be a number"),
        ({"drop_path_rate": 2}, "drop_path must be at least 0 and below 1"),
        ({"lg_no_second": 1}, "lg_no_second must be true or false"),
    ],
)
def test_arguments_of_no_use_are_named(args: dict[str, Any], message: str) -> None:
    right = {"img_size": 32, "all_frames": 8, "num_heads": 2, "lg_region_size": [2, 2, 2]}
    state = to_published(LGIFormer(small()))
    with pytest.raises(InputError, match=f"the state dict: .*({message})") as error:
        load_published(state, "finetune", {**right, **args})
    assert "\n" not in str(error.value)


def test_heads_that_nothing_tells_are_asked_for() -> None:
    # Of 1280 channels VideoMAE has 16 heads, and not 20 of 64.
    wide = narrow_vit(1280)
    with pytest.raises(InputError, match=r"heads of its 1280 channels: .*config\.json.*args num_heads, .*--args"):
        load_published(wide, "finetune")
    model: Any = load_published(wide, "finetune", {"num_heads": 16})
    assert model.config.num_heads == 16 and model.load_report.assumed == ("img_size", "all_frames")
    model = load_published(narrow_vit(384), "finetune")
    assert model.config.num_heads == 6
    assert "tells: num_heads=6, img_size=160, all_frames=16" in str(model.load_report)


def narrow_vit(dim: int) -> dict[str, torch.Tensor]:
    """The published weights of a ViT of one block with hardly a feed-forward network."""
    config = LGIFormerConfig(architecture="vit", depth=1, embed_dim=dim, num_heads=4, mlp_ratio=1 / dim)
    with torch.device("meta"):
        table = published_table(LGIFormer(config))
    return {key: torch.zeros(part.shape) for key, part in table.items()}
