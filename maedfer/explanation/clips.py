"""What explanations are given: a model and one clip, in any of the forms that people have them in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maedfer.errors import InputError
from maedfer.models import MAEDFER, LGIFormer, LGIFormerConfig
from maedfer.models.config import channel_statistics

Clip = Tensor | np.ndarray


def encoder_config(model: Any) -> LGIFormerConfig:
    """The configuration of the encoder of a classifier or an autoencoder.

    Raises:
        InputError: it is neither.
    """
    if not isinstance(model, (LGIFormer, MAEDFER)):
        raise InputError(f"an explanation needs an LGIFormer or a MAEDFER, got {type(model).__name__}")
    return model.config if isinstance(model, LGIFormer) else model.config.encoder


def as_batch(model: LGIFormer | MAEDFER, clip: Clip) -> Tensor:
    """One clip as its model takes it, on the model's device: [1, I, *clip_size], uint8 or float.

    Args:
        model: whose clip it is.
        clip: uint8 or float [I, *clip_size] as models take it, with or without a leading 1; or pictures, uint8
            [*clip_size, I].

    Raises:
        InputError: it is of another shape or dtype.
    """
    config = encoder_config(model)
    given = torch.from_numpy(np.ascontiguousarray(clip)) if isinstance(clip, np.ndarray) else clip
    pictures, plain = (*config.clip_size, config.in_channels), (config.in_channels, *config.clip_size)
    if not isinstance(given, Tensor) or not (given.dtype == torch.uint8 or given.is_floating_point()):
        kind = given.dtype if isinstance(given, Tensor) else type(clip).__name__
        raise InputError(f"a clip must be an array or a tensor of bytes or floats, got {kind}")
    shape = tuple(given.shape)
    if shape[:1] == (1,) and len(shape) == len(plain) + 1:
        given, shape = given[0], shape[1:]
    if shape == pictures and shape != plain and given.dtype == torch.uint8:
        given = given.movedim(-1, 0)
    elif shape != plain:
        raise InputError(
            f"the model takes one clip [{', '.join(map(str, plain))}], or pictures in bytes "
            f"[{', '.join(map(str, pictures))}], got {given.dtype} {list(given.shape)}"
        )
    weight = next(model.parameters())
    given = given if given.dtype == torch.uint8 else given.to(weight.dtype)
    return given.to(weight.device).contiguous()[None]


def pictures_of(batch: Tensor, config: LGIFormerConfig) -> np.ndarray | None:
    """The frames of a clip of `as_batch`: uint8 [T, H, W, 3]; None where they cannot be seen."""
    if config.in_channels != 3 or len(config.clip_size) != 3:
        return None
    frames = batch[0].cpu()
    if frames.dtype != torch.uint8:
        mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in channel_statistics(3))
        frames = ((frames.float() * std + mean).clamp(0, 1) * 255).round().to(torch.uint8)
    return np.ascontiguousarray(frames.permute(1, 2, 3, 0).numpy())


def as_shares(batch: Tensor) -> Tensor:
    """A clip in bytes as floats in [0, 1], float32 [1, I, *clip_size]; what was given in floats is refused.

    Raises:
        InputError: it was.
    """
    if batch.dtype != torch.uint8:
        raise InputError(f"a clip that is to be changed must be given in bytes, uint8, got {batch.dtype}")
    return batch.float() / 255.0


def check_frames(config: LGIFormerConfig, name: str = "the model") -> None:
    """Refuse a model whose clips cannot be shown as pictures.

    Raises:
        InputError: it takes no frames with height and width in three channels.
    """
    if config.in_channels != 3 or len(config.clip_size) != 3:
        raise InputError(
            f"{name} takes {config.in_channels} channels of {list(config.clip_size)}: an explanation of a video needs "
            "a model of frames, height and width in 3 channels"
        )


@contextlib.contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Hold a model in evaluation mode and without gradients; it is afterwards as it was."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(training)
