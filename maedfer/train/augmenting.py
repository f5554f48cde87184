"""Where training clips are decoded and changed at random, decided once for a run, and how batches get there."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from maedfer.errors import InputError
from maedfer.kernels import choose
from maedfer.kernels.functional import augment
from maedfer.train.decoding import decode_batch, jpeg_decoder
from maedfer.train.settings import RunConfig


def settled(cfg: RunConfig, device: torch.device) -> RunConfig:
    """The settings of a run that trains on a device, with `augment.device` decided.

    Raises:
        InputError: a GPU is asked for that does not train, or that decodes what it does not change.
        MissingDependencyError: the GPU is to decode, and torchcodec is not installed.
    """
    if cfg.task == "evaluate":
        return cfg
    where = _where(cfg, device)
    if cfg.data.decode == "cuda":
        if where != "cuda":
            raise InputError(
                "data.decode is 'cuda', and clips are changed by the loader on the CPU: set data.decode=cpu, or "
                "augment.device=cuda where a GPU trains"
            )
        if cfg.data.cache:
            raise InputError("data.decode is 'cuda', and data.cache keeps clips decoded on the CPU: choose one of them")
        jpeg_decoder()
    return dataclasses.replace(cfg, augment=dataclasses.replace(cfg.augment, device=where))


def received(cfg: RunConfig, batch: Mapping[str, Tensor], device: torch.device) -> Tensor:
    """The frames of a batch of the loader, on the device as the model takes them.

    Args:
        cfg: the run.
        batch: from `ClipDataset.collate`.
        device: that trains.

    Returns:
        uint8 [B, 3, T, H, W] of the model's size.

    Raises:
        InputError: the device cannot decode a picture.
    """
    if "pictures" in batch:
        frames = decode_batch(batch["frames"], batch["lengths"], batch["pictures"], batch["index"], device)
    else:
        frames = batch["frames"].to(device, non_blocking=True)
    program = batch.get("program")
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
