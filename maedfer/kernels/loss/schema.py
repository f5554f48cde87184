"""Operators of the loss: what they take and what they do to shapes."""

from __future__ import annotations

import torch
from torch import Tensor

from maedfer.kernels._operators import define, unwritten


def _fwd_fake(
    prediction: Tensor,
    frames: Tensor,
    index: Tensor,
    patch_size: list[int],
    motion: bool,
    normalize: bool,
    want_gradient: bool,
) -> tuple[Tensor, ...]:
    total = torch.float64 if prediction.dtype == torch.float64 else torch.float32
    appearance_loss, motion_loss = (prediction.new_empty((), dtype=total) for _ in range(2))
    return appearance_loss, motion_loss, prediction.new_empty(prediction.shape if want_gradient else (0,))


for _name in ("reconstruction_loss_fwd", "native_reconstruction_loss_fwd"):
    define(
        _name,
        "(Tensor prediction, Tensor frames, Tensor index, int[] patch_size, bool motion, bool normalize, "
        "bool want_gradient) -> (Tensor, Tensor, Tensor)",
        _fwd_fake,
    )
define(
    "reconstruction_loss_bwd",
    "(Tensor? dappearance, Tensor? dmotion, Tensor diff, int cube_frames) -> Tensor",
    lambda dappearance, dmotion, diff, cube_frames: unwritten(diff),
)
