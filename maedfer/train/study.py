"""Several runs side by side: conditions times seeds, each its own process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from maedfer._files import atomic_path
from maedfer.errors import InputError


@dataclass(frozen=True)
class Job:
    """One run of the command line.

    Attributes:
        task: "pretrain", "finetune" or "evaluate".
        recipe: name or file of a recipe.
        output: the run's folder.
        overrides: `section.key=value` settings beyond the recipe.
    """

    task: str
    recipe: str
    output: Path
    overrides: tuple[str, ...] = ()

    @property
    def command(self) -> list[str]:
        """What is executed."""
        return [
            *(sys.executable, "-m", "maedfer", self.task, self.recipe),
            *(f"output={self.output}", *self.overrides),
        ]

    @property
    def log(self) -> Path:
        """The file that takes what it prints."""
        return self.output.with_name(f"{self.output.name}.log")


def run_jobs(
    jobs: Sequence[Job],
    processes: int,
    say: Callable[[str], None] = print,
    progress: Callable[[float], None] | None = None,
) -> None:
    """Run jobs, at most `processes` at a time, each with its share of the CPU's threads.

    What a job prints goes to <output>.log beside its folder. When one fails, or on Ctrl-C, the others are stopped.

    Args:
        jobs: what to run.
        processes: at most so many at a time.
        say: takes a line when a job ends.
        progress: takes the share of all steps that are done, several times a second.

    Raises:
        InputError: a job failed, with its last line.
    """
    threads = max(1, available_cpus() // max(1, min(processes, len(jobs))))
    waiting = list(jobs)
    running: dict[subprocess.Popen[bytes], tuple[Job, float]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                job = waiting.pop(0)
                running[_start(job, threads)] = (job, time.perf_counter())
            for process in [process for process in running if process.poll() is not None]:
                job, started = running.pop(process)
                if process.returncode:
                    lines = job.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
                    raise InputError(f"{job.task} into {job.output} failed: {lines[-1] if lines else 'no output'}")
                say(f"  {job.output.name}: done in {time.perf_counter() - started:.0f} s")
            if progress is not None:
                ended = len(jobs) - len(waiting) - len(running)
                progress((ended + sum(steps_done(job.log) for job, _ in running.values())) / len(jobs))
            time.sleep(0.2)
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


def steps_done(log: Path) -> float:
    """The share of its steps that a job has done, by the last line of progress in what it printed; 0 before that."""
    with log.open("rb") as file:
        # A line of progress is much shorter.
        file.seek(max(0, log.stat().st_size - 4096))
        found = re.findall(rb" step (\d+)/(\d+):", file.read())
    return int(found[-1][0]) / int(found[-1][1]) if found else 0.0


def _start(job: Job, threads: int) -> subprocess.Popen[bytes]:
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("w", encoding="utf-8") as file:
        return subprocess.Popen(
            [*job.command, f"train.threads={threads}"],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )


def seed_jobs(out: Path, name: str, seeds: int, overrides: Sequence[str], init: Path | None) -> list[Job]:
    """Fine-tuning runs of one condition on generated clips, one a seed.

    Args:
        out: folder that the runs' folders <name>_<seed> are in.
        name: of the condition.
        seeds: how many.
        overrides: settings that all conditions share.
        init: pre-training run to start from; None starts from random weights, which train best with one lower rate
            for all layers (3e-4; 1e-3 was tried).
    """
    own = ("optim.layer_decay=1", "optim.lr=3e-4") if init is None else (f"train.init={init}",)
    return [
        Job("finetune", "synth_finetune", out / f"{name}_{seed}", (f"seed={seed}", *overrides, *own))
        for seed in range(seeds)
    ]


def few_labels(source: Path, count: int, target: Path) -> Path:
    """Write the first `count` lines of an annotation file to `target`, as many of each class as of any other."""
    by_class: dict[str, list[str]] = {}
    for line in source.read_text(encoding="utf-8").splitlines():
        by_class.setdefault(line.rsplit(" ", 1)[1], []).append(line)
    chosen = [line for lines in by_class.values() for line in lines[: count // len(by_class)]]
    with atomic_path(target) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in chosen), encoding="utf-8")
    return target


def available_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0))
