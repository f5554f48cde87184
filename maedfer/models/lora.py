"""LoRA in a model, and out of it again: `add_lora`, `merge_lora`.

    model = maedfer.load("runs/voxceleb2")
    maedfer.models.add_lora(model, rank=8)
    ...                                        # trained by whatever loop
    maedfer.models.merge_lora(model).save_pretrained("tuned")

Adapters of other people's making work on these models too, and on every layer (docs/kernels.md); blocks that have them
are called layer by layer. These keep the schedule of fused operations.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
from torch import nn

from maedfer.errors import InputError, some
from maedfer.models.attention import Attention, FeedForward
from maedfer.models.checks import check_count
from maedfer.models.low_rank import LoraLinear

Model = TypeVar("Model", bound=nn.Module)

RANK, ALPHA = 8, 16.0
# Linear layers of attentions and feed-forward networks, by name.
TARGETS = ("qkv", "proj", "fc1", "fc2")


def add_lora(
    model: Model,
    rank: int = RANK,
    alpha: float = ALPHA,
    targets: Sequence[str] | None = None,
    *,
    first_block: int = 0,
    keep: Sequence[str] = ("head",),
) -> Model:
    """Give the attentions and feed-forward networks of a model LoRA, and stop training everything else.

    The weight W [O, I] of a layer becomes W + (alpha / rank) B A, where A [rank, I] and B [O, rank] are trained: new
    parameters `lora_a` and `lora_b` of the layer. B is zero at first, so that the model computes what it did. Queries,
    keys and values have one packed weight, and so one A. Attentions that stages share have one A and one B.

    Args:
        model: an `LGIFormer` or `MAEDFER`, of either architecture, one of `maedfer.layers`, or a model of your own
            that holds such; it is changed.
        rank: r, at most the smaller side of every weight.
        alpha: LoRA's factor.
        targets: which layers, by their name or that of a part they are in: "qkv", "ffn", "inter_attention",
            "interaction_attention.qkv". "qkv", "proj", "fc1" and "fc2", those of them that there are, when None.
        first_block: layers of a model's encoder below this block are left out, and are not trained.
        keep: names of the model's parts that go on being trained as they are; those it has not are passed over.

    Returns:
        The model.

    Raises:
        InputError: a rank or factor that cannot be, a target that names no layer, or a model that has LoRA already.
            The model is then unchanged.
    """
    check_count("rank", rank)
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not 0 < alpha < math.inf:
        raise InputError(f"alpha must be a number above 0, got {alpha!r}")
    check_count("first_block", first_block, least=0)
    if next(lora_layers(model), None) is not None:
        raise InputError(f"{type(model).__name__} has LoRA already: merge_lora(model) first")
    every = {name: (holder, leaf, layer) for name, holder, leaf, layer in _candidates(model)}
    for target in targets or ():
        if not any(_is_named(name, target) for name in every):
            known = dict.fromkeys(part for name in every for part in name.split(".") if not part.isdigit())
            there = f"has {some(sorted(known), 12)}" if known else "has no attention or feed-forward network of ours"
            raise InputError(f"LoRA target {target!r} names no linear layer: {type(model).__name__} {there}")
    names = TARGETS if targets is None else targets
    found = [name for name in every if any(_is_named(name, target) for target in names)]
    chosen = {name: every[name] for name in found if _block_of(name) >= first_block}
    if not chosen:
        there = f"no attention or feed-forward network of ours{f' from block {first_block} on' if first_block else ''}"
        raise InputError("LoRA has no layer: " + ("give targets" if targets == () else f"the model has {there}"))
    for name, (_, _, layer) in chosen.items():
        if rank > min(layer.weight.shape):
            raise InputError(
                f"LoRA's rank must be at most {min(layer.weight.shape)}, the smaller side of {name} "
                f"{list(layer.weight.shape)}, got {rank}"
            )
    for name, parameter in model.named_parameters():
        if not any(name.startswith(f"{part}.") for part in keep):
            parameter.requires_grad_(False)
    for holder, leaf, layer in chosen.values():
        setattr(holder, leaf, LoraLinear(layer, rank, alpha))
    return model


@torch.no_grad()
def merge_lora(model: Model) -> Model:
    """Put plain linear layers that compute the same in the place of those with LoRA.

    What was trained is trained, and what was not is not: `model.requires_grad_()` trains all of it.

    Args:
        model: with LoRA or without; it is changed.

    Returns:
        The model.
    """
    for name, layer in list(lora_layers(model)):
        # Without a weight of its own, which would be drawn for nothing.
        plain = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
        plain.weight = nn.Parameter(layer.merged(), requires_grad=False)
        plain.register_parameter("bias", layer.bias)
        holder, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(holder), leaf, plain.train(layer.training))
    return model


def without_lora(model: Model) -> Model:
    """The model itself where it has no LoRA, else a copy that has it merged and shares all other parameters."""
    if next(lora_layers(model), None) is None:
        return model
    shared = {id(parameter): parameter for parameter in model.parameters()}
    return merge_lora(copy.deepcopy(model, shared))  # type: ignore[arg-type]


def lora_layers(model: nn.Module) -> Iterator[tuple[str, LoraLinear]]:
    """The layers with LoRA, by name; one that stages share once."""
    return ((name, layer) for name, layer in model.named_modules() if isinstance(layer, LoraLinear))


def _candidates(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, nn.Linear]]:
    """Plain linear layers of attentions and feed-forward networks: name, holder, name there, layer."""
    for path, holder in model.named_modules():
        if isinstance(holder, (Attention, FeedForward)):
            for leaf, layer in holder.named_children():
                if type(layer) is nn.Linear:
                    yield (f"{path}.{leaf}" if path else leaf), holder, leaf, layer


def _is_named(name: str, target: str) -> bool:
    """Whether a layer's dotted name holds the target's parts, one after another."""
    return f".{target}." in f".{name}."


def _block_of(name: str) -> int:
    """Number of the encoder's block that a layer is in; of others one above all."""
    parts = name.split(".")
    at = parts.index("blocks") + 1 if "blocks" in parts else 0
    return int(parts[at]) if at and parts[at].isdigit() else 1 << 30
