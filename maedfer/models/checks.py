"""What models, blocks and layers refuse: sizes that cannot be, and inputs that are not theirs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from maedfer.errors import InputError, unknown
from maedfer.kernels._autocast import autocast_dtype
from maedfer.kernels._dispatch import check_name
from maedfer.kernels.functional import FULL_ATTENTION
from maedfer.models.config import LGIFormerConfig


def check_sizes(
    dim: int,
    num_heads: int,
    drop_path: float = 0.0,
    *,
    mlp_ratio: float = 4.0,
    eps: float = 1.0,
    impl: str = "auto",
    backend: str = "sdpa",
    **switches: bool,
) -> None:
    """Refuse arguments that no block or layer can have; `switches` are True or False.

    Raises:
        InputError: naming what is out of range, or the two that do not fit together.
    """
    for name, count in (("dim", dim), ("num_heads", num_heads)):
        check_count(name, count)
    if dim % num_heads:
        raise InputError(f"num_heads {num_heads} does not divide dim {dim}: choose a divisor")
    if not _is_number(drop_path) or not 0.0 <= drop_path < 1.0:
        raise InputError(f"drop_path must be in [0, 1), got {drop_path!r}")
    if not _is_number(mlp_ratio) or mlp_ratio <= 0 or dim * mlp_ratio < 1:
        raise InputError(f"mlp_ratio must be above 0, so that dim * mlp_ratio is 1 or more, got {mlp_ratio!r}")
    if not _is_number(eps) or eps <= 0:
        raise InputError(f"eps must be a number above 0, got {eps!r}")
    for name, switch in switches.items():
        if not isinstance(switch, bool):
            raise InputError(f"{name} must be True or False, got {switch!r}")
    check_name(impl)
    if backend not in FULL_ATTENTION:
        raise unknown("attention backend", backend, FULL_ATTENTION)


def check_count(name: str, count: Any, least: int = 1) -> None:
    """Refuse what is no whole number, or too small a one.

    Raises:
        InputError: naming it.
    """
    if not isinstance(count, Integral) or isinstance(count, bool) or int(count) < least:
        raise InputError(f"{name} must be a whole number, {least} or more, got {count!r}")


def check_counts(name: str, counts: Any) -> None:
    """Refuse what are not whole numbers of 1 or more, one for each dimension.

    Raises:
        InputError: naming them.
    """
    is_list = isinstance(counts, Sequence) and not isinstance(counts, str)
    if not is_list or any(not isinstance(one, Integral) or isinstance(one, bool) or int(one) < 1 for one in counts):
        raise InputError(f"{name} must be positive whole numbers, one for each dimension, got {counts!r}")


def check_config(config: Any, kind: type, model: str) -> None:
    """Refuse a configuration that is not of the model's kind.

    Raises:
        InputError: with both kinds.
    """
    if not isinstance(config, kind):
        raise InputError(
            f"{model} takes a {kind.__name__}, got {type(config).__name__}: maedfer.models.model_config makes one"
        )


def check_tensor(value: Any, what: str) -> None:
    """Refuse what is no tensor.

    Raises:
        InputError: naming its type.
    """
    if not isinstance(value, Tensor):
        raise InputError(f"{what} must be a torch.Tensor, got {type(value).__name__}: torch.as_tensor makes one")


def check_clips(clips: Any, config: LGIFormerConfig) -> None:
    """Refuse what is no batch of clips of the configured size, in bytes or floats.

    Raises:
        InputError: with both shapes, or with the dtype.
    """
    check_tensor(clips, "clips")
    expected = (config.in_channels, *config.clip_size)
    if tuple(clips.shape[1:]) != expected:
        raise InputError(
            f"the model takes clips of shape [B, {', '.join(map(str, expected))}] (channels, then clip_size), "
            f"got {list(clips.shape)}: resize or resample the clip, or set clip_size"
        )
    check_pixels(clips, "clips")


def check_pixels(frames: Tensor, what: str) -> None:
    """Refuse pixels that are neither bytes nor floats.

    Raises:
        InputError: with the dtype.
    """
    if frames.dtype != torch.uint8 and not frames.is_floating_point():
        raise InputError(
            f"{what} must be uint8, or floating point, got {frames.dtype}: "
            "frames.to(torch.uint8) is right for whole numbers from 0 to 255"
        )


def check_fits_weight(clips: Tensor, weight: Tensor) -> None:
    """Refuse clips on another device than the weights, or floats of another dtype where autocast does not convert.

    Raises:
        InputError: with both devices or dtypes.
    """
    kind = weight.device.type
    if clips.device != weight.device:
        fill = "give it memory by to_empty, and weights" if kind == "meta" else f"clips.to({str(weight.device)!r})"
        raise InputError(f"clips are on {clips.device}, the model is on {weight.device}: {fill}")
    if clips.dtype in (torch.uint8, weight.dtype):
        return
    if autocast_dtype(kind) is None or torch.float64 in (clips.dtype, weight.dtype):
        raise InputError(
            f"clips are {clips.dtype}, the model's weights {weight.dtype}: give clips.to({weight.dtype}), or uint8"
        )


def check_visible(visible: Any, clips: Tensor, config: LGIFormerConfig) -> None:
    """Refuse what are no numbers of visible tokens, [B, M, V] int64, for a batch of clips.

    Raises:
        InputError: with what they are.
    """
    check_tensor(visible, "visible")
    batch, regions = clips.shape[0], config.num_regions
    if visible.dtype != torch.int64 or visible.dim() != 3 or tuple(visible.shape[:2]) != (batch, regions):
        raise InputError(
            f"visible must be numbers of tokens by region, int64 [{batch}, {regions}, V], "
            f"got {visible.dtype} {list(visible.shape)}: model.token_numbers makes them from masks"
        )
    _check_numbers(visible, "visible", config.num_tokens)


def check_wanted(wanted: Tensor, clips: Tensor, config: LGIFormerConfig) -> None:
    """Refuse numbers of tokens to reconstruct, [B, n], that are of another batch, or of none.

    Raises:
        InputError: with what they are.
    """
    if wanted.shape[0] != clips.shape[0] or wanted.shape[1] == 0:
        raise InputError(
            f"wanted must name one token or more of each clip, [{clips.shape[0]}, n], got {list(wanted.shape)}"
        )
    _check_numbers(wanted, "wanted", config.num_tokens)


def check_stream(z: Any, dim: int, attend_to: Any = None) -> None:
    """Refuse what is no stream [B, M, S, C] of `dim` channels, or no mask of its rows, [M, S] or [B, M, S] bool.

    Raises:
        InputError: with both shapes, or with the dtype.
    """
    check_tensor(z, "the stream")
    if z.dim() != 4 or z.shape[-1] != dim:
        raise InputError(f"the stream must be [B, M, S, {dim}], got {list(z.shape)}")
    if z.shape[2] < 2:
        raise InputError(f"a region has a representative token and one local token or more, got {z.shape[2]} rows")
    _check_floats(z)
    _check_mask(attend_to, z.shape[1:3], z.shape[:3])


def check_rows(x: Any, dim: int, attend_to: Any = None) -> None:
    """Refuse what are no rows [..., K, C] of `dim` channels, or no mask of them, [K] or [..., K] bool.

    Raises:
        InputError: with both shapes, or with the dtype.
    """
    check_tensor(x, "the stream")
    if x.dim() < 2 or x.shape[-1] != dim:
        raise InputError(f"the stream must be [..., K, {dim}], got {list(x.shape)}")
    _check_floats(x)
    _check_mask(attend_to, x.shape[-2:-1], x.shape[:-1])


def _check_floats(z: Tensor) -> None:
    if not z.is_floating_point():
        raise InputError(f"the stream must be floating point, got {z.dtype}")


def _check_mask(attend_to: Any, rows: torch.Size, all_rows: torch.Size) -> None:
    if attend_to is None:
        return
    check_tensor(attend_to, "attend_to")
    if attend_to.dtype != torch.bool or attend_to.shape not in (rows, all_rows):
        raise InputError(
            f"attend_to must be bool {list(rows)} or {list(all_rows)}, got {attend_to.dtype} {list(attend_to.shape)}"
        )


def _check_numbers(numbers: Tensor, what: str, count: int) -> None:
    """Where looking costs nothing: a GPU would be waited for, and a compiler has no values."""
    if torch.compiler.is_compiling() or type(numbers) is not Tensor or numbers.device.type != "cpu":
        return
    if numbers.numel() and not 0 <= int(numbers.min()) <= int(numbers.max()) < count:
        raise InputError(
            f"{what} must be numbers of tokens from 0 to {count - 1}, got {int(numbers.min())} to {int(numbers.max())}"
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
