"""csrc's loss of pre-training, straight from the bytes of frames, on a CPU and on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from maedfer._native import MODULES
from maedfer.kernels import _native_calls as calls
from maedfer.kernels._operators import implements_everywhere, operator
from maedfer.kernels.loss.torch import scale_difference

# Frames and pixels of a cube that the GPU's kernel holds; read here, as torch.compile cannot look into the module.
_LARGEST = (MODULES["cuda"].loss_most_frames, MODULES["cuda"].loss_most_pixels) if MODULES["cuda"] else (0, 0)


def not_supported_reasons(dtype: torch.dtype, frames: Tensor, patch_size: Sequence[int]) -> list[str]:
    """Why the compiled loss cannot run on predictions of this dtype, frames and cubes; empty when it can."""
    reasons = calls.cube_reasons(dtype, frames, patch_size)
    if frames.device.type == "cuda" and not reasons:
        time, pixels = patch_size[0], patch_size[1] * patch_size[2]
        if time > _LARGEST[0] or pixels > _LARGEST[1]:
            reasons.append(f"cubes of {time} frames of {pixels} pixels (larger than the kernel holds)")
    return reasons


def reconstruction_loss(
    prediction: Tensor,
    frames: Tensor,
    index: Tensor,
    patch_size: Sequence[int],
    motion: bool,
    normalize: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Both losses, and prediction - target where `keep`, else an empty tensor (see triton.py)."""
    return operator("native_reconstruction_loss_fwd")(
        prediction, frames, index, list(patch_size), motion, normalize, keep
    )


class NativeLoss(torch.autograd.Function):
    """Mean squared errors (appearance, motion) of predictions [B, n, P * I]; keeps their differences to the target."""

    @staticmethod
    def forward(
        ctx: Any,
        prediction: Tensor,
        frames: Tensor,
        index: Tensor,
        patch_size: Sequence[int],
        motion: bool,
        normalize: bool,
    ) -> tuple[Tensor, Tensor]:
        """The target exists for one cube at a time."""
        keep = ctx.needs_input_grad[0]
        appearance_loss, motion_loss, difference = reconstruction_loss(
            prediction, frames, index, patch_size, motion, normalize, keep
        )
        ctx.save_for_backward(difference)
        ctx.frames = patch_size[0]
        return appearance_loss, motion_loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, appearance: Tensor, motion: Tensor) -> tuple[Tensor | None, ...]:
        """Scales the differences."""
        (difference,) = ctx.saved_tensors
        gradient = scale_difference(difference.unflatten(-1, (ctx.frames, -1)), appearance, motion)
        return gradient.flatten(2), None, None, None, None, None


@implements_everywhere("native_reconstruction_loss_fwd")
def _loss(
    prediction: Tensor, frames: Tensor, index: Tensor, patch_size: list[int], motion: bool, normalize: bool, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    calls.check_cubes(frames, index, patch_size)
    compiled, part = calls.module_for(frames)
    if prediction.stride(-1) != 1:
        prediction = prediction.contiguous()
    difference = prediction.new_empty(prediction.shape if keep else (0,))
    kept = difference.data_ptr() if keep else 0
    clips, cube = calls.geometry(compiled, frames, patch_size)
    predicted = (prediction.data_ptr(), calls.ELEMENTS[prediction.dtype], prediction.stride(0), prediction.stride(1))
    places = (index.data_ptr(), *index.stride(), *index.shape)
    if part == "cpu":
        white = 255.0 if frames.dtype == torch.uint8 else 1.0
        read = (frames.data_ptr(), calls.ELEMENTS[frames.dtype], clips, cube)
        how = (motion, normalize, white, kept, torch.get_num_threads())
        losses = compiled.reconstruction_loss(*predicted, *read, *places, *how)
        appearance, motion_loss = torch.tensor(losses, dtype=torch.float32)
        return appearance.clone(), motion_loss.clone(), difference
    sums = prediction.new_empty((index.numel(), 2), dtype=torch.float32)
    with calls.current_stream(prediction) as stream:
        how = (motion, normalize, sums.data_ptr(), kept, stream)
        calls.launched(compiled.reconstruction_loss(*predicted, frames.data_ptr(), clips, cube, *places, *how))
    # Of no token, or of no frame, a mean is undefined.
    first = patch_size[1] * patch_size[2] * frames.shape[1]
    counts = sums.new_tensor([first, first * (patch_size[0] - 1)]) * index.numel()
    means = sums.sum(0) / counts
    return means[0].clone(), means[1].clone(), difference
