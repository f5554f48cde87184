"""Time as people say it, and how far a step that takes minutes is, on one line."""

from __future__ import annotations

import sys
import time
from typing import TextIO

# Seconds between two redrawings on a terminal.
_REDRAW = 0.2


class ProgressLine:
    """Per cent done and time left: kept up to date in place on a terminal, a line of its own now and then elsewhere.

    Args:
        what: is being done, for the beginning of the line.
        stream: where the line goes; standard output by default.
        every: seconds between two lines where the stream is no terminal.
    """

    def __init__(self, what: str = "", stream: TextIO | None = None, every: float = 30.0) -> None:
        self.stream = stream or sys.stdout
        self.terminal = self.stream.isatty()
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
        text = f"  {self.what}: {int(100 * share)} %"
        if share > self.first:
            text += f", {duration((now - self.started) * (1 - share) / (share - self.first))} left"
        if self.terminal:
            # To the beginning of the line, whose rest is erased.
            print(f"\r\x1b[K{text}", end="", file=self.stream, flush=True)
        else:
            print(text, file=self.stream, flush=True)

    def clear(self) -> None:
        """Take the line away, so that another can be printed in its place; the next call shows it again."""
        if self.terminal:
            print("\r\x1b[K", end="", file=self.stream, flush=True)
            self.shown = time.monotonic() - self.pause


def duration(seconds: float) -> str:
    """Time as people say it: "1 h 05 min", "3 min 20 s", "12 s"."""
    seconds = round(seconds)
    if seconds >= 3600:
        return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
    return f"{seconds // 60} min {seconds % 60:02d} s" if seconds >= 60 else f"{seconds} s"
