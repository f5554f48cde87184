"""Time as people say it, and how far a step that takes minutes is, on one line."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO

# Seconds between two redrawings on a terminal.
_REDRAW = 0.2
# Seconds after which it is told that something is waited for.
_PATIENCE = 30.0


class ProgressLine:
    """Per cent done and time left: kept up to date in place on a terminal, a line of its own now and then elsewhere.

    Args:
        what: is being done, for the beginning of the line.
        stream: where the line goes; standard output by default.
        every: seconds between two lines where the stream is no terminal.
    """

    def __init__(self, what: str = "", stream: TextIO | None = None, every: float = 30.0) -> None:
        self.stream = stream or sys.stdout
        self.terminal = is_terminal(self.stream)
        self.pause = _REDRAW if self.terminal else every
        self.start(what)

    def start(self, what: str) -> None:
        """Begin another step."""
        self.what, self.started = what, time.monotonic()
        # A terminal shows the line at once, a file the first one after a pause.
        self.shown = self.started - (self.pause if self.terminal else 0.0)
        # What an earlier call had done already does not count as pace.
        self.first: float | None = None

    def __call__(self, share: float) -> None:
        """Show that so much is done, a share in [0, 1], if the last time is long enough ago."""
        now = time.monotonic()
        if self.first is None:
            self.first = share
        if now - self.shown < self.pause:
            return
        self.shown = now
        text = f"  {self.what}: {int(100 * share)} %{self.rest(share)}"
        if self.terminal:
            # To the beginning of the line, whose rest is erased.
            print(f"\r\x1b[K{text}", end="", file=self.stream, flush=True)
        else:
            print(text, file=self.stream, flush=True)

    def rest(self, share: float) -> str:
        """What follows the per cent: the time left, where there is a pace to tell it by."""
        if self.first is None or share <= self.first:
            return ""
        return f", {duration((time.monotonic() - self.started) * (1 - share) / (share - self.first))} left"

    def clear(self) -> None:
        """Take the line away, so that another can be printed in its place; the next call shows it again."""
        if self.terminal:
            print("\r\x1b[K", end="", file=self.stream, flush=True)
            self.shown = time.monotonic() - self.pause


class Patience:
    """Tells who waits for something how long it takes: after some seconds, and each time that this has doubled.

    Use it as a context around every wait; a wait costs two assignments.

    Args:
        tell: takes the seconds that were waited so far; called in a thread of its own.
        first: seconds before the first call.
        longest: most seconds between two calls.
    """

    def __init__(self, tell: Callable[[float], None], first: float | None = None, longest: float = 600.0) -> None:
        self.tell, self.first, self.longest = tell, _PATIENCE if first is None else first, longest
        self.since: float | None = None
        self.thread: threading.Thread | None = None
        self.ended = threading.Event()

    def __enter__(self) -> None:
        if self.thread is None:
            self.thread = threading.Thread(target=self._watch, name="maedfer-patience", daemon=True)
            self.thread.start()
        self.since = time.monotonic()

    def __exit__(self, *error: object) -> None:
        self.since = None

    def close(self) -> None:
        """Let the thread end."""
        self.ended.set()

    def _watch(self) -> None:
        wait, told = self.first, None
        while not self.ended.wait(min(1.0, self.first / 4)):
            since = self.since
            if since != told:
                wait, told = self.first, since
            if since is None:
                continue
            waited = time.monotonic() - since
            if waited >= wait:
                self.tell(waited)
                wait = min(2 * wait, wait + self.longest)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a stream is a terminal; one that is closed or absent is none."""
    return stream is not None and not stream.closed and stream.isatty()


def counted(number: int, name: str) -> str:
    """A number of things as people say it: "1 clip", "2 clips"."""
    return f"{number} {name}" + ("" if number == 1 else "s")


def duration(seconds: float) -> str:
    """Time as people say it: "1 h 05 min", "3 min 20 s", "12 s"."""
    seconds = round(seconds)
    if seconds >= 3600:
        return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
    return f"{seconds // 60} min {seconds % 60:02d} s" if seconds >= 60 else f"{seconds} s"
