"""JPEG pictures of a batch, decoded by the device that trains: nvJPEG on a GPU, by torchcodec."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from maedfer.data.shards.pictures import decode_pictures
from maedfer.data.video.base import words
from maedfer.errors import InputError, MissingDependencyError, require


def jpeg_decoder() -> Callable[..., list[Tensor]]:
    """torchcodec's decoder of batches.

    Raises:
        MissingDependencyError: it is not installed, too old, or made for another PyTorch.
    """
    module: Any = require("torchcodec.decoders", "nvjpeg")
    if not hasattr(module, "decode_jpeg"):
        raise MissingDependencyError("data.decode=cuda needs torchcodec 0.16 or newer: pip install -U torchcodec")
    return module.decode_jpeg


def decode_batch(files: Tensor, lengths: Tensor, pictures: Tensor, clips: Tensor, device: torch.device) -> Tensor:
    """Decode the pictures of a batch in one call.

    Args:
        files: uint8 [bytes] on the CPU, JPEG files one after the other.
        lengths: int64 [n] of each.
        pictures: int64 [B, T], the file of each frame.
        clips: int64 [B], the number of each clip in its list, for errors.
        device: that decodes.

    Returns:
        uint8 [B, T, H, W, 3] on the device.

    Raises:
        InputError: a file is damaged, or they are of several sizes; names the clip by its number.
        MissingDependencyError: see `jpeg_decoder`.
    """
    parts = list(files.split(lengths.tolist()))
    try:
        decoded = jpeg_decoder()(parts, mode="RGB", device=device)
    except RuntimeError as error:
        raise _why(error, parts, pictures, clips, device) from error
    sizes = {tuple(picture.shape[1:]) for picture in decoded}
    if len(sizes) > 1:
        raise InputError(
            f"pictures of several sizes are in one batch ({_some(sizes)}), and data.decode=cuda takes those of one: "
            "make shards of one size, or set data.decode=cpu"
        )
    # The decoder gives planes, or has channels last: both become what travels otherwise.
    frames = torch.stack([picture.permute(1, 2, 0) for picture in decoded])
    return frames[pictures.to(device)]


def _why(
    error: RuntimeError, parts: Sequence[Tensor], pictures: Tensor, clips: Tensor, device: torch.device
) -> InputError:
    """What is wrong with a batch that the device does not decode: the picture that is damaged, where there is one."""
    for number, part in enumerate(parts):
        clip = int(clips[(pictures == number).any(1)][0])
        where = f"clip {clip} of data.train, counted from 0"
        content = part.numpy().tobytes()
        size = _size(content)
        if size is None:
            return InputError(f"{where}: a picture is damaged, or no JPEG: mend or leave out the clip")
        try:
            decode_pictures([content], size, lambda _, where=where: where)  # type: ignore[misc]
        except InputError as found:
            return InputError(f"{found}: mend or leave out the clip, or set data.decode=cpu data.on_error=skip")
    return InputError(
        f"{device} cannot decode pictures that the CPU does ({words(error)}): set data.decode=cpu to train without it"
    )


def _size(content: bytes) -> tuple[int, int] | None:
    try:
        height, width, _, _ = require("simplejpeg", "shards").decode_jpeg_header(content)
    except ValueError:
        return None
    return height, width


def _some(sizes: set[tuple[int, ...]]) -> str:
    return ", ".join(f"{width} x {height}" for height, width in sorted(sizes)[:3])
