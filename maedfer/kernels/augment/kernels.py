"""Augmentation of uint8 clips: every clip of a batch by its own program, all frames of a clip alike.

    axes      first input and integer weights of every output, of both axes of a clip
    resample  frames by these weights: fitted to size before the operations; box and mirror image after them, with noise
              in the box that is erased
    tables    256 values for every channel of every frame, for operations of single values
    stage     one operation of every clip

Shapes: B clips of 3 channels and T frames, P = rows * columns pixels of what comes out; programs are [B, 11 + 7 stages]
float64, as `maedfer._programs` says. Between the resamplings frames are [2, B, 3, T, P]: what works on single values
writes where it reads, what needs neighbours writes the other copy, and a clip whose stage does nothing is not touched.
Which copy holds a clip follows from the operations before.

Arithmetic is that of a CPU's augmentation, step by step: weights of resampling are integers of up to 15 bits, made in
float64; places of an affine map are float64, its mixing float32; where a product and a sum follow each other they are
float64 and rounded once. Compiled without multiplying and adding at once, the kernels give the bytes that a CPU gives.
Programs of a launch have nothing to do with each other, and nothing is added atomically outside of them.
"""

from __future__ import annotations

import triton
import triton.language as tl

from maedfer._programs import (
    BOX,
    EACH,
    ERASED,
    FIRST,
    MIRROR,
    MIX_FIRST,
    MIX_SECOND,
    NOISE,
    NOISE_VALUES,
    Operation,
)
from maedfer.kernels.augment.sampling import sampled, sampled_bicubic

_NONE = tl.constexpr(int(Operation.NONE))
_AUTO_CONTRAST = tl.constexpr(int(Operation.AUTO_CONTRAST))
_EQUALIZE = tl.constexpr(int(Operation.EQUALIZE))
_INVERT = tl.constexpr(int(Operation.INVERT))
_POSTERIZE = tl.constexpr(int(Operation.POSTERIZE))
_SOLARIZE = tl.constexpr(int(Operation.SOLARIZE))
_SOLARIZE_ADD = tl.constexpr(int(Operation.SOLARIZE_ADD))
_COLOR = tl.constexpr(int(Operation.COLOR))
_BRIGHTNESS = tl.constexpr(int(Operation.BRIGHTNESS))
_SHARPNESS = tl.constexpr(int(Operation.SHARPNESS))
_AFFINE = tl.constexpr(int(Operation.AFFINE))
_AFFINE_BICUBIC = tl.constexpr(int(Operation.AFFINE_BICUBIC))

# Places in a program.
_BOX, _MIRROR = tl.constexpr(BOX.start), tl.constexpr(MIRROR)
_ERASED, _NOISE = tl.constexpr(ERASED.start), tl.constexpr(NOISE.start)
_FIRST, _EACH = tl.constexpr(FIRST), tl.constexpr(EACH)

_NOISE_VALUES = tl.constexpr(NOISE_VALUES)
_MIX_FIRST, _MIX_SECOND = tl.constexpr(MIX_FIRST), tl.constexpr(MIX_SECOND)

# Weights of the grey value, and of the smoothed one.
_RED, _GREEN, _BLUE = tl.constexpr(0.2989), tl.constexpr(0.587), tl.constexpr(0.114)
_THIRTEENTH = tl.constexpr(1 / 13)


@triton.jit
def _weight(centre, reach, tap, inputs):
    """Of an input that stands at a place, in a triangle about `centre`; zero outside of the inputs."""
    weight = 1.0 - tl.abs((tap.to(tl.float64) - centre + 0.5) / reach)
    return tl.where((tap < inputs) & (weight > 0.0), weight, 0.0)


@triton.jit
def _triangle(output, outputs, inputs, most):
    """What outputs of an axis are made of: centre, half width, first input, end, and the sum of all weights."""
    scale = inputs.to(tl.float64) / outputs.to(tl.float64)
    reach = tl.where(scale > 1.0, scale, 1.0)
    centre = scale * (output.to(tl.float64) + 0.5)
    first = tl.maximum((centre - reach + 0.5).to(tl.int32), 0)
    end = tl.minimum((centre + reach + 0.5).to(tl.int32), inputs)
    total = tl.zeros_like(centre)
    for tap in range(most):
        total += _weight(centre, reach, first + tap, end)
    # Outputs outside of the axis may have no inputs.
    return centre, reach, first, end, tl.where(total > 0.0, total, 1.0)


@triton.jit(
    do_not_specialize=[
        *("rows", "columns", "most", "fitted_rows", "fitted_columns"),
        *("top", "left", "stages", "height", "width", "side"),
    ]
)
def axes_kernel(
    program_ptr,  # [B, 11 + 7 stages] float64; None where all frames are fitted alike, which needs one clip
    head_ptr,  # [B, 2, 2] int32: bits of the weights' fractions, taps
    first_ptr,  # [B, 2, side] int32
    weights_ptr,  # [B, 2, most, side] int32
    rows, columns, most,  # of frames, and the most inputs that an output can have
    fitted_rows, fitted_columns, top, left,  # what all frames are resized to, and where what is kept begins in that
    stages, height, width, side,
    BLOCK: tl.constexpr,
):  # fmt: skip
    axis, clip = tl.program_id(0), tl.program_id(1).to(tl.int64)
    number = clip * 2 + axis
    inputs = tl.where(axis == 0, rows, columns)
    wanted = tl.where(axis == 0, height, width)
    if program_ptr is None:
        start = tl.zeros([], dtype=tl.int32)
        outputs = tl.where(axis == 0, fitted_rows, fitted_columns)
        skipped = tl.where(axis == 0, top, left)
    else:
        box_ptr = program_ptr + clip * (_FIRST + _EACH * stages) + _BOX + axis
        start, inputs = tl.load(box_ptr).to(tl.int32), tl.load(box_ptr + 2).to(tl.int32)
        outputs = wanted
        skipped = tl.zeros([], dtype=tl.int32)

    # The largest weight of all outputs, also of those that are cut off, says how exact weights of 16 bits can be.
    largest = tl.zeros([], dtype=tl.float64)
    for begin in range(0, outputs, BLOCK):
        output = begin + tl.arange(0, BLOCK)
        centre, reach, first, end, total = _triangle(output, outputs, inputs, most)
        for tap in range(most):
            share = _weight(centre, reach, first + tap, end) / total
            largest = tl.maximum(largest, tl.max(tl.where(output < outputs, share, 0.0)))
    power = tl.arange(0, 32)
    fits = (power < 22) & (0.5 + largest * (tl.full([], 2, dtype=tl.int64) << power).to(tl.float64) < 32768.0)
    bits = tl.sum(fits.to(tl.int32))
    scale = (tl.full([], 1, dtype=tl.int64) << bits).to(tl.float64)

    taps = tl.zeros([], dtype=tl.int32)
    for begin in range(0, side, BLOCK):
        output = begin + tl.arange(0, BLOCK)
        kept = output < wanted
        centre, reach, first, end, total = _triangle(output + skipped, outputs, inputs, most)
        taps = tl.maximum(taps, tl.max(tl.where(kept, end - first, 0)))
        tl.store(first_ptr + number * side + output, start + first, mask=kept)
        for tap in range(most):
            weight = 0.5 + _weight(centre, reach, first + tap, end) / total * scale
            tl.store(weights_ptr + (number * most + tap) * side + output, weight.to(tl.int32), mask=kept)
    tl.store(head_ptr + number * 2, bits)
    tl.store(head_ptr + number * 2 + 1, tl.minimum(taps, most))


@triton.jit
def _copy(row_ptr, stage):
    """Which of the two copies holds the clip of a program before a stage."""
    copy = tl.zeros([], dtype=tl.int32)
    for before in range(stage):
        copy ^= (tl.load(row_ptr + _FIRST + _EACH * before).to(tl.int32) >= _SHARPNESS).to(tl.int32)
    return copy


@triton.jit
def _mix(x):
    """Scramble uint32 numbers, as `maedfer._programs.mix` does."""
    x ^= x >> 16
    x *= tl.full([], _MIX_FIRST, dtype=tl.uint32)
    x ^= x >> 15
    x *= tl.full([], _MIX_SECOND, dtype=tl.uint32)
    return x ^ (x >> 16)


@triton.jit
def _erased(out, noise_ptr, program_ptr, channel, frame, pixel, mask, width, pixels):
    """Values with noise in the box that a program erases."""
    rows, columns = tl.load(program_ptr + _ERASED + 2).to(tl.int32), tl.load(program_ptr + _ERASED + 3).to(tl.int32)
    if rows > 0:
        y = pixel // width - tl.load(program_ptr + _ERASED).to(tl.int32)
        x = pixel % width - tl.load(program_ptr + _ERASED + 1).to(tl.int32)
        boxed = mask & ((y >= 0) & (y < rows) & (x >= 0) & (x < columns))[None, :]
        place = (frame * 3 + channel).to(tl.uint32)[:, None] * tl.cast(pixels, tl.uint32) + pixel.to(tl.uint32)[None, :]
        place = _mix(place ^ tl.load(program_ptr + _NOISE).to(tl.int64).to(tl.uint32))
        place = _mix(place ^ tl.load(program_ptr + _NOISE + 1).to(tl.int64).to(tl.uint32)) >> 16
        noise = tl.load(noise_ptr + channel * _NOISE_VALUES + place.to(tl.int32), mask=boxed, other=0)
        out = tl.where(boxed, noise, out)
    return out


@triton.jit(do_not_specialize=["frames_clip", "length", "most", "stages", "height", "side"])
def resample_kernel(
    frames_ptr,  # [B, 3, T, H, W], strides (clip, channel, frame, row, column); IN_COPIES: [2, B, 3, T, H, W]
    program_ptr,  # [B, 11 + 7 stages] float64; None where all frames are fitted alike
    noise_ptr,  # [3, NOISE_VALUES] uint8
    head_ptr, first_ptr, weights_ptr,  # as axes_kernel left them
    out_ptr,  # [B, 3, T, height, width] contiguous
    frames_clip, frames_channel, frames_frame, frames_row, frames_column, length, most,
    stages, height, width, side,
    IN_COPIES: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_P: tl.constexpr, OFFSET: tl.constexpr,
):  # fmt: skip
    pixels = height * width
    clip = tl.program_id(2).to(tl.int64)
    frames_ptr += clip * frames_clip
    down = tl.zeros([], dtype=tl.int64)
    if program_ptr is not None:
        down = clip * 2
        program_ptr += clip * (_FIRST + _EACH * stages)
        if IN_COPIES:
            frames_ptr += _copy(program_ptr, stages) * (tl.num_programs(2).to(tl.int64) * frames_clip)
    across = down + 1
    green_ptr = frames_ptr + frames_channel
    blue_ptr = green_ptr + frames_channel

    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    known = pixel < pixels
    y, x = pixel // width, pixel % width
    from_x = x
    if program_ptr is not None:
        from_x = tl.where(tl.load(program_ptr + _MIRROR) > 0.0, width - 1 - x, x)
    first_y = tl.load(first_ptr + down * side + y, mask=known, other=0)
    first_x = tl.load(first_ptr + across * side + from_x, mask=known, other=0)
    bits_y, taps_y = tl.load(head_ptr + down * 2), tl.load(head_ptr + down * 2 + 1)
    bits_x, taps_x = tl.load(head_ptr + across * 2), tl.load(head_ptr + across * 2 + 1)
    frame = tl.program_id(1) * BLOCK_T + tl.arange(0, BLOCK_T)
    mask = (frame < length)[:, None] & known[None, :]
    corner = (first_y.to(OFFSET) * frames_row + first_x.to(OFFSET) * frames_column)[None, :]
    corner += (frame.to(OFFSET) * frames_frame)[:, None]

    # A channel after the other would look up places and weights three times.
    half_y, half_x = (1 << bits_y) >> 1, (1 << bits_x) >> 1
    red = tl.zeros([BLOCK_T, BLOCK_P], dtype=tl.int32) + half_y
    green, blue = red, red
    for i in range(taps_y):
        weight_y = tl.load(weights_ptr + (down * most + i) * side + y, mask=known, other=0)
        row_red = tl.zeros([BLOCK_T, BLOCK_P], dtype=tl.int32) + half_x
        row_green, row_blue = row_red, row_red
        for j in range(taps_x):
            weight_x = tl.load(weights_ptr + (across * most + j) * side + from_x, mask=known, other=0)
            there = mask & ((weight_y > 0) & (weight_x > 0))[None, :]
            offset = corner + tl.cast(i, OFFSET) * frames_row + tl.cast(j, OFFSET) * frames_column
            row_red += weight_x[None, :] * tl.load(frames_ptr + offset, mask=there, other=0).to(tl.int32)
            row_green += weight_x[None, :] * tl.load(green_ptr + offset, mask=there, other=0).to(tl.int32)
            row_blue += weight_x[None, :] * tl.load(blue_ptr + offset, mask=there, other=0).to(tl.int32)
        # A row is rounded to bytes before rows are mixed.
        red += weight_y[None, :] * tl.minimum(row_red >> bits_x, 255)
        green += weight_y[None, :] * tl.minimum(row_green >> bits_x, 255)
        blue += weight_y[None, :] * tl.minimum(row_blue >> bits_x, 255)
    for channel in tl.static_range(3):
        sums = red if channel == 0 else (green if channel == 1 else blue)
        out = tl.minimum(sums >> bits_y, 255).to(tl.uint8)
        if program_ptr is not None:
            out = _erased(out, noise_ptr, program_ptr, channel, frame, pixel, mask, width, pixels)
        lane = (channel * length + frame).to(tl.int64)
        offset = clip * 3 * length * pixels + lane[:, None] * pixels + pixel[None, :]
        tl.store(out_ptr + offset, out, mask=mask)


@triton.jit
def _rounded_once(base, value, factor):
    """base + value * factor, rounded to float32 at the end."""
    return (base.to(tl.float64) + value.to(tl.float64) * factor.to(tl.float64)).to(tl.float32)


@triton.jit
def _grey(red, green, blue):
    """The whole part of grey values, float32."""
    green_share = tl.full([], _GREEN, dtype=tl.float32)
    blue_share = tl.full([], _BLUE, dtype=tl.float32)
    red, green, blue = red.to(tl.float32), green.to(tl.float32), blue.to(tl.float32)
    return tl.floor(_rounded_once(_rounded_once(red * _RED, green, green_share), blue, blue_share))


@triton.jit
def _byte(values):
    """Cut off to 0 ... 255 and without fractions."""
    return tl.minimum(tl.maximum(values, 0.0), 255.0).to(tl.int32).to(tl.uint8)


@triton.jit(do_not_specialize=["length", "stage", "stages"])
def tables_kernel(
    frames_ptr,  # [2, B, 3, T, P]
    program_ptr,  # [B, 11 + 7 stages] float64
    tables_ptr,  # [B, 3, T, 256] uint8
    length, stage, stages, pixels,
    BLOCK: tl.constexpr,
):  # fmt: skip
    lane, clip = tl.program_id(0), tl.program_id(1).to(tl.int64)
    program_ptr += clip * (_FIRST + _EACH * stages)
    code = tl.load(program_ptr + _FIRST + _EACH * stage).to(tl.int32)
    if (code != _NONE) & (code != _COLOR) & (code < _SHARPNESS):
        number = tl.load(program_ptr + _FIRST + _EACH * stage + 1)
        clip_ptr = frames_ptr + (_copy(program_ptr, stage) * tl.num_programs(1) + clip) * (3 * length * pixels)
        value = tl.arange(0, 256)
        table = value.to(tl.float32)
        if code <= _EQUALIZE:
            counts = tl.zeros([256], dtype=tl.int32)
            for begin in range(0, pixels, BLOCK):
                pixel = begin + tl.arange(0, BLOCK)
                known = pixel < pixels
                values = tl.load(clip_ptr + lane * pixels + pixel, mask=known, other=0).to(tl.int32)
                counts += tl.histogram(values, 256, mask=known)
            lowest = tl.min(tl.where(counts > 0, value, 255))
            highest = tl.max(tl.where(counts > 0, value, 0))
            if code == _AUTO_CONTRAST:
                # What has one value only stays.
                reach = tl.where(highest > lowest, (highest - lowest).to(tl.float32) * (1.0 / 255), 1.0)
                lowest = tl.where(highest > lowest, lowest, 0)
                table = tl.div_rn((value - lowest).to(tl.float32), tl.zeros_like(table) + reach)
            else:
                # The count of the largest value that occurs is left out.
                step = (pixels - tl.sum(tl.where(value == highest, counts, 0))) // 255
                spread = (tl.cumsum(counts, 0) - counts + step // 2) // tl.maximum(step, 1)
                table = tl.where(step > 0, spread.to(tl.float32), table)
        elif code == _INVERT:
            table = 255.0 - table
        elif code == _POSTERIZE:
            table = (value & number.to(tl.int32)).to(tl.float32)
        elif code == _SOLARIZE:
            table = tl.where(value < number.to(tl.int32), table, 255.0 - table)
        elif code == _SOLARIZE_ADD:
            table = tl.where(value < 128, table + number.to(tl.float32), table)
        elif code == _BRIGHTNESS:
            table = table * number.to(tl.float32)
        else:
            total = tl.zeros([], dtype=tl.int64)
            for begin in range(0, pixels, BLOCK):
                pixel = begin + tl.arange(0, BLOCK)
                known = pixel < pixels
                red_ptr = clip_ptr + (lane % length) * pixels + pixel
                red = tl.load(red_ptr, mask=known, other=0)
                green = tl.load(red_ptr + length * pixels, mask=known, other=0)
                blue = tl.load(red_ptr + 2 * length * pixels, mask=known, other=0)
                total += tl.sum(_grey(red, green, blue).to(tl.int32)).to(tl.int64)
            mean = (total.to(tl.float64) / pixels).to(tl.float32)
            table = _rounded_once(table * number.to(tl.float32), mean, (1.0 - number).to(tl.float32))
        tl.store(tables_ptr + (clip * 3 * length + lane) * 256 + value, _byte(table))


@triton.jit
def _sharpened(clip_ptr, out_ptr, factor, lane, pixel, mask, lanes, width, pixels):
    """factor * picture + (1 - factor) * the picture smoothed over 3 x 3 pixels; borders stay."""
    height = pixels // width
    y, x = pixel // width, pixel % width
    inner = ((y > 0) & (y < height - 1) & (x > 0) & (x < width - 1))[None, :]
    for channel in range(3):
        offset = (channel * lanes + lane)[:, None] * pixels + pixel[None, :]
        middle = tl.load(clip_ptr + offset, mask=mask, other=0).to(tl.int32)
        sums = 4 * middle
        for i in range(9):
            beside = offset + ((i // 3 - 1) * width + i % 3 - 1)
            sums += tl.load(clip_ptr + beside, mask=mask & inner, other=0).to(tl.int32)
        # To the nearest: no multiple of 1/13 lies halfway between integers.
        smooth = tl.floor(sums.to(tl.float32) * _THIRTEENTH + 0.5)
        base = middle.to(tl.float32)
        out = _rounded_once(base, smooth - base, (1.0 - factor).to(tl.float32))
        tl.store(out_ptr + offset, _byte(tl.where(inner, out, base)), mask=mask)


@triton.jit(do_not_specialize=["length", "stage", "stages"])
def stage_kernel(
    frames_ptr,  # [2, B, 3, T, P]
    program_ptr,  # [B, 11 + 7 stages] float64
    tables_ptr,  # [B, 3, T, 256] uint8, of this stage
    length, stage, stages, width, pixels,
    BLOCK_T: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    clip, clips = tl.program_id(2).to(tl.int64), tl.num_programs(2)
    program_ptr += clip * (_FIRST + _EACH * stages)
    numbers_ptr = program_ptr + _FIRST + _EACH * stage + 1
    code = tl.load(numbers_ptr - 1).to(tl.int32)
    if code != _NONE:
        copy = _copy(program_ptr, stage)
        clip_ptr = frames_ptr + (copy * clips + clip) * (3 * length * pixels)
        other_ptr = frames_ptr + ((1 - copy) * clips + clip) * (3 * length * pixels)
        frame = tl.program_id(1) * BLOCK_T + tl.arange(0, BLOCK_T)
        pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
        mask = (frame < length)[:, None] & (pixel < pixels)[None, :]
        if code == _COLOR:
            factor = tl.load(numbers_ptr)
            plane = length * pixels
            red_ptr = clip_ptr + frame[:, None] * pixels + pixel[None, :]
            red = tl.load(red_ptr, mask=mask, other=0).to(tl.float32)
            green = tl.load(red_ptr + plane, mask=mask, other=0).to(tl.float32)
            blue = tl.load(red_ptr + 2 * plane, mask=mask, other=0).to(tl.float32)
            grey = _grey(red, green, blue)
            share, rest = factor.to(tl.float32), (1.0 - factor).to(tl.float32)
            tl.store(red_ptr, _byte(_rounded_once(red * share, grey, rest)), mask=mask)
            tl.store(red_ptr + plane, _byte(_rounded_once(green * share, grey, rest)), mask=mask)
            tl.store(red_ptr + 2 * plane, _byte(_rounded_once(blue * share, grey, rest)), mask=mask)
        elif code == _AFFINE:
            sampled(clip_ptr, other_ptr, numbers_ptr, frame, pixel, mask, length, width, pixels)
        elif code == _AFFINE_BICUBIC:
            begin = tl.program_id(1) * BLOCK_T
            end = tl.minimum(begin + BLOCK_T, length)
            sampled_bicubic(clip_ptr, other_ptr, numbers_ptr, begin, end, pixel, length, width, pixels)
        elif code == _SHARPNESS:
            _sharpened(clip_ptr, other_ptr, tl.load(numbers_ptr), frame, pixel, mask, length, width, pixels)
        else:
            for channel in range(3):
                lane = channel * length + frame
                offset = lane[:, None] * pixels + pixel[None, :]
                value = tl.load(clip_ptr + offset, mask=mask, other=0).to(tl.int32)
                entry = (clip * 3 * length + lane)[:, None] * 256 + value
                tl.store(clip_ptr + offset, tl.load(tables_ptr + entry, mask=mask, other=0), mask=mask)
