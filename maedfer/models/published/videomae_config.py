"""What config.json of transformers' VideoMAE says, in the terms of the published arguments."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from maedfer.errors import InputError
from maedfer.models.config import IMAGENET_MEAN, IMAGENET_STD
from maedfer.models.published.inference import Beside
from maedfer.models.serialization import CONFIG_FILE, read_json, read_settings

# Where transformers keeps how clips are cut and normalised.
PREPROCESSOR_FILE = "preprocessor_config.json"
# Key, the argument of the published code, and the value that transformers takes where config.json has none. What the
# weights tell has no such value here: they are believed.
_BOTH = {
    "image_size": ("img_size", 224),
    "num_frames": ("all_frames", 16),
    "patch_size": ("patch_size", None),
    "tubelet_size": ("tubelet_size", None),
    "qkv_bias": ("qkv_bias", None),
    # The same since transformers 5.
    "qv_bias": ("qkv_bias", None),
}
_ENCODER = {
    "num_attention_heads": ("num_heads", 12),
    "num_channels": ("in_chans", None),
    "hidden_size": ("embed_dim", None),
    "num_hidden_layers": ("depth", None),
}
_DECODER = {
    "decoder_num_attention_heads": ("decoder_num_heads", 6),
    "norm_pix_loss": ("normlize_target", True),
    "decoder_hidden_size": ("decoder_embed_dim", None),
    "decoder_num_hidden_layers": ("decoder_depth", None),
}
# Activations that are the exact GELU.
_GELU = ("gelu", "gelu_python")
# LayerNorm adds 1e-6 here. Variances are near 1, so that up to here results differ by some millionths.
_LARGEST_EPS = 1e-5
# Ways to train, or to write a file, that leave the results of a model as they are.
_TRAINING = ("hidden_dropout_prob", "attention_probs_dropout_prob")
_HARMLESS = {
    *(
        "model_type",
        "architectures",
        "transformers_version",
        "torch_dtype",
        "dtype",
        "initializer_range",
        "_name_or_path",
    ),
    *("id2label", "label2id", "num_labels", "return_dict", "return_loss", "output_attentions", "output_hidden_states"),
    *("torchscript", "use_cache", "finetuning_task", "_commit_hash", "_attn_implementation_autoset", "auto_map"),
    *(
        "attn_implementation",
        "_attn_implementation",
        "chunk_size_feed_forward",
        "is_encoder_decoder",
        "task_specific_params",
    ),
    *(
        "use_bfloat16",
        "tf_legacy_loss",
        "decoder_intermediate_size",
        "intermediate_size",
        "hidden_act",
        "layer_norm_eps",
    ),
    *(
        "use_mean_pooling",
        "pruned_heads",
        "problem_type",
        "quantization_config",
        *_TRAINING,
        *_BOTH,
        *_ENCODER,
        *_DECODER,
    ),
}


@dataclasses.dataclass(frozen=True)
class VideoMAESettings:
    """What is known of a VideoMAE beside its weights.

    Attributes:
        beside: its arguments.
        classes: names in the order of the labels; empty where there are none.
        fit: how frames are brought to the model's size; empty where nothing says.
        ignored: keys that have no counterpart and change no result, with the reason.
        assumed: arguments that nothing tells.
    """

    beside: Beside
    classes: tuple[str, ...] = ()
    fit: str = ""
    ignored: dict[str, str] = dataclasses.field(default_factory=dict)
    assumed: tuple[str, ...] = ()


def videomae_settings(
    folder: Path | None, task: str, state: Mapping[str, Tensor], has_last_norm: bool
) -> VideoMAESettings:
    """Read config.json, and preprocessor_config.json where there is one.

    Args:
        folder: where the weights lie; None for weights from no file.
        task: "finetune" or "pretrain".
        state: the weights, by the names of the original layout.
        has_last_norm: whether they came with the LayerNorm of a model without mean pooling.

    Raises:
        InputError: the configuration is of another kind of model, or says what is not offered.
    """
    if folder is None or not os.path.isfile(folder / CONFIG_FILE):
        # As transformers has them, and as all VideoMAE checkpoints that are known are.
        return VideoMAESettings(Beside({"img_size": 224, "all_frames": 16}, {}), assumed=("img_size", "all_frames"))
    path = folder / CONFIG_FILE
    config = read_settings(folder)
    kind = config.get("model_type")
    if kind != "videomae":
        raise InputError(
            f"{path}: model_type is {kind!r}, but the weights beside it are those of VideoMAE (videomae): give them "
            "with the config.json that belongs to them"
        )
    _check_offered(config, str(path))
    pooling = config.get("use_mean_pooling", not has_last_norm)
    if not isinstance(pooling, bool):
        raise InputError(f"{path}: use_mean_pooling must be true or false, got {pooling!r}")
    if pooling is has_last_norm and (has_last_norm or "head.weight" in state):
        norm = "the layernorm of a model without" if has_last_norm else "the fc_norm of a model with"
        raise InputError(f"{path}: use_mean_pooling is {pooling}, but the weights have {norm} mean pooling")
    _check_widths(config, state, task, str(path))
    names = {**_BOTH, **_ENCODER, **(_DECODER if task == "pretrain" else {})}
    arguments: dict[str, Any] = {}
    labels: dict[str, str] = {}
    for key, (argument, default) in names.items():
        value = config.get(key, default)
        if task == "pretrain" and key in _ENCODER:
            argument = f"encoder_{argument}"
        if value is not None:
            arguments[argument] = value
            labels[argument] = f"{path}: {key}"
    return VideoMAESettings(
        Beside(arguments, labels),
        _classes(config, state, str(path)) if task == "finetune" else (),
        _fit(folder / PREPROCESSOR_FILE),
        _ignored(config),
    )


def _check_offered(config: Mapping[str, Any], where: str) -> None:
    """Refuse what changes results and is not offered."""
    act = config.get("hidden_act", "gelu")
    if act not in _GELU:
        raise InputError(f"{where}: hidden_act is {act!r}, and only 'gelu' is offered: it would be another model")
    eps = config.get("layer_norm_eps", 1e-12)
    if not isinstance(eps, (int, float)) or not 0 <= eps <= _LARGEST_EPS:
        raise InputError(
            f"{where}: layer_norm_eps is {eps!r}, and LayerNorm adds 1e-6 here: it would be another model above "
            f"{_LARGEST_EPS}"
        )
    for key in ("pruned_heads", "quantization_config"):
        if config.get(key):
            raise InputError(f"{where}: {key} is {str(config[key])[:60]}, and models with it are not offered")


def _check_widths(config: Mapping[str, Any], state: Mapping[str, Tensor], task: str, where: str) -> None:
    """Compare the widths of the feed-forward networks with the weights."""
    layers = {"intermediate_size": "encoder.blocks.0" if task == "pretrain" else "blocks.0"}
    if task == "pretrain":
        layers["decoder_intermediate_size"] = "decoder.blocks.0"
    for key, block in layers.items():
        weight = state.get(f"{block}.mlp.fc1.weight")
        if key in config and weight is not None and config[key] != weight.shape[0]:
            raise InputError(f"{where}: {key}={config[key]!r} contradicts the weights, which say {weight.shape[0]}")


def _classes(config: Mapping[str, Any], state: Mapping[str, Tensor], where: str) -> tuple[str, ...]:
    """Names of the classes; empty where transformers has made them up."""
    names, head = config.get("id2label"), state.get("head.weight")
    if not names or head is None:
        return ()
    if not isinstance(names, Mapping) or {str(key) for key in names} != {str(key) for key in range(len(head))}:
        raise InputError(f"{where}: id2label does not name the classes 0 to {len(head) - 1} that the weights have")
    names = {str(key): str(name) for key, name in names.items()}
    found = tuple(names[str(number)] for number in range(len(head)))
    made_up = all(name == f"LABEL_{number}" for number, name in enumerate(found))
    return () if made_up or len(set(found)) < len(found) else found


def _fit(path: Path) -> str:
    """How frames come to the model's size; pixels must be normalised as they are here."""
    if not os.path.isfile(path):
        return ""
    settings = read_json(path)
    for key, ours in {"image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD}.items():
        theirs = settings.get(key)
        if theirs is None:
            continue
        numbers = theirs if isinstance(theirs, list) and all(isinstance(x, (int, float)) for x in theirs) else []
        if len(numbers) != 3 or any(abs(a - b) > 1e-3 for a, b in zip(numbers, ours, strict=True)):
            raise InputError(f"{path}: {key} is {theirs!r}, and clips are normalised with {list(ours)} here")
    for key in ("do_normalize", "do_rescale"):
        if settings.get(key) is False:
            raise InputError(f"{path}: {key} is false, and clips are always normalised here")
    return "crop" if settings.get("do_center_crop") else "stretch"


def _ignored(config: Mapping[str, Any]) -> dict[str, str]:
    ignored = {
        f"{CONFIG_FILE}: {key}": "dropout is not offered; it changes training alone"
        for key in _TRAINING
        if config.get(key)
    }
    if config.get("problem_type") not in (None, "single_label_classification"):
        ignored[f"{CONFIG_FILE}: problem_type"] = "logits are the same; one class of several is what is scored here"
    strange = {key: "not a key of VideoMAE that is known" for key in config if key not in _HARMLESS}
    return ignored | {f"{CONFIG_FILE}: {key}": reason for key, reason in strange.items()}
