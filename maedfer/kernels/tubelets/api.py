"""Cubes of tokens, by the implementation of choice."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from maedfer.errors import InputError
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
    mix: Tensor | None = None,
    impl: Impl = "auto",
) -> Tensor:
    """Normalised cubes of the wanted tokens, ready for the embedding's product; no other bytes are read.

    A batch can be mixed on the way, by mixup or cutmix: each clip with the one at the opposite place. How is a tensor,
    so that another mix compiles nothing anew.

    Args:
        frames: [B, I, *size] uint8; any strides.
        index: [B, n] or [n] int64 token numbers, row-major over the grid.
        patch_size: of a cube.
        mean: of each channel, in [0, 1].
        std: of each channel.
        dtype: of the result; autocast's where it is on.
        mix: [5] float32 (keep, top, bottom, left, right): inside of the box, equal in all frames, the other clip takes
            a clip's place, outside of it the clip keeps the share `keep`; None for clips as they are.
        impl: the implementation; csrc does not mix.

    Returns:
        [B, n, I * prod(patch_size)].

    Raises:
        InputError: `mix` is something else.
    """
    if mix is not None and (mix.shape != (5,) or mix.dtype != torch.float32 or mix.device != frames.device):
        raise InputError(
            f"mix must be (keep, top, bottom, left, right), float32 [5] on {frames.device}, "
            f"got {mix.dtype} {list(mix.shape)} on {mix.device}"
        )
    kind = frames.device.type
    dtype = autocast_dtype(kind) or dtype

    def triton_reasons() -> list[str]:
        from maedfer.kernels.tubelets import triton

        return triton.not_supported_reasons(frames, patch_size, mean, std)

    def native_reasons() -> list[str]:
        return cube_reasons(dtype, frames, patch_size)

    compiled = {"cpu": native_reasons, "cuda": native_reasons} if mix is None else None
    choice = resolve(impl, frames.device, dtype, triton=triton_reasons, native=compiled)
    if choice == "reference":
        return reference.tubelets(frames, index, patch_size=patch_size, mean=mean, std=std, mix=mix).to(dtype)
    if choice == "native":
        return native.tubelets(frames, index, patch_size, mean, std, dtype)
    if choice == "torch":
        share = None if mix is None else reference.own_share(mix, *frames.shape[-2:])
        return plain.tubelets(frames, index, patch_size, mean, std, dtype, share)
    from maedfer.kernels.tubelets import triton

    return triton.tubelets(frames, index, patch_size, mean, std, dtype, mix)
