"""The published constructor's arguments: read into our configuration, and written from it.

Argument names and defaults are those of `VisionTransformer` and `PretrainVisionTransformer` in the published
MAE-DFER code (github.com/sunlicai/MAE-DFER, commit 80b651d).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

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
_NUMBERS = {"mlp_ratio", "drop_path_rate", "init_scale", "mask_ratio", "target_diff_weight"}
_SWITCHES = {
    *("qkv_bias", "use_learnable_pos_emb", "lg_attn_param_sharing_first_third", "lg_attn_param_sharing_all"),
    *("lg_no_second", "lg_no_third", "normlize_target", "use_frame_diff_as_target"),
}
_SIZES = {"img_size": (1, 2), "patch_size": (1, 2), "lg_region_size": (3,)}
_CHOICES = {
    "attn_type": ("local_global", "joint"),
    "lg_first_attn_type": ("self", "cross"),
    "lg_third_attn_type": ("cross", "self"),
    "lg_classify_token_type": ("region", "org", "all"),
}
_TOKEN_TYPES: dict[str, Literal["region", "local", "all"]] = {"region": "region", "org": "local", "all": "all"}


def read_arguments(args: Mapping[str, Any], task: str, source: str) -> LGIFormerConfig | MAEDFERConfig:
    """Turn complete published arguments into our configuration.

    Args:
        args: by name.
        task: "finetune" or "pretrain".
        source: the checkpoint's name, for messages.

    Raises:
        InputError: values that do not fit together.
    """
    try:
        return _config_of(args, task)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error


def _config_of(args: Mapping[str, Any], task: str) -> LGIFormerConfig | MAEDFERConfig:
    prefix = "encoder_" if task == "pretrain" else ""
    frames = args.get("all_frames", 16)
    height, width = pair(args["img_size"])
    patch = pair(args["patch_size"])
    first_third, everything = args["lg_attn_param_sharing_first_third"], args["lg_attn_param_sharing_all"]
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
        token_type=_TOKEN_TYPES[args.get("lg_classify_token_type", "region")],
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


def published_arguments(config: LGIFormerConfig | MAEDFERConfig) -> dict[str, Any]:
    """The arguments with which the published constructors make a model of the same weights and outputs.

    Raises:
        InputError: they have none for a setting that changes what a classifier or an encoder computes.
    """
    pretrain = isinstance(config, MAEDFERConfig)
    encoder = config.encoder if isinstance(config, MAEDFERConfig) else config
    unknown_there = {
        "feedback": encoder.feedback == "region",
        "position_grid": encoder.position_grid not in (None, encoder.grid) and encoder.position == "sincos",
        "clip_size": len(encoder.clip_size) != 3,
    }
    for name, differs in unknown_there.items():
        if differs:
            raise InputError(
                f"the published code has no counterpart of {name}={getattr(encoder, name)!r}, a model with it cannot "
                "be written under published names: keep it as a folder of save_pretrained"
            )
    prefix = "encoder_" if pretrain else ""
    args: dict[str, Any] = {
        "img_size": _single(encoder.clip_size[1:]),
        "all_frames": encoder.clip_size[0],
        "patch_size": _single(encoder.patch_size[1:]),
        "tubelet_size": encoder.patch_size[0],
        f"{prefix}in_chans": encoder.in_channels,
        f"{prefix}embed_dim": encoder.embed_dim,
        f"{prefix}depth": encoder.depth,
        f"{prefix}num_heads": encoder.num_heads,
        "mlp_ratio": encoder.mlp_ratio,
        "qkv_bias": encoder.qkv_bias,
        "attn_type": "local_global" if encoder.architecture == "lgi" else "joint",
        "use_learnable_pos_emb": encoder.position == "learned",
        "drop_path_rate": encoder.drop_path,
    }
    if encoder.architecture == "lgi":
        args |= {
            "lg_region_size": list(encoder.region_size),
            "lg_first_attn_type": encoder.intra_region,
            "lg_third_attn_type": "cross" if encoder.interaction == "none" else encoder.interaction,
            "lg_no_second": not encoder.inter_region,
            "lg_no_third": encoder.interaction == "none",
            "lg_attn_param_sharing_first_third": encoder.share_attention == "first_third",
            "lg_attn_param_sharing_all": encoder.share_attention == "all",
        }
    if not isinstance(config, MAEDFERConfig):
        token_type = next(theirs for theirs, ours in _TOKEN_TYPES.items() if ours == encoder.token_type)
        tokens = {"lg_classify_token_type": token_type} if encoder.architecture == "lgi" else {}
        return args | tokens | {"num_classes": encoder.num_classes, "init_scale": encoder.init_scale}
    motion = {"appearance": 0.0, "motion": 1.0}.get(config.target, 1.0 - config.appearance_weight)
    return args | {
        "decoder_embed_dim": config.decoder_dim,
        "decoder_depth": config.decoder_depth,
        "decoder_num_heads": config.decoder_heads,
        "decoder_num_classes": encoder.cube_values,
        "mask_ratio": config.mask_ratio,
        "use_frame_diff_as_target": config.target != "pixels",
        "target_diff_weight": motion,
        "normlize_target": config.normalize_target,
    }


def known_arguments(arguments: Mapping[str, Any], task: str, strict: bool) -> dict[str, Any]:
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


def check_value(name: str, value: Any, source: str, label: str) -> None:
    """Refuse values that cannot be those of the argument `name`, which messages call `label`."""

    def whole(number: Any) -> bool:
        return isinstance(number, int) and not isinstance(number, bool) and number >= 0

    if name in _NUMBERS:
        right = value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
        expected = "a number"
    elif name in _SWITCHES:
        right, expected = isinstance(value, bool), "true or false"
    elif name in _CHOICES:
        right, expected = value in _CHOICES[name], " or ".join(map(repr, _CHOICES[name]))
    elif name in _SIZES:
        numbers = value if isinstance(value, (list, tuple)) else (value,)
        right = len(numbers) in _SIZES[name] and all(whole(number) and number > 0 for number in numbers)
        expected = "three whole numbers" if name == "lg_region_size" else "a whole number or two"
    else:
        right, expected = whole(value), "a whole number"
    if not right:
        raise InputError(f"{source}: {label} must be {expected}, got {value!r}")


def pair(size: Any) -> tuple[int, int]:
    """Height and width of a size that may be given by one number."""
    height, width = (size, size) if isinstance(size, int) else (size[0], size[-1])
    return int(height), int(width)


def _single(size: tuple[int, ...]) -> int | list[int]:
    """One number for a square, as the published scripts write it."""
    return size[0] if size[0] == size[1] else list(size)
