"""One attempt to carry a run on: the command in processes of its own, and what there is to see of it afterwards."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.forks import forking
from tests.helpers import REPOSITORY
from tests.soak.inside import Plan, install

# Seconds after which an attempt is taken for one that hangs.
_HANGS = 400


@dataclass(frozen=True)
class Step:
    """A step that was finished: its number from 0, the clips it learned from, the weights after it."""

    number: int
    clips: list[int]
    weights: str


@dataclass(frozen=True)
class Ended:
    """How an attempt ended.

    Args:
        codes: statuses of the processes; minus the signal where one ended it.
        text: stdout and stderr of all of them.
        lines: the record of each process.
        hung: whether it had to be ended.
    """

    codes: list[int]
    text: str
    lines: list[list[dict[str, Any]]]
    hung: bool = False

    def steps(self, rank: int = 0) -> list[Step]:
        """What a process finished, in the order of time."""
        return [Step(line["step"], line["clips"], line["weights"]) for line in self.lines[rank] if line.get("weights")]

    @property
    def fired(self) -> set[tuple[str, int]]:
        """Faults that happened, with the steps they were planned for."""
        return {(line["fired"], line["of"]) for lines in self.lines for line in lines if "fired" in line}


def attempt(plan: Plan, folder: Path, world: int = 1, restarts: int | None = None) -> Ended:
    """Carry a run on until it ends, one way or another.

    Args:
        plan: what is to happen.
        folder: for the records; made.
        world: number of processes.
        restarts: start them by torchrun, which may start them again so often; None = without it.
    """
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text(json.dumps(asdict(plan)))
    hung = False
    if restarts is not None:
        codes, hung = _torchrun(folder, world, restarts)
    else:
        codes, hung = _forked(folder, world)
    text = "".join(path.read_text(errors="replace") for path in sorted(folder.glob("rank_*.txt")))
    return Ended(codes, text, [list(_lines(folder / f"rank_{rank}.jsonl")) for rank in range(world)], hung)


def _forked(folder: Path, world: int) -> tuple[list[int], bool]:
    context = forking()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    workers = []
    for rank in range(world):
        environment = {"OMP_NUM_THREADS": "1"}
        if world > 1:
            environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        workers.append(context.Process(target=_child, args=(str(folder), rank, environment)))
    for worker in workers:
        worker.start()
    hung = False
    for worker in workers:
        worker.join(_HANGS)
        if worker.is_alive():
            hung = True
            worker.kill()
            worker.join()
    return [worker.exitcode or 0 for worker in workers], hung


def _torchrun(folder: Path, world: int, restarts: int) -> tuple[list[int], bool]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
    command += [f"--max-restarts={restarts}", "-m", "tests.soak.attempt", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    with open(folder / "rank_all.txt", "w") as file:
        with subprocess.Popen(command, stdout=file, stderr=file, env=environment) as process:
            try:
                return [process.wait(_HANGS)], False
            except subprocess.TimeoutExpired:
                process.terminate()
                return [process.wait()], True


def _child(folder: str, rank: int, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    # A scheduler's job is a session of its own.
    os.setsid()
    sys.exit(_run(Path(folder), rank))


def _run(folder: Path, rank: int) -> int:
    # A shell's background job, as this may be, ignores Ctrl-C, and a run that was started so would do so too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # What torch writes goes to the system's streams.
    with open(folder / f"rank_{rank}.txt", "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    plan = Plan.read(folder / "plan.json")
    install(plan, folder, rank)
    from maedfer.cli import main

    return main([plan.task, *plan.settings])


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.is_file():
        yield from map(json.loads, path.read_text().splitlines())


if __name__ == "__main__":
    sys.exit(_run(Path(sys.argv[1]), int(os.environ["RANK"])))
