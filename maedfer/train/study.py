"""Several runs side by side: conditions times seeds, each its own process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

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


def run_jobs(jobs: Sequence[Job], processes: int, say: Callable[[str], None] = print) -> None:
    """Run jobs, at most `processes` at a time, each with its share of the CPU's threads.

    What a job prints goes to <output>.log beside its folder, and a line is said when it ends. When one fails, or on
    Ctrl-C, the others are stopped.

    Raises:
        InputError: a job failed, with its last line.
    """
    threads = max(1, available_cpus() // max(1, min(processes, len(jobs))))
    waiting, running = list(jobs), {}
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                job = waiting.pop(0)
                log = _log_path(job)
                log.parent.mkdir(parents=True, exist_ok=True)
                with log.open("w", encoding="utf-8") as file:
                    process = subprocess.Popen(
                        [*job.command, f"train.threads={threads}"],
                        stdin=subprocess.DEVNULL,
                        stdout=file,
                        stderr=subprocess.STDOUT,
                        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
                    )
                running[process] = (job, time.perf_counter())
            for process in [process for process in running if process.poll() is not None]:
                job, started = running.pop(process)
                if process.returncode:
                    lines = _log_path(job).read_text(encoding="utf-8", errors="replace").strip().splitlines()
                    raise InputError(f"{job.task} into {job.output} failed: {lines[-1] if lines else 'no output'}")
                say(f"  {job.output.name}: done in {time.perf_counter() - started:.0f} s")
            time.sleep(0.1)
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


def available_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def _log_path(job: Job) -> Path:
    return job.output.with_name(f"{job.output.name}.log")
