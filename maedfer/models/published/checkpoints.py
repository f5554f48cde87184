"""Published checkpoints, both ways: MAE-DFER's own, and VideoMAE's in the layout of Hugging Face.

One table (`published_table`) says which part of which of our parameters each published tensor is. Loading, saving
and the check of keys and shapes all read it.
"""

from __future__ import annotations

import argparse
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from maedfer.errors import InputError, unknown
from maedfer.models.attention import Attention
from maedfer.models.lgi_block import LGIBlock
from maedfer.models.lgi_former import LGIFormer
from maedfer.models.load_report import LoadReport
from maedfer.models.mae_dfer import MAEDFER
from maedfer.models.published.arguments import infer_arguments, read_arguments
from maedfer.models.published.videomae import from_videomae, is_videomae
from maedfer.models.serialization import PretrainedModel, key_problems
from maedfer.models.transformer_block import TransformerBlock

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
        source: a .pth, .bin or .safetensors file, or a state dict, or what such a file holds ({"model": state dict,
            ...}). Weights of VideoMAE in the layout of Hugging Face's transformers are recognised by their names.
        task: "finetune" gives an `LGIFormer` (`model(clips)` are logits), "pretrain" an `MAEDFER` with
            decoder_order="published". By default told from the names of the weights.
        args: the published constructor's arguments, or the training script's. They override what the file's own
            argparse namespace says; what neither says is inferred from the weights where that is possible, and else
            taken from the released recipes (heads of 64 channels, 16 x 160 x 160 clips, regions of 2 x 5 x 10,
            classification by representative tokens).

    Returns:
        The model in evaluation mode, float32, with the `LoadReport` as `model.load_report`.

    Raises:
        InputError: the file is missing, damaged or holds code; keys are missing, unexpected or mis-shaped; an
            argument is unknown, contradicts the weights, or is needed and not given.
    """
    if isinstance(source, (str, Path)):
        return published_model(read_checkpoint(source), str(source), task, args)
    return published_model(source, "the state dict", task, args)


def published_model(
    content: Any,
    name: str,
    task: Task | None = None,
    args: Mapping[str, Any] | argparse.Namespace | None = None,
) -> LGIFormer | MAEDFER:
    """`load_published` of what a file holds; `name` is what messages call it."""
    if task not in (None, "finetune", "pretrain"):
        raise unknown("task", task, ("finetune", "pretrain"))
    state, namespace = _unwrap(content, name)
    # Only pre-training has a token that stands for what is hidden.
    task = task or ("pretrain" if any(key.endswith("mask_token") for key in state) else "finetune")
    if isinstance(args, argparse.Namespace):
        args, namespace = None, args
    if args is not None and not isinstance(args, Mapping):
        raise InputError(f"args must be a mapping or an argparse.Namespace, got {type(args).__name__}")
    fresh: tuple[str, ...] = ()
    if is_videomae(state):
        state, fresh = from_videomae(state, task, name)
        if task == "pretrain":
            args = {"use_frame_diff_as_target": False, **(args or {})}
    script = vars(namespace) if isinstance(namespace, argparse.Namespace) else {}
    settings = infer_arguments(state, task, args or {}, script, name)
    config = read_arguments(settings, task)
    model: LGIFormer | MAEDFER = LGIFormer(config) if task == "finetune" else MAEDFER(config)  # type: ignore[arg-type]
    table = published_table(model)
    problems = key_problems(
        {key: tuple(value.shape) for key, value in state.items()}, {key: part.shape for key, part in table.items()}
    )
    if problems:
        raise InputError(f"{name} does not fit the published {task} model with {_brief(settings)}: {problems}")
    for key, part in table.items():
        part.read().copy_(state[key])
    used = tuple(key for key in table if key not in fresh)
    model.load_report = LoadReport(used=used, fresh=fresh, settings=_visible(settings))
    return model.eval()


def to_published(model: PretrainedModel) -> dict[str, Tensor]:
    """The weights under their published names, bit for bit; independent copies on the CPU.

    Args:
        model: an `LGIFormer` or `MAEDFER`.

    Raises:
        InputError: the model has a part that the published code does not know.
    """
    return {key: part.read().cpu().clone().contiguous() for key, part in published_table(model).items()}


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
    """
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


def read_checkpoint(path: str | Path) -> Any:
    """Read a file of PyTorch (.pth, .pt, .bin) or a .safetensors file without running any code in it.

    Tensors, plain containers and argparse.Namespace are let in, nothing else.

    Raises:
        InputError: the file is missing, damaged, or needs anything else to be loaded.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist or is not a file")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path} is not a readable safetensors file: {error}") from error
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            # A pickle of another protocol is warned about on several lines before it is refused in one.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = next(
            (line.strip() for line in str(error).splitlines() if "GLOBAL" in line or "Unsupported" in line), ""
        )
        raise InputError(
            f"{path} is refused: it is no plain checkpoint of tensors, or holds objects that could run code "
            f"({reason[:200] or 'not a pickle of tensors'})"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path} is not a readable checkpoint: {reason[:200]}") from None


def _unwrap(content: Any, name: str) -> tuple[dict[str, Tensor], Any]:
    """Split a checkpoint into weights and the argparse namespace beside them."""
    if not isinstance(content, Mapping):
        raise InputError(f"{name} holds a {type(content).__name__}, not a state dict")
    namespace = content.get("args")
    for wrapper in ("model", "module"):
        if isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    state = {key.removeprefix("module."): value for key, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise InputError(f"{name} holds no weights: expected a state dict, or one under the key 'model' or 'module'")
    return state, namespace


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
