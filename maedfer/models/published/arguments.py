"""The published constructor's arguments: read into our configuration, or inferred from the weights.

Argument names and defaults are those of `VisionTransformer` and `PretrainVisionTransformer` in the published
MAE-DFER code (github.com/sunlicai/MAE-DFER, commit 80b651d).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from maedfer.errors import InputError, unknown
from maedfer.models.config import LGIFormerConfig, MAEDFERConfig

_SHARED = (
    "img_size patch_size tubelet_size mlp_ratio qkv_bias drop_path_rate attn_type use_learnable_pos_emb "
    "lg_region_size lg_first_attn_type lg_third_attn_type lg_attn_param_sharing_first_third "
    "lg_attn_param_sharing_all lg_no_second lg_no_third"
).split()
_KNOWN = {
    "finetune": [
        *_SHARED,
        *"in_chans num_classes embed_dim depth num_heads all_frames init_scale lg_classify_token_type".split(),
    ],
    "pretrain": [
        *_SHARED,
        *"encoder_in_chans encoder_embed_dim encoder_depth encoder_num_heads decoder_num_classes".split(),
        *"decoder_embed_dim decoder_depth decoder_num_heads all_frames".split(),
        *"mask_ratio target_diff_weight normlize_target use_frame_diff_as_target".split(),
    ],
}
# Arguments that change the computation in ways we do not offer: fine at their default, refused otherwise.
_FIXED: dict[str, tuple[Any, ...]] = {
    "qk_scale": (None,),
    "drop_rate": (0, 0.0),
    "attn_drop_rate": (0, 0.0),
    "init_values": (None, 0, 0.0),
    "use_mean_pooling": (True,),
    "keep_temporal_dim": (False,),
    "head_activation_func": (None,),
    "frame_diff_group_size": (2,),
    "encoder_num_classes": (0,),
}
# Names that the training scripts give to constructor arguments.
_SCRIPT_NAMES = {
    "input_size": "img_size",
    "nb_classes": "num_classes",
    "num_frames": "all_frames",
    "drop_path": "drop_path_rate",
}
# Constructor arguments without a meaning for the weights.
_HARMLESS = {"norm_layer", "pretrained", "drop_block_rate"}


def read_arguments(args: Mapping[str, Any], task: str) -> LGIFormerConfig | MAEDFERConfig:
    """Turn complete published arguments into our configuration.

    Raises:
        InputError: values that do not fit together.
    """
    prefix = "encoder_" if task == "pretrain" else ""
    frames = args.get("all_frames", 16)
    height, width = _pair(args["img_size"])
    patch = _pair(args["patch_size"])
    first_third, everything = args["lg_attn_param_sharing_first_third"], args["lg_attn_param_sharing_all"]
    token_types: dict[str, Literal["region", "local", "all"]] = {"region": "region", "org": "local", "all": "all"}
    encoder = LGIFormerConfig(
        clip_size=(frames, height, width),
        patch_size=(args["tubelet_size"], *patch),
        in_channels=args[f"{prefix}in_chans"],
        architecture="lgi" if args["attn_type"] == "local_global" else "vit",
        embed_dim=args[f"{prefix}embed_dim"],
        depth=args[f"{prefix}depth"],
        num_heads=args[f"{prefix}num_heads"],
        mlp_ratio=float(args["mlp_ratio"]),
        qkv_bias=args["qkv_bias"],
        region_size=tuple(args["lg_region_size"]),
        intra_region=args["lg_first_attn_type"],
        inter_region=not args["lg_no_second"],
        interaction="none" if args["lg_no_third"] else args["lg_third_attn_type"],
        feedback=args["_feedback"],
        share_attention="all" if everything else "first_third" if first_third else "none",
        token_type=token_types[args.get("lg_classify_token_type", "region")],
        position="learned" if args["use_learnable_pos_emb"] else "sincos",
        drop_path=args["drop_path_rate"],
        num_classes=args["num_classes"] if task == "finetune" else 0,
        init_scale=args.get("init_scale", 0.001),
    )
    if task == "finetune":
        return encoder
    motion_weight = args["target_diff_weight"]
    return MAEDFERConfig(
        encoder=encoder,
        decoder_dim=args["decoder_embed_dim"],
        decoder_depth=args["decoder_depth"],
        decoder_heads=args["decoder_num_heads"],
        mask_ratio=args["mask_ratio"],
        decoder_order="published",
        target="joint" if args["use_frame_diff_as_target"] else "pixels",
        # The published default, a plain mean over both halves, is their equally weighted sum.
        appearance_weight=0.5 if motion_weight is None else 1.0 - motion_weight,
        normalize_target=args["normlize_target"],
    )


def infer_arguments(
    state: Mapping[str, Tensor], task: str, arguments: Mapping[str, Any], namespace: Mapping[str, Any], source: str
) -> dict[str, Any]:
    """Complete the user's arguments from the weights.

    Args:
        state: published state dict.
        task: "finetune" or "pretrain".
        arguments: the user's, published constructor or script names; they must agree with the weights.
        namespace: what the training script had saved beside the weights; what the weights say goes before it.
        source: the checkpoint's name, for messages.

    Raises:
        InputError: an argument is unknown, contradicts the weights, or cannot be inferred.
    """
    arguments = _known_arguments(arguments, task, strict=True)
    args = {**_known_arguments(namespace, task, strict=False), **arguments}
    prefix = "encoder." if task == "pretrain" else ""
    arg_prefix = "encoder_" if task == "pretrain" else ""
    seen = _seen_in_weights(state, task, prefix, source)
    dim = seen[f"{arg_prefix}embed_dim"]
    for name, value in seen.items():
        if name == "mlp_ratio" and name in arguments and int(dim * arguments[name]) == round(dim * value):
            # The hidden width is rounded down, so the weights tell the ratio only roughly.
            continue
        if name in arguments and _plain(arguments[name]) != _plain(value):
            raise InputError(
                f"{source}: the argument {name}={arguments[name]!r} contradicts the weights, which say {value!r}"
            )
        args[name] = value
    if args["attn_type"] == "local_global":
        args |= _sharing(state, prefix, args[f"{arg_prefix}depth"], arguments, source)
    head_dims = {"num_heads" if task == "finetune" else "encoder_num_heads": dim}
    if task == "pretrain":
        head_dims["decoder_num_heads"] = args["decoder_embed_dim"]
    for name, width in head_dims.items():
        if name not in args:
            # All published models have heads of 64 channels; weights cannot tell.
            if width % 64:
                raise InputError(f"{source}: the number of heads cannot be read off the weights: give args {name}")
            args[name] = width // 64
    args.setdefault("use_learnable_pos_emb", False)
    args.setdefault("drop_path_rate", 0.0)
    _complete_sizes(args, state, prefix, source)
    if task == "finetune":
        args.setdefault("lg_classify_token_type", "region")
    else:
        defaults = {"mask_ratio": 0.9, "target_diff_weight": None, "normlize_target": True}
        for name, value in {**defaults, "use_frame_diff_as_target": True}.items():
            args.setdefault(name, value)
    return args


def _known_arguments(arguments: Mapping[str, Any], task: str, strict: bool) -> dict[str, Any]:
    """Keep what the constructors know, under their names; when `strict`, refuse the rest."""
    known = set(_KNOWN[task])
    args: dict[str, Any] = {}
    for name, value in arguments.items():
        name = _SCRIPT_NAMES.get(name, name)
        if task == "pretrain" and name == "num_classes":
            continue
        if name in _FIXED:
            if strict and value not in _FIXED[name]:
                raise InputError(f"published argument {name}={value!r} is not supported, only {_FIXED[name][0]!r}")
        elif name in known:
            if value is not None or name == "target_diff_weight":
                args[name] = value
        elif strict and name not in _HARMLESS:
            raise unknown(f"published {task} argument", name, sorted(known | set(_FIXED)))
    return args


def _seen_in_weights(state: Mapping[str, Tensor], task: str, prefix: str, source: str) -> dict[str, Any]:
    """Arguments that shapes and names of the weights determine."""
    embedding = state.get(f"{prefix}patch_embed.proj.weight")
    if embedding is None:
        hint = ' (these look like pre-training weights: use task="pretrain")' if "mask_token" in state else ""
        if task == "pretrain" and "patch_embed.proj.weight" in state:
            hint = ' (these look like fine-tuning weights: use task="finetune")'
        raise InputError(f"{source} has no {prefix}patch_embed.proj.weight: not a published {task} checkpoint{hint}")
    if embedding.dim() != 5:
        raise InputError(f"{source}: patch_embed.proj.weight has {embedding.dim()} dimensions, expected 5")
    arg_prefix = "encoder_" if task == "pretrain" else ""
    dim = embedding.shape[0]
    patch = embedding.shape[3]
    numbers = [int(m[1]) for key in state if (m := re.match(rf"{re.escape(prefix)}blocks\.(\d+)\.", key))]
    if not numbers:
        raise InputError(f"{source} has no {prefix}blocks.*: not a published {task} checkpoint")
    first = f"{prefix}blocks.0."
    lgi = f"{prefix}lg_region_tokens" in state
    hidden = state.get(f"{first}mlp.fc1.weight")
    third = f"{first}third_attn_norm0.weight" in state
    seen: dict[str, Any] = {
        f"{arg_prefix}embed_dim": dim,
        f"{arg_prefix}depth": max(numbers) + 1,
        f"{arg_prefix}in_chans": embedding.shape[1],
        "tubelet_size": embedding.shape[2],
        "patch_size": patch if patch == embedding.shape[4] else tuple(embedding.shape[3:]),
        "attn_type": "local_global" if lgi else "joint",
        "qkv_bias": any(key.startswith(first) and key.endswith("q_bias") for key in state),
        "mlp_ratio": hidden.shape[0] / dim if hidden is not None else 4.0,
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
        depth = [int(m[1]) for key in state if (m := re.match(r"decoder\.blocks\.(\d+)\.", key))]
        seen["decoder_embed_dim"] = state["encoder_to_decoder.weight"].shape[0]
        seen["decoder_depth"] = max(depth, default=-1) + 1
        seen["decoder_num_classes"] = state["decoder.head.weight"].shape[0]
    return seen


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
    height, width = _pair(args["img_size"])
    patch = _pair(args["patch_size"])
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


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _plain(value: Any) -> Any:
    """Make equal what is equal: 4 and 4.0, (2, 5) and [2, 5], 16 and (16, 16)."""
    if isinstance(value, (list, tuple)):
        return value[0] if len(value) == 2 and value[0] == value[1] else tuple(value)
    return value
