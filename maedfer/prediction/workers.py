"""Who finds the windows of videos: this process, or others that decode, look for faces and cut them out beside it.

What is found of a video goes through as events in their order: it was opened, windows, it has ended or has failed. A
process that waits for the model holds a few windows at most, and so memory does not grow.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from maedfer._files import is_full
from maedfer._workers import serve_parent
from maedfer.data.video.base import words
from maedfer.errors import InputError, MissingDependencyError
from maedfer.prediction.options import PredictionOptions
from maedfer.prediction.table import OutputError, Place

# Windows of all processes that lie ready for the model.
_READY = 4


@dataclass(frozen=True)
class WindowTask:
    """A video whose windows are to be found.

    Args:
        number: its place among the inputs.
        path: of the video, a device or a stream.
        options: how it is looked at.
        model: what clips the model takes, for `find`.
        record: file of the detections; None where none are kept.
        last: where the last row stands that is there already: windows up to it come without clip.
        live: whether it is a device or a stream.
        threads: of the processor that finding may keep busy; 0 = as many as there are.
        annotate: whether an annotated video is to be made, of pictures that may be too small for it.
    """

    number: int
    path: str
    options: PredictionOptions
    model: Any = None
    record: str | None = None
    last: Place | None = None
    live: bool = False
    threads: int = 0
    annotate: bool = False


class Event(NamedTuple):
    """What was found of a video: "opened" and "ended" come with what is known of it (dict), "window" with a `Window`,
    "failed" with the reason, "stop" with the reason why no video can be gone on with."""

    task: int
    kind: Literal["opened", "window", "ended", "failed", "stop"]
    content: Any


# Finds the windows of a task: kinds and contents of events, of which "ended" is the last; raises what is wrong.
Find = Callable[[WindowTask], Iterator[tuple[Any, Any]]]


def find_here(
    find: Find, tasks: Iterable[WindowTask], wanted: Callable[[int], bool] = lambda number: True
) -> Iterator[Event]:
    """Find the windows of one video after the other in this process, each for as long as its task is `wanted`."""
    for task in tasks:
        with contextlib.closing(_events(find, task)) as events:
            for event in events:
                yield event
                if not wanted(task.number):
                    break


class Workers:
    """Processes that find windows, a video each at a time; use it as a context.

    Args:
        count: of processes, which are started when there is something to do.
        find: a function of a module, as it is sent to them.
    """

    def __init__(self, count: int, find: Find) -> None:
        self._found: queue.Queue[tuple[_Worker, Event]] = queue.Queue(_READY)
        self._workers = [_Worker(find, self._found) for _ in range(count)]

    def find(self, tasks: Iterable[WindowTask]) -> Iterator[Event]:
        """Find the windows of videos, of several at a time; events of one video are in order."""
        rest = iter(tasks)
        busy = sum(self._give(worker, rest) for worker in self._workers)
        while busy:
            worker, event = self._found.get()
            yield event
            if event.kind not in ("opened", "window"):
                busy += self._give(worker, rest) - 1

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.stop()

    def _give(self, worker: _Worker, rest: Iterator[WindowTask]) -> bool:
        task = next(rest, None)
        if task is not None:
            worker.tasks.put(task)
        return task is not None


class _Worker:
    """A process, and the thread that waits for what it finds."""

    def __init__(self, find: Find, found: queue.Queue[tuple[_Worker, Event]]) -> None:
        self.find, self.found = find, found
        self.tasks: queue.Queue[WindowTask] = queue.Queue()
        self.process: Any = None
        self.thread = threading.Thread(target=self._run, name="maedfer-windows", daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """End the process, whatever it does."""
        if self.process is not None:
            self.process.kill()
            self.process.join()

    def _run(self) -> None:
        # Processes that are forked while threads run may hang.
        context = multiprocessing.get_context("spawn")
        connection: Any = None
        while True:
            task = self.tasks.get()
            try:
                if connection is None:
                    connection, other = context.Pipe()
                    self.process = context.Process(target=_serve, args=(self.find, other), daemon=True)
                    self.process.start()
                    other.close()
                connection.send(task)
                while True:
                    event = connection.recv()
                    self.found.put((self, event))
                    if event.kind not in ("opened", "window"):
                        break
            except (EOFError, OSError):
                self.process.join()
                code = self.process.exitcode
                how = signal.Signals(-code).name if code < 0 else f"status {code}"
                connection = None
                reason = f"the process that read it has died ({how}): the memory of this machine may not be enough"
                self.found.put((self, Event(task.number, "failed", reason)))


def _serve(find: Find, connection: Any) -> None:
    """What a process does: tasks come in, events go out."""
    serve_parent()
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            for event in _events(find, connection.recv()):
                connection.send(event)


def _events(find: Find, task: WindowTask) -> Generator[Event, None, None]:
    """The events of a video, whatever is wrong with it."""
    try:
        for kind, content in find(task):
            yield Event(task.number, kind, content)
    except Exception as error:
        if isinstance(error, OutputError | MissingDependencyError):
            yield Event(task.number, "stop", str(error))
        elif is_full(error):
            yield Event(task.number, "stop", str(error) if isinstance(error, InputError) else words(error))
        elif isinstance(error, InputError):
            yield Event(task.number, "failed", str(error))
        else:
            if os.environ.get("MAEDFER_TRACEBACK", "0") not in ("", "0"):
                traceback.print_exc(file=sys.stderr)
            yield Event(task.number, "failed", f"{words(error)}: MAEDFER_TRACEBACK=1 shows where")
