"""Cases tried in processes of their own, so that one that hangs, crashes or eats memory is a fault like any other."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar

from tests.forks import forking

Case = TypeVar("Case")
Attempt = Callable[[Case], str]


def try_all(
    cases: Sequence[Case],
    attempt: Attempt[Case],
    batch: int = 1,
    seconds: int = 60,
    memory: int = 4 << 30,
    processes: int = 1,
    seen: Callable[[], None] = lambda: None,
) -> list[str]:
    """What is wrong with each case; empty where nothing is.

    Args:
        cases: what can be pickled.
        attempt: a function of a module that tries one, and says what is wrong.
        batch: cases that follow each other in one process.
        seconds: after which a case is taken for one that hangs.
        memory: bytes that a case may take, besides what the process has when it starts.
        processes: that work at the same time.
        seen: called after each case.
    """
    context = forking()
    wrong = ["" for _ in cases]

    def share(first: int) -> None:
        numbers = range(first, len(cases), processes)
        here, there = context.Pipe(duplex=False)
        mine = [cases[number] for number in numbers]
        helper = context.Process(target=_serve, args=(there, mine, attempt, batch, seconds, memory))
        helper.start()
        there.close()
        for number in numbers:
            wrong[number] = here.recv()
            seen()
        helper.join()

    with ThreadPoolExecutor(processes) as pool:
        list(pool.map(share, range(processes)))
    return wrong


def _serve(
    out: Connection, cases: Sequence[Case], attempt: Attempt[Case], batch: int, seconds: int, memory: int
) -> None:
    done = 0
    while done < len(cases):
        for verdict in _forked(cases[done : done + batch], attempt, seconds, memory):
            out.send(verdict)
            done += 1


def _forked(cases: Sequence[Case], attempt: Attempt[Case], seconds: int, memory: int) -> Iterator[str]:
    """Try cases in one forked process; ends early, with a verdict on the case, where the process dies of one."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        # The process must never come back into the loop of its parent.
        with contextlib.suppress(BaseException), os.fdopen(writing, "w", encoding="utf-8") as answers:
            _limit(memory)
            # What decoders say of damaged files is not asked for.
            for stream in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
            for case in cases:
                # Nothing handles this signal: it ends the process, whatever that does.
                signal.alarm(seconds)
                answers.write(json.dumps(_verdict(case, attempt)) + "\n")
                answers.flush()
        os._exit(0)
    os.close(writing)
    came = 0
    with os.fdopen(reading, encoding="utf-8") as answers:
        for line in answers:
            came += 1
            yield json.loads(line)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if came < len(cases):
        yield f"takes more than {seconds} s" if status == -signal.SIGALRM else f"ends the process, status {status}"


def _verdict(case: Case, attempt: Attempt[Case]) -> str:
    try:
        return attempt(case)
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {str(error)[:200]} ({Path(where.filename).name}:{where.lineno})"


def _limit(memory: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + memory
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
