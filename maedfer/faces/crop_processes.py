"""Work on many videos in several processes, of which one may die."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from maedfer._workers import serve_parent

Job = TypeVar("Job")
_DIED = "the process that worked on it has died: the memory of this machine may not be enough"


def in_processes(jobs: Sequence[Job], work: Callable[[Job], Any], workers: int) -> Iterator[tuple[Job, Any]]:
    """Call a function for each of many jobs in several processes.

    Where a process dies, those jobs that were worked on are done again one by one, and the one with which it dies again
    comes to `([], reason, False)`, as a video does that cannot be read.

    Args:
        jobs: what the function takes.
        work: a function of a module.
        workers: processes.

    Yields:
        Jobs with their results, as they come.
    """
    waiting, suspected = deque(jobs), deque[Job]()
    running: dict[Future[Any], Job] = {}
    pool = _pool(workers)
    try:
        while waiting or suspected or running:
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
                    yield fallen[0], ([], _DIED, False)
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
