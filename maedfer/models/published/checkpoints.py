"""Published checkpoints, both ways: MAE-DFER's own, and VideoMAE's in the layout of Hugging Face.

One table (`published_table`) says which part of which of our parameters each published tensor is. Loading, saving
and the check of keys and shapes all read it.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from maedfer._values import expand_home
from maedfer.dataclass_tree import from_dict
from maedfer.errors import InputError, unknown
from maedfer.models.attention import Attention
from maedfer.models.build import build_model
from maedfer.models.clip_settings import ClipSettings
from maedfer.models.config import LGIFormerConfig, ModelConfig
from maedfer.models.lgi_block import LGIBlock
from maedfer.models.lgi_former import LGIFormer
from maedfer.models.load_report import LoadReport
from maedfer.models.lora import lora_layers, without_lora
from maedfer.models.mae_dfer import MAEDFER
from maedfer.models.published.arguments import known_arguments, published_arguments, read_arguments
from maedfer.models.published.inference import infer_arguments
from maedfer.models.published.layouts import unwrap
from maedfer.models.published.sources import Source, read_source
from maedfer.models.published.videomae import POSITION_TABLES, from_videomae, has_last_norm, is_videomae
from maedfer.models.published.videomae_config import VideoMAESettings, videomae_settings
from maedfer.models.serialization import (
    CONFIG_FILE,
    PretrainedModel,
    clip_settings_of,
    config_of,
    holding_values,
    is_own,
    key_problems,
    read_settings,
)
from maedfer.models.transformer_block import TransformerBlock

# Where a published file that was written here says what its model is.
SETTINGS_KEY = "maedfer"

Task = Literal["finetune", "pretrain"]


class Part(NamedTuple):
    """Rows `start:stop` of one of our parameters (all of it when `stop` is None)."""

    parameter: Tensor
    start: int = 0
    stop: int | None = None

    def read(self) -> Tensor:
        """The values, as a view."""
        return self.parameter.detach()[self.start : self.stop]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the part."""
        return tuple(self.read().shape)


def load_published(
    source: str | Path | Mapping[str, Any],
    task: Task | None = None,
    args: Mapping[str, Any] | argparse.Namespace | None = None,
) -> LGIFormer | MAEDFER:
    """Make our model from a published checkpoint, strictly.

    Args:
        source: a file of PyTorch or safetensors under any name, a folder of transformers or of DeepSpeed, or a state
            dict, or what such a file holds ({"model": state dict, ...}). Weights of VideoMAE in the layout of Hugging
            Face's transformers are recognised by their names, and the config.json beside them is read.
        task: "finetune" gives an `LGIFormer` (`model(clips)` are logits), "pretrain" an `MAEDFER` with
            decoder_order="published". By default told from the names of the weights.
        args: the published constructor's arguments, or the training script's. They override what the file's own
            argparse namespace and config.json say; what none of them says is inferred from the weights where that is
            possible, and else taken from the released recipes (heads of 64 channels for the widths that they have,
            16 x 160 x 160 clips and 16 x 224 x 224 for transformers' VideoMAE, regions of 2 x 5 x 10, classification by
            representative tokens). `load_report.assumed` names what was.

    Returns:
        The model in evaluation mode, float32, with the `LoadReport` as `model.load_report`.

    Raises:
        InputError: the file is missing, damaged or holds code; keys are missing, unexpected or mis-shaped; an
            argument is unknown, contradicts the weights, or is needed and not given.
    """
    if not isinstance(source, (str, Path)):
        return published_model(Source(source, "the state dict"), task, args)
    path = Path(expand_home(str(source)))
    if os.path.isdir(path) and os.path.isfile(path / CONFIG_FILE):
        kind = read_settings(path).get("model_type")
        if is_own(kind):
            raise InputError(f"{str(path)!r} is a saved model of this package already ({kind}): maedfer.load reads it")
    return published_model(read_source(path), task, args)


def published_model(
    source: Source,
    task: Task | None = None,
    args: Mapping[str, Any] | argparse.Namespace | None = None,
) -> LGIFormer | MAEDFER:
    """`load_published` of what a file or folder holds."""
    if task not in (None, "finetune", "pretrain"):
        raise unknown("task", task, ("finetune", "pretrain"))
    if isinstance(args, argparse.Namespace):
        script: Mapping[str, Any] | None = vars(args)
        args = None
    else:
        script = None
    if args is not None and not isinstance(args, Mapping):
        raise InputError(f"args must be a mapping or an argparse.Namespace, got {type(args).__name__}")
    name = source.name
    state, kept, ignored = unwrap(source.content, name)
    if isinstance(source.content, Mapping) and SETTINGS_KEY in source.content:
        if args is not None or script is not None:
            raise InputError(f"{name} says what its model is, under {SETTINGS_KEY!r}: args are for files that do not")
        return _described(source.content[SETTINGS_KEY], state, name, task)
    # Only pre-training has a token that stands for what is hidden.
    task = task or ("pretrain" if any(key.endswith("mask_token") for key in state) else "finetune")
    theirs: VideoMAESettings | None = None
    fresh: tuple[str, ...] = ()
    tables: dict[str, Tensor] = {}
    if is_videomae(state):
        tables = {key: state[key] for key in state if key.removeprefix("videomae.") in POSITION_TABLES}
        pools_first = has_last_norm(state)
        state, fresh = from_videomae(state, task, name)
        theirs = videomae_settings(source.folder, task, state, pools_first)
        ignored |= theirs.ignored
        if task == "pretrain":
            args = {"use_frame_diff_as_target": False, **(args or {})}
    found = infer_arguments(
        state, task, args or {}, kept if script is None else script, name, theirs.beside if theirs else None
    )
    settings = found.arguments
    config = read_arguments(settings, task, name)
    model = _filled(config, state, f"{name} does not fit the published {task} model with {_brief(settings)}")
    for key, table in tables.items():
        _check_positions(model, key, table, name)
    given = known_arguments(args or {}, task, strict=False)
    assumed = tuple(key for key in theirs.assumed if key not in given) if theirs else ()
    model.load_report = LoadReport(
        used=tuple(key for key in published_table(model) if key not in fresh),
        ignored=ignored,
        fresh=fresh,
        settings=_visible(settings),
        assumed=found.assumed + assumed,
    )
    if theirs and theirs.classes:
        fit = {"fit": theirs.fit} if theirs.fit else {}
        model.clip_settings = from_dict(ClipSettings, {"classes": list(theirs.classes), **fit})
    return model


def _described(settings: Any, state: dict[str, Tensor], name: str, task: str | None) -> LGIFormer | MAEDFER:
    """The model of a file that `published_file` has written."""
    where = f"{name}: {SETTINGS_KEY}"
    if not isinstance(settings, Mapping):
        raise InputError(f"{where} must be a section with keys, got a {type(settings).__name__}")
    config = config_of(settings, where)
    is_task = "finetune" if isinstance(config, LGIFormerConfig) else "pretrain"
    if task not in (None, is_task):
        raise InputError(f"{name} is a model of task {is_task}, not of {task}")
    model = _filled(config, state, f"{name} does not fit the model that it describes under {SETTINGS_KEY!r}")
    model.clip_settings = clip_settings_of(settings, where)
    model.load_report = LoadReport(used=tuple(published_table(model)), settings=published_arguments(config))
    return model


def _filled(config: ModelConfig, state: Mapping[str, Tensor], problem: str) -> LGIFormer | MAEDFER:
    """The model of `config` with the weights `state`, in evaluation mode; `problem` begins the message of an error."""
    # Sizes are compared before memory is taken for them.
    with torch.device("meta"):
        expected = published_table(build_model(config))
    problems = key_problems(
        {key: tuple(value.shape) for key, value in state.items()}, {key: part.shape for key, part in expected.items()}
    )
    if problems:
        raise InputError(f"{problem}: {problems}")
    with holding_values():
        model = build_model(config)
    filled: dict[tuple[int, int], str] = {}
    for key, part in published_table(model).items():
        # Stages that share an attention have it under several names.
        first = filled.setdefault((id(part.parameter), part.start), key)
        if first == key:
            part.read().copy_(state[key])
        elif not torch.equal(state[first], state[key]):
            raise InputError(f"{problem}: {first} and {key} are one and the same weight there, but differ here")
    return model.eval()


def _check_positions(model: LGIFormer | MAEDFER, key: str, table: Tensor, name: str) -> None:
    """Compare a table of positions that a file has with the one that is computed."""
    decoding = not key.endswith("embeddings.position_embeddings")
    ours = model.decoder_positions if decoding and isinstance(model, MAEDFER) else model.encoder.positions
    if table.shape != ours.shape or (table.float() - ours).abs().max() > 1e-3:
        raise InputError(
            f"{name}: {key} {list(table.shape)} is not the sine-cosine table {list(ours.shape)} of clips of "
            f"{model.encoder.config.clip_size}: give the right img_size and all_frames"
        )


def to_published(model: PretrainedModel) -> dict[str, Tensor]:
    """The weights under their published names, bit for bit; independent copies on the CPU.

    Args:
        model: an `LGIFormer` or `MAEDFER`; LoRA is merged into what is returned.

    Raises:
        InputError: the model has a part, or computes something, that the published code does not know.
    """
    model = without_lora(model)
    table = published_table(model)
    changed = [key for key, part in table.items() if not isinstance(part.parameter, nn.Parameter)]
    if changed:
        raise InputError(
            f"{changed[0]} is no plain parameter of {type(model).__name__} any more (a quantised or pruned layer?): "
            "undo that first, or take the model as it was before"
        )
    known = {id(part.parameter) for part in table.values()}
    own = [name for name, parameter in model.named_parameters() if id(parameter) not in known]
    if own:
        raise InputError(f"the published code has no counterpart of {own[0]} of {type(model).__name__}")
    published_arguments(model.config)
    return {key: part.read().cpu().clone().contiguous() for key, part in table.items()}


def published_file(model: PretrainedModel) -> dict[str, Any]:
    """What a published .pth file of a model holds: "model", and two things that the published code does not read.

    "args" has the published constructor's arguments, and "maedfer" what config.json says of a saved model, so that
    `load_published` makes the same model of it whatever its switches are.

    Raises:
        InputError: as `to_published`.
    """
    return {
        "model": to_published(model),
        "args": published_arguments(model.config),
        SETTINGS_KEY: model.settings(),
    }


def published_gradients(model: PretrainedModel) -> dict[str, Tensor]:
    """The gradients of the parameters under published names; parameters without a gradient are left out."""
    return {
        key: part.parameter.grad[part.start : part.stop].cpu().clone()
        for key, part in published_table(model).items()
        if part.parameter.grad is not None
    }


def published_table(model: PretrainedModel) -> dict[str, Part]:
    """Map every published key to the part of our parameters that it is.

    Attention modules that stages share are listed under each of their published names, as in published state dicts.

    Raises:
        InputError: the model has LoRA, or is none of ours.
    """
    if next(lora_layers(model), None) is not None:
        raise InputError("the published code has no counterpart of LoRA: merge_lora(model) first")
    if isinstance(model, LGIFormer):
        return {**_encoder_table(model, ""), **_module("fc_norm", model.head_norm), **_module("head", model.head)}
    if not isinstance(model, MAEDFER):
        raise InputError(f"no published counterpart of {type(model).__name__}")
    table = _encoder_table(model, "encoder.")
    table |= _module("encoder.norm", model.encoder_norm)
    table |= _module("encoder_to_decoder", model.encoder_to_decoder)
    table["mask_token"] = Part(model.mask_token)
    for number, block in enumerate(model.decoder_blocks):
        assert isinstance(block, TransformerBlock)
        table |= _vit_block(f"decoder.blocks.{number}", block)
    return table | _module("decoder.norm", model.decoder_norm) | _module("decoder.head", model.decoder_head)


def _encoder_table(model: LGIFormer | MAEDFER, prefix: str) -> dict[str, Part]:
    encoder = model.encoder
    table: dict[str, Part] = {}
    if encoder.has_representative_tokens:
        table[f"{prefix}lg_region_tokens"] = Part(encoder.representative_tokens)
    if isinstance(encoder.positions, nn.Parameter):
        table[f"{prefix}pos_embed"] = Part(encoder.positions)
    table |= _module(f"{prefix}patch_embed.proj", encoder.embedding)
    for number, block in enumerate(encoder.blocks):
        name = f"{prefix}blocks.{number}"
        table |= _lgi_block(name, block) if isinstance(block, LGIBlock) else _vit_block(name, block)
    return table


def _lgi_block(name: str, block: LGIBlock) -> dict[str, Part]:
    stages = {"intra": "first", "inter": "second", "interaction": "third", "feedback": "fourth"}
    table: dict[str, Part] = {}
    for ours, theirs in stages.items():
        norms = {f"{ours}_norm": f"{theirs}_attn_norm0", f"{ours}_context_norm": f"{theirs}_attn_norm1"}
        for our_norm, their_norm in norms.items():
            if hasattr(block, our_norm):
                table |= _module(f"{name}.{their_norm}", getattr(block, our_norm))
        if hasattr(block, f"{ours}_attention"):
            table |= _split_attention(f"{name}.{theirs}_attn", getattr(block, f"{ours}_attention"))
    return table | _feed_forward(name, block)


def _vit_block(name: str, block: nn.Module) -> dict[str, Part]:
    assert isinstance(block, TransformerBlock)
    attention = block.attention
    table = _module(f"{name}.norm1", block.norm) | {f"{name}.attn.qkv.weight": Part(attention.qkv.weight)}
    table |= _attention_rest(f"{name}.attn", attention)
    return table | _feed_forward(name, block)


def _split_attention(name: str, attention: Attention) -> dict[str, Part]:
    dim, weight = attention.qkv.in_features, attention.qkv.weight
    parts = {f"{name}.q.weight": Part(weight, 0, dim), f"{name}.kv.weight": Part(weight, dim, 3 * dim)}
    return parts | _attention_rest(name, attention)


def _attention_rest(name: str, attention: Attention) -> dict[str, Part]:
    table: dict[str, Part] = {}
    if attention.q_bias is not None and attention.v_bias is not None:
        table = {f"{name}.q_bias": Part(attention.q_bias), f"{name}.v_bias": Part(attention.v_bias)}
    return table | _module(f"{name}.proj", attention.proj)


def _feed_forward(name: str, block: LGIBlock | TransformerBlock) -> dict[str, Part]:
    table = _module(f"{name}.norm2", block.ffn_norm)
    return table | _module(f"{name}.mlp.fc1", block.ffn.fc1) | _module(f"{name}.mlp.fc2", block.ffn.fc2)


def _module(name: str, module: nn.Module) -> dict[str, Part]:
    return {f"{name}.{key}": Part(parameter) for key, parameter in module.named_parameters()}


def _visible(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are published arguments."""
    return {key: value for key, value in settings.items() if not key.startswith("_")}


def _brief(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in _visible(settings).items())
