"""How many clips a second are loaded, on one core and on more, beside a loader that is written the published way.

    python -m benchmarks.loading VIDEO [VIDEO ...] --results benchmarks/results

Makes clips of the videos of faces (of a drawn scene where none are given) in three forms: h264 videos as VoxCeleb2 has
them, folders of jpg pictures as DFEW has them, and shards of either. Then ours and the published way (`published`) load
the same samples of the same clips in turn, in batches of 16 that processes make and this one takes; all processes of a
side share as many cores as it has processes. Each side loads once with what is random, and once without, as where a
device does that: ours then gives bytes and what was drawn. Before that, both must give the same frames. Everything
comes out of the system's cache: what a disk would take is in the bytes that are read for a clip. Writes
loading_cpu.json.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.loading.check import check
from benchmarks.loading.corpus import FRAMES, make_corpus
from benchmarks.loading.measure import measure
from benchmarks.loading.sides import BATCH, OURS, TASKS, sides
from benchmarks.loading.table import needs, scaling, table
from benchmarks.machine import machine
from benchmarks.results_file import make_place, write
from maedfer.errors import InputError, MissingDependencyError


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(prog="loading", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("videos", nargs="*", type=Path, help="video files of faces (a drawn scene)")
    parser.add_argument("--data", type=Path, help="folder that takes the clips, and keeps them for the next time")
    parser.add_argument("--clips", type=int, default=240, help="names of clips, of which many are links (%(default)s)")
    parser.add_argument("--frames", type=int, default=FRAMES, help="of a clip (%(default)s)")
    parser.add_argument("--task", nargs="+", choices=TASKS, default=list(TASKS), help="whose samples (both)")
    parser.add_argument("--cores", nargs="+", type=int, default=[1, 2], help="processes, a core each (1 2)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side (%(default)s)")
    parser.add_argument("--seconds", type=float, default=1.5, help="of a turn (%(default)s)")
    parser.add_argument("--results", type=Path, help="folder that takes loading_cpu.json")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            _run(args, args.data or Path(folder) / "clips")
    except (InputError, MissingDependencyError) as error:
        print(f"loading: error: {error}", file=sys.stderr)
        return 2
    return 0


def _run(args: argparse.Namespace, data: Path) -> None:
    allowed = len(os.sched_getaffinity(0))
    if not 1 <= min(args.cores) <= max(args.cores) <= allowed:
        raise InputError(f"--cores {' '.join(map(str, args.cores))}: this process has {allowed}")
    if args.rounds < 1:
        raise InputError(f"--rounds must be positive, got {args.rounds}")
    out = make_place(args.results / "loading_cpu.json") if args.results else None
    corpus = make_corpus(data, args.videos, args.clips, args.frames, allowed)
    results: dict[str, Any] = {"machine": machine("cpu"), "clips": corpus.describe(), "batch": BATCH}
    results |= {"checks": [], "rows": []}
    for task in args.task:
        checked = [check(side) for side in sides(task, corpus) if side.loader == OURS]
        results["checks"] += [{"task": task, **found} for found in checked]
    for task in args.task:
        for cores in args.cores:
            rows = measure(sides(task, corpus), cores, args.rounds, args.seconds)
            results["rows"] += rows
            print("\n".join(table(rows)), flush=True)
            if out is not None:
                write(out, results)
    print("\n".join([*scaling(results["rows"]), *needs(results["rows"])]))


if __name__ == "__main__":
    raise SystemExit(main())
