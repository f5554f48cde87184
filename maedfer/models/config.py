"""Typed configurations of the models, their names, and the sizes that the paper uses."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

from maedfer.dataclass_tree import check_ranges, field_types, former_names, from_dict, rename
from maedfer.errors import InputError, unknown
from maedfer.kernels import Impl
from maedfer.setting import documented, setting

# Clips enter the models normalised with these (RGB, for values in [0, 1]).
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def channel_statistics(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation that inputs are normalised with: ImageNet's for three channels, else 0 and 1."""
    return (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else ((0.0,) * channels, (1.0,) * channels)


@documented
@dataclasses.dataclass(frozen=True)
class LGIFormerConfig:
    """An LGI-Former (or ViT) encoder with its classification head.

    Sizes are (frames, height, width) for clips, (height, width) for 2-D inputs such as spectrograms.
    """

    clip_size: tuple[int, ...] = setting(
        (16, 160, 160), low=1, high=65_536, doc="the input's size in frames and pixels"
    )
    patch_size: tuple[int, ...] = setting(
        (2, 16, 16), low=1, high=65_536, belongs_to="weights", doc="the size of one token's cube"
    )
    in_channels: int = setting(3, low=1, high=4096, belongs_to="weights", doc="channels of the input")
    architecture: Literal["lgi", "vit"] = setting(
        "lgi",
        belongs_to="weights",
        formerly="encoder",
        doc='"lgi" for LGI-Former, "vit" for joint space-time attention over all tokens (the encoder of VideoMAE)',
    )
    embed_dim: int = setting(512, low=1, high=65_536, belongs_to="weights", doc="C, channels of the residual stream")
    depth: int = setting(16, low=1, high=1000, belongs_to="weights", doc="number of blocks")
    num_heads: int = setting(
        8,
        low=1,
        high=65_536,
        belongs_to="weights",
        doc="attention heads; the head dim is embed_dim / num_heads",
    )
    mlp_ratio: float = setting(
        4.0,
        above=0,
        high=1000,
        belongs_to="weights",
        doc="hidden channels of the feed-forward network over embed_dim",
    )
    qkv_bias: bool = setting(True, belongs_to="weights", doc="bias on queries and values (keys never have one)")
    region_size: tuple[int, ...] = setting(
        (2, 5, 10),
        low=1,
        high=65_536,
        doc='tokens of one local region along each dimension; divides the token grid. Ignored by "vit"',
    )
    intra_region: Literal["self", "cross"] = setting(
        "self",
        belongs_to="weights",
        doc='"self" for attention among all rows of a region; "cross" updates the representative token only',
    )
    inter_region: bool = setting(
        True,
        belongs_to="weights",
        doc="the second stage, self-attention among representative tokens",
    )
    interaction: Literal["cross", "self", "none"] = setting(
        "cross",
        belongs_to="weights",
        doc='the third stage: "cross" lets every local token attend to all representative tokens, "self" is a second '
        'self-attention within the region, "none" leaves it out',
    )
    feedback: Literal["none", "region", "clip"] = setting(
        "none",
        belongs_to="weights",
        doc="the fourth attention of AVF-MAE++ (CVPR 2025) after the third: representative tokens attend to the local "
        'tokens of their own region ("region") or of the whole clip ("clip", as in its published code)',
    )
    share_attention: Literal["none", "first_third", "all"] = setting(
        "none",
        belongs_to="weights",
        doc="share attention weights of the first and third stage, or of all three",
    )
    token_type: Literal["region", "local", "all"] = setting(
        "region",
        doc='tokens averaged for the head: representative ("region"), "local", or "all"',
    )
    position: Literal["sincos", "learned"] = setting(
        "sincos",
        belongs_to="weights",
        doc="fixed sine-cosine table or a learned one",
    )
    position_grid: tuple[int, ...] | None = setting(
        None,
        low=1,
        high=65_536,
        doc="token grid that the position table was made for, when it differs from this model's grid: the table is "
        "interpolated. Set when weights pre-trained at one size are used at another",
    )
    drop_path: float = setting(
        0.0,
        low=0,
        below=1,
        by_task={"finetune": 0.1},
        doc="stochastic depth of the last block; it grows linearly from 0 at the first",
    )
    num_classes: int = setting(7, low=0, high=1_000_000, doc="outputs of the head; 0 gives a feature extractor")
    init_scale: float = setting(0.001, low=0, high=1_000_000, doc="factor on the head's initial weights")
    checkpoint_blocks: bool = setting(
        False,
        belongs_to="machine",
        doc="recompute each block in the backward pass instead of keeping its activations",
    )
    impl: Impl = setting(
        "auto",
        belongs_to="machine",
        doc='who computes: "auto" for the fastest that can run, "triton" for the fused kernels, "native" for what '
        'csrc/ has ("cuda" is the same, on a GPU alone), "torch" for PyTorch alone, arranged for speed, "reference" '
        "for the specification. An explicit choice that cannot run raises",
    )
    full_attention: Literal["sdpa", "xformers"] = setting(
        "sdpa",
        belongs_to="machine",
        doc='who computes attention over all tokens of a clip (ViT, and the decoder of pre-training): "sdpa" for '
        'PyTorch, "xformers" for that library',
    )

    def __post_init__(self) -> None:
        for name in ("clip_size", "patch_size", "region_size", "position_grid"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, tuple(getattr(self, name)))
        check_ranges(self)
        dims = len(self.clip_size)
        if dims not in (2, 3):
            raise InputError(
                f"clip_size must be [frames, height, width] or [height, width], got {list(self.clip_size)}"
            )
        if self.position_grid is not None and len(self.position_grid) != dims:
            raise InputError(f"position_grid must have {dims} numbers as clip_size, got {list(self.position_grid)}")
        if len(self.patch_size) != dims or (self.architecture == "lgi" and len(self.region_size) != dims):
            raise InputError(
                f"clip_size {self.clip_size}, patch_size {self.patch_size} and region_size {self.region_size} "
                "must have the same number of dimensions"
            )
        if any(size % patch for size, patch in zip(self.clip_size, self.patch_size, strict=True)):
            raise InputError(f"patch_size {self.patch_size} does not divide clip_size {self.clip_size}")
        if self.architecture == "lgi" and any(g % r for g, r in zip(self.grid, self.region_size, strict=True)):
            near = tuple(_nearest_divisor(g, r) for g, r in zip(self.grid, self.region_size, strict=True))
            raise InputError(
                f"region_size {self.region_size} does not divide the token grid {self.grid} "
                f"(clip_size / patch_size): {near} would"
            )
        if self.embed_dim % self.num_heads:
            raise InputError(f"num_heads {self.num_heads} does not divide embed_dim {self.embed_dim}")
        if int(self.embed_dim * self.mlp_ratio) < 1:
            raise InputError(f"mlp_ratio {self.mlp_ratio:g} of embed_dim {self.embed_dim} gives no hidden channel")
        if self.feedback != "none" and self.interaction != "cross":
            raise InputError('feedback follows the local-global interaction: it needs interaction="cross"')

    @property
    def grid(self) -> tuple[int, ...]:
        """Tokens along each dimension, (8, 10, 10) for the base model."""
        return tuple(size // patch for size, patch in zip(self.clip_size, self.patch_size, strict=True))

    @property
    def region(self) -> tuple[int, ...]:
        """Tokens of one region along each dimension; the whole grid for a ViT."""
        return self.region_size if self.architecture == "lgi" else self.grid

    @property
    def region_grid(self) -> tuple[int, ...]:
        """Regions along each dimension."""
        return tuple(g // r for g, r in zip(self.grid, self.region, strict=True))

    @property
    def num_tokens(self) -> int:
        """K, tokens of a clip."""
        return math.prod(self.grid)

    @property
    def num_regions(self) -> int:
        """M, regions of a clip (1 for a ViT)."""
        return math.prod(self.region_grid)

    @property
    def region_tokens(self) -> int:
        """N, local tokens of a region."""
        return math.prod(self.region)

    @property
    def cube_values(self) -> int:
        """Values in one token's cube, 2 * 16 * 16 * 3 = 1536 for the base model."""
        return math.prod(self.patch_size) * self.in_channels


@documented
@dataclasses.dataclass(frozen=True)
class MAEDFERConfig:
    """The masked autoencoder used for pre-training."""

    encoder: LGIFormerConfig = setting(
        LGIFormerConfig(),
        doc="the encoder; its head settings are not used",
    )
    decoder_dim: int = setting(384, low=1, high=65_536, belongs_to="weights", doc="channels of the decoder")
    decoder_depth: int = setting(4, low=1, high=1000, belongs_to="weights", doc="blocks of the decoder")
    decoder_heads: int = setting(6, low=1, high=65_536, belongs_to="weights", doc="attention heads of the decoder")
    mask_ratio: float = setting(
        0.9,
        above=0,
        below=1,
        doc="share of tokens hidden from the encoder, the same in every region",
    )
    decoder_order: Literal["aligned", "published"] = setting(
        "aligned",
        belongs_to="weights",
        doc='"aligned" gives each visible token its own position in the decoder. "published" gives it the position '
        "that the published code gives it, which for regions of more than one frame is that of another visible "
        "token; released pre-training checkpoints were trained that way",
    )
    target: Literal["joint", "appearance", "motion", "pixels"] = setting(
        "joint",
        doc='"joint" appearance and motion, "appearance" or "motion" alone (that half of the joint target), or '
        '"pixels", all frames as they are (VideoMAE)',
    )
    appearance_weight: float = setting(0.5, low=0, high=1, doc="lambda of the joint loss; motion has 1 - lambda")
    normalize_target: bool = setting(
        True,
        doc="normalise every cube of the target by its own mean and standard deviation",
    )
    decoder_keep: float = setting(
        1.0,
        above=0,
        high=1,
        doc="share of the masked tokens that the decoder reconstructs; below 1 they are chosen by running cells "
        "(VideoMAE V2, CVPR 2023)",
    )

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.decoder_dim % self.decoder_heads:
            raise InputError(f"decoder_heads {self.decoder_heads} does not divide decoder_dim {self.decoder_dim}")
        if self.target != "pixels" and (len(self.encoder.patch_size) != 3 or self.encoder.patch_size[0] < 2):
            raise InputError(
                f"target {self.target!r} needs cubes of two frames or more, patch_size is {self.encoder.patch_size}: "
                'use target="pixels"'
            )


ModelConfig = LGIFormerConfig | MAEDFERConfig

# Settings of the encoder that an autoencoder's configuration may give without `encoder.`.
_SHORT = frozenset(field_types(LGIFormerConfig)) - frozenset(field_types(MAEDFERConfig))

# Channels, depth and heads: LGI-Former sizes of the paper (Table 2 and section 4.2), ViT sizes of the ViT literature.
_SIZES: dict[str, dict[str, dict[str, int]]] = {
    "lgi": {
        "tiny": {"embed_dim": 256, "depth": 16, "num_heads": 4},
        "small": {"embed_dim": 384, "depth": 16, "num_heads": 6},
        "base": {"embed_dim": 512, "depth": 16, "num_heads": 8},
    },
    "vit": {
        "tiny": {"embed_dim": 192, "depth": 12, "num_heads": 3},
        "small": {"embed_dim": 384, "depth": 12, "num_heads": 6},
        "base": {"embed_dim": 768, "depth": 12, "num_heads": 12},
    },
}
_FAMILIES = {
    "lgi_former": ("lgi", LGIFormerConfig),
    "vit": ("vit", LGIFormerConfig),
    "mae_dfer": ("lgi", MAEDFERConfig),
    "video_mae": ("vit", MAEDFERConfig),
}


def list_models() -> list[str]:
    """Names that `create_model` and `model_config` know."""
    return [f"{family}_{size}" for family, (kind, _) in _FAMILIES.items() for size in _SIZES[kind]]


def model_config(name: str, **overrides: Any) -> ModelConfig:
    """The configuration of a named model.

    Args:
        name: one of `list_models()`. `lgi_former_*` and `vit_*` are classifiers, `mae_dfer_*` masked autoencoders on
            LGI-Former with the joint target, `video_mae_*` masked autoencoders on a ViT with VideoMAE's target.
        overrides: fields to change. For autoencoders, fields of the encoder may be given directly (clip_size=...) or
            as encoder={...}, but not both ways.

    Raises:
        InputError: unknown name or field, wrong type, or settings that do not fit together.
    """
    if name not in list_models():
        raise unknown("model", name, list_models())
    family, size = name.rsplit("_", 1)
    architecture, config_type = _FAMILIES[family]
    base = {"architecture": architecture, **_SIZES[architecture][size]}
    if config_type is LGIFormerConfig:
        # Before they meet the sizes of the name, which go by present names.
        overrides = rename(overrides, former_names(LGIFormerConfig, "model."), "model.")
        return from_dict(LGIFormerConfig, {**base, **overrides}, path="model")
    values = nested(overrides, "model.")
    encoder = values.pop("encoder", {})
    defaults = {"target": "pixels"} if family == "video_mae" else {}
    return from_dict(
        MAEDFERConfig,
        {**defaults, **values, "encoder": {**base, "num_classes": 0, **encoder}},
        path="model",
    )


def nested(values: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Settings of a masked autoencoder with those of its encoder, which may be given without `encoder.`, under it.

    Args:
        values: of a `MAEDFERConfig`, as a nested dictionary.
        path: where they sit in a larger tree, for error messages ("model.").

    Raises:
        InputError: a setting of the encoder is given both ways.
    """
    values = dict(values)
    short = {key: values.pop(key) for key in list(values) if key in _SHORT}
    encoder = values.get("encoder", {})
    if isinstance(encoder, LGIFormerConfig):
        encoder = dataclasses.asdict(encoder)
    if not isinstance(encoder, Mapping):
        raise InputError(f"{path}encoder must be a section with keys, got {encoder!r}")
    encoder = rename(encoder, former_names(LGIFormerConfig, f"{path}encoder."), f"{path}encoder.")
    for key in short:
        if key in encoder:
            raise InputError(f"{path}{key} is short for {path}encoder.{key}: give one of them, not both")
    return {**values, "encoder": {**encoder, **short}} if encoder or short else values


def full_key(key: str) -> str:
    """The dotted key of a setting of a masked autoencoder: "encoder.depth" for "depth"."""
    return f"encoder.{key}" if key in _SHORT else key


def named_keys(name: str, earlier: str) -> frozenset[str]:
    """Dotted keys of the settings that the name of a model decides where another one was named before.

    Args:
        name: of the model.
        earlier: the name that was there before, of a model of the same class.
    """
    sizes = ("architecture", *_SIZES["lgi"]["base"])
    family, other = (one.rpartition("_")[0] for one in (name, earlier))
    if _FAMILIES[family][1] is LGIFormerConfig:
        return frozenset(sizes)
    return frozenset((*(f"encoder.{key}" for key in sizes), *(("target",) if family != other else ())))


def _nearest_divisor(size: int, near: int) -> int:
    return min((d for d in range(1, size + 1) if size % d == 0), key=lambda d: (abs(d - near), d))
