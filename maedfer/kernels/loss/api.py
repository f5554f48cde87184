"""The loss of pre-training, by the implementation of choice."""

from __future__ import annotations

from torch import Tensor

from maedfer.errors import InputError
from maedfer.kernels import reference
from maedfer.kernels._dispatch import Impl, resolve
from maedfer.kernels.loss import native
from maedfer.kernels.loss.torch import TorchLoss


def masked_appearance_motion_loss(
    prediction: Tensor,
    frames: Tensor,
    index: Tensor,
    *,
    patch_size: tuple[int, ...],
    motion: bool = True,
    normalize: bool = True,
    impl: Impl = "auto",
) -> tuple[Tensor, Tensor]:
    """Mean squared errors of first frames (appearance) and of the others (motion), straight from frames (section 3.3).

    Args:
        prediction: [B, n, P * I], the decoder's output for the tokens in `index`.
        frames: [B, I, T, H, W] un-normalised clip, uint8, or float in [0, 1]; any strides.
        index: [B, n] int64 token numbers, row-major over (t, h, w).
        patch_size: (t, h, w) of a cube.
        motion: see `reference.reconstruction_target`.
        normalize: see `reference.reconstruction_target`.
        impl: the implementation; all but "reference" make value and gradient in one pass and store no target.

    Returns:
        Two float32 scalars.

    Raises:
        InputError: the prediction's shape does not fit.
    """
    patch_size = tuple(patch_size)
    values = patch_size[0] * patch_size[1] * patch_size[2] * frames.shape[1]
    if prediction.shape != (*index.shape, values):
        raise InputError(
            f"prediction must be [B, n, {values}] for token numbers {list(index.shape)}, got {list(prediction.shape)}"
        )

    def native_reasons() -> list[str]:
        return native.not_supported_reasons(prediction.dtype, frames, patch_size)

    choice = resolve(
        impl,
        prediction.device,
        prediction.dtype,
        triton=lambda: _triton_reasons(patch_size, frames.shape[1]),
        native={"cpu": native_reasons, "cuda": native_reasons},
    )
    if choice == "reference":
        return reference.masked_appearance_motion_loss(
            prediction, frames, index, patch_size=patch_size, motion=motion, normalize=normalize
        )
    if choice == "torch":
        return TorchLoss.apply(prediction, frames, index, patch_size, motion, normalize)
    if choice == "native":
        return native.NativeLoss.apply(prediction, frames, index, patch_size, motion, normalize)
    from maedfer.kernels.loss.triton import TritonLoss

    return TritonLoss.apply(prediction, frames, index, patch_size, motion, normalize)


def _triton_reasons(patch_size: tuple[int, ...], channels: int) -> list[str]:
    from maedfer.kernels.loss.triton import not_supported_reasons

    return not_supported_reasons(patch_size, channels)
