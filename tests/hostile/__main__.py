"""The long form of what tests/hostile tries: `make fuzz`."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from maedfer._progress import ProgressLine
from tests.hostile import commands, files, kills, kills_of_studies
from tests.hostile.apart import try_all


def main() -> int:
    """Try it all; returns 1 where something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("--files", type=int, default=2000, metavar="N", help="damaged files (default: %(default)s)")
    parser.add_argument("--clips", type=int, default=2000, metavar="N", help="damaged clips (default: %(default)s)")
    parser.add_argument("--kills", type=int, default=40, metavar="N", help="kills (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of files and kills (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="at a time (default: %(default)s)")
    args = parser.parse_args()
    table = []
    for name, step in {
        "bad command lines": lambda folder: _commands(folder, args.processes),
        "damaged files": lambda folder: _files(folder, list(files.kinds()), args.files, args.seed, args.processes),
        # Damages that are none of those above.
        "damaged clips": lambda folder: _files(folder, files.clips(), args.clips, args.seed + 1000, args.processes),
        "kills": lambda folder: _kills(folder, args.kills, args.seed),
        "kills of studies": lambda folder: _kills_of_studies(folder, args.kills // 5, args.seed),
    }.items():
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            tried, wrong = step(Path(folder))
        for line in wrong:
            print(f"  {line}".encode(errors="backslashreplace").decode(), flush=True)
        traces = sum("traceback" in line or "Error" in line for line in wrong)
        table.append((name, tried, len(wrong), traces, round(time.monotonic() - started)))
    print(f"{'':<20}{'tried':>8}{'wrong':>8}{'tracebacks':>12}{'seconds':>9}")
    for name, *numbers in table:
        print(f"{name:<20}" + "".join(f"{value:>{width}}" for value, width in zip(numbers, (8, 8, 12, 9), strict=True)))
    return int(any(row[2] for row in table))


def _commands(folder: Path, processes: int) -> tuple[int, list[str]]:
    rows = commands.table()
    # Each process has a world of its own, because rows must leave it as it was.
    worlds = [commands.World.made(folder / str(number)) for number in range(processes)]
    cases = [(row, worlds[number % processes]) for number, row in enumerate(rows)]
    wrong = try_all(cases, commands.attempt, processes=processes, seen=_counter("command lines", len(rows)))
    return len(rows), [
        f"commands.txt:{row.line}: {row.text}: {why}" for row, why in zip(rows, wrong, strict=True) if why
    ]


def _files(folder: Path, names: list[str], count: int, seed: int, processes: int) -> tuple[int, list[str]]:
    base = files.build(folder)
    cases = [(names[number % len(names)], seed + number // len(names), base) for number in range(count)]
    seen = _counter("damaged files", count)
    wrong = try_all(cases, files.attempt, batch=20, seconds=30, memory=2 << 30, processes=processes, seen=seen)
    return count, [f"{kind}, seed {number}: {why}" for (kind, number, _), why in zip(cases, wrong, strict=True) if why]


def _kills(folder: Path, count: int, seed: int) -> tuple[int, list[str]]:
    done = kills.kill(folder, count, seed, _counter("kills", count))
    return done.done, done.wrong


def _kills_of_studies(folder: Path, count: int, seed: int) -> tuple[int, list[str]]:
    done = kills_of_studies.kill_studies(folder, count, seed, _counter("kills of studies", count))
    return done.done, done.wrong


def _counter(what: str, count: int) -> Callable[[], None]:
    line, done = ProgressLine(what, sys.stderr), 0

    def seen() -> None:
        nonlocal done
        done += 1
        line(done / count)
        if done == count:
            line.clear()

    return seen


if __name__ == "__main__":
    sys.exit(main())
