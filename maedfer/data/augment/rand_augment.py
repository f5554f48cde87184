"""RandAugment on clips, after timm's notation and its two tables of operations and strengths.

"rand-m7-n4-mstd0.5-inc1": n operations are drawn with replacement, each is applied with probability p (0.5), at a
magnitude drawn from a normal distribution around m (of 10) with deviation mstd; inc1 takes the table in which every
operation grows stronger with the magnitude. Draws come from torch's global generator.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from maedfer.data.augment.operations import Impl, operations_by
from maedfer.errors import InputError

# Colour of what rotations and shifts bring in: ImageNet's mean.
_FILL = (124.0, 116.0, 104.0)
_LARGEST = 10.0


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
        settings = self.settings
        names = list(OPERATIONS)
        for choice in torch.randint(len(names), (settings.operations,)).tolist():
            # All draws are made whether used or not, so that one decision does not shift the next ones.
            apply, noise, sign = torch.rand(()).item(), torch.randn(()).item(), torch.rand(()).item()
            if apply >= settings.probability:
                continue
            magnitude = min(max(settings.magnitude + settings.deviation * noise, 0.0), _LARGEST)
            frames = apply_operation(frames, names[choice], magnitude, settings.increasing, sign < 0.5, self.impl)
        return frames


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
        name: a key of `OPERATIONS`.
        magnitude: from 0 to 10.
        increasing: which table of strengths.
        negative: the other direction, for operations that have two.
        impl: as in `operations_by`.
    """
    return OPERATIONS[name](operations_by(impl), frames, magnitude / _LARGEST, increasing, -1.0 if negative else 1.0)


def _posterize(frames: Tensor, level: float, increasing: bool) -> Tensor:
    bits = 4 - int(level * 4) if increasing else int(level * 4)
    return frames & (256 - 2 ** (8 - bits))


def _threshold(level: float, increasing: bool) -> int:
    return 256 - int(level * 256) if increasing else int(level * 256)


def _factor(level: float, increasing: bool, sign: float) -> float:
    return max(0.1, 1.0 + 0.9 * level * sign) if increasing else 0.1 + 1.8 * level


# By the module that works on pictures, frames, level from 0 to 1, table of strengths and sign.
OPERATIONS: dict[str, Callable[[Any, Tensor, float, bool, float], Tensor]] = {
    "auto_contrast": lambda by, x, level, inc, sign: by.auto_contrast(x),
    "equalize": lambda by, x, level, inc, sign: by.equalize(x),
    "invert": lambda by, x, level, inc, sign: 255 - x,
    "rotate": lambda by, x, level, inc, sign: by.affine(x, _FILL, angle=sign * level * 30),
    "posterize": lambda by, x, level, inc, sign: _posterize(x, level, inc),
    "solarize": lambda by, x, level, inc, sign: by.solarize(x, _threshold(level, inc)),
    # 110 at most, so that no value of a byte is exceeded.
    "solarize_add": lambda by, x, level, inc, sign: by.solarize_add(x, int(level * 110)),
    "color": lambda by, x, level, inc, sign: by.color(x, _factor(level, inc, sign)),
    "contrast": lambda by, x, level, inc, sign: by.contrast(x, _factor(level, inc, sign)),
    "brightness": lambda by, x, level, inc, sign: by.brightness(x, _factor(level, inc, sign)),
    "sharpness": lambda by, x, level, inc, sign: by.sharpness(x, _factor(level, inc, sign)),
    "shear_x": lambda by, x, level, inc, sign: by.affine(x, _FILL, shear=(sign * level * 0.3, 0.0)),
    "shear_y": lambda by, x, level, inc, sign: by.affine(x, _FILL, shear=(0.0, sign * level * 0.3)),
    "translate_x": lambda by, x, level, inc, sign: by.affine(
        x, _FILL, shift=(round(sign * level * 0.45 * x.shape[-1]), 0)
    ),
    "translate_y": lambda by, x, level, inc, sign: by.affine(
        x, _FILL, shift=(0, round(sign * level * 0.45 * x.shape[-2]))
    ),
}
