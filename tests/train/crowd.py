"""Several runs in the same few processes, one after the other, so that each costs no start of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from maedfer.train import load_config, run_finetune, run_pretrain
from maedfer.train.lock import LOCK_FILE
from maedfer.train.trainer import Trainer
from tests.forks import forking

# Seconds after which a process that takes a few is taken for one that hangs.
_HANGS = 1200
_RUNS: dict[str, Callable[..., Any]] = {"pretrain": run_pretrain, "finetune": run_finetune}


class Crowd:
    """One of the processes, and how it joins others.

    Args:
        number, count: this process, and how many there are.
        ports: free ones, one for each time that processes join.
        barrier: of all of them.
    """

    def __init__(self, number: int, count: int, ports: list[int], barrier: Any) -> None:
        self.number, self.count, self.ports, self.barrier = number, count, ports, barrier

    @contextlib.contextmanager
    def in_groups_of(self, world: int) -> Iterator[int]:
        """Join with the neighbours; all processes do this, and wait for each other. Gives the number of the group."""
        self.barrier.wait(_HANGS)
        group, rank = divmod(self.number, world)
        ports, self.ports = self.ports[: self.count], self.ports[self.count :]
        environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": ports[group]}
        os.environ.update({name: str(value) for name, value in environment.items()}, MASTER_ADDR="127.0.0.1")
        if world > 1:
            dist.init_process_group("gloo")
        yield group
        if world > 1:
            dist.destroy_process_group()
        self.barrier.wait(_HANGS)

    def run(self, task: str, settings: list[str], before: int | None = None, copies: Sequence[Path] = ()) -> Any:
        """Run a task; before an optimiser step its folder is copied, as a kill would leave it there.

        Args:
            task: of the run.
            settings: on the command line.
            before: that step, by the number of those that are done.
            copies: what is made.
        """
        original = Trainer._step

        def copied(trainer: Trainer, batches: Any) -> None:
            if trainer.position.step == before:
                for thread in threading.enumerate():
                    if thread.name == "maedfer-checkpoint":
                        thread.join(_HANGS)
                dist.barrier()
                for copy in copies if trainer.runtime.main else ():
                    # The system takes the lock from who is killed.
                    shutil.copytree(trainer.cfg.output, copy, ignore=shutil.ignore_patterns(LOCK_FILE))
                dist.barrier()
            original(trainer, batches)

        Trainer._step = copied  # type: ignore[method-assign, assignment]
        try:
            return _RUNS[task](load_config(task, None, settings))
        finally:
            Trainer._step = original  # type: ignore[method-assign]


def in_crowd(count: int, function: Callable[..., None], *given: Any, joins: int = 4) -> str:
    """Call `function(crowd, *given)` in some processes; what they wrote.

    Raises:
        AssertionError: one of them failed.
    """
    context = forking()
    folder = Path(given[0])
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count * joins)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        ports = [probe.getsockname()[1] for probe in probes]
    barrier = context.Barrier(count)
    workers = [
        context.Process(target=_child, args=(number, count, ports, barrier, function, given)) for number in range(count)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(_HANGS)
        if worker.is_alive():
            worker.kill()
            worker.join()
    text = "".join((folder / f"crowd_{number}.txt").read_text() for number in range(count))
    assert not any(worker.exitcode for worker in workers), text[-6000:]
    return text


def _child(number: int, count: int, ports: list[int], barrier: Any, function: Any, given: Any) -> None:
    torch.set_num_threads(1)
    with open(Path(given[0]) / f"crowd_{number}.txt", "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        function(Crowd(number, count, ports, barrier), *given)
    except BaseException:
        traceback.print_exc()
        barrier.abort()
        sys.stdout.flush()
        os._exit(1)
