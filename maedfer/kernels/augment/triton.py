"""Augmentation of batches by the kernels in kernels.py, which say what is in which tensor.

A batch takes two launches to be brought to size, or a copy where it has that size, at most two for each operation of
its longest program, and two for the last resampling. Nothing waits for the GPU, and nothing is compiled anew for other
programs or numbers of clips.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import cast

import torch
import triton.language as tl
from torch import Tensor

from maedfer._programs import EACH, FIRST, Fit, Operation, fitted, noise_table
from maedfer.kernels._configs import Config, config
from maedfer.kernels._launch import launch, power_of_two
from maedfer.kernels._operators import implements, operator
from maedfer.kernels.augment.kernels import axes_kernel, resample_kernel, stage_kernel, tables_kernel

# Values of one channel that a program works on at once, in resampling and in operations, and the most frames of these.
_RESAMPLED, _CHANGED, _FRAMES = 512, 1024, 8
# Operations of single values, which replace them by those of tables.
_BY_TABLE = torch.tensor(
    [code < Operation.SHARPNESS and code not in (Operation.NONE, Operation.COLOR) for code in Operation]
)


def not_supported_reasons(frames: Tensor, size: Sequence[int]) -> list[str]:
    """Why the kernels cannot augment frames [B, T, H, W, 3] to a size; empty when they can."""
    values = 3 * frames.shape[1] * max(math.prod(size), math.prod(frames.shape[2:4]))
    return [f"clips of {values} values (the kernels take less than 2^31)"] if values >= 2**31 else []


def augment(frames: Tensor, program: Tensor, size: Sequence[int], fit: str) -> Tensor:
    """Follow the programs of a batch; arguments and result are those of api.py, `fit` is "" for None."""
    return operator("augment_fwd")(frames, program, list(size), fit)


@implements("augment_fwd")
def augment_fwd(frames: Tensor, program: Tensor, size: list[int], fit: str) -> Tensor:
    frames = frames.permute(0, 4, 1, 2, 3)
    there = program.contiguous().to(frames.device, non_blocking=True)
    codes = program[:, FIRST::EACH].long()
    frame, stages = tuple(frames.shape[3:]), codes.shape[1]
    kept = tuple(size) if fit else frame
    resized, corner = fitted(frame, kept, cast(Fit, fit)) if fit else (frame, (0, 0))
    in_copies = bool(codes.any())
    if in_copies or kept != frame:
        # What operations work on has two places; see kernels.py.
        copies = frames.new_empty((1 + in_copies, *frames.shape[:3], *kept))
        if resized == frame:
            copies[0].copy_(frames)
        else:
            _resample(frames, None, copies[0], (*resized, *corner), 0, False)
        for stage in codes.any(0).nonzero().flatten().tolist():
            _stage(copies, there, stage, stages, bool(_BY_TABLE[codes[:, stage]].any()))
        frames = copies[0]
    out = frames.new_empty((*frames.shape[:3], *size))
    _resample(frames, there, out, (*size, 0, 0), stages, in_copies)
    return out


def _resample(
    frames: Tensor, program: Tensor | None, out: Tensor, resized: tuple[int, ...], stages: int, in_copies: bool
) -> None:
    """Resize frames, or the boxes of programs; `resized`: height and width, and top and left of what `out` keeps."""
    rows, columns = frames.shape[3:]
    batch, _, length, height, width = out.shape
    clips, side, device = 1 if program is None else batch, max(height, width), frames.device
    # An output is as wide as an input at least.
    most = 2 * math.ceil(max(1.0, rows / resized[0], columns / resized[1])) + 1
    head = out.new_empty((clips, 2, 2), dtype=torch.int32)
    first = out.new_empty((clips, 2, side), dtype=torch.int32)
    weights = out.new_empty((clips, 2, most, side), dtype=torch.int32)
    launch(
        axes_kernel, (2, clips * min(1, batch)),
        program, head, first, weights, rows, columns, most, *resized, stages, height, width, side,
        config=config("augment_axes", (1,), Config({"BLOCK": 128}), device), enable_fp_fusion=False,
    )  # fmt: skip
    chosen = config("augment_resample", (_at_once(length), 1), _tiles(length, _RESAMPLED), device)
    reach = sum((size - 1) * stride for size, stride in zip(frames.shape[2:], frames.stride()[2:], strict=True))
    launch(
        resample_kernel, _grid(chosen, length, height * width, batch),
        frames, program, _noise(device), head, first, weights, out, *frames.stride(), length, most,
        stages, height, width, side,
        config=chosen, IN_COPIES=in_copies, OFFSET=tl.int32 if reach < 2**31 else tl.int64, enable_fp_fusion=False,
    )  # fmt: skip


def _stage(copies: Tensor, program: Tensor, stage: int, stages: int, by_table: bool) -> None:
    """One operation of every clip, of [2, B, 3, T, H, W]; `by_table` where one of them is of single values."""
    _, batch, channels, length, height, width = copies.shape
    tables = copies.new_empty((batch, channels, length, 256))
    if by_table:
        launch(
            tables_kernel, (channels * length, batch),
            copies, program, tables, length, stage, stages, height * width,
            config=config("augment_tables", (1,), Config({"BLOCK": 2048}), copies.device), enable_fp_fusion=False,
        )  # fmt: skip
    chosen = config("augment_stage", (_at_once(length), 1), _tiles(length, _CHANGED), copies.device)
    launch(
        stage_kernel, _grid(chosen, length, height * width, batch),
        copies, program, tables, length, stage, stages, width, height * width,
        config=chosen, enable_fp_fusion=False,
    )  # fmt: skip


def _at_once(length: int) -> int:
    return min(_FRAMES, power_of_two(length))


def _tiles(length: int, values: int) -> Config:
    frames = _at_once(length)
    return Config({"BLOCK_T": frames, "BLOCK_P": values // frames})


def _grid(chosen: Config, length: int, pixels: int, batch: int) -> tuple[int, int, int]:
    return -(-pixels // chosen.tiles["BLOCK_P"]), -(-length // chosen.tiles["BLOCK_T"]), batch


@functools.cache
def _noise(device: torch.device) -> Tensor:
    """The table of noise, on a device."""
    return torch.from_numpy(noise_table().copy()).to(device)
