"""Processes that work for another one, and end with it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

Job = TypeVar("Job")
# Why a job has no result with which a process died.
DIED = "the process that worked on it has died: the memory of this machine may not be enough"


def serve_parent() -> None:
    """Make this process a worker: Ctrl-C is for its parent, and when that ends, however it does, so does this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A handler that was forked along would be the parent's.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def leave_signals_to_parent() -> None:
    """Make a process that was forked end when its parent says so or ends, and by no signal that is for the whole job.

    A terminal, torchrun and Slurm send SIGINT or SIGTERM to all processes of a job. The parent has yet to save then,
    and ends this one when it needs it no more: by SIGTERM too, which is told from others' by who sent it. SIGTERM must
    be blocked already, as it is in what is forked inside of `signals_blocked`.
    """
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    threading.Thread(target=_end_for, args=(os.getppid(),), daemon=True).start()


@contextlib.contextmanager
def signals_blocked() -> Iterator[None]:
    """A block in which signals for the whole job wait, so that none comes to a process that was just forked."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_for(parent: int) -> None:
    while True:
        if signal.sigwaitinfo([signal.SIGTERM]).si_pid == parent:
            os._exit(0)


def in_processes(jobs: Iterable[Job], work: Callable[[Job], Any], workers: int, died: Any) -> Iterator[tuple[Job, Any]]:
    """Call a function for each of many jobs in several processes.

    Where a process dies, those jobs that were worked on are done again one by one, and the one with which it dies again
    has no result.

    Args:
        jobs: what the function takes; they are taken as there are processes for them.
        work: a function of a module.
        workers: processes.
        died: what stands for the result of a job that has none.

    Yields:
        Jobs with their results, as they come.
    """
    upcoming = iter(jobs)
    waiting, suspected = deque[Job](), deque[Job]()
    running: dict[Future[Any], Job] = {}
    pool = _pool(workers)
    try:
        while True:
            waiting.extend(islice(upcoming, workers - len(waiting)))
            if not (waiting or suspected or running):
                break
            # Those who may have been the cause of a death go one by one.
            queue, most = (suspected, 1) if suspected else (waiting, workers)
            try:
                while queue and len(running) < most:
                    running[pool.submit(work, queue[0])] = queue[0]
                    queue.popleft()
            except BrokenProcessPool:
                if not running:
                    pool.shutdown()
                    pool = _pool(workers)
                    continue
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            fallen = []
            for future in done:
                job = running.pop(future)
                try:
                    result = future.result()
                except BrokenProcessPool:
                    fallen.append(job)
                else:
                    yield job, result
            if fallen:
                # The pool is of no use any more, and what else it was given has no result.
                fallen += running.values()
                running.clear()
                pool.shutdown()
                pool = _pool(workers)
                if len(fallen) == 1:
                    yield fallen[0], died
                else:
                    suspected.extend(fallen)
    except BaseException:
        # Whoever ends all this does not want to wait for a long video.
        for process in list(pool._processes.values()):
            process.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _pool(workers: int) -> ProcessPoolExecutor:
    # Processes that are forked while threads run may hang, and detectors have threads.
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), serve_parent)


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)
