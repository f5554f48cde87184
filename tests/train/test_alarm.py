import os
import re
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from maedfer.errors import InputError
from maedfer.train.alarm import Alarm
from maedfer.train.peers import Place
from maedfer.train.whereabouts import Sign, Whereabouts
from tests.forks import forking

# Seconds after which a scenario that takes a few is taken for one that hangs.
_HANGS = 120
_HEAD = """
import os, signal, sys, time, traceback
import torch, torch.distributed as dist
from maedfer.errors import InputError
from maedfer.train import load_config
from maedfer.train.processes import start
cfg = load_config("finetune", None, ["data.train=x", "train.device=cpu", *settings])
def run(runtime, rank): pass
"""
_TAIL = """
try:
    with start(cfg) as runtime:
        runtime.barrier()
        run(runtime, runtime.rank)
    print("left in good order")
except InputError as error:
    sys.exit(str(error))
"""
LOST = (
    r"process 2 on HOST has shown no sign of life for \d+ s; this one ends with it; the same command goes on from the"
)
KEEPER = r"the process that keeps the others together, at 127\.0\.0\.1:\d+, has "
WRITING = r"error: process 0 on HOST is writing last\.pt, for \d+ s \(train\.timeout\); this one ends with it; the same"
LATE = r"the other processes did not get on for \d+ s \(train\.timeout\), most likely for process 1 on HOST, "
# Process 0 takes the store along, and a machine with much to do may not have let others read before what was in it.
TOLD = rf"error: process 0 has failed: the other processes did not get on|{KEEPER}gone"
# By name: processes, settings, what each one does, and the sentence of each; None for one that is killed in the end.
SCENARIOS: dict[str, tuple[int, list[str], str, list[str | None]]] = {
    "a process that is stopped": (
        3,
        ["train.lost_after=4"],
        "if rank == 2: os.kill(os.getpid(), signal.SIGSTOP)\nruntime.barrier()",
        [LOST, LOST, None],
    ),
    "the process that keeps the store is stopped": (
        3,
        ["train.lost_after=4"],
        "if rank == 0: os.kill(os.getpid(), signal.SIGSTOP)\ndist.barrier()",
        [None, *[rf"{KEEPER}not answered for \d+ s; this one ends with it; the same command"] * 2],
    ),
    "the process that keeps the store is killed": (
        2,
        [],
        "if rank == 0: os.kill(os.getpid(), signal.SIGKILL)\nruntime.barrier()",
        [None, f"{KEEPER}gone"],
    ),
    "a checkpoint that is written for ever": (
        2,
        ["train.timeout=3"],
        "runtime.about.step = 7\nruntime.on_main(lambda: time.sleep(300), 'is writing last.pt')",
        [WRITING, f"{WRITING}|{KEEPER}gone"],
    ),
    "a list that takes its time, and a process that leaves before the other one": (
        2,
        ["train.timeout=2", "train.lost_after=6"],
        "runtime.on_main(lambda: time.sleep(4), 'reads a list', long=True)\n"
        "if rank == 0:\n    time.sleep(8)\n    runtime.alarm.stop()",
        ["left in good order"] * 2,
    ),
    "a process that is stuck, who knows where": (
        2,
        ["train.timeout=3"],
        "runtime.about.step = 4 - rank\nif rank == 1: time.sleep(300)\nruntime.gather(1)",
        [rf"{LATE}at step 3 \(this one is at step 4\); the same command goes on", TOLD],
    ),
    "a process that waits for its storage while the other one waits for gradients": (
        2,
        ["train.timeout=3"],
        "runtime.about.step = 12\n"
        "if rank == 1:\n"
        "    with runtime.about.at('is waiting for a batch of clips'): time.sleep(300)\n"
        "time.sleep(3)\ndist.all_reduce(torch.ones(1))",
        [rf"{LATE}which is waiting for a batch of clips, at step 12 \(this one is at step 12\); the same", TOLD],
    ),
}


def processes_of(settings, code, environment, output):
    os.environ.update(environment)
    with open(output, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    indented = "".join(f"    {line}\n" for line in code.splitlines())
    exec(_HEAD.replace(" pass", f"\n{indented}") + _TAIL, {"settings": settings})


def test_processes_that_are_lost_or_stuck_end_all_with_a_sentence(tmp_path):
    """All scenarios at once: they do nothing but wait."""
    context = forking()
    started: dict[str, list[tuple[Any, Path]]] = {}
    for number, (name, (processes, settings, code, _)) in enumerate(SCENARIOS.items()):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        started[name] = []
        for rank in range(processes):
            environment = {"OMP_NUM_THREADS": "1", "RANK": str(rank), "WORLD_SIZE": str(processes)}
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            output = tmp_path / f"{number}_{rank}"
            worker = context.Process(target=processes_of, args=(settings, code, environment, str(output)))
            worker.start()
            started[name].append((worker, output))
    deadline = time.monotonic() + _HANGS
    for name, workers in started.items():
        for (worker, _), sentence in zip(workers, SCENARIOS[name][3], strict=True):
            if sentence is not None:
                worker.join(max(0.0, deadline - time.monotonic()))
        for worker, _ in workers:
            if worker.is_alive():
                worker.kill()
                worker.join()
    for name, workers in started.items():
        codes, texts = [worker.exitcode for worker, _ in workers], [output.read_text() for _, output in workers]
        told = f"{name}: {codes}\n" + "\n--\n".join(texts)
        for code, text, sentence in zip(codes, texts, SCENARIOS[name][3], strict=True):
            if sentence is None:
                assert code == -signal.SIGKILL, told
                continue
            assert code in ((0,) if sentence == "left in good order" else (1, 2)), told
            assert re.search(sentence.replace("HOST", socket.gethostname()), text), told
            assert "Traceback" not in text, told


@pytest.mark.parametrize("stays", [[], [("is writing a\tfile\n", 3.0, "k")], [("waits", 3.0, "k", True)], [("reads",)]])
def test_a_sign_of_life_says_what_was_noted(stays):
    about = Whereabouts()
    about.step = 3
    for stay in stays:
        with about.at(*stay):
            sign = Sign.of(about, 5, "here", 9)
            assert sign.doing == " ".join(stay[0].split()) and sign.waits == (len(stay) == 4)
            # What may take any time is known to those who wait.
            assert sign.free == (len(stay) == 1)
            assert Sign.read(5, sign.line()) == sign
    after = Sign.of(about, 5, "here", 9)
    assert (after.step, after.count, after.doing) == (3, len(stays), "")
    assert Sign.read(5, after.line()) == after


class _Gone:
    """Stands for the store of the processes, to which the connection is lost."""

    def add(self, key: str, amount: int) -> int:
        raise RuntimeError("Connection reset by peer")


def test_a_store_that_has_gone_is_told() -> None:
    alarm = Alarm(Place())
    alarm.name, alarm.keeper = "maedfer/x", "the process that keeps the others together, at a host,"
    alarm.store = _Gone()  # type: ignore[assignment]
    with pytest.raises(InputError, match="keeps the others together, at a host, has gone"):
        alarm.meet(main=True)
