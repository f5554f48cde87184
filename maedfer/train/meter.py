"""What the log tells between two lines: means of losses that are not waited for, and the pace of the run."""

from __future__ import annotations

import copy
import math
import time
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
        # A GPU is waited for here.
        with runtime.waiting():
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


class Pace:
    """How fast a run goes since its last log line, and how long it will take.

    Args:
        step: optimiser steps done before.
        total: optimiser steps of the whole run.
    """

    def __init__(self, step: int, total: int) -> None:
        self.first, self.total = step, total
        self.started = time.perf_counter()
        self.restart()

    def restart(self) -> None:
        """Start a new window, after a log line or after what is no training."""
        self.window, self.waited, self.clips = time.perf_counter(), 0.0, 0

    def add(self, clips: int, waited: float) -> None:
        """Count a pass over so many clips, for which the loader took `waited` seconds."""
        self.clips += clips
        self.waited += waited

    def read(self, step: int) -> tuple[float, float, float]:
        """Clips per second of this process, share of the time spent waiting for data, seconds left after `step`."""
        now = time.perf_counter()
        seconds = max(now - self.window, 1e-9)
        left = (now - self.started) / max(1, step - self.first) * (self.total - step)
        return self.clips / seconds, min(1.0, self.waited / seconds), left
