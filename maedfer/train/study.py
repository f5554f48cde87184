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
    waiting = list(jobs)
    running: dict[subprocess.Popen[bytes], tuple[Job, float]] = {}
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
    target.write_text("".join(f"{line}\n" for line in chosen), encoding="utf-8")
    return target


def available_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def _log_path(job: Job) -> Path:
    return job.output.with_name(f"{job.output.name}.log")
