"""Programs in plain PyTorch, on any device: the specification of the kernels, and the bytes that `data` has on a CPU.

Clips of which the same is to be done go together. Every result depends on single additions and multiplications, which
round the same on every device, or on whole numbers: operators that multiply and add at once (`alpha=`, `addcmul`,
`lerp`, convolutions) round as the device has it and are not used.

Shapes: G clips [G, 3, T, H, W] of T frames, P = H * W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from maedfer._programs import (
    BOX,
    EACH,
    ERASED,
    FILL,
    FIRST,
    GREY,
    MIRROR,
    MIX_FIRST,
    MIX_SECOND,
    NOISE,
    Operation,
    fitted,
    noise_table,
)
from maedfer.kernels.augment.resampling import Taps, taps

# Values that are worked on at once: what lies between steps takes up to 8 bytes each, some of it twice.
_VALUES_AT_ONCE = 1 << 25
# Numbers that csrc has in float32.
_RED, _GREEN, _BLUE, _THIRTEENTH = torch.tensor([0.2989, 0.587, 0.114, 1 / 13], dtype=torch.float32).tolist()
# Done by replacing values by those of a table.
_BY_TABLE = (
    Operation.AUTO_CONTRAST,
    Operation.EQUALIZE,
    Operation.INVERT,
    Operation.POSTERIZE,
    Operation.SOLARIZE,
    Operation.SOLARIZE_ADD,
    Operation.CONTRAST,
    Operation.BRIGHTNESS,
)
_WORD = 0xFFFFFFFF


def augment(frames: Tensor, program: Tensor, size: Sequence[int], fit: str) -> Tensor:
    """Follow a program for each clip; arguments and result are those of api.py, `fit` is "" for None."""
    height, width = size
    out = frames.new_empty((len(frames), 3, frames.shape[1], height, width))
    largest = 3 * frames.shape[1] * max(frames.shape[2] * frames.shape[3], height * width)
    at_once = max(1, _VALUES_AT_ONCE // max(1, largest))
    for start in range(0, len(frames), at_once):
        part = slice(start, start + at_once)
        out[part] = _augment(frames[part].permute(0, 4, 1, 2, 3), program[part], (height, width), fit)
    return out


def _augment(clips: Tensor, program: Tensor, size: tuple[int, int], fit: str) -> Tensor:
    if fit:
        clips = _fit(clips, size, fit)
    steps = program[:, FIRST:].unflatten(1, (-1, EACH))
    for place in range(steps.shape[1]):
        clips = _step(clips, steps[:, place])
    clips = resize(clips, program[:, BOX], size, program[:, MIRROR] != 0)
    for clip in program[:, ERASED.start + 2].nonzero().flatten().tolist():
        box, key = ([int(number) for number in program[clip, part].tolist()] for part in (ERASED, NOISE))
        erase(clips[clip], box, key)
    return clips


def _fit(clips: Tensor, size: tuple[int, int], fit: str) -> Tensor:
    frame = clips.shape[-2:]
    inner, (top, left) = fitted(frame, size, "crop" if fit == "crop" else "stretch")
    if inner != tuple(frame):
        box = torch.tensor([[0.0, 0.0, *frame]], dtype=torch.float64).expand(len(clips), -1)
        clips = resize(clips, box, inner)
    return clips[..., top : top + size[0], left : left + size[1]]


def _step(clips: Tensor, steps: Tensor) -> Tensor:
    """Do the next operation of every clip: [G, 7], on the CPU."""
    codes = steps[:, 0].int()
    present = [code for code in Operation if code != Operation.NONE and bool((codes == code).any())]
    if not present:
        return clips
    out = clips.clone(memory_format=torch.contiguous_format)
    for code in present:
        which = (codes == code).nonzero().flatten()
        numbers, which = steps[which, 1:].to(clips.device), which.to(clips.device)
        out[which] = do(code, clips[which], numbers)
    return out


def do(code: Operation, clips: Tensor, numbers: Tensor) -> Tensor:
    """Do an operation to uint8 [G, 3, T, H, W], with numbers float64 [G, 6] beside it."""
    if code in _BY_TABLE:
        return look_up(clips, tables(code, clips, numbers))
    if code == Operation.AFFINE:
        return affine(clips, numbers)
    if code == Operation.AFFINE_BICUBIC:
        return affine_bicubic(clips, numbers)
    if code == Operation.COLOR:
        return saturate(clips, numbers[:, 0])
    assert code == Operation.SHARPNESS, code
    return sharpen(clips, numbers[:, 0])


# Geometry


def resize(clips: Tensor, boxes: Tensor, size: tuple[int, int], mirror: Tensor | None = None) -> Tensor:
    """Bilinear with antialias: a box of every clip to `size`, then mirrored where `mirror` says so.

    First along rows, then along columns, to whole numbers each time, as PyTorch resizes bytes on a CPU.

    Args:
        clips: uint8 [G, 3, T, H, W] of any strides.
        boxes: float64 [G, 4] on the CPU: top, left, height, width.
        size: height and width of the result.
        mirror: bool [G] on the CPU.
    """
    top, left, height, width = boxes.numpy().T
    down, across = taps(top, height, size[0]), taps(left, width, size[1])
    if mirror is not None and mirror.any():
        turned = mirror.numpy()[:, None]
        reversed_taps = Taps(across.first[:, ::-1], across.weight[:, ::-1], across.precision)
        first = across.first.copy()
        weight = across.weight.copy()
        first[turned[:, 0]] = reversed_taps.first[turned[:, 0]]
        weight[turned[:, 0]] = reversed_taps.weight[turned[:, 0]]
        across = Taps(first, weight, across.precision)
    return _weigh(_weigh(clips, across, -1), down, -2)


def _weigh(clips: Tensor, axis: Taps, dim: int) -> Tensor:
    """Make the outputs of one axis, [G, 3, T, H, out] for dim -1 and [G, 3, T, out, W] for dim -2."""
    first, weight, precision = (torch.from_numpy(part.copy()).to(clips.device) for part in axis)
    shape = [len(clips), 1, 1, 1, 1]
    precision = precision.view(shape)
    shape[dim] = first.shape[1]
    result = list(clips.shape)
    result[dim] = first.shape[1]
    sums = (torch.ones_like(precision) << (precision - 1)).expand(result).clone()
    for k in range(weight.shape[2]):
        place = (first + k).clamp(max=clips.shape[dim] - 1).long().view(shape).expand(result)
        sums += clips.gather(dim, place).int() * weight[..., k].view(shape)
    return (sums >> precision).clamp(max=255).to(torch.uint8)


def affine(clips: Tensor, matrix: Tensor) -> Tensor:
    """Sample at the places that matrices give: the places in float64, the mixing of four pixels in float32.

    Args:
        clips: uint8 [G, 3, T, H, W].
        matrix: float64 [G, 6] on their device; see `Operation.AFFINE`.
    """
    rows, columns = clips.shape[-2:]
    x, y = _places(clips, matrix)
    left, top = x.floor(), y.floor()
    right, below = (x - left).float(), (y - top).float()
    fill = torch.tensor(FILL, device=clips.device).view(1, 3, 1, 1)
    pixels = clips.flatten(-2)
    mixed, inside = torch.zeros(()), torch.zeros(())
    for i in range(4):
        at_x, at_y = left + i % 2, top + i // 2
        there = (at_x >= 0) & (at_x < columns) & (at_y >= 0) & (at_y < rows)
        place = torch.where(there, at_y * columns + at_x, 0.0).long()[:, None, None].expand_as(pixels)
        weight = (right if i % 2 else 1.0 - right) * (below if i // 2 else 1.0 - below)
        weight = torch.where(there, weight, 0.0)[:, None, None]
        part = pixels.gather(-1, place) * weight
        mixed, inside = (mixed + part, inside + weight) if i else (part, weight)
    # The border is mixed as torchvision does: what is sampled there has the share of the outside as black in it.
    return ((mixed - fill) * inside + fill).round_().to(torch.uint8).view_as(clips)


def affine_bicubic(clips: Tensor, matrix: Tensor) -> Tensor:
    """Sample bicubically: places and weights in float64, the mixing of four pixels of four rows in float32.

    Args:
        clips: uint8 [G, 3, T, H, W].
        matrix: float64 [G, 6] on their device; see `Operation.AFFINE_BICUBIC`.
    """
    rows, columns = clips.shape[-2:]
    x, y = _places(clips, matrix)
    inside = (x >= -0.5) & (x < columns - 0.5) & (y >= -0.5) & (y < rows - 0.5)
    # Places outside may be of any size, and count for nothing.
    x, y = torch.where(inside, x, 0.0), torch.where(inside, y, 0.0)
    left, top = x.floor(), y.floor()
    across, down = _cubic_weights(x - left), _cubic_weights(y - top)
    pixels = clips.flatten(-2)
    lines = []
    for i in (-1, 0, 1, 2):
        row = (top.long() + i).clamp(0, rows - 1) * columns
        places = [row + (left.long() + k).clamp(0, columns - 1) for k in (-1, 0, 1, 2)]
        lines.append(
            _cubic([pixels.gather(-1, place[:, None, None].expand_as(pixels)).float() for place in places], across)
        )
    mixed = _cubic(lines, down).clamp_(0, 255)
    return torch.where(inside[:, None, None], mixed, GREY).to(torch.uint8).view_as(clips)


def _places(clips: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Where the pixels of affine maps come from, x and y: float64 [G, P]."""
    row, column = (torch.arange(n, dtype=torch.float64, device=clips.device) for n in clips.shape[-2:])
    x, y = (
        ((row * down.unsqueeze(1) + start.unsqueeze(1)).unsqueeze(2) + column * along[:, None, None]).flatten(1)
        for along, down, start in (matrix[:, :3].T, matrix[:, 3:].T)
    )
    return x, y


def _cubic_weights(part: Tensor) -> list[Tensor]:
    """Weights of the first, third and fourth of four neighbours, `part` of the way from the second to the third.

    Those of Keys' convolution with a = -1, as PIL has it, from float64 [G, P] to float32 [G, 1, 1, P]; the second has
    the rest.
    """
    first = part * (part * (2.0 - part) - 1.0)
    third = part * (1.0 + part * (1.0 - part))
    fourth = part * part * (part - 1.0)
    return [weight.float()[:, None, None] for weight in (first, third, fourth)]


def _cubic(taps: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """Mix four neighbours so that equal ones stay exactly what they are."""
    first, second, third, fourth = taps
    change = (first - second) * weights[0]
    change += (third - second) * weights[1]
    change += (fourth - second) * weights[2]
    return second + change


# Colour


def look_up(clips: Tensor, values: Tensor) -> Tensor:
    """Replace values by those of tables, uint8 [G, 3, T, 256]."""
    return values.gather(-1, clips.flatten(-2).long()).view_as(clips)


def tables(code: Operation, clips: Tensor, numbers: Tensor) -> Tensor:
    """What an operation makes of each value in every channel of every frame: uint8 [G, 3, T, 256].

    Args:
        code: one that is done by a table.
        clips: uint8 [G, 3, T, H, W].
        numbers: float64 [G, 6] on their device.
    """
    values, first = torch.arange(256, device=clips.device), numbers[:, :1, None, None]
    if code == Operation.AUTO_CONTRAST:
        table = _stretched(clips)
    elif code == Operation.EQUALIZE:
        table = _equalized(clips)
    elif code == Operation.INVERT:
        table = 255 - values
    elif code == Operation.POSTERIZE:
        table = values & first.long()
    elif code == Operation.SOLARIZE:
        table = torch.where(values < first, values, 255 - values)
    elif code == Operation.SOLARIZE_ADD:
        table = torch.where(values < 128, values + first, values)
    elif code == Operation.BRIGHTNESS:
        table = values.float() * first.float()
    else:
        table = multiply_add(values.float() * first.float(), grey_means(clips)[:, None, :, None], 1.0 - first)
    return table.clamp(0, 255).to(torch.uint8).expand(*clips.shape[:3], 256)


def _stretched(clips: Tensor) -> Tensor:
    values = torch.arange(256, dtype=torch.float32, device=clips.device)
    pixels = clips.flatten(-2)
    lowest, highest = pixels.amin(-1, keepdim=True).float(), pixels.amax(-1, keepdim=True).float()
    width = (highest - lowest) * (1.0 / 255)
    # What has one value only stays.
    return (values - torch.where(width == 0, 0.0, lowest)) / torch.where(width == 0, 1.0, width)


def _equalized(clips: Tensor) -> Tensor:
    counts = histograms(clips)
    sums = counts.cumsum(-1)
    total = clips.shape[-2] * clips.shape[-1]
    # The count of the largest value that occurs is left out.
    step = (total - counts.gather(-1, sums.argmax(-1, keepdim=True))) // 255
    table = (sums - counts + step // 2) // step.clamp(min=1)
    return torch.where(step == 0, torch.arange(256, device=clips.device), table)


def histograms(clips: Tensor) -> Tensor:
    """Count the values of every channel of every frame: int64 [G, 3, T, 256]."""
    lanes = clips.flatten(0, 2).flatten(1)
    places = lanes.int() + 256 * torch.arange(len(lanes), dtype=torch.int32, device=clips.device).unsqueeze(1)
    return torch.bincount(places.flatten(), minlength=256 * len(lanes)).view(*clips.shape[:3], 256)


def grey_means(clips: Tensor) -> Tensor:
    """Mean of the integer parts of the grey values of every frame: float32 [G, T]."""
    sums = _grey(clips.float()).flatten(-2).sum(-1, dtype=torch.float64)
    return (sums / (clips.shape[-2] * clips.shape[-1])).float()


def saturate(clips: Tensor, factor: Tensor) -> Tensor:
    """Give factor * clip + (1 - factor) * its grey; factor: float64 [G]."""
    values, factor = clips.float(), factor.view(-1, 1, 1, 1, 1)
    mixed = multiply_add(values * factor.float(), _grey(values).unsqueeze(1), 1.0 - factor)
    return mixed.clamp_(0, 255).to(torch.uint8)


def sharpen(clips: Tensor, factor: Tensor) -> Tensor:
    """Give factor * clip + (1 - factor) * the clip smoothed over 3 x 3 pixels; borders stay; factor: float64 [G]."""
    out = clips.clone(memory_format=torch.contiguous_format)
    if min(clips.shape[-2:]) < 3:
        return out
    values = clips.float()
    inner = values[..., 1:-1, 1:-1]
    # Sums of three rows, then of three columns: whole numbers, which float32 holds.
    sums = values[..., :-2, :] + values[..., 1:-1, :] + values[..., 2:, :]
    sums = sums[..., :-2] + sums[..., 1:-1] + sums[..., 2:] + 4 * inner
    # To the nearest: no multiple of 1/13 lies halfway between integers.
    blurred = (sums * _THIRTEENTH + 0.5).floor_()
    mixed = multiply_add(inner, blurred - inner, 1.0 - factor.view(-1, 1, 1, 1, 1))
    out[..., 1:-1, 1:-1] = mixed.clamp_(0, 255).to(torch.uint8)
    return out


def multiply_add(base: Tensor, values: Tensor, factor: Tensor | float) -> Tensor:
    """base + values * factor of float32 tensors, computed in float64, rounded to float32 at the end.

    The product is exact, so that it makes no difference whether a device multiplies and adds at once. The factor counts
    as a number of float32.
    """
    rounded = torch.as_tensor(factor, device=base.device).float().double()
    return (base.double() + values.double() * rounded).float()


def _grey(values: Tensor) -> Tensor:
    """Grey values [G, T, H, W] without their fractions, from float32 [G, 3, T, H, W]."""
    red, green, blue = values.unbind(1)
    return multiply_add(multiply_add(red * _RED, green, _GREEN), blue, _BLUE).floor_()


# Noise


def erase(clip: Tensor, box: Sequence[int], key: Sequence[int]) -> None:
    """Fill a box (top, left, height, width) of uint8 [3, T, H, W] with the noise of a key, in place."""
    top, left, rows, columns = box
    channels, length, height, width = clip.shape
    frame, channel, row, column = (
        torch.arange(start, end, device=clip.device)
        for start, end in ((0, length), (0, channels), (top, top + rows), (left, left + columns))
    )
    picture = frame * channels + channel.unsqueeze(1)
    place = ((picture[..., None, None] * height + row.unsqueeze(1)) * width + column) & _WORD
    upper = mix(mix(place ^ key[0]) ^ key[1]) >> 16
    table = torch.from_numpy(noise_table().copy()).to(clip.device)
    noise = table.gather(1, upper.flatten(1)).view_as(upper)
    clip[..., top : top + rows, left : left + columns] = noise


def mix(x: Tensor) -> Tensor:
    """Scramble numbers of 32 bits, in int64."""
    x = ((x ^ (x >> 16)) * MIX_FIRST) & _WORD
    x = ((x ^ (x >> 15)) * MIX_SECOND) & _WORD
    return x ^ (x >> 16)
