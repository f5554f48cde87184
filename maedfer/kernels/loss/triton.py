"""Masked appearance-motion loss straight from frames and token numbers: value and gradient in one pass, no target kept.

    x      = (cube - mean) / (sqrt(variance) + 1e-6)   for every channel, over the P values of the cube
    target = x[0] for the first frame (appearance), x[f] - x[0] for the others (motion)
    loss   = mean((prediction - target)^2) over first frames, and over the other frames

Shapes: B clips of I channels [B, I, T, H, W], n tokens a clip, P = t * h * w values of one channel in a cube.
Prediction and gradient are [B, n, P * I], in the order (frame, row, column, channel).

Each program owns one token. It reads the cube once (later passes find it in registers or the cache), takes statistics
by the two-pass formula, and writes prediction - target, the gradient but for one factor per half: 2 / count would
underflow in float16. Only this is kept for the backward pass, which multiplies by the factors and the gradients of both
losses. All arithmetic and sums are float32 (float64 for float64 predictions).

Bytes in rows of eight, as those of the published cubes are, are for the kernel in wide_kernel.py; the one here reads
frames of any dtype and strides, in cubes of any size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from maedfer.kernels._configs import Config, config
from maedfer.kernels._launch import accumulator, launch, power_of_two, rows_of
from maedfer.kernels._operators import implements, operator
from maedfer.kernels.loss.wide_kernel import reconstruction_loss_wide_kernel


@triton.jit
def _pixels(frames_ptr, offset, frame, frames_frame, shift, mask, ACC: tl.constexpr):
    """One frame of a cube relative to `shift`, zero outside of it: [BLOCK_P, BLOCK_C]."""
    x = tl.load(frames_ptr + (offset + frame * frames_frame), mask=mask, other=0).to(ACC)
    return tl.where(mask, x - shift[None, :], 0.0)


@triton.jit(do_not_specialize=["num_tokens", "grid_t", "grid_h", "grid_w", "index_clip", "index_token"])
def _reconstruction_loss_fwd_kernel(
    prediction_ptr,  # [B, n, P * I], strides (prediction_clip, prediction_token, 1)
    frames_ptr,  # [B, I, T, H, W], strides (frames_clip, frames_channel, frames_frame, frames_row, frames_column)
    index_ptr,  # [B, n], strides (index_clip, index_token)
    appearance_ptr,  # [B * n]
    motion_ptr,  # [B * n], not written where a cube has one frame
    diff_ptr,  # [B, n, P * I] contiguous, not written without WANT_GRADIENT
    prediction_clip, prediction_token,
    frames_clip, frames_channel, frames_frame, frames_row, frames_column,
    index_clip, index_token, num_tokens, grid_t, grid_h, grid_w,
    FRAMES: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, MAXIMUM: tl.constexpr,
    MOTION: tl.constexpr, NORMALIZE: tl.constexpr, WANT_GRADIENT: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    PIXELS: tl.constexpr = HEIGHT * WIDTH
    row = tl.program_id(0).to(tl.int64)
    clip, place = row // num_tokens, row % num_tokens
    # Numbers outside of the grid wrap around, as in the reference: nothing outside of the clip is ever read.
    tokens = grid_t * grid_h * grid_w
    token = tl.load(index_ptr + clip * index_clip + place * index_token).to(tl.int64) % tokens
    token = tl.where(token < 0, token + tokens, token)
    first = token // (grid_h * grid_w) * FRAMES
    top = token // grid_w % grid_h * HEIGHT
    left = token % grid_w * WIDTH

    pixel = tl.arange(0, BLOCK_P)
    channel = tl.arange(0, BLOCK_C)
    mask = (pixel < PIXELS)[:, None] & (channel < CHANNELS)[None, :]
    y = top + pixel // WIDTH
    x = left + pixel % WIDTH
    plane = clip * frames_clip + channel.to(tl.int64) * frames_channel  # [BLOCK_C]
    offset = (y * frames_row + x * frames_column)[:, None] + plane[None, :]

    shift = tl.zeros([BLOCK_C], dtype=ACC)
    mean = tl.zeros([BLOCK_C], dtype=ACC)
    scale = tl.full([BLOCK_C], 1.0 / MAXIMUM, dtype=ACC)
    if NORMALIZE:
        # Relative to its first pixel a flat cube is exactly zero; otherwise 1 / 1e-6 would blow up its mean's rounding.
        corner = plane + first * frames_frame + top * frames_row + left * frames_column
        shift = tl.load(frames_ptr + corner, mask=channel < CHANNELS, other=0).to(ACC)
        total = tl.zeros([BLOCK_P, BLOCK_C], dtype=ACC)
        for frame in tl.static_range(FRAMES):
            total += _pixels(frames_ptr, offset, first + frame, frames_frame, shift, mask, ACC)
        mean = tl.sum(total, 0) / (FRAMES * PIXELS)
        total = tl.zeros([BLOCK_P, BLOCK_C], dtype=ACC)
        for frame in tl.static_range(FRAMES):
            centred = _pixels(frames_ptr, offset, first + frame, frames_frame, shift, mask, ACC) - mean[None, :]
            total += tl.where(mask, centred * centred, 0.0)
        scale = 1.0 / (tl.sqrt(tl.sum(total, 0) / (FRAMES * PIXELS - 1)) + 1e-6 * MAXIMUM)

    value = (pixel * CHANNELS)[:, None] + channel[None, :]
    prediction_ptr += clip * prediction_clip + place * prediction_token
    diff_ptr += row * (FRAMES * PIXELS * CHANNELS)
    start = _pixels(frames_ptr, offset, first, frames_frame, shift, mask, ACC)
    motion = tl.zeros([BLOCK_P, BLOCK_C], dtype=ACC)
    for frame in tl.static_range(FRAMES):
        if frame == 0:
            target = start - mean[None, :]
        else:
            target = _pixels(frames_ptr, offset, first + frame, frames_frame, shift, mask, ACC)
            target -= start if MOTION else mean[None, :]
        place_in_row = value + frame * PIXELS * CHANNELS
        predicted = tl.load(prediction_ptr + place_in_row, mask=mask, other=0.0).to(ACC)
        diff = tl.where(mask, predicted - target * scale[None, :], 0.0)
        if WANT_GRADIENT:
            tl.store(diff_ptr + place_in_row, diff.to(diff_ptr.dtype.element_ty), mask=mask)
        if frame == 0:
            appearance = tl.sum(tl.sum(diff * diff, 1), 0)
            tl.store(appearance_ptr + row, appearance / (PIXELS * CHANNELS))
        else:
            motion += diff * diff
    if FRAMES > 1:
        tl.store(motion_ptr + row, tl.sum(tl.sum(motion, 1), 0) / ((FRAMES - 1) * PIXELS * CHANNELS))


@triton.jit(do_not_specialize=["num_rows"])
def _reconstruction_loss_bwd_kernel(
    diff_ptr,  # [R, P * I] contiguous
    dappearance_ptr,  # scalar or None
    dmotion_ptr,  # scalar or None
    dprediction_ptr,  # [R, P * I] contiguous
    num_rows,
    VALUES: tl.constexpr, FIRST: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    # Sizes come as rows times a constant, so that the compiler sees that masks do not split a vector.
    rows = num_rows.to(tl.int64)
    start = tl.program_id(0).to(tl.int64) * BLOCK
    offset = start + tl.arange(0, BLOCK)
    mask = offset < rows * VALUES
    diff = tl.load(diff_ptr + offset, mask=mask, other=0.0).to(ACC)
    factor = tl.zeros([BLOCK], dtype=ACC)
    is_first = ((start % VALUES).to(tl.int32) + tl.arange(0, BLOCK)) % VALUES < FIRST
    if dappearance_ptr is not None:
        upstream = tl.load(dappearance_ptr).to(ACC) * 2.0 / (rows * FIRST).to(ACC)
        factor = tl.where(is_first, upstream, factor)
    if dmotion_ptr is not None and FIRST < VALUES:
        upstream = tl.load(dmotion_ptr).to(ACC) * 2.0 / (rows * (VALUES - FIRST)).to(ACC)
        factor = tl.where(is_first, factor, upstream)
    tl.store(dprediction_ptr + offset, (diff * factor).to(dprediction_ptr.dtype.element_ty), mask=mask)


# Values of a cube, padded: the compiler keeps all of them in registers.
_MOST_VALUES = 32768
# The frames of a cube are unrolled.
_MOST_FRAMES = 16
# Channels for which a thread can hold words of all of them.
_MOST_WORDS = 4


def not_supported_reasons(patch_size: tuple[int, ...], channels: int) -> list[str]:
    """Why the kernels cannot read cubes of this size and number of channels; empty when they can."""
    if len(patch_size) != 3:
        return [f"patches of {len(patch_size)} dimensions (the kernels read cubes of frames, rows and columns)"]
    reasons = []
    if patch_size[0] > _MOST_FRAMES:
        reasons.append(f"cubes of {patch_size[0]} frames (the kernels take up to {_MOST_FRAMES})")
    values = math.prod(_padded(patch_size, channels))
    if values > _MOST_VALUES:
        reasons.append(f"cubes of {values} values, padded (the kernels hold {_MOST_VALUES})")
    return reasons


def _padded(patch_size: Sequence[int], channels: int) -> tuple[int, int, int]:
    frames, height, width = patch_size
    return power_of_two(frames), power_of_two(height * width), power_of_two(channels)


def _reads_words(frames: Tensor, patch_size: Sequence[int]) -> bool:
    """Whether frames [B, I, T, H, W] are bytes in rows of eight, and a cube's frame a power of two of such rows."""
    groups, rest = divmod(patch_size[1] * patch_size[2], 8)
    return (
        frames.dtype == torch.uint8
        and frames.shape[1] <= _MOST_WORDS
        and rest == patch_size[2] % 8 == frames.shape[4] % 8 == 0
        and groups == power_of_two(groups)
        and frames.stride(4) == 1
        and not any(place % 8 for place in (*frames.stride()[:4], frames.storage_offset(), frames.data_ptr()))
    )


@implements("reconstruction_loss_fwd")
def reconstruction_loss_fwd(
    prediction: Tensor,
    frames: Tensor,
    index: Tensor,
    patch_size: list[int],
    motion: bool,
    normalize: bool,
    want_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    cube_frames, height, width = patch_size
    channels = frames.shape[1]
    rows = index.numel()
    total = torch.float64 if prediction.dtype == torch.float64 else torch.float32
    # Means of single tokens; those of no token, or of no frame, are undefined like the mean of an empty tensor.
    appearances = prediction.new_empty(rows, dtype=total)
    motions = prediction.new_empty(rows if cube_frames > 1 else 0, dtype=total)
    diff = prediction.new_empty(prediction.shape if want_gradient else 0)
    prediction = rows_of(prediction)
    grid = [size // patch for size, patch in zip(frames.shape[2:], patch_size, strict=True)]
    switches = {"MOTION": motion, "NORMALIZE": normalize, "WANT_GRADIENT": want_gradient}
    if _reads_words(frames, patch_size):
        groups = height * width // 8
        runs = groups * prediction.element_size() // 2
        default = Config({"BLOCK_T": max(1, 128 // runs)}, min(16, max(4, runs // 32)), 1)
        key = (power_of_two(cube_frames), groups, channels, prediction.element_size())
        chosen = config("reconstruction_loss_wide", key, default, prediction.device)
        launch(
            reconstruction_loss_wide_kernel,
            (-(-rows // chosen.tiles["BLOCK_T"]),),
            prediction, frames.view(torch.int64), index, appearances, motions, diff,
            prediction.stride(0), prediction.stride(1), *(stride // 8 for stride in frames.stride()[:4]),
            *index.stride(), rows, index.shape[1], *grid,
            config=chosen, FRAMES=cube_frames, HEIGHT=height, WORDS=width // 8, CHANNELS=channels,
            ACC=accumulator(prediction.dtype), **switches,
        )  # fmt: skip
        return appearances.mean(), motions.mean(), diff
    padded = _padded(patch_size, channels)
    default = Config({}, min(16, max(1, math.prod(padded) // 512)), 1)
    chosen = config("reconstruction_loss_fwd", (*padded, prediction.element_size()), default, prediction.device)
    launch(
        _reconstruction_loss_fwd_kernel,
        (rows,),
        prediction, frames, index, appearances, motions, diff,
        prediction.stride(0), prediction.stride(1), *frames.stride(), *index.stride(), index.shape[1],
        *grid, config=chosen, FRAMES=cube_frames, HEIGHT=height, WIDTH=width, CHANNELS=channels, BLOCK_P=padded[1],
        BLOCK_C=padded[2], MAXIMUM=255.0 if frames.dtype == torch.uint8 else 1.0, ACC=accumulator(prediction.dtype),
        **switches,
    )  # fmt: skip
    return appearances.mean(), motions.mean(), diff


@implements("reconstruction_loss_bwd")
def reconstruction_loss_bwd(
    dappearance: Tensor | None, dmotion: Tensor | None, diff: Tensor, cube_frames: int
) -> Tensor:
    values = diff.shape[-1]
    dprediction = diff.new_empty(diff.shape)
    chosen = config("reconstruction_loss_bwd", (diff.element_size(),), Config({"BLOCK": 2048}, 4, 1), diff.device)
    launch(
        _reconstruction_loss_bwd_kernel,
        (-(-diff.numel() // chosen.tiles["BLOCK"]),),
        diff, dappearance, dmotion, dprediction, diff.shape[0] * diff.shape[1],
        config=chosen, VALUES=values, FIRST=values // cube_frames, ACC=accumulator(diff.dtype),
    )  # fmt: skip
    return dprediction


class TritonLoss(torch.autograd.Function):
    """Mean squared errors over first frames (appearance) and over the other frames (motion): two scalars.

    From a prediction [B, n, P * I], frames [B, I, T, H, W] and token numbers [B, n].
    """

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
        """Keeps prediction - target, when the prediction needs a gradient."""
        needs_gradient = ctx.needs_input_grad[0]
        appearance_loss, motion_loss, diff = operator("reconstruction_loss_fwd")(
            prediction, frames, index, patch_size, motion, normalize, needs_gradient
        )
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(diff)
        ctx.cube_frames = patch_size[0]
        return appearance_loss, motion_loss

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, dappearance: Tensor | None, dmotion: Tensor | None
    ) -> tuple[Tensor | None, None, None, None, None, None]:
        """The gradient of the prediction."""
        (diff,) = ctx.saved_tensors
        dprediction = operator("reconstruction_loss_bwd")(dappearance, dmotion, diff, ctx.cube_frames)
        return dprediction, None, None, None, None, None
