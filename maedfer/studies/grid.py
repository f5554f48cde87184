"""Many runs of one study: one after another or spread over devices and processes, each in a process of its own.

A cell of a study is a command line and the run folder that it fills. One that is done is known by its folder and left
as it is; one that was ended goes on from its checkpoint, as runs do. So the same call carries a study on, whatever
ended it.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import runpy
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from maedfer._files import parse_json
from maedfer._progress import counted, duration
from maedfer._values import is_address
from maedfer._workers import serve_parent
from maedfer.data.video.base import shown
from maedfer.errors import InputError, some
from maedfer.train.config import RunConfig, differing_evaluation, differing_keys, load_config, read_config
from maedfer.train.run_folder import check_evaluation, check_run

# What the processes of cells are forked from has imported this, which takes longer than a small run. None of it looks
# for a device: who is forked after that could use none.
_IMPORTED = "cli report train.finetune train.pretrain train.evaluate".split()
_IMPORTED = [*(f"maedfer.{name}" for name in _IMPORTED), "torch._dynamo", "torchvision"]
# Seconds between two looks at how far the cells are.
_LOOK = 0.2


@dataclass(frozen=True)
class Job:
    """One cell: a run of the command line.

    Args:
        task: "pretrain", "finetune" or "evaluate".
        recipe: name or file of a recipe; None = the defaults of the task.
        output: the run's folder.
        overrides: `section.key=value` settings beyond the recipe.
        name: what people are told; empty = the folder's name.
    """

    task: str
    recipe: str | None
    output: Path
    overrides: tuple[str, ...] = ()
    name: str = ""

    @property
    def words(self) -> list[str]:
        """What follows `maedfer` on the command line."""
        return [self.task, *([self.recipe] if self.recipe else []), f"output={self.output}", *self.overrides]

    @property
    def title(self) -> str:
        """What people are told."""
        return self.name or self.output.name

    @property
    def log(self) -> Path:
        """The file that takes what it prints."""
        return self.output.with_name(f"{self.output.name}.log")

    def settings(self) -> RunConfig:
        """The settings that it runs with.

        Raises:
            InputError: they cannot be run.
        """
        return load_config(self.task, self.recipe, self.words[1 + bool(self.recipe) :])


@dataclass(frozen=True)
class Share:
    """What a cell gets of the machine.

    Args:
        device: "cpu", "cuda:0", ...; None = as its settings say.
        threads: of the CPU.
    """

    device: str | None
    threads: int

    def words(self, job: Job) -> list[str]:
        """The command line of a job that has this share; a number of threads that the job names itself counts."""
        place = [] if self.device is None else [f"train.device={self.device}"]
        first = 1 + bool(job.recipe)
        return [*job.words[:first], f"train.threads={self.threads}", *job.words[first:], *place]


def shares(processes: int = 0, devices: Sequence[str] = (), cpus: int | None = None) -> list[Share]:
    """Divide the machine.

    Args:
        processes: cells that run at the same time; 0 = one for each device, or one.
        devices: given to cells in turn; with more processes than devices, several cells are on one.
        cpus: that there are to divide; those that this process may use by default.

    Raises:
        InputError: there are fewer processes than devices, or a device's name is none.
    """
    for device in devices:
        if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
            raise InputError(f"unknown device {device!r}: devices are cpu, cuda or cuda:N, as in cuda:0,cuda:1")
    if processes < 0:
        raise InputError(f"processes must be at least 1, got {processes}")
    count = processes or len(devices) or 1
    if count < len(devices):
        raise InputError(f"{count} at a time leave some of {len(devices)} devices idle: name fewer devices")
    threads = max(1, (available_cpus() if cpus is None else cpus) // count)
    return [Share(devices[index % len(devices)] if devices else None, threads) for index in range(count)]


def cells(
    task: str,
    recipe: str | None,
    out: Path,
    conditions: Mapping[str, Sequence[str]],
    seeds: Iterable[int],
    common: Sequence[str] = (),
) -> dict[str, list[Job]]:
    """The jobs of conditions times seeds, each in `<out>/<condition>/seed_<seed>`.

    Args:
        task, recipe: of all of them.
        out: folder of the study.
        conditions: overrides by the condition's name, which is a folder's.
        seeds: of the runs of each condition.
        common: overrides of all of them, before those of the condition.
    """
    return {
        name: [
            Job(
                task,
                recipe,
                out / name / f"seed_{seed}",
                (*common, *overrides, f"seed={seed}"),
                f"{name}, seed {seed}",
            )
            for seed in seeds
        ]
        for name, overrides in conditions.items()
    }


def is_done(job: Job) -> bool:
    """Whether the folder of a job holds all that it would come to.

    Its run has ended well with the same settings and the same lists of clips, has its scores where clips are scored,
    and nothing that it reads (lists, weights) has changed since.

    Raises:
        InputError: its settings cannot be run, or its folder is that of another run.
    """
    cfg = job.settings()
    if cfg.task == "evaluate":
        check_evaluation(cfg)
    else:
        check_run(cfg)
    folder = Path(cfg.output)
    if not (folder / "config.yaml").is_file() or _outcome(folder) != "complete":
        return False
    there = read_config(folder / "config.yaml")
    evaluates = cfg.task == "evaluate"
    differ = differing_evaluation(there, cfg, folder) if evaluates else differing_keys(there, cfg)
    if there.task != cfg.task or differ or _places(there) != _places(cfg):
        return False
    scored = evaluates or (cfg.task == "finetune" and bool(cfg.data.test or cfg.data.val))
    result = folder / ("metrics.json" if scored else "model")
    return result.exists() and _changed(folder / "environment.json") >= max(map(_changed, _read_by(cfg)), default=0)


def run_jobs(
    jobs: Sequence[Job],
    processes: int = 0,
    say: Callable[[str], None] = print,
    progress: Callable[[float], None] | None = None,
    *,
    devices: Sequence[str] = (),
) -> None:
    """Run the jobs that are not done yet.

    What a job prints goes to <output>.log beside its folder. One that fails is told with its last line, and the others
    go on. On Ctrl-C, or when this process ends in whatever way, those that run are ended with it, and the same call
    carries them on.

    Args:
        jobs: what to run, in this order; their folders differ.
        processes, devices: see `shares`.
        say: takes a line when a job ends, or is found done.
        progress: takes the share of all steps that are done, several times a second.

    Raises:
        InputError: settings cannot be run or a folder is that of another run, and nothing has been started; or jobs
            have failed, with the last line of the first one and the names of all, when the others are done.
    """
    places = deque(shares(processes, devices))
    if len(jobs) < len(places) and not devices:
        places = deque(shares(max(1, len(jobs))))
    waiting: deque[Job] = deque()
    done = 0
    for job, finished in [(job, is_done(job)) for job in jobs]:
        if finished:
            say(f"  {job.title}: done before")
            done += 1
        else:
            waiting.append(job)
    running: dict[BaseProcess, tuple[Job, Share, float]] = {}
    failed: list[tuple[Job, str]] = []
    try:
        while waiting or running:
            while waiting and places:
                job, share = waiting.popleft(), places.popleft()
                running[_start(job, share)] = job, share, time.monotonic()
            if progress is not None:
                progress((done + len(failed) + sum(steps_done(job.log) for job, _, _ in running.values())) / len(jobs))
            wait([process.sentinel for process in running], _LOOK)
            for process in [process for process in running if not process.is_alive()]:
                job, share, started = running.pop(process)
                places.append(share)
                if process.exitcode:
                    failed.append((job, _why(job, process.exitcode)))
                    say(f"  {job.title}: failed: {failed[-1][1]}")
                else:
                    done += 1
                    say(f"  {job.title}: done in {duration(time.monotonic() - started)}")
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.join()
    if progress is not None and jobs:
        progress(1.0)
    if failed:
        raise InputError(_left(failed, len(jobs)))


def steps_done(log: Path) -> float:
    """The share of its steps that a job has done, by the last line of progress in what it printed; 0 before that."""
    with log.open("rb") as file:
        # A line of progress is much shorter.
        file.seek(max(0, log.stat().st_size - 4096))
        found = re.findall(rb" step (\d+)/(\d+):", file.read())
    return int(found[-1][0]) / int(found[-1][1]) if found else 0.0


def available_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def _start(job: Job, share: Share) -> BaseProcess:
    job.log.parent.mkdir(parents=True, exist_ok=True)
    job.log.write_bytes(b"")
    # Forked from a process that has imported what takes seconds, has no threads and has touched no device.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    environment = {**os.environ, "OMP_NUM_THREADS": str(share.threads)}
    process = context.Process(target=_work, args=(share.words(job), str(job.log), environment), name=job.title)
    process.start()
    return process


def _work(words: list[str], log: str, environment: dict[str, str]) -> None:
    """Be `maedfer <words>`, with what it prints in a file."""
    serve_parent()
    os.environ.clear()
    os.environ.update(environment)
    file = os.open(log, os.O_WRONLY | os.O_APPEND)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(file, number)
        # Lines are seen while they come: they tell how far the run is.
        stream = open(number, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
    os.close(file)
    sys.argv = ["maedfer", *words]
    runpy.run_module("maedfer", run_name="__main__")


def _why(job: Job, status: int) -> str:
    """Why a job has failed: its last line, and the signal that ended it, if one did."""
    lines = job.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    last = lines[-1].removeprefix("maedfer: error: ") if lines else "it has printed nothing"
    if status < 0:
        return f"ended by signal {-status}, as the system does where memory is not enough; its last line: {last}"
    return last


def _left(failed: Sequence[tuple[Job, str]], count: int) -> str:
    """What is told of jobs that have failed."""
    job, why = failed[0]
    if count == 1:
        return f"{job.task} into {shown(job.output)} failed: {why}"
    names = some([job.title for job, _ in failed], 8, "; ")
    rest = "the others are done" if len(failed) < count else "no other is done"
    return (
        f"{len(failed)} of {counted(count, 'run')} failed, {rest}: {names}; the first because: {why} (all that it said "
        f"is in {shown(job.log)}). The same command goes on with what is left"
    )


def _outcome(folder: Path) -> object:
    try:
        facts = parse_json((folder / "environment.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return facts.get("outcome") if isinstance(facts, dict) else None


def _places(cfg: RunConfig) -> list[str]:
    """Where the clips are that a run reads, as whole paths."""
    data = cfg.data
    return [
        path if not path or is_address(path) else str(Path(path).absolute())
        for path in (data.train, data.val, data.test, data.root)
    ]


def _read_by(cfg: RunConfig) -> list[Path]:
    """Files and folders that a run reads beside its clips."""
    data = cfg.data
    lists = (data.test,) if cfg.task == "evaluate" else (data.train, data.val, data.test, cfg.train.init)
    return [Path(path) for path in (*lists, cfg.eval.checkpoint) if path and not is_address(path)]


def _changed(path: Path) -> float:
    """When a file, or what lies in a folder of weights or shards, was last changed; 0 where there is nothing."""
    try:
        if not path.is_dir():
            return path.stat().st_mtime
        # Of a run, its result alone: reports and logs may be written anew.
        folder = path / "model" if (path / "model").is_dir() else path
        return max((file.stat().st_mtime for file in folder.iterdir() if file.is_file()), default=0.0)
    except OSError:
        return 0.0
