"""Cubes of tokens straight from the bytes of frames: normalised, mixed, cut and cast in one pass.

    w   = 0 inside of the box, keep outside of it
    out = ((1 - w) partner + w own) * scale_c + shift_c,  scale_c = 1 / (255 std_c),  shift_c = -mean_c / std_c

Shapes: B clips of I channels [B, I, T, H, W], n tokens a clip, P = t * h * w values of one channel in a cube; cubes are
[B, n, I * P] in the order (channel, frame, row, column). A clip's partner is the one at the opposite place.

Each program owns BLOCK_N cubes of one clip. Programs of partners follow each other, so that what both read comes from
the cache for the second; a cube outside of the box, or inside of it, is read of one clip alone. No gradient goes to
frames, and nothing is kept. Arithmetic is float32 (float64 for float64 cubes). Offsets within a clip are 32 bits wide
where that is enough.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from maedfer.kernels._configs import Config, config
from maedfer.kernels._launch import accumulator, launch, power_of_two
from maedfer.kernels._native_calls import check_cubes
from maedfer.kernels._operators import implements, operator
from maedfer.kernels.tubelets.schema import tubelets_fake


@triton.jit(do_not_specialize=["index_clip", "index_token", "num_tokens"])
def _tubelets_fwd_kernel(
    frames_ptr,  # [B, I, T, H, W], strides (frames_clip, frames_channel, frames_frame, frames_row, frames_column)
    index_ptr,  # [B, n], strides (index_clip, index_token)
    mix_ptr,  # [5] or None
    out_ptr,  # [B, n, I * P] contiguous
    frames_clip, frames_channel, frames_frame, frames_row, frames_column,
    index_clip, index_token, num_tokens,
    GRID_T: tl.constexpr, GRID_H: tl.constexpr, GRID_W: tl.constexpr,
    FRAMES: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr,
    SCALE: tl.constexpr, SHIFT: tl.constexpr,  # tuples: a value for each channel, or one for all of them
    BLOCK_N: tl.constexpr, BLOCK_P: tl.constexpr, OFFSET: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    VALUES: tl.constexpr = FRAMES * HEIGHT * WIDTH
    TOKENS: tl.constexpr = GRID_T * GRID_H * GRID_W
    clip = tl.program_id(0).to(tl.int64)
    last = tl.num_programs(0) - 1
    if mix_ptr is not None:
        # 0, B - 1, 1, B - 2, ...
        clip = tl.where(clip % 2 == 0, clip // 2, last - clip // 2)

    place = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    known = place < num_tokens
    # Numbers outside of the grid wrap around, as in the reference: nothing outside of the clip is ever read.
    token = tl.load(index_ptr + clip * index_clip + place.to(tl.int64) * index_token, mask=known, other=0)
    token = token.to(tl.int32) % TOKENS
    token = tl.where(token < 0, token + TOKENS, token)
    first = token // (GRID_H * GRID_W) * FRAMES
    top = token // GRID_W % GRID_H * HEIGHT
    left = token % GRID_W * WIDTH
    corner = first.to(OFFSET) * frames_frame + top.to(OFFSET) * frames_row + left.to(OFFSET) * frames_column

    reads_own = known
    if mix_ptr is not None:
        keep = tl.load(mix_ptr).to(ACC)
        box_top = tl.load(mix_ptr + 1).to(tl.int32)
        box_bottom = tl.load(mix_ptr + 2).to(tl.int32)
        box_left = tl.load(mix_ptr + 3).to(tl.int32)
        box_right = tl.load(mix_ptr + 4).to(tl.int32)
        inside = (top >= box_top) & (top + HEIGHT <= box_bottom) & (left >= box_left) & (left + WIDTH <= box_right)
        meets = (top < box_bottom) & (top + HEIGHT > box_top) & (left < box_right) & (left + WIDTH > box_left)
        reads_own = known & (inside == 0)
        reads_partner = tl.where(keep < 1.0, known, known & meets)

    for start in range(0, VALUES, BLOCK_P):
        value = start + tl.arange(0, BLOCK_P)
        mask = (value < VALUES)[None, :]
        column = value % WIDTH
        row = value // WIDTH % HEIGHT
        frame = value // (WIDTH * HEIGHT)
        offset = frame.to(OFFSET) * frames_frame + row.to(OFFSET) * frames_row + column.to(OFFSET) * frames_column
        offset = corner[:, None] + offset[None, :]
        place_in_clip = place.to(tl.int64)[:, None] * (CHANNELS * VALUES) + value[None, :]
        if mix_ptr is not None:
            y = top[:, None] + row[None, :]
            x = left[:, None] + column[None, :]
            boxed = (y >= box_top) & (y < box_bottom) & (x >= box_left) & (x < box_right)
            weight = tl.where(boxed, 0.0, keep)
        for channel in range(CHANNELS):
            scale = tl.full([], SCALE[0], dtype=ACC)
            shift = tl.full([], SHIFT[0], dtype=ACC)
            for other in tl.static_range(1, len(SCALE)):
                scale = tl.where(channel == other, tl.full([], SCALE[other], dtype=ACC), scale)
                shift = tl.where(channel == other, tl.full([], SHIFT[other], dtype=ACC), shift)
            plane = tl.cast(channel, tl.int64) * frames_channel
            own_ptr = frames_ptr + (clip * frames_clip + plane)
            out = tl.load(own_ptr + offset, mask=mask & reads_own[:, None], other=0).to(ACC)
            if mix_ptr is not None:
                # What is not read counts nothing.
                partner_ptr = frames_ptr + ((last - clip) * frames_clip + plane)
                partner = tl.load(partner_ptr + offset, mask=mask & reads_partner[:, None], other=0).to(ACC)
                out = partner + weight * (out - partner)
            out = (out * scale + shift).to(out_ptr.dtype.element_ty)
            place_in_batch = clip * num_tokens * (CHANNELS * VALUES) + channel * VALUES + place_in_clip
            tl.store(out_ptr + place_in_batch, out, mask=mask & known[:, None])


# Values of one channel that a program takes at once, of two bytes each.
_TILE = 4096
# Channels that have statistics of their own; the kernel chooses among them one by one.
_MOST_STATISTICS = 16


def not_supported_reasons(
    frames: Tensor, patch_size: Sequence[int], mean: Sequence[float], std: Sequence[float]
) -> list[str]:
    """Why the kernel cannot cut these frames into cubes; empty when it can."""
    reasons = []
    if len(patch_size) not in (2, 3):
        reasons.append(f"patches of {len(patch_size)} dimensions (the kernel reads clips and pictures)")
    if frames.dtype != torch.uint8:
        reasons.append(f"frames of {frames.dtype} (the kernel reads uint8)")
    if len(_by_channel(mean, std)) > _MOST_STATISTICS:
        reasons.append(f"{len(mean)} channels of different statistics (the kernel takes up to {_MOST_STATISTICS})")
    return reasons


def _by_channel(mean: Sequence[float], std: Sequence[float]) -> list[tuple[float, float]]:
    """Mean and standard deviation of each channel; once where all have the same."""
    pairs = list(zip(mean, std, strict=True))
    return pairs[:1] if len(set(pairs)) == 1 else pairs


def tubelets(
    frames: Tensor,
    index: Tensor,
    patch_size: Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype,
    mix: Tensor | None = None,
) -> Tensor:
    """Normalised and mixed cubes of the wanted tokens; arguments and result are those of `reference.tubelets`."""
    return operator("tubelets_fwd")(frames, index, list(patch_size), list(mean), list(std), dtype, mix)


@implements("tubelets_fwd")
def tubelets_fwd(
    frames: Tensor,
    index: Tensor,
    patch_size: list[int],
    mean: list[float],
    std: list[float],
    dtype: torch.dtype,
    mix: Tensor | None,
) -> Tensor:
    out = tubelets_fake(frames, index, patch_size, mean, std, dtype, mix)
    if len(patch_size) == 2:
        # A picture is a clip of one frame.
        frames, patch_size = frames.unsqueeze(2), [1, *patch_size]
    check_cubes(frames, index, patch_size)
    batch, channels = frames.shape[:2]
    index = index.expand(batch, index.shape[-1])
    grid = [size // patch for size, patch in zip(frames.shape[2:], patch_size, strict=True)]
    values = math.prod(patch_size)
    statistics = _by_channel(mean, std)
    block = min(_TILE, power_of_two(values, 16))
    default = Config({"BLOCK_N": max(1, 2 * _TILE // (block * out.element_size()))}, 8, 1)
    chosen = config("tubelets_fwd", (block, out.element_size()), default, frames.device)
    reach = sum((size - 1) * stride for size, stride in zip(frames.shape[2:], frames.stride()[2:], strict=True))
    launch(
        _tubelets_fwd_kernel,
        (batch, -(-index.shape[1] // chosen.tiles["BLOCK_N"])),
        frames, index, mix, out, *frames.stride(), *index.stride(), index.shape[1],
        config=chosen, GRID_T=grid[0], GRID_H=grid[1], GRID_W=grid[2],
        FRAMES=patch_size[0], HEIGHT=patch_size[1], WIDTH=patch_size[2], CHANNELS=channels,
        SCALE=tuple(1.0 / (255.0 * one) for _, one in statistics),
        SHIFT=tuple(-one / other for one, other in statistics),
        BLOCK_P=block, OFFSET=tl.int32 if reach < 2**31 else tl.int64, ACC=accumulator(dtype),
    )  # fmt: skip
    return out
