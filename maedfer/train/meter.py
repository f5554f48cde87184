"""Means of losses that are not waited for."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from maedfer.train.processes import Runtime


class Meter:
    """Means of the losses since the last log line and since the start of the epoch, over all processes."""

    def __init__(self) -> None:
        self.pending: list[tuple[int, dict[str, Tensor]]] = []
        self.sums: dict[str, dict[str, float]] = {"window": {}, "epoch": {}}
        self.counts = {"window": 0, "epoch": 0}

    def add(self, step: int, losses: dict[str, Tensor]) -> None:
        """Take note of the losses of a step without waiting for them."""
        self.pending.append((step, losses))

    def fetch(self, runtime: Runtime) -> list[tuple[int, dict[str, float]]]:
        """Bring the noted losses to the host, averaged over processes, and count the finite ones in."""
        if not self.pending:
            return []
        names = list(self.pending[0][1])
        rows = torch.stack([torch.stack([losses[name].double() for name in names]) for _, losses in self.pending])
        values = runtime.mean(rows).tolist()
        fetched = [
            (step, dict(zip(names, row, strict=True))) for (step, _), row in zip(self.pending, values, strict=True)
        ]
        self.pending.clear()
        for _, losses in fetched:
            if math.isfinite(losses["loss"]):
                for span, sums in self.sums.items():
                    self.counts[span] += 1
                    for name, value in losses.items():
                        sums[name] = sums.get(name, 0.0) + value
        return fetched

    def take(self, span: str) -> dict[str, float]:
        """The means over the "window" or the "epoch", which starts anew."""
        means = {name: value / self.counts[span] for name, value in self.sums[span].items()}
        self.sums[span], self.counts[span] = {}, 0
        return means

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs; call `fetch` before."""
        return {"sums": copy.deepcopy(self.sums), "counts": dict(self.counts)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""
        self.sums, self.counts = copy.deepcopy(state["sums"]), dict(state["counts"])
