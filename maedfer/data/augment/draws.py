"""What is drawn at random for a training clip, as a program (its format: `maedfer._programs`).

Draws come from torch's global generator, which the data set seeds for every sample, and depend on nothing else but the
settings and the size of frames: a program is the same wherever it is followed, on the CPU (`transforms`) or on a device
(`maedfer.kernels.augment`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from maedfer._programs import BOX, EACH, ERASED, FIRST, MIRROR, NOISE, Interpolation
from maedfer.data.augment.rand_augment import RandAugmentSettings, draw_operations, parse_randaugment
from maedfer.errors import InputError, require

Size = tuple[int, int]


class TrainDraws:
    """Draws the programs of fine-tuning: RandAugment, a box for the resized crop, a mirror image, a box to erase.

    Args:
        size: height and width of the frames that operations see, and of the result.
        randaugment: settings in timm's notation; empty = off.
        scale: share of the area that the crop keeps, from and to.
        ratio: width / height of the crop, from and to.
        flip: probability of a mirror image.
        erase: probability of erasing a box.
        interpolation: of RandAugment's operations that move pixels.
    """

    def __init__(
        self,
        size: Size,
        randaugment: str,
        scale: Sequence[float],
        ratio: Sequence[float],
        flip: float,
        erase: float,
        interpolation: Interpolation = "bicubic",
    ) -> None:
        # With torchvision comes PyTorch's compiler: a second and 160 MB that whoever does not train does without.
        self._draw_box = require("torchvision.transforms", "train").RandomResizedCrop.get_params
        self.size = size
        # What torchvision looks at.
        self._frame = torch.empty(1, *size, device="meta")
        self.randaugment: RandAugmentSettings | None = None
        if randaugment:
            self.randaugment = parse_randaugment(randaugment, interpolation)
        self.scale, self.ratio = list(scale), list(ratio)
        self.flip, self.erase = flip, erase

    def __call__(self) -> Tensor:
        """Draw a program: float64 [11 + 7 n]."""
        height, width = self.size
        steps = draw_operations(self.randaugment, height, width) if self.randaugment is not None else []
        # In plain numbers up to the end, as tensors are slow to be written one by one.
        program = [0.0] * (FIRST + EACH * len(steps))
        for place, step in enumerate(steps):
            start = FIRST + EACH * place
            program[start : start + len(step)] = step
        program[BOX] = self._draw_box(self._frame, self.scale, self.ratio)
        program[MIRROR] = float(torch.rand(()) < self.flip)
        if torch.rand(()) < self.erase:
            program[ERASED] = draw_erased_box(height, width)
            program[NOISE] = torch.randint(2**32, (2,)).tolist()
        return torch.tensor(program, dtype=torch.float64)


class PretrainDraws:
    """Draws the programs of pre-training: a box of the multi-scale crop.

    Args:
        scales: sides of the crop as shares of the short side; height and width differ by one step at most.
    """

    def __init__(self, scales: Sequence[float]) -> None:
        if not scales or not all(0 < scale <= 1 for scale in scales):
            raise InputError(f"scales of the multi-scale crop must be above 0 and at most 1, got {list(scales)}")
        self.scales = tuple(scales)

    def __call__(self, height: int, width: int) -> Tensor:
        """Draw a program for frames of a size: float64 [11]."""
        boxes = _known_boxes(height, width, self.scales)
        program = [0.0] * FIRST
        program[BOX] = boxes[int(torch.randint(len(boxes), ()))]
        return torch.tensor(program, dtype=torch.float64)


def multiscale_boxes(height: int, width: int, scales: Sequence[float]) -> list[tuple[int, int, int, int]]:
    """List every box (top, left, height, width) of the multi-scale crop; all are equally likely.

    The 13 offsets are the corners, the centre, the middles of the edges, and the points halfway between centre and
    corners.
    """
    sides = [max(1, int(min(height, width) * scale)) for scale in scales]
    quarters = [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2)]
    quarters += [(2, 0), (2, 4), (4, 2), (0, 2)]
    quarters += [(1, 1), (1, 3), (3, 1), (3, 3)]
    return [
        ((height - rows) // 4 * down, (width - columns) // 4 * right, rows, columns)
        for i, rows in enumerate(sides)
        for j, columns in enumerate(sides)
        if abs(i - j) <= 1
        for down, right in quarters
    ]


_known_boxes = lru_cache(maxsize=64)(multiscale_boxes)


def draw_erased_box(height: int, width: int, attempts: int = 10) -> tuple[int, int, int, int]:
    """Draw a box to erase: top, left, height, width; zeros where none was found that fits.

    It covers 0.02 to 1/3 of the area, its height / width is between 0.3 and 1/0.3 (drawn on a log scale).
    """
    for _ in range(attempts):
        area = height * width * (0.02 + (1 / 3 - 0.02) * torch.rand(()).item())
        aspect = math.exp((2 * torch.rand(()).item() - 1) * math.log(1 / 0.3))
        rows, columns = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        # A box of no height would be none.
        if 0 < rows < height and 0 < columns < width:
            top = int(torch.randint(height - rows + 1, ()))
            left = int(torch.randint(width - columns + 1, ()))
            return top, left, rows, columns
    return 0, 0, 0, 0
