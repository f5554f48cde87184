"""Warnings of a run that learns badly: a loss far above what is usual, parameters that no gradient reaches.

They look at numbers that are fetched from the device anyway, and change nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

# Steps before a loss can be far from what is usual, and those that the usual remembers.
_WARM_UP, _MEMORY = 100, 50
# How far is far: so many mean deviations of the loss's logarithm, and half as much again as usual at the least.
_FAR, _LEAST = 8.0, math.log(1.5)
# No loss counts as further away than so many mean deviations, of which a constant loss has some as well.
_COUNTED, _STEADY = 3.0, 0.01
# Steps in a row without a gradient after which a parameter counts as dead.
DEAD_AFTER = 100
_BLOCK = re.compile(r"^(.*\bblocks\.\d+)\.")


class SpikeWatch:
    """Knows the usual loss: a running mean of its logarithm, and of how far steps are from it.

    A step that is far away moves both no more than one that is not: a single one does not hide the next, and a loss
    that stays where it went becomes the usual one within some fifty steps.

    Attributes:
        told: losses so far that were far above.
    """

    def __init__(self) -> None:
        self.count = self.told = 0
        self.level = self.spread = 0.0

    def look(self, loss: float) -> float | None:
        """Take a loss in, the next one in order; one that is not finite is passed over.

        Returns:
            The usual loss, where this one is far above it.
        """
        if not math.isfinite(loss):
            return None
        away = math.log(max(loss, 1e-30)) - self.level
        usual = None
        if self.count >= _WARM_UP:
            spread = max(self.spread, _STEADY)
            if away > max(_FAR * spread, _LEAST):
                usual = math.exp(self.level)
                self.told += 1
            away = max(-_COUNTED * spread, min(_COUNTED * spread, away))
        self.count += 1
        rate = 1 / min(self.count, _MEMORY)
        self.level += rate * away
        # The first one is the level.
        if self.count > 1:
            self.spread += rate * (abs(away) - self.spread)
        return usual

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        return {"count": self.count, "told": self.told, "level": self.level, "spread": self.spread}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""
        self.count, self.told = int(state["count"]), int(state["told"])
        self.level, self.spread = float(state["level"]), float(state["spread"])


class DeadGradients:
    """Knows for how many steps each parameter's gradient has been zero, or absent.

    A gradient counts as zero too where the squares of its numbers are too small for float32, below some 1e-23.

    Args:
        model: whose trained parameters are watched.
    """

    def __init__(self, model: nn.Module) -> None:
        named = [(name, one) for name, one in model.named_parameters() if one.requires_grad]
        self.names = [name for name, _ in named]
        self._parameters = [one for _, one in named]
        # Of those that have a gradient, on the device; of the others, by name.
        self._present: list[int] = []
        self._zero: Tensor | None = None
        self._absent: dict[str, int] = {}
        self._told: set[str] = set()

    def note(self, each: Tensor) -> None:
        """Take in a step's gradients, which are there still, without waiting for them.

        Args:
            each: [n] norms of those that are there.
        """
        present = [number for number, one in enumerate(self._parameters) if one.grad is not None]
        if self._zero is None or present != self._present:
            counts = self._counts()
            kept = [counts.get(self.names[number], 0) for number in present]
            self._present, self._zero = present, torch.tensor(kept, dtype=torch.int32, device=each.device)
            there = {self.names[number] for number in present}
            self._absent = {name: counts.get(name, 0) for name in self.names if name not in there}
        self._zero = torch.where(each == 0, self._zero + 1, 0)
        for name in self._absent:
            self._absent[name] += 1

    def look(self) -> list[str]:
        """Names of those that have become dead: of whole blocks, or of parameters; each is named once."""
        dead = [name for name, steps in self._counts().items() if steps >= DEAD_AFTER and name not in self._told]
        self._told.update(dead)
        return in_blocks(dead, self.names)

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        return {"steps": self._counts(), "told": sorted(self._told)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`; of parameters that are not here any more, nothing is known."""
        self._present, self._zero = [], None
        self._absent = {name: int(state["steps"].get(name, 0)) for name in self.names}
        self._told = set(state["told"])

    def _counts(self) -> dict[str, int]:
        zero = [] if self._zero is None else self._zero.tolist()
        return {**self._absent, **{self.names[n]: steps for n, steps in zip(self._present, zero, strict=True)}}


def in_blocks(names: Sequence[str], of: Sequence[str]) -> list[str]:
    """Names of parameters, those of a block that are all there as one: "encoder.blocks.3 (12 parameters)".

    Args:
        names: to be told.
        of: all there are.
    """
    blocks: dict[str, int] = {}
    for name in of:
        if match := _BLOCK.match(name):
            blocks[match[1]] = blocks.get(match[1], 0) + 1
    found = [(match[1] if (match := _BLOCK.match(name)) else name) for name in names]
    whole = {block for block, count in blocks.items() if found.count(block) == count}
    told = (
        f"{block} ({blocks[block]} parameters)" if block in whole else name
        for name, block in zip(names, found, strict=True)
    )
    return list(dict.fromkeys(told))
