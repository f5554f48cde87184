"""The faults of a plan, as they happen to a process of a run from inside of it."""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.soak.faults import Fault
from tests.soak.machine import children, damage_clip

SIGNALS = {"term": signal.SIGTERM, "term_twice": signal.SIGTERM, "int": signal.SIGINT, "usr1": signal.SIGUSR1}
# Events of the interpreter that stand for a change in a folder; "soak.fsync" is our own.
_CHANGES = {"open", "os.rename", "os.link", "os.remove", "os.truncate", "os.mkdir", "os.rmdir", "soak.fsync"}
# Seconds over which a kill "while it writes" is spread after the call.
_WRITES = 0.004
# Bytes that a run prints in as many steps as a fault lasts, and more.
_WORDS = 20_000
# Seconds of a step of which nothing is known yet.
_FIRST = 0.05


class Harm:
    """Lets faults happen to this process.

    Args:
        faults: all of the plan.
        rank: this process.
        output: the run folder.
        data: folder of the clips that may be damaged.
        peers: folder in which every process of the run has left its number as pid_RANK.
        tell: takes the kind and the planned step of a fault just before it happens.
    """

    def __init__(
        self, faults: Sequence[Fault], rank: int, output: str, data: Path, peers: Path, tell: Callable[[str, int], None]
    ) -> None:
        self.faults, self.rank, self.output = list(faults), rank, output
        self.data, self.peers, self.tell = data, peers, tell
        self.process = os.getpid()
        # What was done for some steps, with the step at which it is undone.
        self.lasting: list[tuple[int, Callable[[], object]]] = []
        self.began, self.cycle = 0.0, _FIRST
        # The fault that waits for calls that write, and how many are to come before it.
        self.waiting: Fault | None = None
        self.calls = 0
        self.read_only = self.full = False
        kinds = {fault.kind for fault in faults}
        if kinds & {"kill_writing", "read_only"}:
            self._listen()
        if "full" in kinds:
            self._replace_open()

    def due(self, step: int) -> None:
        """A step begins: let those faults happen whose time has come, and end those that have lasted long enough."""
        now = time.monotonic()
        if self.began:
            self.cycle = now - self.began
        self.began = now
        for end, undo in [one for one in self.lasting if one[0] <= step]:
            undo()
            self.lasting.remove((end, undo))
        for fault in [fault for fault in self.faults if fault.step <= step]:
            self.faults.remove(fault)
            if fault.steps:
                undone = self._begin(fault)
                if undone is not None:
                    self.tell(fault.kind, fault.step)
                    self.lasting.append((step + fault.steps, undone))
            elif fault.rank == self.rank and fault.kind == "kill_writing":
                self.calls, self.waiting = fault.nth, fault
            elif fault.rank == self.rank:
                self._after(fault.moment * self.cycle, fault)

    def _after(self, seconds: float, fault: Fault) -> None:
        timer = threading.Timer(seconds, self._happen, (fault,))
        timer.daemon = True
        timer.start()

    def _happen(self, fault: Fault) -> None:
        self.tell(fault.kind, fault.step)
        others = self._others() if fault.whole else []
        if fault.kind in ("kill", "kill_writing", "rank_killed"):
            _send(signal.SIGKILL, [*others, self.process])
        elif fault.kind in SIGNALS:
            for _ in range(2 if fault.kind == "term_twice" else 1):
                _ask(SIGNALS[fault.kind], [*others, self.process])
                # The second one comes while the first one's checkpoint is written, or after that.
                time.sleep(fault.moment * self.cycle)
        elif fault.kind == "loader_killed":
            _send(signal.SIGKILL, children(self.process)[:1])
        else:
            damage_clip(self.data / f"clip_{fault.nth}", fault.step)

    def _others(self) -> list[int]:
        peers = [int(path.read_text()) for path in self.peers.glob("pid_*")]
        found = [process for peer in peers for process in (peer, *children(peer))]
        return [process for process in found if process != self.process]

    def _begin(self, fault: Fault) -> Callable[[], object] | None:
        """Begin what lasts some steps; gives what ends it, None where it cannot be now."""
        if fault.kind == "read_only":
            self.read_only = True
            return lambda: setattr(self, "read_only", False)
        if fault.kind == "full":
            self.full = True
            handles = _lead_to_full(lambda name: name.endswith("log.jsonl")) if fault.nth else []
            return lambda: self._no_longer_full(handles)
        if fault.kind == "full_output":
            output = os.readlink(f"/proc/self/fd/{sys.stdout.fileno()}")
            handles = _lead_to_full(lambda name: name == output)
            return lambda: _put_back(handles)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        size = _largest(Path(self.output) / "checkpoints") // 2
        # Half a checkpoint is written, and then no more. What a long run has printed may be longer than that already,
        # and no run can go on whose words find no place.
        if size < os.fstat(sys.stdout.fileno()).st_size + _WORDS:
            return None
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    def _no_longer_full(self, handles: Sequence[tuple[int, int]]) -> None:
        self.full = False
        _put_back(handles)

    def _listen(self) -> None:
        """Hear of every call that changes the run folder before it is carried out."""
        fsync = os.fsync

        def told(handle: int) -> None:
            sys.audit("soak.fsync", self.output)
            fsync(handle)

        os.fsync = told  # type: ignore[assignment]
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in _CHANGES or (self.waiting is None and not self.read_only) or os.getpid() != self.process:
            return
        if not isinstance(arguments[0], (str, os.PathLike)) or not str(arguments[0]).startswith(self.output):
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return
        if self.read_only:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(arguments[0]))
        self.calls -= 1
        if self.waiting is not None and self.calls < 0:
            fault, self.waiting = self.waiting, None
            if fault.moment < 0.5:
                self._happen(fault)
            else:
                # Somewhere in what the call begins.
                self._after((fault.moment - 0.5) * 2 * _WRITES, fault)

    def _replace_open(self) -> None:
        """While the disk is full, let files of the run folder be opened on a device that always is."""
        original = io.open

        def opened(file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
            writes = isinstance(file, (str, os.PathLike)) and any(letter in mode for letter in "wax+")
            if not (self.full and writes and str(file).startswith(self.output)):
                return original(file, mode, *rest, **options)
            # A full disk still takes an empty file.
            original(file, mode, *rest, **options).close()
            return original("/dev/full", mode.replace("x", "w"), *rest, **options)

        builtins.open = io.open = opened  # type: ignore[assignment]


def _largest(folder: Path) -> int:
    """Bytes of the largest file in a folder in which some come and go."""
    sizes = [0]
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            sizes.append(path.stat().st_size * path.is_file())
    return max(sizes)


def _send(number: int, processes: Sequence[int]) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)


def _ask(number: int, processes: Sequence[int]) -> None:
    # Not by this process: what its own children hear from it is another matter.
    subprocess.run(["sh", "-c", f"kill -{number:d} {' '.join(map(str, processes))}"], check=False)


def _lead_to_full(which: Callable[[str], bool]) -> list[tuple[int, int]]:
    """Let every handle of such files lead to a device that is always full; gives them with what they were."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if which(os.readlink(f"/proc/self/fd/{name}")):
                found.append(int(name))
    kept = [(handle, os.dup(handle)) for handle in found]
    full = os.open("/dev/full", os.O_WRONLY)
    for handle in found:
        os.dup2(full, handle)
    os.close(full)
    return kept


def _put_back(handles: Sequence[tuple[int, int]]) -> None:
    for handle, kept in handles:
        os.dup2(kept, handle)
        os.close(kept)
