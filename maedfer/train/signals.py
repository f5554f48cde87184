"""Signals that ask a run to stop: obeyed at once where there is nothing to lose, and noted where there is.

SIGINT (Ctrl-C), SIGTERM and SIGHUP ask a run to stop, SIGUSR1 also to give its job back to Slurm. Handlers can be set
in the main thread alone: a run in another one does not listen, and ends as that thread's program has it. A signal that
is ignored when a run starts (nohup, a shell's background job) stays ignored. Handlers are put back in the end.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from maedfer.errors import Stopped

_ASK = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
# Times that Ctrl-C is pressed after which nothing is waited for any more.
_AT_ONCE = 3
# Seconds that Slurm has for its answer.
_SLURM = 60


class Signals:
    """What this process was asked.

    Attributes:
        asked: the first signal that came; 0 = none.
        active: whether there are handlers.
        heed: is given the first signal, inside of the handler.
        place: where the run is when it is told to stop at once, in words.
    """

    def __init__(self) -> None:
        self.asked = 0
        self.active = False
        self.heed: Callable[[int], None] = lambda number: None
        self.place = "before training began"
        # Lines are for people, who need them once.
        self._speaks = os.environ.get("RANK", "").strip() in ("", "0")
        self._process = os.getpid()
        # What the run is doing while signals are only noted.
        self._doing = ""
        self._interrupts = 0

    @contextlib.contextmanager
    def listening(self) -> Iterator[Signals]:
        """A block in which there are handlers; where a Slurm job is to be queued again, it is so after the block.

        Raises:
            Stopped: the run was asked to stop.
        """
        before = {}
        if threading.current_thread() is threading.main_thread():
            for number in _ASK:
                # One that was set by other code than Python's could not be put back.
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    before[number] = signal.signal(number, self._handle)
        self.active = bool(before)
        try:
            yield self
        except Stopped as stop:
            if stop.signal == signal.SIGUSR1:
                self._requeue(stop)
            raise
        finally:
            self.active = False
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def noted(self, doing: str) -> Iterator[None]:
        """A block in which a signal is noted, and answered with what the run is `doing`."""
        before, self._doing = self._doing, doing
        try:
            yield
        finally:
            self._doing = before

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """A block inside of `noted` that a signal ends, also one that has come already.

        Raises:
            Stopped: it has come.
        """
        before, self._doing = self._doing, ""
        try:
            if self.asked:
                raise self.stopped()
            yield
        finally:
            self._doing = before

    def stopped(self) -> Stopped:
        """What is raised where the run ends at once."""
        name = signal.Signals(self.asked).name
        return Stopped(f"stopped by {name} {self.place}; the same command goes on from the last checkpoint", self.asked)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            # A process that was forked, and does not yet know that this is not for it.
            return
        self._interrupts += number == signal.SIGINT
        first = not self.asked
        if first:
            self.asked = number
            self.heed(number)
        if self._interrupts >= _AT_ONCE:
            # The next one ends the process, whatever it is doing.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            raise KeyboardInterrupt
        if not self._doing:
            raise self.stopped()
        more = "" if first else "still "
        again = f", and Ctrl-C {_AT_ONCE} times in all ends at once" if number == signal.SIGINT else ""
        self._say(f"{signal.Signals(number).name}: {more}{self._doing}, please wait{again}")

    def _say(self, text: str) -> None:
        if self._speaks:
            # Not by print: the signal may have come while another print was half done.
            with contextlib.suppress(OSError):
                os.write(2, f"\nmaedfer: {text}\n".encode())

    def _requeue(self, stop: Stopped) -> None:
        """Give the job back to Slurm, so that it is started again; the main process does so for all."""
        job, program = os.environ.get("SLURM_JOB_ID"), shutil.which("scontrol")
        if not job or not program:
            absent = "SLURM_JOB_ID is not set" if not job else "there is no scontrol"
            stop.text += f"; {absent}, so that no job is queued again"
            return
        why = ""
        if self._speaks:
            try:
                done = subprocess.run(
                    [program, "requeue", job], capture_output=True, text=True, timeout=_SLURM, check=False
                )
                why = "" if not done.returncode else " ".join(done.stderr.split()) or f"status {done.returncode}"
            except (OSError, subprocess.TimeoutExpired) as error:
                why = str(error)
        if why:
            stop.text += f"; Slurm did not take job {job} back ({why})"
            return
        stop.text += f"; job {job} is queued again"
        stop.status = 0
