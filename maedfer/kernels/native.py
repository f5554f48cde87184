"""The compiled operations of csrc/: cubes of tokens and the pre-training loss, straight from the bytes of frames.

The compiled modules take pointers, sizes and a stream, and know nothing of PyTorch; here their arguments are checked,
outputs are allocated, and operators are declared, so that torch.compile, fake tensors and opcheck see them. Either
module may be absent; `reasons` tells why an operation cannot run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from maedfer._native import MODULES, absent
from maedfer.errors import InputError
from maedfer.kernels._registry import implements, operator, tubelets_fake

# Element types by the numbers of csrc/element.h.
ELEMENTS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.uint8: 3}
_FLOATS = (torch.float32, torch.bfloat16, torch.float16)

_LARGEST_LOSS = (MODULES["cuda"].loss_most_frames, MODULES["cuda"].loss_most_pixels) if MODULES["cuda"] else (0, 0)


def reasons(x: Tensor, patch_size: Sequence[int], frames: Tensor, loss: bool = False) -> list[str]:
    """Why the compiled operation cannot run on these tensors; empty when it can.

    Args:
        x: the predictions of the loss, or an empty tensor of the dtype of wanted cubes.
        patch_size: of a cube.
        frames: [B, I, T, H, W].
        loss: for the loss, else for tubelets.
    """
    part = "cuda" if x.device.type == "cuda" else "cpu"
    if x.device.type not in ("cpu", "cuda"):
        return [f"tensors are on the {x.device.type} device"]
    if MODULES[part] is None:
        return [absent(part)]
    against = []
    if len(patch_size) != 3:
        against.append(f"patches of {len(patch_size)} dimensions (cubes of frames, rows and columns are read)")
    if x.dtype not in _FLOATS:
        against.append(f"{x.dtype} (float32, bfloat16 and float16 are written)")
    if frames.dtype != torch.uint8 and (part == "cuda" or frames.dtype != torch.float32):
        against.append(f"frames of {frames.dtype} (uint8 is read{'' if part == 'cuda' else ', and float32'})")
    if loss and part == "cuda" and not against:
        time, pixels = patch_size[0], patch_size[1] * patch_size[2]
        if time > _LARGEST_LOSS[0] or pixels > _LARGEST_LOSS[1]:
            against.append(f"cubes of {time} frames of {pixels} pixels (larger than the kernel holds)")
    return against


def tubelets(
    frames: Tensor,
    index: Tensor,
    patch_size: Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype,
) -> Tensor:
    """Normalised cubes of the wanted tokens; arguments and result are those of `reference.tubelets`."""
    return operator("tubelets")(frames, index, list(patch_size), list(mean), list(std), dtype)


def reconstruction_loss(
    prediction: Tensor,
    frames: Tensor,
    index: Tensor,
    patch_size: Sequence[int],
    motion: bool,
    normalize: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Both losses, and prediction - target where `keep`, else an empty tensor (see reconstruction_loss.py)."""
    return operator("native_reconstruction_loss_fwd")(
        prediction, frames, index, list(patch_size), motion, normalize, keep
    )


class MaskedAppearanceMotionLoss(torch.autograd.Function):
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


def scale_difference(difference: Tensor, appearance: Tensor, motion: Tensor) -> Tensor:
    """The gradient of predictions from prediction - target [B, n, t, values of a frame] and those of both losses."""
    frames, each = difference.shape[2], difference[:, :, 0].numel()
    scale = torch.stack([appearance, *[motion / max(1, frames - 1)] * (frames - 1)]) * (2.0 / max(1, each))
    return (difference * scale[:, None]).to(difference.dtype)


@implements("tubelets")
def _tubelets(
    frames: Tensor, index: Tensor, patch_size: list[int], mean: list[float], std: list[float], dtype: torch.dtype
) -> Tensor:
    _check(frames, index, patch_size)
    compiled, device = module_for(frames)
    out = tubelets_fake(frames, index, patch_size, mean, std, dtype)
    index = index.expand(frames.shape[0], index.shape[-1])
    white = 255.0 if frames.dtype == torch.uint8 else 1.0
    scale = torch.tensor([1.0 / (white * one) for one in std], dtype=torch.float32)
    shift = torch.tensor([-one / other for one, other in zip(mean, std, strict=True)], dtype=torch.float32)
    clips, cube = _clips(compiled, frames, patch_size), compiled.Cube(*patch_size)
    places = (index.data_ptr(), *index.stride(), *index.shape)
    if device == "cpu":
        given = (scale.data_ptr(), shift.data_ptr(), out.data_ptr(), ELEMENTS[dtype], torch.get_num_threads())
        compiled.tubelets(frames.data_ptr(), ELEMENTS[frames.dtype], clips, cube, *places, *given)
        return out
    scale, shift = scale.to(frames.device), shift.to(frames.device)
    with current_stream(frames) as stream:
        given = (scale.data_ptr(), shift.data_ptr(), out.data_ptr(), ELEMENTS[dtype], stream)
        launched(compiled.tubelets(frames.data_ptr(), clips, cube, *places, *given))
    return out


@implements("native_reconstruction_loss_fwd")
def _loss(
    prediction: Tensor, frames: Tensor, index: Tensor, patch_size: list[int], motion: bool, normalize: bool, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    _check(frames, index, patch_size)
    compiled, device = module_for(frames)
    if prediction.stride(-1) != 1:
        prediction = prediction.contiguous()
    difference = prediction.new_empty(prediction.shape if keep else (0,))
    kept = difference.data_ptr() if keep else 0
    clips, cube = _clips(compiled, frames, patch_size), compiled.Cube(*patch_size)
    predicted = (prediction.data_ptr(), ELEMENTS[prediction.dtype], prediction.stride(0), prediction.stride(1))
    places = (index.data_ptr(), *index.stride(), *index.shape)
    if device == "cpu":
        white = 255.0 if frames.dtype == torch.uint8 else 1.0
        read = (frames.data_ptr(), ELEMENTS[frames.dtype], clips, cube)
        how = (motion, normalize, white, kept, torch.get_num_threads())
        losses = compiled.reconstruction_loss(*predicted, *read, *places, *how)
        appearance, motion_loss = torch.tensor(losses, dtype=torch.float32)
        return appearance.clone(), motion_loss.clone(), difference
    sums = prediction.new_empty((index.numel(), 2), dtype=torch.float32)
    with current_stream(prediction) as stream:
        how = (motion, normalize, sums.data_ptr(), kept, stream)
        launched(compiled.reconstruction_loss(*predicted, frames.data_ptr(), clips, cube, *places, *how))
    # Of no token, or of no frame, a mean is undefined.
    first = patch_size[1] * patch_size[2] * frames.shape[1]
    counts = sums.new_tensor([first, first * (patch_size[0] - 1)]) * index.numel()
    means = sums.sum(0) / counts
    return means[0].clone(), means[1].clone(), difference


def _check(frames: Tensor, index: Tensor, patch_size: list[int]) -> None:
    if frames.dim() != 5 or len(patch_size) != 3:
        raise InputError(f"frames must be [B, I, T, H, W] with cubes (t, h, w), got {list(frames.shape)}, {patch_size}")
    if any(size % part or not size for size, part in zip(frames.shape[2:], patch_size, strict=True)):
        raise InputError(f"cubes of {tuple(patch_size)} do not divide clips of {tuple(frames.shape[2:])}")
    if index.dtype != torch.int64 or index.dim() not in (1, 2) or index.device != frames.device:
        raise InputError(
            f"index must be int64 [B, n] or [n] on {frames.device}, "
            f"got {index.dtype} {list(index.shape)} on {index.device}"
        )
    if index.dim() == 2 and index.shape[0] != frames.shape[0]:
        raise InputError(f"index names tokens of {index.shape[0]} clips, there are {frames.shape[0]}")


def module_for(x: Tensor) -> tuple[Any, str]:
    """The compiled module for a tensor's device, and the name of the part.

    Raises:
        InputError: it is not there.
    """
    part = "cuda" if x.device.type == "cuda" else "cpu"
    compiled = MODULES[part]
    if compiled is None:
        raise InputError(absent(part))
    return compiled, part


@contextlib.contextmanager
def current_stream(x: Tensor) -> Iterator[int]:
    """Make a tensor's GPU the current one; gives the stream that work on it goes to."""
    with torch.cuda.device(x.device):
        yield torch.cuda.current_stream().cuda_stream


def _clips(compiled: Any, frames: Tensor, patch_size: Sequence[int]) -> Any:
    grid = [size // part for size, part in zip(frames.shape[2:], patch_size, strict=True)]
    return compiled.Clips(frames.shape[1], *grid, *frames.stride())


def launched(error: int) -> None:
    """Raise what a launch has returned, if it is an error."""
    if error:
        raise RuntimeError(f"a kernel of maedfer._cuda was not launched: CUDA error {error}")
