"""VideoMAE checkpoints in the layout of Hugging Face's transformers, renamed to the original one.

Covers `VideoMAEModel`, `VideoMAEForVideoClassification` and `VideoMAEForPreTraining`. Three things go wrong easily: the
biases of queries and values are separate parameters there (`q_bias`, `v_bias`) that a converter can drop silently,
keys have no bias, and weights do not tell the number of heads, the size of the clips and what is pooled, which only
config.json says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from maedfer.errors import InputError

_LAYER = re.compile(r"^(encoder\.layer|decoder\.decoder_layers)\.(\d+)\.(.+)$")
_LAYER_NAMES = {
    "attention.output.dense": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
}
_SELF = "attention.attention."
# Fixed tables, which some versions keep and which are computed here.
POSITION_TABLES = ("embeddings.position_embeddings", "position_embeddings", "decoder.position_embeddings")


def is_videomae(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of transformers' VideoMAE."""
    return any(key.removeprefix("videomae.").startswith("encoder.layer.") for key in state)


def has_last_norm(state: Mapping[str, Tensor]) -> bool:
    """Whether the tokens are normalised after the last block, as a model made without mean pooling does."""
    return any(key.removeprefix("videomae.") == "layernorm.weight" for key in state)


def from_videomae(state: Mapping[str, Tensor], task: str, source: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Rename to the original VideoMAE layout, which the published MAE-DFER code shares.

    A bare `VideoMAEModel` has no head: for "finetune" the result has none either (num_classes = 0). Its final LayerNorm
    serves as the one before the head; one made with mean pooling has none, and gets a LayerNorm as initialised. A
    classifier made without mean pooling classifies by the first token alone, which is refused.

    Returns:
        The state dict, and the names in it that the checkpoint did not have.

    Raises:
        InputError: a key is not known, biases of queries, keys and values are of no supported form, or the weights are
            pooled in a way that is not offered.
    """
    projection = "embeddings.patch_embeddings.projection.weight"
    if not any(key.endswith(projection) for key in state):
        raise InputError(f"{source} has no {projection}: it is not a whole model of VideoMAE")
    _check_pooling({key.removeprefix("videomae.").rpartition(".")[0] for key in state}, task, source)
    encoder = "encoder." if task == "pretrain" else ""
    out: dict[str, Tensor] = {}
    attention: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        name = key.removeprefix("videomae.")
        if match := _LAYER.match(name):
            stack = f"{encoder}blocks" if match[1] == "encoder.layer" else "decoder.blocks"
            prefix, rest = f"{stack}.{match[2]}", match[3]
            if rest.startswith(_SELF):
                attention.setdefault(prefix, {})[rest.removeprefix(_SELF)] = value
                continue
            module, _, kind = rest.rpartition(".")
            if module not in _LAYER_NAMES:
                raise InputError(f"{source}: unknown key {key!r} of a VideoMAE checkpoint")
            out[f"{prefix}.{_LAYER_NAMES[module]}.{kind}"] = value
        else:
            if name in POSITION_TABLES:
                continue
            renamed = _outer_name(name, encoder, task)
            if renamed is None:
                raise InputError(f"{source}: unknown key {key!r} of a VideoMAE checkpoint")
            out[renamed] = value
    for prefix, parts in attention.items():
        out |= _merge_attention(prefix, parts, source)
    if task == "finetune" and "fc_norm.weight" not in out and "patch_embed.proj.bias" in out:
        like = out["patch_embed.proj.bias"]
        fresh = {"fc_norm.weight": torch.ones_like(like), "fc_norm.bias": torch.zeros_like(like)}
        return out | fresh, tuple(fresh)
    return out, ()


def _check_pooling(modules: set[str], task: str, source: str) -> None:
    """Refuse models whose last LayerNorm is not where ours is."""
    if task == "pretrain" and "layernorm" not in modules:
        raise InputError(
            f"{source} is an autoencoder of VideoMAE without layernorm, as use_mean_pooling=true makes it: the one "
            "here normalises what the encoder gives, so that it would be another model"
        )
    if task == "finetune" and "classifier" in modules and ("layernorm" in modules or "fc_norm" not in modules):
        raise InputError(
            f"{source} is a classifier of VideoMAE with use_mean_pooling=false, which classifies by the first token: "
            "the one here classifies by the mean over all tokens, so that it would be another model"
        )


def _outer_name(name: str, encoder: str, task: str) -> str | None:
    """The original name outside of the blocks; None when unknown."""
    module, _, kind = name.rpartition(".")
    if name == "mask_token":
        return name
    names = {
        "embeddings.patch_embeddings.projection": f"{encoder}patch_embed.proj",
        "layernorm": "encoder.norm" if task == "pretrain" else "fc_norm",
        "fc_norm": "fc_norm",
        "classifier": "head",
        "encoder_to_decoder": "encoder_to_decoder",
        "decoder.norm": "decoder.norm",
        "decoder.head": "decoder.head",
    }
    return f"{names[module]}.{kind}" if module in names else None


def _merge_attention(prefix: str, parts: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """Join query, key and value of one layer."""
    parts = dict(parts)
    try:
        weights = [parts.pop(f"{name}.weight") for name in ("query", "key", "value")]
    except KeyError as error:
        raise InputError(f"{source}: {prefix} lacks {error.args[0]} of its attention") from None
    out = {f"{prefix}.attn.qkv.weight": torch.cat(weights)}
    if "query.bias" in parts:
        key_bias = parts.pop("key.bias", None)
        if key_bias is not None and bool(key_bias.any()):
            raise InputError(f"{source}: {prefix} has a bias on its keys, which this model does not have")
        parts = {"q_bias": parts.pop("query.bias"), "v_bias": parts.pop("value.bias"), **parts}
    biases = {name: parts.pop(name) for name in ("q_bias", "v_bias") if name in parts}
    if len(biases) == 1:
        missing = ({"q_bias", "v_bias"} - biases.keys()).pop()
        raise InputError(f"{source}: {prefix} has {next(iter(biases))} but lacks {missing}")
    if parts:
        raise InputError(f"{source}: {prefix} has unknown attention parameters: {', '.join(parts)}")
    return out | {f"{prefix}.attn.{name}": value for name, value in biases.items()}
