"""RandAugment on clips, after timm's notation and its two tables of operations and strengths.

"rand-m7-n4-mstd0.5-inc1": n operations are drawn with replacement, each is applied with probability p (0.5), at a
magnitude drawn from a normal distribution around m (of 10) with deviation mstd; inc1 takes the table in which every
operation grows stronger with the magnitude. Draws come from torch's global generator.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, get_args

import torch
from torch import Tensor

from maedfer._programs import FILL, Interpolation, Operation
from maedfer.data.augment.operations import Impl, Operations, affine_matrix, operations_by
from maedfer.errors import InputError, unknown

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
    interpolation: Interpolation = "bicubic"


def parse_randaugment(text: str, interpolation: Interpolation = "bicubic") -> RandAugmentSettings:
    """Read a string like "rand-m7-n4-mstd0.5-inc1".

    Args:
        text: the string.
        interpolation: of operations that move pixels; "bicubic" is the published one.

    Raises:
        InputError: unknown part or interpolation, or a value out of range.
    """
    if interpolation not in get_args(Interpolation):
        raise unknown("interpolation", interpolation, get_args(Interpolation))
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
        interpolation=interpolation,
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
        interpolation: as in `parse_randaugment`.

    Takes and returns uint8 [T, 3, H, W].
    """

    def __init__(self, text: str, impl: Impl = "auto", interpolation: Interpolation = "bicubic") -> None:
        self.settings = parse_randaugment(text, interpolation)
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
        how = Strength(magnitude, settings.increasing, sign < 0.5, settings.interpolation)
        step = operation_step(names[choice], how, (height, width))
        steps.append(step if used else (Operation.NONE,))
    return steps


class Strength(NamedTuple):
    """How an operation is done.

    Args:
        magnitude: from 0 to 10.
        increasing: which table of strengths.
        negative: the other direction, for operations that have two.
        interpolation: for operations that move pixels.
    """

    magnitude: float
    increasing: bool = True
    negative: bool = False
    interpolation: Interpolation = "bicubic"

    @property
    def level(self) -> float:
        """The magnitude from 0 to 1."""
        return self.magnitude / _LARGEST

    @property
    def signed(self) -> float:
        """The magnitude from 0 to 1, or to -1 in the other direction."""
        return -self.level if self.negative else self.level


def operation_step(name: str, how: Strength, size: tuple[int, int]) -> Step:
    """The numbers of an operation.

    Args:
        name: a key of `OPERATIONS`.
        how: its strength.
        size: height and width of the frames.
    """
    return OPERATIONS[name](how, size)


def apply_operation(
    frames: Tensor,
    name: str,
    magnitude: float,
    increasing: bool = True,
    negative: bool = False,
    impl: Impl = "auto",
    interpolation: Interpolation = "bicubic",
) -> Tensor:
    """Apply one operation to uint8 [T, 3, H, W].

    Args:
        frames: the clip.
        name: a key of `OPERATIONS`.
        magnitude, increasing, negative, interpolation: as in `Strength`.
        impl: as in `operations_by`.
    """
    height, width = frames.shape[-2:]
    how = Strength(magnitude, increasing, negative, interpolation)
    code, *numbers = operation_step(name, how, (height, width))
    return follow(operations_by(impl), frames, Operation(int(code)), numbers)


def follow(by: Operations, frames: Tensor, code: Operation, numbers: Sequence[float]) -> Tensor:
    """Do a step of a program to uint8 [T, 3, H, W], by what does operations."""
    first = numbers[0] if numbers else 0.0
    if code == Operation.NONE:
        return frames
    if code == Operation.AFFINE:
        return by.affine(frames, FILL, numbers)
    if code == Operation.AFFINE_BICUBIC:
        return by.affine_bicubic(frames, numbers)
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


def _mask(how: Strength) -> int:
    bits = 4 - int(how.level * 4) if how.increasing else int(how.level * 4)
    return 256 - 2 ** (8 - bits)


def _threshold(how: Strength) -> int:
    return 256 - int(how.level * 256) if how.increasing else int(how.level * 256)


def _factor(how: Strength) -> float:
    return max(0.1, 1.0 + 0.9 * how.signed) if how.increasing else 0.1 + 1.8 * how.level


def _moved(
    how: Strength,
    size: tuple[int, int],
    angle: float = 0.0,
    shift: tuple[float, float] = (0.0, 0.0),
    shear: tuple[float, float] = (0.0, 0.0),
) -> Step:
    if how.interpolation == "bicubic":
        return Operation.AFFINE_BICUBIC, *affine_matrix(size, angle, shift, shear)
    # Bilinear shifts go by whole pixels, which keeps them sharp.
    return Operation.AFFINE, *affine_matrix(size, angle, (round(shift[0]), round(shift[1])), shear)


OPERATIONS: dict[str, Callable[[Strength, tuple[int, int]], Step]] = {
    "auto_contrast": lambda how, size: (Operation.AUTO_CONTRAST,),
    "equalize": lambda how, size: (Operation.EQUALIZE,),
    "invert": lambda how, size: (Operation.INVERT,),
    "rotate": lambda how, size: _moved(how, size, angle=how.signed * 30),
    "posterize": lambda how, size: (Operation.POSTERIZE, _mask(how)),
    "solarize": lambda how, size: (Operation.SOLARIZE, _threshold(how)),
    # 110 at most, so that no value of a byte is exceeded.
    "solarize_add": lambda how, size: (Operation.SOLARIZE_ADD, int(how.level * 110)),
    "color": lambda how, size: (Operation.COLOR, _factor(how)),
    "contrast": lambda how, size: (Operation.CONTRAST, _factor(how)),
    "brightness": lambda how, size: (Operation.BRIGHTNESS, _factor(how)),
    "sharpness": lambda how, size: (Operation.SHARPNESS, _factor(how)),
    "shear_x": lambda how, size: _moved(how, size, shear=(how.signed * 0.3, 0.0)),
    "shear_y": lambda how, size: _moved(how, size, shear=(0.0, how.signed * 0.3)),
    "translate_x": lambda how, size: _moved(how, size, shift=(how.signed * 0.45 * size[1], 0.0)),
    "translate_y": lambda how, size: _moved(how, size, shift=(0.0, how.signed * 0.45 * size[0])),
}
