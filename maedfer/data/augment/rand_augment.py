"""RandAugment on clips, after timm's notation and its two tables of operations and strengths.

"rand-m7-n4-mstd0.5-inc1": n operations are drawn with replacement, each is applied with probability p (0.5), at a
magnitude drawn from a normal distribution around m (of 10) with deviation mstd; inc1 takes the table in which every
operation grows stronger with the magnitude. Draws come from torch's global generator.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from maedfer._programs import FILL, Operation
from maedfer.data.augment.operations import Impl, Operations, affine_matrix, operations_by
from maedfer.errors import InputError

_LARGEST = 10.0
# An operation with its numbers, as in a program.
Step = tuple[float, ...]


@dataclass(frozen=True)
class RandAugmentSettings:
    """The parts of a RandAugment string; see the module's head."""

    magnitude: float = 10.0
    operations: int = 2
    deviation: float = 0.0
    increasing: bool = False
    probability: float = 0.5


def parse_randaugment(text: str) -> RandAugmentSettings:
    """Read a string like "rand-m7-n4-mstd0.5-inc1".

    Raises:
        InputError: unknown part, or a value out of range.
    """
    name, *parts = text.split("-")
    values: dict[str, float] = {}
    for part in parts:
        match = re.fullmatch(r"(mstd|inc|m|n|p)(\d+(?:\.\d+)?)", part)
        if match is None:
            name = ""
            break
        values[match[1]] = float(match[2])
    settings = RandAugmentSettings(
        magnitude=values.get("m", 10.0),
        operations=int(values.get("n", 2)),
        deviation=values.get("mstd", 0.0),
        increasing=values.get("inc", 0.0) > 0,
        probability=values.get("p", 0.5),
    )
    if name != "rand" or settings.magnitude > _LARGEST or settings.probability > 1:
        raise InputError(
            f"RandAugment settings {text!r} are not understood: write rand-m7-n4-mstd0.5-inc1, with m up to 10 and the "
            "parts m (magnitude), n (operations), mstd (its deviation), inc (0 or 1), p (probability)"
        )
    return settings


class RandAugment:
    """RandAugment with the same operations and strengths for all frames of a clip.

    Args:
        text: settings in timm's notation.
        impl: as in `operations_by`.

    Takes and returns uint8 [T, 3, H, W].
    """

    def __init__(self, text: str, impl: Impl = "auto") -> None:
        self.settings = parse_randaugment(text)
        operations_by(impl)
        self.impl = impl

    def __call__(self, frames: Tensor) -> Tensor:
        for code, *numbers in draw_operations(self.settings, *frames.shape[-2:]):
            frames = follow(operations_by(self.impl), frames, Operation(int(code)), numbers)
        return frames


def draw_operations(settings: RandAugmentSettings, height: int, width: int) -> list[Step]:
    """Draw what is done to a clip of a size, one after the other; what is drawn but not applied is `NONE`."""
    names, steps = list(OPERATIONS), []
    for choice in torch.randint(len(names), (settings.operations,)).tolist():
        # All draws are made whether used or not, so that one decision does not shift the next ones.
        apply, noise, sign = torch.rand(()).item(), torch.randn(()).item(), torch.rand(()).item()
        magnitude = min(max(settings.magnitude + settings.deviation * noise, 0.0), _LARGEST)
        used = apply < settings.probability
        step = operation_step(names[choice], magnitude, settings.increasing, sign < 0.5, (height, width))
        steps.append(step if used else (Operation.NONE,))
    return steps


def operation_step(name: str, magnitude: float, increasing: bool, negative: bool, size: tuple[int, int]) -> Step:
    """The numbers of an operation.

    Args:
        name: a key of `OPERATIONS`.
        magnitude: from 0 to 10.
        increasing: which table of strengths.
        negative: the other direction, for operations that have two.
        size: height and width of the frames.
    """
    return OPERATIONS[name](magnitude / _LARGEST, increasing, -1.0 if negative else 1.0, size)


def apply_operation(
    frames: Tensor,
    name: str,
    magnitude: float,
    increasing: bool = True,
    negative: bool = False,
    impl: Impl = "auto",
) -> Tensor:
    """Apply one operation to uint8 [T, 3, H, W].

    Args:
        frames: the clip.
        name, magnitude, increasing, negative: as in `operation_step`.
        impl: as in `operations_by`.
    """
    height, width = frames.shape[-2:]
    code, *numbers = operation_step(name, magnitude, increasing, negative, (height, width))
    return follow(operations_by(impl), frames, Operation(int(code)), numbers)


def follow(by: Operations, frames: Tensor, code: Operation, numbers: Sequence[float]) -> Tensor:
    """Do a step of a program to uint8 [T, 3, H, W], by what does operations."""
    first = numbers[0] if numbers else 0.0
    if code == Operation.NONE:
        return frames
    if code == Operation.AFFINE:
        return by.affine(frames, FILL, numbers)
    if code == Operation.INVERT:
        return 255 - frames
    if code == Operation.POSTERIZE:
        return frames & int(first)
    if code == Operation.AUTO_CONTRAST:
        return by.auto_contrast(frames)
    if code == Operation.EQUALIZE:
        return by.equalize(frames)
    if code == Operation.SOLARIZE:
        return by.solarize(frames, int(first))
    if code == Operation.SOLARIZE_ADD:
        return by.solarize_add(frames, int(first))
    mixing = {
        Operation.COLOR: by.color,
        Operation.CONTRAST: by.contrast,
        Operation.BRIGHTNESS: by.brightness,
        Operation.SHARPNESS: by.sharpness,
    }
    return mixing[code](frames, first)


def _mask(level: float, increasing: bool) -> int:
    bits = 4 - int(level * 4) if increasing else int(level * 4)
    return 256 - 2 ** (8 - bits)


def _threshold(level: float, increasing: bool) -> int:
    return 256 - int(level * 256) if increasing else int(level * 256)


def _factor(level: float, increasing: bool, sign: float) -> float:
    return max(0.1, 1.0 + 0.9 * level * sign) if increasing else 0.1 + 1.8 * level


# By level from 0 to 1, table of strengths, sign, and size of the frames.
OPERATIONS: dict[str, Callable[[float, bool, float, tuple[int, int]], Step]] = {
    "auto_contrast": lambda level, inc, sign, size: (Operation.AUTO_CONTRAST,),
    "equalize": lambda level, inc, sign, size: (Operation.EQUALIZE,),
    "invert": lambda level, inc, sign, size: (Operation.INVERT,),
    "rotate": lambda level, inc, sign, size: (Operation.AFFINE, *affine_matrix(size, angle=sign * level * 30)),
    "posterize": lambda level, inc, sign, size: (Operation.POSTERIZE, _mask(level, inc)),
    "solarize": lambda level, inc, sign, size: (Operation.SOLARIZE, _threshold(level, inc)),
    # 110 at most, so that no value of a byte is exceeded.
    "solarize_add": lambda level, inc, sign, size: (Operation.SOLARIZE_ADD, int(level * 110)),
    "color": lambda level, inc, sign, size: (Operation.COLOR, _factor(level, inc, sign)),
    "contrast": lambda level, inc, sign, size: (Operation.CONTRAST, _factor(level, inc, sign)),
    "brightness": lambda level, inc, sign, size: (Operation.BRIGHTNESS, _factor(level, inc, sign)),
    "sharpness": lambda level, inc, sign, size: (Operation.SHARPNESS, _factor(level, inc, sign)),
    "shear_x": lambda level, inc, sign, size: (Operation.AFFINE, *affine_matrix(size, shear=(sign * level * 0.3, 0.0))),
    "shear_y": lambda level, inc, sign, size: (Operation.AFFINE, *affine_matrix(size, shear=(0.0, sign * level * 0.3))),
    "translate_x": lambda level, inc, sign, size: (
        Operation.AFFINE,
        *affine_matrix(size, shift=(round(sign * level * 0.45 * size[1]), 0)),
    ),
    "translate_y": lambda level, inc, sign, size: (
        Operation.AFFINE,
        *affine_matrix(size, shift=(0, round(sign * level * 0.45 * size[0]))),
    ),
}
