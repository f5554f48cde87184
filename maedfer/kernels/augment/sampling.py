"""Operations of places, as parts of the kernels in kernels.py: the pixels of a clip come from where an affine map says.

Places are float64, mixing is float32. What is mixed is read from one copy of the clip and written to the other.
"""

from __future__ import annotations

import triton
import triton.language as tl

from maedfer._programs import FILL, GREY

_FILL, _GREY = tl.constexpr(FILL), tl.constexpr(GREY)
# So large a sum has no bits for fractions: adding and taking it away rounds to the nearest, ties to even.
_LARGE = tl.constexpr(1.5 * (1 << 23))


@triton.jit
def _places(numbers_ptr, pixel, width):
    """Where pixels come from: (x, y) = matrix times (column, row, 1), float64."""
    row, column = (pixel // width).to(tl.float64), (pixel % width).to(tl.float64)
    x = row * tl.load(numbers_ptr + 1) + tl.load(numbers_ptr + 2) + column * tl.load(numbers_ptr)
    y = row * tl.load(numbers_ptr + 4) + tl.load(numbers_ptr + 5) + column * tl.load(numbers_ptr + 3)
    return x, y


@triton.jit
def sampled(clip_ptr, out_ptr, numbers_ptr, lane, pixel, mask, lanes, width, pixels):
    """One operation of places, bilinear."""
    height = pixels // width
    x, y = _places(numbers_ptr, pixel, width)
    # Far outside all places are alike, and stay whole numbers of 32 bits.
    x = tl.minimum(tl.maximum(x, -2.0), width + 1.0)
    y = tl.minimum(tl.maximum(y, -2.0), height + 1.0)
    left, top = tl.floor(x), tl.floor(y)
    right, below = (x - left).to(tl.float32), (y - top).to(tl.float32)
    at_x, at_y = left.to(tl.int32), top.to(tl.int32)
    place = at_y * width + at_x
    left_in, right_in = (at_x >= 0) & (at_x < width), (at_x >= -1) & (at_x < width - 1)
    top_in, below_in = (at_y >= 0) & (at_y < height), (at_y >= -1) & (at_y < height - 1)
    in_0, in_1, in_2, in_3 = left_in & top_in, right_in & top_in, left_in & below_in, right_in & below_in
    weight_0 = tl.where(in_0, (1.0 - right) * (1.0 - below), 0.0)
    weight_1 = tl.where(in_1, right * (1.0 - below), 0.0)
    weight_2 = tl.where(in_2, (1.0 - right) * below, 0.0)
    weight_3 = tl.where(in_3, right * below, 0.0)
    inside = (weight_0 + weight_1 + weight_2 + weight_3)[None, :]
    for channel in range(3):
        offset = (channel * lanes + lane)[:, None] * pixels
        from_ptr = clip_ptr + offset + place[None, :]
        mixed = weight_0[None, :] * tl.load(from_ptr, mask=mask & in_0[None, :], other=0).to(tl.float32)
        mixed += weight_1[None, :] * tl.load(from_ptr + 1, mask=mask & in_1[None, :], other=0).to(tl.float32)
        mixed += weight_2[None, :] * tl.load(from_ptr + width, mask=mask & in_2[None, :], other=0).to(tl.float32)
        mixed += weight_3[None, :] * tl.load(from_ptr + (width + 1), mask=mask & in_3[None, :], other=0).to(tl.float32)
        # What is sampled at the border has the share of the outside as black in it.
        fill = tl.where(channel == 0, _FILL[0], tl.where(channel == 1, _FILL[1], _FILL[2]))
        mixed = (mixed - fill) * inside + fill
        out = ((mixed + _LARGE) - _LARGE).to(tl.int32).to(tl.uint8)
        tl.store(out_ptr + offset + pixel[None, :], out, mask=mask)


@triton.jit
def _cubic_weights(part):
    """Weights of the first, third and fourth of four neighbours, from float64 to float32; see torch.py."""
    first = part * (part * (2.0 - part) - 1.0)
    third = part * (1.0 + part * (1.0 - part))
    fourth = part * part * (part - 1.0)
    return first.to(tl.float32), third.to(tl.float32), fourth.to(tl.float32)


@triton.jit
def _cubic(first, second, third, fourth, weight_first, weight_third, weight_fourth):
    """Mix four neighbours so that equal ones stay exactly what they are."""
    change = (first - second) * weight_first + (third - second) * weight_third + (fourth - second) * weight_fourth
    return second + change


@triton.jit
def _line(row_ptr, first, second, third, fourth, weight_first, weight_third, weight_fourth, mask):
    """Mix four pixels of a row."""
    return _cubic(
        tl.load(row_ptr + first, mask=mask, other=0).to(tl.float32),
        tl.load(row_ptr + second, mask=mask, other=0).to(tl.float32),
        tl.load(row_ptr + third, mask=mask, other=0).to(tl.float32),
        tl.load(row_ptr + fourth, mask=mask, other=0).to(tl.float32),
        weight_first,
        weight_third,
        weight_fourth,
    )


@triton.jit
def sampled_bicubic(clip_ptr, out_ptr, numbers_ptr, begin, end, pixel, lanes, width, pixels):
    """One operation of places, bicubic, of frames from `begin` to `end`.

    One frame after the other, whose places and weights are the same: those of several at once would take all registers.
    """
    height = pixels // width
    x, y = _places(numbers_ptr, pixel, width)
    inside = (x >= -0.5) & (x < width - 0.5) & (y >= -0.5) & (y < height - 0.5)
    # Places outside may be of any size, and count for nothing.
    x, y = tl.where(inside, x, 0.0), tl.where(inside, y, 0.0)
    left, top = tl.floor(x), tl.floor(y)
    x_first, x_third, x_fourth = _cubic_weights(x - left)
    y_first, y_third, y_fourth = _cubic_weights(y - top)
    at_x, at_y = left.to(tl.int32), top.to(tl.int32)
    first, second = tl.maximum(at_x - 1, 0), tl.maximum(at_x, 0)
    third, fourth = tl.minimum(at_x + 1, width - 1), tl.minimum(at_x + 2, width - 1)
    row_first, row_second = tl.maximum(at_y - 1, 0) * width, tl.maximum(at_y, 0) * width
    row_third, row_fourth = tl.minimum(at_y + 1, height - 1) * width, tl.minimum(at_y + 2, height - 1) * width
    known = pixel < pixels
    used = known & inside
    for channel in range(3):
        for frame in range(begin, end):
            offset = (channel * lanes + frame) * pixels
            from_ptr = clip_ptr + offset
            mixed = _cubic(
                _line(from_ptr + row_first, first, second, third, fourth, x_first, x_third, x_fourth, used),
                _line(from_ptr + row_second, first, second, third, fourth, x_first, x_third, x_fourth, used),
                _line(from_ptr + row_third, first, second, third, fourth, x_first, x_third, x_fourth, used),
                _line(from_ptr + row_fourth, first, second, third, fourth, x_first, x_third, x_fourth, used),
                y_first,
                y_third,
                y_fourth,
            )
            out = tl.where(inside, tl.minimum(tl.maximum(mixed, 0.0), 255.0).to(tl.int32), _GREY)
            tl.store(out_ptr + offset + pixel, out.to(tl.uint8), mask=known)
