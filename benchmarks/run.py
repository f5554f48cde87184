"""Measure workloads one after the other and keep what was measured in one results file.

The file is written anew after every size, so that a run that is cut off leaves what it had. A provider that cannot run,
fails its check or raises gives a row that says so; nothing but what passed its check is timed.
"""

from __future__ import annotations

import dataclasses
import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.augmentation import AUGMENTATION
from benchmarks.goals import goals
from benchmarks.machine import machine
from benchmarks.measure import Clock, Spread, interleave, measure_floors, moved_bytes, peak_memory
from benchmarks.model_steps import MODELS
from benchmarks.operations import CROSSOVERS, OPERATIONS
from benchmarks.results_file import write
from benchmarks.sweeps import SWEEPS
from benchmarks.workload import COMPILED, Candidate, Settings, Skip, Verdict, Workload
from maedfer.errors import unknown

Row = dict[str, Any]
Results = dict[str, Any]

# What matters most first, in case time runs out.
WORKLOADS: tuple[Workload, ...] = (
    *MODELS,
    *(operation.workload() for operation in OPERATIONS),
    *AUGMENTATION,
    *SWEEPS,
    *(dataclasses.replace(operation.workload(), in_sweep=True) for operation in CROSSOVERS),
)


def select(names: Sequence[str], sweep: bool) -> list[Workload]:
    """The workloads of these names; all of them when there are none, sweeps with `sweep` only.

    Raises:
        InputError: no such workload.
    """
    known = {workload.name: workload for workload in WORKLOADS}
    for name in names:
        if name not in known:
            raise unknown("operation", name, known)
    if names:
        return [known[name] for name in names]
    return [workload for workload in WORKLOADS if sweep or not workload.in_sweep]


def run(
    workloads: Sequence[Workload], settings: Settings, out: Path | None = None, budget: float = float("inf")
) -> Results:
    """Measure workloads; prints a line a row.

    Args:
        workloads: what to measure, in this order.
        settings: device, dtype and so on.
        out: the results file.
        budget: seconds for all; what is left over then is recorded as skipped.

    Returns:
        What is written to the file.

    Raises:
        DeviceLost: nothing more can be measured in this process.
    """
    deadline = time.monotonic() + budget
    clock = Clock(torch.device(settings.device))
    floors = measure_floors(clock, settings.dtype, settings.seconds, settings.small)
    results: Results = {
        "machine": machine(settings.device),
        "settings": {**dataclasses.asdict(settings), "dtype": str(settings.dtype).removeprefix("torch.")},
        "floors": floors,
        "rows": [],
        "goals": [],
    }
    for workload in workloads:
        for label, sizes in workload.sizes(settings).items():
            rows = _Case(workload, label, sizes, settings, clock, floors, deadline).measure()
            results["rows"] += rows
            if settings.device == "cuda":
                results["goals"] = goals(results["rows"], floors)
            if out is not None:
                write(out, results)
            for row in rows:
                print(line(row), flush=True)
            # Candidates refer to each other in circles, and the next size needs the memory.
            gc.collect()
            if clock.device.type == "cuda":
                _check_device()
    return results


class DeviceLost(RuntimeError):
    """An error that leaves the GPU unusable for this process; what was measured before is in the results file."""


def _check_device() -> None:
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except RuntimeError as error:
        raise DeviceLost(_say(error)) from error


@dataclass
class _Case:
    """One workload at one size."""

    workload: Workload
    label: str
    sizes: dict[str, Any]
    settings: Settings
    clock: Clock
    floors: dict[str, float]
    deadline: float

    def measure(self) -> list[Row]:
        """A row for each provider and mode, or for each provider that gave none."""
        if self._late():
            return [self._row("all", skipped="out of time")]
        # Each size is compiled for itself; many sizes of one function would come to its limit of compilations.
        torch.compiler.reset()
        try:
            builders = self.workload.prepare(self.settings, self.sizes)
        except Exception as error:
            return [self._row("all", failed=_say(error))]
        rows: list[Row] = []
        ready: dict[str, tuple[Candidate, Verdict]] = {}
        for name, build in builders.items():
            if not self.settings.wants(name):
                continue
            if self._late():
                rows.append(self._row(name, skipped="out of time"))
                continue
            try:
                candidate = build()
                verdict = candidate.check()
            except Skip as reason:
                rows.append(self._row(name, skipped=str(reason)))
            except Exception as error:
                rows.append(self._row(name, failed=_say(error)))
            else:
                if verdict.reason:
                    rows.append(self._row(name, failed=verdict.reason))
                else:
                    ready[name] = candidate, verdict
        return rows + self._time(ready)

    def _time(self, ready: dict[str, tuple[Candidate, Verdict]]) -> list[Row]:
        rows = []
        for mode in dict.fromkeys(mode for candidate, _ in ready.values() for mode in candidate.timed):
            calls = {name: candidate.timed[mode] for name, (candidate, _) in ready.items() if mode in candidate.timed}
            for name, taken in interleave(calls, self.clock, self.settings.seconds, self.deadline).items():
                if isinstance(taken, Exception):
                    rows.append(self._row(name, mode, failed=_say(taken)))
                    continue
                try:
                    rows.append(self._timed(name, mode, taken, *ready[name]))
                except Exception as error:
                    rows.append(self._row(name, mode, failed=_say(error)))
        return rows

    def _timed(self, name: str, mode: str, taken: Spread, candidate: Candidate, verdict: Verdict) -> Row:
        cost = candidate.costs[mode]
        floor = cost.floor_ms(self.floors)
        return self._row(
            name,
            mode,
            **dataclasses.asdict(taken),
            clips_per_s=1e3 * self.sizes["B"] / taken.ms,
            moved_bytes=None if name.endswith(COMPILED) else moved_bytes(candidate.timed[mode]),
            memory_bytes=peak_memory(candidate.timed[mode], self.clock.device),
            held_bytes=candidate.held,
            bytes=cost.bytes,
            flops=cost.flops,
            floor_ms=floor,
            of_floor=floor / taken.ms,
            error_of_budget=verdict.error,
            **({"losses": verdict.losses} if verdict.losses else {}),
        )

    def _row(self, provider: str, mode: str | None = None, **values: Any) -> Row:
        row: Row = {"workload": self.workload.name, "size": self.label, "sizes": self.sizes}
        if self.workload.tokens is not None:
            row["tokens"] = self.workload.tokens(self.settings, self.sizes)
        return {**row, "provider": provider, "mode": mode, **values}

    def _late(self) -> bool:
        return time.monotonic() > self.deadline


def line(row: Row) -> str:
    """A row for people."""
    where = f"{row['workload']:30} {row['size']:15} {row['provider']:20}"
    for outcome in ("skipped", "failed"):
        if outcome in row:
            return f"{where} {outcome}: {row[outcome]}"
    memory = "" if row["memory_bytes"] is None else f", {(row['memory_bytes'] + row['held_bytes']) / 2**20:.0f} MiB"
    return (
        f"{where} {row['mode']:8} {row['ms']:10.4f} ms ({row['p20']:.4f} to {row['p80']:.4f}), "
        f"{row['clips_per_s']:.1f} clips/s, {row['of_floor']:.1%} of the floor{memory}"
    )


def _say(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else 'no message'}"
