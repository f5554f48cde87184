"""Measure all sides of a comparison in turn, and keep what was measured."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.cpu.kinds import kinds
from benchmarks.cpu.peer import Peer
from benchmarks.cpu.rates import product_rate
from benchmarks.cpu.sides import INFERENCE, Sides, Work
from benchmarks.deployed import RUNTIMES
from benchmarks.machine import machine
from benchmarks.measure import percentile
from benchmarks.workload import COMPILED, Settings, Skip
from maedfer._progress import ProgressLine
from maedfer.models import profile

Row = dict[str, Any]
Results = dict[str, Any]

_LEAST_ROUNDS = 3
# Time that passes, or that the process worked: with one thread, the same on a machine that works for others, too.
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
# Seconds between two writings in between.
_KEEP_EVERY = 10.0
# Speeds are given against these.
_BASES = ("peer", "peer_compiled")
# What compiling takes, and a clip through one thread, in seconds and roughly: for telling the time that is left.
_COMPILING, _CLIP = 30.0, 0.7


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        ops: of `sides`.
        dtypes: of the products.
        threads, batches: each with each; a training step takes `training_batch` clips.
        training_batch: clips of a training step.
        settings: which providers are wanted.
        rounds: at most; fewer, but three, when they take longer than `seconds`.
        seconds: for the rounds of one work.
        profiled: providers of which is told where their time goes.
        clock: of CLOCKS.
    """

    ops: Sequence[str]
    dtypes: Sequence[torch.dtype]
    threads: Sequence[int]
    batches: Sequence[int]
    training_batch: int
    settings: Settings
    rounds: int
    seconds: float
    profiled: Sequence[str] = ()
    clock: str = "wall"

    def works(self) -> list[Work]:
        """All of it, in order."""
        return [
            Work(op, dtype, threads, batch)
            for threads, op, dtype in itertools.product(self.threads, self.ops, self.dtypes)
            for batch in (self.batches if op == INFERENCE else [self.training_batch])
        ]

    def providers(self, work: Work) -> list[str]:
        """Those that are wanted; runtimes only by name, because writing their files takes long."""
        named = self.settings.providers
        return [
            name for name in work.providers if self.settings.wants(name) and (name not in RUNTIMES or name in named)
        ]

    def expected(self, work: Work) -> float:
        """Seconds that a work takes, roughly: checks, in which is compiling, and rounds."""
        names = self.providers(work)
        turn = call_seconds(work) * len(names)
        rounds = min(self.rounds, max(_LEAST_ROUNDS, self.seconds / turn)) if names else 0
        return turn * rounds + sum(check_seconds(work, name) for name in names)


def call_seconds(work: Work) -> float:
    """Seconds of one call, roughly."""
    return _CLIP * work.batch * (3 if work.trains else 1) / work.threads


def check_seconds(work: Work, provider: str) -> float:
    """Seconds of a provider's first call, roughly."""
    return call_seconds(work) + (_COMPILING if provider.endswith(COMPILED) else 0.0)


def measure(peer: Peer, plan: Plan, results: Results, keep: Callable[[Results], None]) -> Results:
    """Measure everything; prints a line for each row, and the time left.

    Args:
        peer: both models.
        plan: what to measure.
        results: what there is already, of the same machine and code; works that are measured take the place of theirs.
        keep: takes the results after every work, and between its rounds where they take long.

    Returns:
        `results`, with "machine", "peer", "rates" (how fast products are) and "rows".
    """
    works, sides = plan.works(), Sides(peer)
    results.update(
        machine=machine("cpu"),
        peer={"shares_weights": peer.shares_weights, "apart": peer.apart} if peer.network is not None else None,
        settings={"rounds": plan.rounds, "seconds": plan.seconds, "clock": plan.clock},
    )
    expected = [plan.expected(work) for work in works]
    progress = ProgressLine("measuring", sys.stderr)
    threads, kept = torch.get_num_threads(), time.monotonic()
    try:
        for number, work in enumerate(works):
            done, whole = sum(expected[:number]), sum(expected)

            def show(seconds: float, done: float = done, own: float = expected[number], whole: float = whole) -> None:
                progress((done + min(seconds, own)) / whole)

            case = _Case(work, sides, plan)
            for rows in case.measure(show):
                _replace(results, "rows", rows)
                _replace(results, "rates", [case.rate])
                # Disks that are busy take seconds.
                if time.monotonic() - kept >= _KEEP_EVERY:
                    keep(results)
                    kept = time.monotonic()
            keep(results)
            show(expected[number])
            progress.clear()
            print("\n".join(map(line, rows)), flush=True)
            # Compiled functions and their models refer to each other in circles.
            gc.collect()
    finally:
        torch.set_num_threads(threads)
    return results


def _replace(results: Results, key: str, new: Sequence[Row]) -> None:
    """Put rows in the place of those of the same work."""
    works = {_work_of(row) for row in new}
    results[key] = [*(row for row in results.get(key, []) if _work_of(row) not in works), *new]


def _work_of(row: Row) -> tuple[Any, ...]:
    return tuple(row[key] for key in ("op", "dtype", "threads", "batch"))


class _Case:
    """One work."""

    def __init__(self, work: Work, sides: Sides, plan: Plan) -> None:
        self.work, self.sides, self.plan = work, sides, plan
        torch.set_num_threads(work.threads)
        # What was compiled is for the number of threads that there was.
        torch.compiler.reset()
        self.place = {**dataclasses.asdict(work), "dtype": str(work.dtype).removeprefix("torch.")}
        config = sides.peer.ours.config
        self.rate = {
            **self.place,
            "load": os.getloadavg()[0],
            **product_rate(config, work.dtype, work.batch, min(0.1, plan.seconds / 100), CLOCKS[plan.clock]),
        }
        macs = sum(profile(config).macs_executed.values()) * (3 if work.trains else 1)
        self.floor_ms = 1e3 * 2 * macs / self.rate["flops_per_s"]
        self.rows: dict[str, Row] = {}

    def measure(self, show: Callable[[float], None]) -> Iterator[list[Row]]:
        """Yields the rows that there are, after every round and at the end: earlier ones stay until there are times.

        Args:
            show: takes how many of the expected seconds are done.
        """
        calls: dict[str, Callable[[], Any]] = {}
        done = 0.0
        for name in self.plan.providers(self.work):
            if (call := self._checked(name)) is not None:
                calls[name] = call
            done += check_seconds(self.work, name)
            show(done)
        times: dict[str, list[float]] = {name: [] for name in calls}
        clock = CLOCKS[self.plan.clock]
        spent, number = 0.0, 0
        while calls and (number < min(_LEAST_ROUNDS, self.plan.rounds) or self._wants_more(number, spent)):
            for name in list(calls)[:: -1 if number % 2 else 1]:
                started = clock()
                calls[name]()
                times[name].append(clock() - started)
            number, spent = number + 1, spent + sum(taken[-1] for taken in times.values())
            for name in calls:
                self.rows[name] |= self._summary(name, times)
            done += call_seconds(self.work) * len(calls)
            show(done)
            yield self._rows()
        for name in self.plan.profiled:
            if name in calls:
                found = kinds(calls[name], times[name][-1])
                self.rows[name]["kinds_ms"] = {kind: ms / self.work.batch for kind, ms in found.items()}
        yield self._rows()

    def _wants_more(self, rounds: int, spent: float) -> bool:
        return rounds < self.plan.rounds and spent < self.plan.seconds

    def _checked(self, name: str) -> Callable[[], Any] | None:
        """A provider that can run and agrees; its row says why when there is none."""
        self.rows[name] = row = {**self.place, "provider": name}
        try:
            call = self.sides.call(name, self.work)
            verdict = self.sides.check(name, self.work, call)
        except Skip as reason:
            row["skipped"] = str(reason)
            return None
        except Exception as error:
            text = str(error).strip().splitlines()
            row["failed"] = f"{type(error).__name__}: {text[0] if text else 'no message'}"
            return None
        if verdict is not None and verdict.reason:
            row["failed"] = f"{verdict.reason}: it does not compute what the peer does, and is not timed"
            return None
        row["error_of_budget"] = None if verdict is None else verdict.error
        return call

    def _summary(self, name: str, times: Mapping[str, Sequence[float]]) -> Row:
        ms = [1e3 * seconds / self.work.batch for seconds in times[name]]
        found: Row = {
            "ms_per_clip": statistics.median(ms),
            "p20": percentile(ms, 0.2),
            "p80": percentile(ms, 0.8),
            "least": min(ms),
            "rounds": len(ms),
            "floor_ms": self.floor_ms,
            "of_floor": self.floor_ms / statistics.median(ms),
        }
        for base in _BASES:
            if base in times:
                ratios = [one / other for one, other in zip(times[base], times[name], strict=True)]
                found[f"speed_of_{base}"] = statistics.median(ratios)
        return found

    def _rows(self) -> list[Row]:
        return [dict(row) for row in self.rows.values()]


def line(row: Row) -> str:
    """A row for people."""
    work = Work(row["op"], getattr(torch, row["dtype"]), row["threads"], row["batch"])
    where = f"{work}, {row['provider']}:"
    for outcome in ("skipped", "failed"):
        if outcome in row:
            return f"{where} {outcome}: {row[outcome]}"
    ratios = "".join(f", {row[key]:.2f} times {base}" for base in _BASES if (key := f"speed_of_{base}") in row)
    return (
        f"{where} {row['ms_per_clip']:.1f} ms a clip ({row['p20']:.1f} to {row['p80']:.1f}, least {row['least']:.1f})"
        f"{ratios}, floor {row['floor_ms']:.1f} ms ({row['of_floor']:.0%})"
    )
