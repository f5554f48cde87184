"""The published constructor's arguments that a checkpoint does not say in words: inferred from names and shapes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from maedfer.errors import InputError
from maedfer.models.published.arguments import check_value, known_arguments, pair

# Widths of which all published models, of MAE-DFER and of VideoMAE, have heads of 64 channels. Of wider ones they have
# not: VideoMAE's huge has 16 heads of 80, its decoder 8 of 80, giant 16 of 88.
_HEADS_OF_64 = (192, 256, 384, 512, 768, 1024)


class Beside(NamedTuple):
    """What a configuration beside the weights says.

    Attributes:
        arguments: under the names of the published arguments.
        labels: what messages call each of them.
    """

    arguments: Mapping[str, Any]
    labels: Mapping[str, str]


class Inferred(NamedTuple):
    """Complete published arguments.

    Attributes:
        arguments: by name, and what only weights tell under names that begin with an underscore.
        assumed: names of those that nothing tells and that are as in the released recipes.
    """

    arguments: dict[str, Any]
    assumed: tuple[str, ...]


def infer_arguments(
    state: Mapping[str, Tensor],
    task: str,
    arguments: Mapping[str, Any],
    namespace: Mapping[str, Any],
    source: str,
    beside: Beside | None = None,
) -> Inferred:
    """Complete the user's arguments from the weights and from what is kept with them.

    Args:
        state: published state dict.
        task: "finetune" or "pretrain".
        arguments: the user's, published constructor or script names; they must agree with the weights.
        namespace: what the training script had saved beside the weights; what the weights say goes before it.
        source: the checkpoint's name, for messages.
        beside: what a configuration beside the weights says; it must agree with the weights, and the user's arguments
            go before it.

    Raises:
        InputError: an argument is unknown, contradicts the weights, or cannot be inferred.
    """
    beside = beside or Beside({}, {})
    arguments = known_arguments(arguments, task, strict=True)
    args = {**known_arguments(namespace, task, strict=False), **beside.arguments, **arguments}
    labels = {name: label for name, label in beside.labels.items() if name not in arguments}
    for name, value in args.items():
        check_value(name, value, source, labels.get(name, f"the argument {name}"))
    prefix = "encoder." if task == "pretrain" else ""
    arg_prefix = "encoder_" if task == "pretrain" else ""
    seen = _seen_in_weights(state, task, prefix, source)
    stated = {**beside.arguments, **arguments}
    dim = seen[f"{arg_prefix}embed_dim"]
    for name, value in seen.items():
        if name == "mlp_ratio" and name in stated and int(dim * stated[name]) == round(dim * value):
            # The hidden width is rounded down, so the weights tell the ratio only roughly.
            continue
        if name in stated and _plain(stated[name]) != _plain(value):
            label = labels.get(name, f"the argument {name}")
            raise InputError(f"{source}: {label}={stated[name]!r} contradicts the weights, which say {value!r}")
        args[name] = value
    if args["attn_type"] == "local_global":
        args |= _sharing(state, prefix, args[f"{arg_prefix}depth"], arguments, source)
    told = set(args)
    head_dims = {"num_heads" if task == "finetune" else "encoder_num_heads": dim}
    if task == "pretrain":
        head_dims["decoder_num_heads"] = seen.get("decoder_embed_dim", 384)
    for name, width in head_dims.items():
        if name not in args:
            args[name] = _usual_heads(name, width, source)
    args.setdefault("use_learnable_pos_emb", False)
    args.setdefault("drop_path_rate", 0.0)
    _complete_sizes(args, state, prefix, source)
    if task == "finetune":
        args.setdefault("lg_classify_token_type", "region")
    else:
        defaults = {"mask_ratio": 0.9, "target_diff_weight": None, "normlize_target": True}
        for name, value in {**defaults, "use_frame_diff_as_target": True}.items():
            args.setdefault(name, value)
    shaping = [*head_dims, "img_size", "all_frames"]
    if args["attn_type"] == "local_global":
        shaping += ["lg_region_size", *(["lg_classify_token_type"] if task == "finetune" else [])]
    return Inferred(args, tuple(name for name in shaping if name not in told))


def _usual_heads(name: str, width: int, source: str) -> int:
    """The number of heads of published models, which the weights do not tell.

    Raises:
        InputError: there is none for this width.
    """
    if width not in _HEADS_OF_64:
        raise InputError(
            f"{source}: nothing tells the number of heads of its {width} channels: put the config.json of the model "
            f"beside it, or give args {name}, as in maedfer convert --args '{{\"{name}\": N}}'"
        )
    return width // 64


def _seen_in_weights(state: Mapping[str, Tensor], task: str, prefix: str, source: str) -> dict[str, Any]:
    """Arguments that shapes and names of the weights determine."""
    embedding = state.get(f"{prefix}patch_embed.proj.weight")
    if embedding is None:
        hint = ' (these look like pre-training weights: use task="pretrain")' if "mask_token" in state else ""
        if task == "pretrain" and "patch_embed.proj.weight" in state:
            hint = ' (these look like fine-tuning weights: use task="finetune")'
        if "encoder.embedding.weight" in state:
            hint = " (these are weights of this package without their configuration: write them by save_pretrained)"
        raise InputError(f"{source} has no {prefix}patch_embed.proj.weight: not a published {task} checkpoint{hint}")
    if embedding.dim() != 5:
        raise InputError(f"{source}: patch_embed.proj.weight has {embedding.dim()} dimensions, expected 5")
    arg_prefix = "encoder_" if task == "pretrain" else ""
    dim = embedding.shape[0]
    patch = embedding.shape[3]
    depth = _count(state, f"{prefix}blocks.", source)
    if not depth:
        raise InputError(f"{source} has no {prefix}blocks.*: not a published {task} checkpoint")
    first = f"{prefix}blocks.0."
    lgi = f"{prefix}lg_region_tokens" in state
    hidden = state.get(f"{first}mlp.fc1.weight")
    third = f"{first}third_attn_norm0.weight" in state
    seen: dict[str, Any] = {
        f"{arg_prefix}embed_dim": dim,
        f"{arg_prefix}depth": depth,
        f"{arg_prefix}in_chans": embedding.shape[1],
        "tubelet_size": embedding.shape[2],
        "patch_size": patch if patch == embedding.shape[4] else tuple(embedding.shape[3:]),
        "attn_type": "local_global" if lgi else "joint",
        "qkv_bias": any(key.startswith(first) and key.endswith("q_bias") for key in state),
        "mlp_ratio": 4.0 if hidden is None else _ratio((hidden.shape[0], dim)),
        "use_learnable_pos_emb": f"{prefix}pos_embed" in state,
        "_feedback": "clip" if f"{first}fourth_attn.q.weight" in state else "none",
    }
    if lgi:
        seen |= {
            "lg_no_second": f"{first}second_attn_norm0.weight" not in state,
            "lg_no_third": not third,
            "lg_first_attn_type": "cross" if f"{first}first_attn_norm1.weight" in state else "self",
        }
        if third:
            seen["lg_third_attn_type"] = "cross" if f"{first}third_attn_norm1.weight" in state else "self"
    if task == "finetune" and "head.weight" in state:
        seen["num_classes"] = state["head.weight"].shape[0]
    elif task == "finetune":
        seen["num_classes"] = 0
    if task == "pretrain" and "encoder_to_decoder.weight" in state and "decoder.head.weight" in state:
        seen["decoder_embed_dim"] = state["encoder_to_decoder.weight"].shape[0]
        seen["decoder_depth"] = _count(state, "decoder.blocks.", source)
        decoding = state.get("decoder.blocks.0.mlp.fc1.weight")
        if hidden is not None and decoding is not None:
            seen["mlp_ratio"] = _ratio((hidden.shape[0], dim), (decoding.shape[0], decoding.shape[1]))
        seen["decoder_num_classes"] = state["decoder.head.weight"].shape[0]
    return seen


def _count(state: Mapping[str, Tensor], prefix: str, source: str) -> int:
    """Number of blocks whose names begin so, which must be without gaps."""
    numbers = {int(m[1]) for key in state if (m := re.match(rf"{re.escape(prefix)}(\d{{1,9}})\.", key))}
    missing = next((number for number in range(len(numbers)) if number not in numbers), None)
    if missing is not None:
        raise InputError(f"{source} has {prefix}{max(numbers)} but no {prefix}{missing}: blocks are missing")
    return len(numbers)


def _ratio(*widths: tuple[int, int]) -> float:
    """One ratio for all pairs of hidden and outer width, as outer times it, rounded down, gives hidden."""
    ratio = max(hidden / outer for hidden, outer in widths)
    fits = all(int(outer * ratio) == hidden for hidden, outer in widths)
    return ratio if fits else math.nextafter(ratio, math.inf)


def _sharing(
    state: Mapping[str, Tensor], prefix: str, depth: int, arguments: Mapping[str, Any], source: str
) -> dict[str, bool]:
    """Which stages share attention weights: in a state dict, equal tensors under two names in every block."""

    def shares(stage: str) -> bool:
        pairs = [
            (state.get(f"{prefix}blocks.{i}.first_attn.{name}"), state.get(f"{prefix}blocks.{i}.{stage}.{name}"))
            for i in range(depth)
            for name in ("q.weight", "kv.weight", "proj.weight")
        ]
        return all(a is not None and b is not None and a.shape == b.shape and a.equal(b) for a, b in pairs)

    stages = {name for name in ("second_attn", "third_attn") if f"{prefix}blocks.0.{name}.q.weight" in state}
    shared = {stage for stage in stages if shares(stage)}
    names = ("lg_attn_param_sharing_first_third", "lg_attn_param_sharing_all")
    if any(name in arguments for name in names):
        first_third, everything = (bool(arguments.get(name, False)) for name in names)
        claimed = stages if everything else stages & {"third_attn"} if first_third else set()
        if claimed - shared:
            raise InputError(
                f"{source}: the arguments say that the first attention shares its weights with "
                f"{', '.join(sorted(claimed))}, but the weights differ"
            )
        return {names[0]: first_third, names[1]: everything}
    return {names[0]: shared == {"third_attn"}, names[1]: bool(shared) and shared == stages and "second_attn" in shared}


def _complete_sizes(args: dict[str, Any], state: Mapping[str, Tensor], prefix: str, source: str) -> None:
    """Fill in clip and region size, which only the number of representative tokens constrains."""
    args.setdefault("all_frames", 16)
    defaults = {"lg_first_attn_type": "self", "lg_third_attn_type": "cross"}
    flags = ("lg_no_second", "lg_no_third", "lg_attn_param_sharing_first_third", "lg_attn_param_sharing_all")
    for name, value in {**defaults, **dict.fromkeys(flags, False)}.items():
        args.setdefault(name, value)
    lgi = args["attn_type"] == "local_global"
    known_size = "img_size" in args
    args.setdefault("img_size", 160)
    height, width = pair(args["img_size"])
    patch = pair(args["patch_size"])
    grid = (args["all_frames"] // args["tubelet_size"], height // patch[0], width // patch[1])
    if not lgi:
        args.setdefault("lg_region_size", grid)
        return
    count = state[f"{prefix}lg_region_tokens"].shape[0]
    args.setdefault("lg_region_size", (2, 5, 10))
    region = tuple(args["lg_region_size"])
    regions = math.prod(g // r for g, r in zip(grid, region, strict=True)) if len(region) == 3 else -1
    if regions != count or any(g % r for g, r in zip(grid, region, strict=True)):
        clip = (args["all_frames"], height, width)
        raise InputError(
            f"{source} has {count} representative tokens, but clips of {clip} with lg_region_size {region} have "
            f"{regions} regions: give args img_size, all_frames and lg_region_size"
            + ("" if known_size else " (the published defaults were assumed)")
        )


def _plain(value: Any) -> Any:
    """Make equal what is equal: 4 and 4.0, (2, 5) and [2, 5], 16 and (16, 16)."""
    if isinstance(value, (list, tuple)):
        return value[0] if len(value) == 2 and value[0] == value[1] else tuple(value)
    return value
