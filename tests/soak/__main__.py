"""Runs under faults of all kinds, and one long run that is watched: `make soak`."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from maedfer._progress import ProgressLine, duration
from tests.soak import faults, soak
from tests.soak.carry import Story
from tests.soak.job import SHARDED, Job

# Share of the steps and kills that each run has.
_JOBS = {
    Job("finetune", 0): 0.2,
    Job("pretrain", 0, workers=1): 0.2,
    Job("finetune", 0, world=2, workers=1): 0.2,
    Job("finetune", 0, more=("train.checkpoint=sharded",)): 0.2,
    Job("pretrain", 0, world=2, accumulate=2, more=SHARDED): 0.2,
}
# Those that are watched in one process, and how long they are.
_WATCHED = {Job("finetune", 0, workers=1): 1.0, Job("pretrain", 0, more=SHARDED[1:]): 0.5}
# How often each fault that is no kill happens to each run, and what share of steps is poisoned.
_EACH, _POISONED = 2, 0.01


def main() -> int:
    """Soak it all; returns 1 where something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument(
        "--steps", type=int, default=2000, metavar="N", help="of all runs together (default: %(default)s)"
    )
    parser.add_argument("--kills", type=int, default=50, metavar="N", help="by SIGKILL (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all that is drawn (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="runs at a time (default: %(default)s)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="work there, and leave what was written")
    args = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        stories = _all(args.keep or Path(scratch), args.steps, args.kills, args.seed, args.processes)
    counts: Counter[str] = Counter()
    wrong = []
    for story in stories:
        counts.update(story.counts)
        wrong += story.wrong
    kills = counts["kill"] + counts["kill_writing"]
    if kills < args.kills:
        wrong.append(f"{kills} of {args.kills} kills found a run to kill: more --steps, or fewer --kills")
    print(f"seed {args.seed}, {duration(time.monotonic() - started)}, torch {torch.__version__}")
    for name, count in sorted(counts.items()):
        print(f"{count:>8}  {name}")
    print(f"{len(wrong):>8}  wrong")
    for line in wrong:
        print(f"  {line}".encode(errors="backslashreplace").decode(), flush=True)
    if wrong:
        print(f"the same again: python -m tests.soak --seed {args.seed} --steps {args.steps} --kills {args.kills}")
    return int(bool(wrong))


def _all(folder: Path, steps: int, kills: int, seed: int, processes: int) -> list[Story]:
    tasks: list[Callable[[Callable[[int], None]], Story]] = []
    whole = 0
    for number, (job, share) in enumerate(_JOBS.items()):
        job = _long(job, share * steps)
        whole += job.steps
        mine = (
            round(share * kills)
            if number < len(_JOBS) - 1
            else kills - sum(round(other * kills) for other in list(_JOBS.values())[:-1])
        )
        wanted = _wanted(job, mine, random.Random(seed + number))
        place = folder / f"run_{number}"
        tasks.append(
            lambda seen, job=job, place=place, wanted=wanted, number=number: soak.soak(  # type: ignore[misc]
                job, place, seed + number, wanted, seen
            )
        )
    for number, (job, share) in enumerate(_WATCHED.items()):
        job = _long(job, share * steps)
        place, poisoned = folder / f"flat_{number}", int(_POISONED * job.steps)
        tasks.append(
            lambda seen, job=job, place=place, poisoned=poisoned: soak.flat(  # type: ignore[misc]
                job, place, seed, [*faults.PASSING] * (_EACH - 1), poisoned
            )
        )
    tasks.append(lambda seen: soak.leaks(folder / "leaks", max(120, steps // 8)))
    tasks.append(lambda seen: soak.elastic(Job("finetune", 3, world=2), folder / "elastic", seed))
    line = ProgressLine("soaking", sys.stderr)
    reached = Counter[int]()

    def run(number: int) -> Story:
        def seen(step: int) -> None:
            reached[number] = step
            line(sum(reached.values()) / (2 * whole))

        story = tasks[number](seen)
        reached[number] = max(reached[number], whole // 4)
        return story

    with ThreadPoolExecutor(processes) as pool:
        stories = list(pool.map(run, range(len(tasks))))
    line.clear()
    return stories


def _long(job: Job, steps: float) -> Job:
    return Job(
        job.task,
        max(1, round(steps / job.steps_per_epoch)),
        job.world,
        job.workers,
        job.interval,
        job.accumulate,
        job.more,
    )


def _wanted(job: Job, kills: int, draw: random.Random) -> soak.Wanted:
    others = [kind for kind in faults.possible(job.world, job.workers) if not kind.startswith("kill")]
    ending = faults.several(draw, ["kill", "kill_writing"], kills) + others * _EACH
    damages = faults.DAMAGES_OF_FOLDERS if job.in_folders else faults.DAMAGES
    return soak.Wanted(ending, [*faults.PASSING] * _EACH, max(1, int(_POISONED * job.steps)), damages)


if __name__ == "__main__":
    sys.exit(main())
