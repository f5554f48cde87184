"""The loss of pre-training, eight pixels at a time: for bytes in rows of eight, as those of the published cubes are.

Formula and shapes are those of triton.py. A thread owns eight pixels of all I channels of a frame. It reads the bytes
of a channel as one word, and prediction and gradient, where the channels of a pixel lie side by side, as I runs of
eight values. Which byte belongs to which value is known to the compiler, so that nothing moves between threads.

Sums of bytes are whole numbers, and so is P x - sum(x), which takes the place of P (x - mean): exact, and zero for a
flat cube. Squares are added in the dtype of all sums. A program owns BLOCK_T tokens, and each sum is over the threads
of one token.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _byte(word, place: tl.constexpr):
    """One byte of each word, a whole number."""
    return ((word >> (place * 8)) & 255).to(tl.int32)


@triton.jit
def _words(frames_ptr, offset, frames_channel, mask, CHANNELS: tl.constexpr):
    """Eight bytes of each channel of one frame: a tuple of [BLOCK_T, GROUPS]."""
    words = ()
    for channel in tl.static_range(CHANNELS):
        place = offset + tl.cast(channel, tl.int64) * frames_channel
        words = words + (tl.load(frames_ptr + place, mask=mask, other=0),)  # type: ignore[assignment]
    return words


@triton.jit
def _target(words, before, totals, scales, value: tl.constexpr, CHANNELS: tl.constexpr, COUNT: tl.constexpr):
    """One value of each thread's, by its place in the order (pixel, channel): [BLOCK_T, GROUPS]."""
    x = _byte(words[value % CHANNELS], value // CHANNELS) * COUNT
    if before is None:
        x -= totals[value % CHANNELS][:, None]
    else:
        x -= _byte(before[value % CHANNELS], value // CHANNELS) * COUNT
    scale = scales[value % CHANNELS][:, None]
    return x.to(scale.dtype) * scale


@triton.jit
def _run(words, before, totals, scales, first: tl.constexpr, CHANNELS: tl.constexpr, COUNT: tl.constexpr):
    """Eight values of each thread's that lie side by side: [BLOCK_T, GROUPS, 8]."""
    pair_0 = tl.join(
        _target(words, before, totals, scales, first, CHANNELS, COUNT),
        _target(words, before, totals, scales, first + 4, CHANNELS, COUNT),
    )
    pair_1 = tl.join(
        _target(words, before, totals, scales, first + 1, CHANNELS, COUNT),
        _target(words, before, totals, scales, first + 5, CHANNELS, COUNT),
    )
    pair_2 = tl.join(
        _target(words, before, totals, scales, first + 2, CHANNELS, COUNT),
        _target(words, before, totals, scales, first + 6, CHANNELS, COUNT),
    )
    pair_3 = tl.join(
        _target(words, before, totals, scales, first + 3, CHANNELS, COUNT),
        _target(words, before, totals, scales, first + 7, CHANNELS, COUNT),
    )
    eight = tl.join(tl.join(pair_0, pair_2), tl.join(pair_1, pair_3))
    return tl.reshape(eight, (eight.shape[0], eight.shape[1], 8))


@triton.jit(do_not_specialize=["rows", "num_tokens", "grid_t", "grid_h", "grid_w", "index_clip", "index_token"])
def reconstruction_loss_wide_kernel(
    prediction_ptr,  # [B, n, P * I], strides (prediction_clip, prediction_token, 1)
    frames_ptr,  # [B, I, T, H, W / 8] words, strides (frames_clip, frames_channel, frames_frame, frames_row, 1)
    index_ptr,  # [B, n], strides (index_clip, index_token)
    appearance_ptr,  # [B * n]
    motion_ptr,  # [B * n], not written where a cube has one frame
    diff_ptr,  # [B, n, P * I] contiguous, not written without WANT_GRADIENT
    prediction_clip, prediction_token,
    frames_clip, frames_channel, frames_frame, frames_row,
    index_clip, index_token, rows, num_tokens, grid_t, grid_h, grid_w,
    FRAMES: tl.constexpr, HEIGHT: tl.constexpr, WORDS: tl.constexpr, CHANNELS: tl.constexpr, BLOCK_T: tl.constexpr,
    MOTION: tl.constexpr, NORMALIZE: tl.constexpr, WANT_GRADIENT: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    GROUPS: tl.constexpr = HEIGHT * WORDS
    FRAME: tl.constexpr = GROUPS * 8 * CHANNELS
    COUNT: tl.constexpr = FRAMES * GROUPS * 8
    row = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    known = row < rows
    clip = (row // num_tokens).to(tl.int64)
    place_in_clip = (row % num_tokens).to(tl.int64)
    # Numbers outside of the grid wrap around, as in the reference: nothing outside of the clip is ever read.
    tokens = grid_t * grid_h * grid_w
    token = tl.load(index_ptr + clip * index_clip + place_in_clip * index_token, mask=known, other=0)
    token = token.to(tl.int32) % tokens
    token = tl.where(token < 0, token + tokens, token)
    first = (token // (grid_h * grid_w) * FRAMES).to(tl.int64)
    top = (token // grid_w % grid_h * HEIGHT).to(tl.int64)
    left = token % grid_w * WORDS
    corner = clip * frames_clip + first * frames_frame + top * frames_row + left

    group = tl.arange(0, GROUPS)
    offset = corner[:, None] + ((group // WORDS).to(tl.int64) * frames_row + group % WORDS)[None, :]
    mask = known[:, None]

    totals = ()
    scales = ()
    for channel in tl.static_range(CHANNELS):
        plane = offset + tl.cast(channel, tl.int64) * frames_channel
        total = tl.zeros([BLOCK_T], dtype=tl.int32)
        scale = tl.full([BLOCK_T], 1.0 / 255.0, dtype=ACC)
        if NORMALIZE:
            sums = tl.zeros([BLOCK_T, GROUPS], dtype=tl.int32)
            for frame in tl.static_range(FRAMES):
                word = tl.load(frames_ptr + plane + tl.cast(frame, tl.int64) * frames_frame, mask=mask, other=0)
                for place in tl.static_range(8):
                    sums += _byte(word, place)
            total = tl.sum(sums, 1)
            squares = tl.zeros([BLOCK_T, GROUPS], dtype=ACC)
            for frame in tl.static_range(FRAMES):
                word = tl.load(frames_ptr + plane + tl.cast(frame, tl.int64) * frames_frame, mask=mask, other=0)
                for place in tl.static_range(8):
                    centred = (_byte(word, place) * COUNT - total[:, None]).to(ACC)
                    squares += centred * centred
            deviation = tl.sqrt(tl.sum(squares, 1) / (COUNT - 1)) / COUNT
            scale = 1.0 / (deviation + 1e-6 * 255.0)
        totals = totals + (total,)  # type: ignore[assignment]
        scales = scales + (scale / COUNT,)  # type: ignore[assignment]

    value = (group * (8 * CHANNELS))[None, :, None] + tl.arange(0, 8)[None, None, :]
    prediction_ptr += (clip * prediction_clip + place_in_clip * prediction_token)[:, None, None]
    diff_ptr += (row.to(tl.int64) * (FRAMES * FRAME))[:, None, None]
    start = _words(frames_ptr, offset, frames_channel, mask, CHANNELS)
    motion = tl.zeros([BLOCK_T, GROUPS], dtype=ACC)
    for frame in tl.static_range(FRAMES):
        words = start
        before = None
        if frame > 0:
            words = _words(frames_ptr, offset + tl.cast(frame, tl.int64) * frames_frame, frames_channel, mask, CHANNELS)
            if MOTION:
                before = start
        squares = tl.zeros([BLOCK_T, GROUPS], dtype=ACC)
        for run in tl.static_range(CHANNELS):
            here = value + (frame * FRAME + run * 8)
            predicted = tl.load(prediction_ptr + here, mask=known[:, None, None], other=0.0).to(ACC)
            diff = predicted - _run(words, before, totals, scales, run * 8, CHANNELS, COUNT)
            if WANT_GRADIENT:
                tl.store(diff_ptr + here, diff.to(diff_ptr.dtype.element_ty), mask=known[:, None, None])
            squares += tl.sum(diff * diff, 2)
        if frame == 0:
            tl.store(appearance_ptr + row, tl.sum(squares, 1) / FRAME, mask=known)
        else:
            motion += squares
    if FRAMES > 1:
        tl.store(motion_ptr + row, tl.sum(motion, 1) / ((FRAMES - 1) * FRAME), mask=known)
