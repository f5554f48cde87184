"""Clips a second of several sides in turn, with the processor time and the bytes that they take."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.loading.sides import PUBLISHED, Side

# Batches that loaders have ready when their turn comes: two of each process, and one that it is at.
_READY = 3
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Turn:
    """What a side did in one round.

    Args:
        clips: how many came.
        seconds: that passed.
        processor_seconds: of all processes of the side.
        read_bytes: asked of the system by them, whether from a disk or from its cache; None where it does not tell.
    """

    clips: int
    seconds: float
    processor_seconds: float
    read_bytes: int | None


def measure(sides: Sequence[Side], cores: int, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Let sides load in turn, each with as many processes as there are cores, and held to these.

    Args:
        sides: of one task, the published one first.
        cores: how many of this process's.
        rounds: turns of each.
        seconds: of a turn.

    Returns:
        A row for each side; ratios are medians of the ratios within a round.
    """
    turns: list[list[Turn]] = [[] for _ in sides]
    with _held_to(cores), contextlib.ExitStack() as stack:
        started = []
        for side in sides:
            before = _children()
            batches = side.start(cores)
            stack.callback(batches.close)  # type: ignore[attr-defined]
            next(batches)
            started.append((batches, _children() - before))
        for number in range(rounds):
            for place in list(range(len(sides)))[:: 1 if number % 2 == 0 else -1]:
                batches, processes = started[place]
                turns[place].append(_turn(batches, processes, cores, seconds))
    first = next(place for place, side in enumerate(sides) if side.loader == PUBLISHED)
    return [_row(side, cores, turns[place], turns[first]) for place, side in enumerate(sides)]


def _turn(batches: Iterator[Any], processes: set[int], cores: int, seconds: float) -> Turn:
    for _ in range(_READY * cores):
        next(batches)
    clips = 0
    before, started = used(processes), time.perf_counter()
    while not clips or time.perf_counter() - started < seconds:
        clips += len(next(batches)["index"])
    passed, after = time.perf_counter() - started, used(processes)
    read = None if before[1] is None or after[1] is None else after[1] - before[1]
    return Turn(clips, passed, after[0] - before[0], read)


def _row(side: Side, cores: int, turns: Sequence[Turn], against: Sequence[Turn]) -> dict[str, Any]:
    rates = [turn.clips / turn.seconds for turn in turns]
    others = [turn.clips / turn.seconds for turn in against]
    spent = [turn.processor_seconds / turn.clips for turn in turns]
    other = [turn.processor_seconds / turn.clips for turn in against]
    read = [turn.read_bytes / turn.clips for turn in turns if turn.read_bytes is not None]
    return {
        "task": side.task,
        "loader": side.loader,
        "source": side.source,
        "changes": side.changes,
        "cores": cores,
        "clips_per_s": statistics.median(rates),
        "slowest": min(rates),
        "fastest": max(rates),
        "processor_ms": 1e3 * statistics.median(spent),
        "read_bytes": statistics.median(read) if read else None,
        "times_published": statistics.median(a / b for a, b in zip(rates, others, strict=True)),
        "times_published_by_processor": statistics.median(b / a for a, b in zip(spent, other, strict=True)),
        "rounds": len(turns),
    }


@contextlib.contextmanager
def _held_to(cores: int) -> Iterator[None]:
    """Let this process, and those that it starts, have only so many of its cores."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:cores])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _children() -> set[int]:
    return {child.pid for child in multiprocessing.active_children() if child.pid is not None}


def used(processes: set[int]) -> tuple[float, int | None]:
    """Processor seconds and bytes read of this process and others."""
    seconds, read = time.process_time(), 0
    known = True
    for process in [os.getpid(), *processes]:
        place = Path("/proc", str(process))
        if process != os.getpid():
            fields = (place / "stat").read_text().rpartition(")")[2].split()
            seconds += (int(fields[11]) + int(fields[12])) / _TICKS
        try:
            lines = dict(line.split(": ") for line in (place / "io").read_text().splitlines())
            read += int(lines["rchar"])
        except OSError:
            known = False
    return seconds, read if known else None
