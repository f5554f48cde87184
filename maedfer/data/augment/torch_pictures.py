"""Work on pictures side by side in plain PyTorch: the specification of csrc, used where that was not compiled.

`operations.Pictures` says what is what. Every result depends on single additions and multiplications, which round the
same on every processor, or on whole numbers; operators of PyTorch that multiply and add at once (`alpha=`, `addcmul`,
`lerp`, convolutions) round as the processor has it and are not used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

# Values that are worked on at once, so that what lies between steps stays in the processor's cache.
_VALUES_AT_ONCE = 1 << 17
# Numbers that csrc has in float32.
_RED, _GREEN, _BLUE, _THIRTEENTH = torch.tensor([0.2989, 0.587, 0.114, 1 / 13], dtype=torch.float32).tolist()


def side_by_side(frames: Tensor) -> Tensor:
    """Bring frames [T, 3, H, W] to the order of pictures."""
    return frames.permute(2, 3, 1, 0).contiguous()


def resize(frames: Tensor, size: Sequence[int], mirror: bool = False, planar: bool = False) -> Tensor:
    """Bilinear with antialias by PyTorch's own resizing of bytes, which computes in integers."""
    if tuple(frames.shape[-2:]) != tuple(size):
        if size[1] == 1:
            # PyTorch mistakes the order in memory of results one pixel wide, but of frames with channels last.
            frames = frames.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format).permute(0, 3, 1, 2)
        frames = functional.interpolate(frames, list(size), mode="bilinear", antialias=True)
    if mirror:
        frames = frames.flip(-1)
    return frames.transpose(0, 1).contiguous().transpose(0, 1) if planar else frames


def affine(pictures: Tensor, matrix: Sequence[float], fill: Tensor) -> Tensor:
    """Sample at the places that `matrix` gives: the places in float64, the mixing of four pixels in float32."""
    rows, columns, channels, length = pictures.shape
    x, y = _places(rows, columns, matrix)
    left, top = x.floor(), y.floor()
    right, below = (x - left).float(), (y - top).float()
    places, weights = [], []
    for i in range(4):
        at_x, at_y = left + i % 2, top + i // 2
        there = (at_x >= 0) & (at_x < columns) & (at_y >= 0) & (at_y < rows)
        places.append(torch.where(there, at_y * columns + at_x, 0.0).long())
        weight = (right if i % 2 else 1.0 - right) * (below if i // 2 else 1.0 - below)
        weights.append(torch.where(there, weight, 0.0).unsqueeze(1))
    inside = weights[0] + weights[1] + weights[2] + weights[3]
    pixels = pictures.view(rows * columns, channels * length)
    out = torch.empty_like(pixels)
    for part in _parts(pixels):
        mixed = pixels.index_select(0, places[0][part]) * weights[0][part]
        for i in (1, 2, 3):
            mixed += pixels.index_select(0, places[i][part]) * weights[i][part]
        # The border is mixed as torchvision does: what is sampled there has the share of the outside as black in it.
        mixed -= fill
        mixed *= inside[part]
        mixed += fill
        out[part] = mixed.round_()
    return out.view_as(pictures)


def affine_bicubic(pictures: Tensor, matrix: Sequence[float], fill: int) -> Tensor:
    """Sample bicubically: places and weights in float64, the mixing of four pixels of four rows in float32."""
    rows, columns, channels, length = pictures.shape
    x, y = _places(rows, columns, matrix)
    inside = (x >= -0.5) & (x < columns - 0.5) & (y >= -0.5) & (y < rows - 0.5)
    # Places outside may be of any size, and count for nothing.
    x, y = torch.where(inside, x, 0.0), torch.where(inside, y, 0.0)
    left, top = x.floor(), y.floor()
    across, down = _cubic_weights(x - left), _cubic_weights(y - top)
    at_x = [(left.long() + k).clamp(0, columns - 1) for k in (-1, 0, 1, 2)]
    at_y = [(top.long() + k).clamp(0, rows - 1) * columns for k in (-1, 0, 1, 2)]
    pixels = pictures.view(rows * columns, channels * length)
    out = torch.empty_like(pixels)
    for part in _parts(pixels):
        lines = []
        for row in at_y:
            taps = [pixels.index_select(0, row[part] + column[part]).float() for column in at_x]
            lines.append(_cubic(taps, [weight[part] for weight in across]))
        mixed = _cubic(lines, [weight[part] for weight in down]).clamp_(0, 255)
        out[part] = torch.where(inside[part].unsqueeze(1), mixed, fill)
    return out.view_as(pictures)


def extremes(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Find the lowest and the highest values."""
    return pictures.amin((0, 1)), pictures.amax((0, 1))


def histograms(pictures: Tensor) -> Tensor:
    """Count the values."""
    places = _places_in_tables(pictures)
    return torch.bincount(places, minlength=256 * pictures[0, 0].numel()).view(*pictures.shape[2:], 256)


def grey_sums(pictures: Tensor) -> Tensor:
    """Sum the grey values of every frame."""
    pixels = pictures.flatten(0, 1)
    sums = torch.zeros(pictures.shape[3], dtype=torch.int64)
    for part in _parts(pixels):
        sums += _grey(pixels[part].float()).long().sum(0)
    return sums


def look_up(pictures: Tensor, tables: Tensor) -> Tensor:
    """Replace values by those of tables."""
    return tables.flatten().index_select(0, _places_in_tables(pictures)).view_as(pictures)


def saturate(pictures: Tensor, factor: float) -> Tensor:
    """Mix with the grey picture."""
    pixels = pictures.flatten(0, 1)
    out = torch.empty_like(pixels)
    for part in _parts(pixels):
        values = pixels[part].float()
        mixed = multiply_add(values * factor, _grey(values).unsqueeze(1), 1.0 - factor)
        out[part] = mixed.clamp_(0, 255)
    return out.view_as(pictures)


def sharpen(pictures: Tensor, factor: float) -> Tensor:
    """Mix with the smoothed picture."""
    rows, columns = pictures.shape[:2]
    out = pictures.clone()
    if min(rows, columns) < 3:
        return out
    for part in _parts(pictures[1:-1]):
        values = pictures[part.start : part.stop + 2].float()
        inner = values[1:-1, 1:-1]
        # Sums of three rows, then of three columns: whole numbers, which float32 holds.
        sums = values[:-2] + values[1:-1] + values[2:]
        sums = sums[:, :-2] + sums[:, 1:-1] + sums[:, 2:] + 4 * inner
        # To the nearest: no multiple of 1/13 lies halfway between integers.
        blurred = (sums * _THIRTEENTH + 0.5).floor_()
        mixed = multiply_add(inner, blurred - inner, 1.0 - factor)
        out[part.start + 1 : part.stop + 1, 1:-1] = mixed.clamp_(0, 255)
    return out


def multiply_add(base: Tensor, values: Tensor, factor: float) -> Tensor:
    """base + values * factor of float32 tensors, computed in float64, rounded to float32 at the end.

    The product is exact, so that it makes no difference whether a processor multiplies and adds at once.
    """
    factor = torch.tensor(factor, dtype=torch.float32).item()
    return (base.double() + values.double() * factor).float()


def _places(rows: int, columns: int, matrix: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Where the pixels of an affine map come from, x and y: float64 [rows * columns]."""
    row, column = torch.arange(rows, dtype=torch.float64), torch.arange(columns, dtype=torch.float64)
    x, y = (
        ((row * down + start).unsqueeze(1) + column * along).flatten()
        for along, down, start in (matrix[:3], matrix[3:])
    )
    return x, y


def _cubic_weights(part: Tensor) -> list[Tensor]:
    """Weights of the first, third and fourth of four neighbours, `part` of the way from the second to the third.

    Those of Keys' convolution with a = -1, as PIL has it, from float64 [P] to float32 [P, 1]; the second has the rest.
    """
    first = part * (part * (2.0 - part) - 1.0)
    third = part * (1.0 + part * (1.0 - part))
    fourth = part * part * (part - 1.0)
    return [weight.float().unsqueeze(1) for weight in (first, third, fourth)]


def _cubic(taps: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """Mix four neighbours so that equal ones stay exactly what they are."""
    first, second, third, fourth = taps
    change = (first - second) * weights[0]
    change += (third - second) * weights[1]
    change += (fourth - second) * weights[2]
    return second + change


def _grey(values: Tensor) -> Tensor:
    """Grey values [..., T] without their fractions, from float32 [..., 3, T]."""
    red, green, blue = values.unbind(-2)
    return multiply_add(multiply_add(red * _RED, green, _GREEN), blue, _BLUE).floor_()


def _places_in_tables(pictures: Tensor) -> Tensor:
    """Where each value stands in tables [3, T, 256] laid out as one: int32, flat."""
    lanes = pictures.flatten(2)
    return (lanes.int() + 256 * torch.arange(lanes.shape[2], dtype=torch.int32)).flatten()


def _parts(rows: Tensor) -> Iterator[slice]:
    """Cut a tensor's first dimension."""
    count, each = len(rows), max(1, _VALUES_AT_ONCE // max(1, rows[:1].numel()))
    return (slice(start, min(start + each, count)) for start in range(0, count, each))
