"""Cubes of tokens, by the implementation of choice."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from maedfer.kernels import reference
from maedfer.kernels._autocast import autocast_dtype
from maedfer.kernels._dispatch import Impl, resolve
from maedfer.kernels._native_calls import cube_reasons
from maedfer.kernels.tubelets import native
from maedfer.kernels.tubelets import torch as plain


def tubelets(
    frames: Tensor,
    index: Tensor,
    *,
    patch_size: tuple[int, ...],
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype = torch.float32,
    impl: Impl = "auto",
) -> Tensor:
    """Normalised cubes of the wanted tokens, ready for the embedding's product; no other bytes are read.

    Args:
        frames: [B, I, *size] uint8; any strides.
        index: [B, n] or [n] int64 token numbers, row-major over the grid.
        patch_size: of a cube.
        mean: of each channel, in [0, 1].
        std: of each channel.
        dtype: of the result; autocast's where it is on.
        impl: the implementation; Triton has none of its own.

    Returns:
        [B, n, I * prod(patch_size)].
    """
    kind = frames.device.type
    dtype = autocast_dtype(kind) or dtype

    def native_reasons() -> list[str]:
        return cube_reasons(dtype, frames, patch_size)

    choice = resolve(impl, frames.device, dtype, native={"cpu": native_reasons, "cuda": native_reasons})
    if choice == "reference":
        return reference.tubelets(frames, index, patch_size=patch_size, mean=mean, std=std).to(dtype)
    if choice == "native":
        return native.tubelets(frames, index, patch_size, mean, std, dtype)
    return plain.tubelets(frames, index, patch_size, mean, std, dtype)
