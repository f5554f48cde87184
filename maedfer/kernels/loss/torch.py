"""The loss of pre-training in PyTorch, with one tensor of its predictions' size: their differences to the target."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from maedfer.kernels.cubes import gather_cubes


class TorchLoss(torch.autograd.Function):
    """Mean squared errors (appearance, motion) of predictions [B, n, P * I]; keeps their differences to the target."""

    @staticmethod
    def forward(
        ctx: Any,
        prediction: Tensor,
        frames: Tensor,
        index: Tensor,
        patch_size: tuple[int, ...],
        motion: bool,
        normalize: bool,
    ) -> tuple[Tensor, Tensor]:
        """Builds the target in the memory of the differences."""
        cube = gather_cubes(frames, patch_size, index)  # [B, n, I, t, h, w], a copy
        cube = cube.float().div_(255.0) if cube.dtype == torch.uint8 else cube
        cube = cube.flatten(3)  # [B, n, I, P]
        if normalize:
            variance, mean = torch.var_mean(cube, dim=3, keepdim=True)
            cube = cube.sub_(mean).div_(variance.sqrt_().add_(1e-6))
        cube = cube.unflatten(3, (patch_size[0], -1))  # [B, n, I, t, h * w]
        if motion:
            cube[:, :, :, 1:] -= cube[:, :, :, :1]
        exact = torch.promote_types(torch.float32, cube.dtype)
        shape = (*prediction.shape[:2], *cube.shape[3:], cube.shape[2])  # [B, n, t, h * w, I]
        error = prediction.reshape(shape).to(exact) - cube.permute(0, 1, 3, 4, 2)
        ctx.save_for_backward(error)
        ctx.shape, ctx.dtype = prediction.shape, prediction.dtype
        return error[:, :, 0].square().mean(), error[:, :, 1:].square().mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, appearance: Tensor, motion: Tensor) -> tuple[Tensor | None, ...]:
        """Scales the differences."""
        (error,) = ctx.saved_tensors
        gradient = scale_difference(error.flatten(3), appearance, motion)
        return gradient.reshape(ctx.shape).to(ctx.dtype), None, None, None, None, None


def scale_difference(difference: Tensor, appearance: Tensor, motion: Tensor) -> Tensor:
    """The gradient of predictions from prediction - target [B, n, t, values of a frame] and those of both losses."""
    frames, each = difference.shape[2], difference[:, :, 0].numel()
    scale = torch.stack([appearance, *[motion / max(1, frames - 1)] * (frames - 1)]) * (2.0 / max(1, each))
    return (difference * scale[:, None]).to(difference.dtype)
