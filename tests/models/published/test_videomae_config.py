"""Models of transformers with the config.json beside them: folders, single files, and all that it can say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import maedfer
from maedfer.errors import InputError
from maedfer.models import MAEDFER, ClipSettings, LGIFormer, load_published, to_published
from tests.helpers import randomize, small, small_mae
from tests.models.published.transformers_names import autoencoder_names, classifier_names, videomae_names

VIT = small(architecture="vit", embed_dim=48, num_heads=4, num_classes=3)
# What from_pretrained of transformers writes of it; 48 channels tell no number of heads.
CONFIG: dict[str, Any] = {
    "architectures": ["VideoMAEForVideoClassification"],
    "model_type": "videomae",
    "hidden_size": 48,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "intermediate_size": 192,
    "image_size": 32,
    "num_frames": 8,
    "patch_size": 8,
    "tubelet_size": 2,
    "num_channels": 3,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-12,
    "qkv_bias": True,
    "use_mean_pooling": True,
    "norm_pix_loss": True,
    "decoder_num_attention_heads": 6,
    "decoder_hidden_size": 384,
    "decoder_num_hidden_layers": 4,
    "decoder_intermediate_size": 1536,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"},
    "torch_dtype": "float32",
    "transformers_version": "4.40.0",
}
VIDEO = torch.randn(2, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model() -> LGIFormer:
    made = LGIFormer(VIT).eval()
    randomize(made)
    return made


@pytest.fixture
def write(model: LGIFormer, tmp_path: Path) -> Callable[..., Path]:
    """Writes a folder as from_pretrained reads it, with changes to config.json (None takes a key away)."""

    def make(
        weights: dict[str, torch.Tensor] | None = None, beside: dict[str, Any] | None = None, **changes: Any
    ) -> Path:
        folder = tmp_path / "model"
        folder.mkdir(exist_ok=True)
        config = {key: value for key, value in {**CONFIG, **changes}.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(config))
        if beside is not None:
            (folder / "preprocessor_config.json").write_text(json.dumps(beside))
        weights = classifier_names(to_published(model)) if weights is None else weights
        save_file({key: value.contiguous() for key, value in weights.items()}, folder / "model.safetensors")
        return folder

    return make


def test_folder_and_file_alone_are_read(write: Callable[..., Path], model: LGIFormer, tmp_path: Path) -> None:
    folder = write()
    for source in (folder, str(folder), folder / "model.safetensors"):
        for load in (maedfer.load, load_published):
            again: Any = load(source)
            assert again.config.num_heads == 4 and torch.equal(again(VIDEO), model(VIDEO))
            assert again.load_report.assumed == () and again.load_report.ignored == {} and again.clip_settings is None
    # The same in the layout of PyTorch.
    (folder / "model.safetensors").unlink()
    torch.save(classifier_names(to_published(model)), folder / "pytorch_model.bin")
    assert torch.equal(maedfer.load(folder)(VIDEO), model(VIDEO))


def test_another_number_of_heads_is_another_model(write: Callable[..., Path], model: LGIFormer) -> None:
    again: Any = maedfer.load(write(num_attention_heads=8))
    assert again.config.num_heads == 8 and not torch.allclose(again(VIDEO), model(VIDEO))
    # Where config.json does not say it, it is as transformers has it.
    assert maedfer.load(write(num_attention_heads=None)).config.num_heads == 12  # type: ignore[union-attr]
    # What the user says goes before it.
    assert load_published(write(), args={"num_heads": 2}).config.num_heads == 2  # type: ignore[union-attr]


def test_without_config_heads_are_asked_for(write: Callable[..., Path]) -> None:
    folder = write()
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"safetensors: nothing tells the number of heads of its 48 channels.*--args"):
        maedfer.load(folder / "model.safetensors")
    args = {"num_heads": 4, "img_size": 32, "all_frames": 8}
    assert maedfer.load(folder / "model.safetensors", args=args).config == VIT.__class__(
        **{**vars(VIT), "region_size": VIT.grid, "init_scale": 0.001}
    )
    with pytest.raises(InputError, match="neither a saved model .it has no config.json.*give one of its files"):
        maedfer.load(folder)


def test_autoencoder(write: Callable[..., Path]) -> None:
    theirs = MAEDFER(small_mae(encoder=VIT, decoder_dim=32, decoder_heads=4, target="pixels", normalize_target=False))
    randomize(theirs)
    weights = autoencoder_names(to_published(theirs))
    decoder = {"decoder_hidden_size": 32, "decoder_num_attention_heads": 4, "decoder_intermediate_size": 128}
    decoder["decoder_num_hidden_layers"] = len(theirs.decoder_blocks)
    settings = {**decoder, "use_mean_pooling": False, "norm_pix_loss": False}
    again: Any = maedfer.load(write(weights, **settings))
    assert isinstance(again, MAEDFER)
    assert (again.config.decoder_heads, again.config.target, again.config.normalize_target) == (4, "pixels", False)
    tokens = theirs.token_numbers(*theirs.random_masks(2, torch.Generator().manual_seed(0)))
    assert torch.equal(again(VIDEO, *tokens), theirs.eval()(VIDEO, *tokens))
    with pytest.raises(InputError, match="decoder_intermediate_size=64 contradicts the weights, which say 128"):
        maedfer.load(write(weights, **{**settings, "decoder_intermediate_size": 64}))
    pooled = {key: value for key, value in weights.items() if not key.startswith("videomae.layernorm")}
    with pytest.raises(InputError, match="without layernorm, as use_mean_pooling=true makes it"):
        maedfer.load(write(pooled, **settings))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "vit"}, "model_type is 'vit', expected one of lgi_former, mae_dfer, videomae"),
        ({"model_type": None}, "model_type is None"),
        ({"hidden_act": "gelu_new"}, "hidden_act is 'gelu_new', and only 'gelu' is offered"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"layer_norm_eps": 1e-3}, "layer_norm_eps is 0.001, and LayerNorm adds 1e-6 here"),
        ({"layer_norm_eps": "small"}, "layer_norm_eps is 'small'"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads is .* not offered"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is .* not offered"),
        ({"use_mean_pooling": False}, "use_mean_pooling is False, but the weights have the fc_norm of a model with"),
        ({"use_mean_pooling": "no"}, "use_mean_pooling must be true or false, got 'no'"),
        ({"qkv_bias": False}, "qkv_bias=False contradicts the weights, which say True"),
        ({"qkv_bias": None, "qv_bias": False}, "qv_bias=False contradicts the weights, which say True"),
        ({"hidden_size": 64}, "hidden_size=64 contradicts the weights, which say 48"),
        ({"num_hidden_layers": 12}, "num_hidden_layers=12 contradicts the weights, which say 2"),
        ({"intermediate_size": 100}, "intermediate_size=100 contradicts the weights, which say 192"),
        ({"patch_size": 16}, "patch_size=16 contradicts the weights, which say 8"),
        ({"tubelet_size": 1}, "tubelet_size=1 contradicts the weights, which say 2"),
        ({"num_channels": 1}, "num_channels=1 contradicts the weights, which say 3"),
        ({"num_attention_heads": 5}, "num_heads 5 does not divide embed_dim 48"),
        ({"num_attention_heads": "4"}, "num_attention_heads must be a whole number, got '4'"),
        ({"image_size": 36}, "does not divide clip_size"),
        ({"image_size": [32, 32, 3]}, "image_size must be a whole number or two"),
        ({"num_frames": 7}, "does not divide clip_size"),
        ({"id2label": {"0": "a"}}, "id2label does not name the classes 0 to 2"),
        ({"id2label": ["a", "b", "c"]}, "id2label does not name the classes 0 to 2"),
    ],
)
def test_what_changes_results_is_honoured_or_refused(
    changes: dict[str, Any], message: str, write: Callable[..., Path]
) -> None:
    folder = write(**changes)
    for source in (folder, folder / "model.safetensors"):
        with pytest.raises(InputError, match=message.split(", expected")[0]) as error:
            load_published(source)
        assert "\n" not in str(error.value) and str(folder) in str(error.value)
    with pytest.raises(InputError, match=message):
        maedfer.load(folder)


def test_sizes_are_honoured(write: Callable[..., Path]) -> None:
    again: Any = maedfer.load(write(image_size=[32, 64], num_frames=4))
    assert again.config.clip_size == (4, 32, 64)
    again = maedfer.load(write(image_size=None, num_frames=None))
    assert again.config.clip_size == (16, 224, 224)
    assert maedfer.load(write(layer_norm_eps=1e-5)).config.clip_size == VIT.clip_size  # type: ignore[union-attr]


def test_what_changes_training_alone_is_told(write: Callable[..., Path]) -> None:
    report = maedfer.load(write(hidden_dropout_prob=0.1, problem_type="regression", speed=3)).load_report
    assert report is not None
    assert report.ignored == {
        "config.json: hidden_dropout_prob": "dropout is not offered; it changes training alone",
        "config.json: problem_type": "logits are the same; one class of several is what is scored here",
        "config.json: speed": "not a key of VideoMAE that is known",
    }


def test_first_token_pooling_is_refused_without_config_too(model: LGIFormer) -> None:
    weights = classifier_names(to_published(model))
    for kind in ("weight", "bias"):
        weights[f"videomae.layernorm.{kind}"] = weights.pop(f"fc_norm.{kind}")
    with pytest.raises(InputError, match="use_mean_pooling=false, which classifies by the first token"):
        load_published(weights, args={"num_heads": 4})


def test_class_names_and_fit(write: Callable[..., Path], tmp_path: Path) -> None:
    names = {"id2label": {"1": "happy", "0": "sad", "2": "angry"}}
    loaded = maedfer.load(write(**names))
    assert loaded.clip_settings == ClipSettings(classes=("sad", "happy", "angry"))
    right = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "do_center_crop": True}
    loaded = maedfer.load(write(beside=right, **names))
    assert loaded.clip_settings == ClipSettings(classes=("sad", "happy", "angry"), fit="crop")
    assert maedfer.load(loaded.save_pretrained(tmp_path / "saved")).clip_settings == loaded.clip_settings
    for wrong, message in {
        ("image_mean", (0.5, 0.5, 0.5)): r"image_mean is \[0.5, 0.5, 0.5\], and clips are normalised with",
        ("image_std", 1): "image_std is 1",
        ("do_normalize", False): "do_normalize is false",
    }.items():
        with pytest.raises(InputError, match=f"preprocessor_config.json: {message}"):
            maedfer.load(write(beside={**right, wrong[0]: wrong[1]}))


def test_a_table_of_positions_must_be_the_computed_one(write: Callable[..., Path], model: LGIFormer) -> None:
    weights = classifier_names(to_published(model))
    table = model.encoder.positions.clone()
    key = "videomae.embeddings.position_embeddings"
    assert torch.equal(maedfer.load(write({**weights, key: table}))(VIDEO), model(VIDEO))
    for other in (table + 0.1, table[:, :32]):
        with pytest.raises(InputError, match="position_embeddings .* is not the sine-cosine table"):
            maedfer.load(write({**weights, key: other}))


def test_a_bare_model_is_a_feature_extractor(write: Callable[..., Path], model: LGIFormer) -> None:
    bare = videomae_names(to_published(model), "")
    again: Any = maedfer.load(write(bare, use_mean_pooling=False, id2label=None))
    assert again.config.num_classes == 0 and torch.equal(again(VIDEO), model.forward_features(VIDEO))


def test_configurations_of_no_use_are_named(write: Callable[..., Path], tmp_path: Path) -> None:
    folder = write()
    for content, message in {
        b"{": "cannot be read as JSON",
        b"[" * 100_000: "cannot be read as JSON",
        b"\xff\xfe": "cannot be read as JSON",
        b"[1]": "must hold a JSON object, not a list",
        b'{"model_type": ["videomae"]}': "model_type is",
    }.items():
        (folder / "config.json").write_bytes(content)
        for source in (folder, folder / "model.safetensors"):
            with pytest.raises(InputError, match=rf"config\.json:? {message}"):
                load_published(source)
    with pytest.raises(InputError, match=r"config\.json' describes a model: give its folder, .*model'"):
        maedfer.load(folder / "config.json")
