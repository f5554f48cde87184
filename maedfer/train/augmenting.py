"""Where training clips are changed at random: decided once for a run, and done on the device where that is so."""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
from torch import Tensor

from maedfer.errors import InputError
from maedfer.kernels import choose
from maedfer.kernels.functional import augment
from maedfer.train.settings import RunConfig


def settled(cfg: RunConfig, device: torch.device) -> RunConfig:
    """The settings of a run that trains on a device, with `augment.device` decided.

    Raises:
        InputError: a GPU is asked for that does not train.
    """
    if cfg.task == "evaluate":
        return cfg
    return dataclasses.replace(cfg, augment=dataclasses.replace(cfg.augment, device=_where(cfg, device)))


def changed(cfg: RunConfig, frames: Tensor, program: Tensor | None) -> Tensor:
    """Frames on the device as the model takes them.

    Args:
        cfg: the run.
        frames: uint8 [B, T, H, W, 3], or [B, 3, T, H, W] where there are no programs.
        program: float64 [B, P] on the CPU; None where the loader changed the frames.

    Returns:
        uint8 [B, 3, T, H, W] of the model's size.
    """
    if program is None:
        return frames
    fit = None if cfg.task == "pretrain" else cfg.data.fit
    return augment(frames, program, size=cfg.clip_model.clip_size[1:], fit=fit, impl=cfg.clip_model.impl)


def _where(cfg: RunConfig, device: torch.device) -> Literal["cpu", "cuda"]:
    asked = cfg.augment.device
    if asked == "cuda" and device.type != "cuda":
        raise InputError(
            f"augment.device is 'cuda', and the run trains on {device}: leave it out, or set augment.device=cpu"
        )
    if asked == "auto":
        return "cuda" if device.type == "cuda" and choose(cfg.clip_model.impl, device) == "triton" else "cpu"
    return asked
