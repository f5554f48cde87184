"""Random changes to the frames of clips, by the implementation of choice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor

from maedfer._programs import BOX, EACH, ERASED, FIRST, NOISE, Fit, Operation
from maedfer.errors import InputError, unknown
from maedfer.kernels._dispatch import Impl, resolve
from maedfer.kernels.augment import torch as plain


def augment(
    frames: Tensor, program: Tensor, *, size: Sequence[int], fit: Fit | None = None, impl: Impl = "auto"
) -> Tensor:
    """Do to every clip of a batch what its program says (see `maedfer._programs`): the same to all of its frames.

    Plain PyTorch gives the bytes that `maedfer.data.augment` gives on the CPU; kernels may be off by one grey level
    after each operation.

    Args:
        frames: [B, T, H, W, 3] uint8 of any strides.
        program: [B, 11 + 7 n] float64 on the CPU, where it says what has to be launched at all.
        size: height and width of the result.
        fit: how frames are brought to size before anything else, as in `data.fit`; None where boxes are in pixels of
            the frames as they come.
        impl: the implementation.

    Returns:
        [B, 3, T, *size] uint8, contiguous.

    Raises:
        InputError: frames or programs are something else, or a program has a box outside of its frames, or an operation
            that there is not.
    """
    _check(frames, program, size, fit)

    def triton_reasons() -> list[str]:
        from maedfer.kernels.augment import triton

        return triton.not_supported_reasons(frames, size)

    # The dtype stands for what is computed between bytes.
    if resolve(impl, frames.device, torch.float32, triton=triton_reasons) == "triton":
        from maedfer.kernels.augment import triton

        return triton.augment(frames, program, size, fit or "")
    height, width = size
    return plain.augment(frames, program, (height, width), fit or "")


def _check(frames: Tensor, program: Tensor, size: Sequence[int], fit: Fit | None) -> None:
    if frames.dtype != torch.uint8 or frames.dim() != 5 or frames.shape[4] != 3 or 0 in frames.shape[1:]:
        raise InputError(f"frames must be uint8 [B, T, H, W, 3], got {frames.dtype} {list(frames.shape)}")
    if fit is not None and fit not in get_args(Fit):
        raise unknown("fit", fit, get_args(Fit))
    if len(size) != 2 or min(size) < 1:
        raise InputError(f"size must be the height and width of the result, got {list(size)}")
    shape, kind = list(program.shape), f"{program.dtype} {list(program.shape)} on {program.device}"
    rows = len(shape) == 2 and shape[0] == len(frames) and shape[1] >= FIRST and (shape[1] - FIRST) % EACH == 0
    if not rows or program.dtype != torch.float64 or program.device.type != "cpu":
        raise InputError(
            f"program must be float64 [{len(frames)}, {FIRST} + {EACH} n] on the CPU, a row for each clip, got {kind}"
        )
    _check_boxes("resized", program[:, BOX], frames.shape[2:4] if fit is None else size, least=1)
    _check_boxes("erased", program[:, ERASED], size, least=0)
    known = [int(code) for code in Operation]
    codes = program[:, FIRST::EACH]
    if not torch.isin(codes, torch.tensor(known, dtype=torch.float64)).all():
        raise InputError(
            f"operations of a program are the whole numbers {known[0]} to {known[-1]}, got {codes.tolist()}"
        )
    keys = program[:, NOISE]
    if not ((keys >= 0) & (keys < 2**32) & (keys == keys.floor())).all():
        raise InputError(f"keys of noise are whole numbers below 2^32, got {keys.tolist()}")


def _check_boxes(what: str, boxes: Tensor, frame: Sequence[int], least: int) -> None:
    start, length = boxes[:, :2], boxes[:, 2:]
    inside = (start >= 0) & (length >= least) & (start + length <= torch.tensor(frame)) & (boxes == boxes.floor()).all()
    if not inside.all():
        bad = boxes[(~inside).any(1).nonzero()[0, 0]].tolist()
        raise InputError(
            f"the {what} box (top, left, height, width) {bad} of a program is not in frames of {frame[0]}x{frame[1]}"
        )
