"""What a process is about, for those who wait for it and for limits on how long that may take."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, eq=False)
class Stay:
    """Something that a process does and that may take long.

    Args:
        doing: what follows "process 3", as in "is writing checkpoints/last.pt".
        limit: seconds that it may take; 0 = any time.
        key: the setting that the limit is from.
        waits: whether it is no more than waiting for other processes.
    """

    doing: str
    limit: float = 0.0
    key: str = ""
    waits: bool = False


class Whereabouts:
    """The step of a process, and what it is doing; written by the thread that works, read by those that watch.

    Attributes:
        count: how many stays there were, so that who looks twice knows whether there is progress.
    """

    def __init__(self) -> None:
        self.step = 0
        self.count = 0
        self.stay: Stay | None = None

    @contextlib.contextmanager
    def at(self, doing: str, limit: float = 0.0, key: str = "", waits: bool = False) -> Iterator[None]:
        """A block of work; the arguments are those of `Stay`."""
        before, self.stay = self.stay, Stay(doing, limit, key, waits)
        self.count += 1
        try:
            yield
        finally:
            self.stay = before


@dataclass(frozen=True)
class Sign:
    """What a process last said of itself.

    Args:
        rank, host: who it is.
        beats: how often it has said something.
        step, count, doing, waits: see `Whereabouts` and `Stay`; no text where nothing is said to be done.
        free: whether what it does may take any time.
    """

    rank: int
    host: str
    beats: int = 0
    step: int = 0
    count: int = 0
    doing: str = ""
    waits: bool = False
    free: bool = False

    @classmethod
    def of(cls, about: Whereabouts, rank: int, host: str, beats: int) -> Sign:
        """The sign of this process."""
        stay = about.stay
        if stay is None:
            return cls(rank, host, beats, about.step, about.count)
        free = not stay.limit and not stay.waits
        return cls(rank, host, beats, about.step, about.count, " ".join(stay.doing.split()), stay.waits, free)

    def line(self) -> str:
        """The sign as a line of text."""
        flags = f"{'w' if self.waits else ''}{'f' if self.free else ''}"
        return "\t".join((self.host, str(self.beats), str(self.step), str(self.count), flags, self.doing))

    @classmethod
    def read(cls, rank: int, line: str) -> Sign:
        """The sign of process `rank`, of its line."""
        host, beats, step, count, flags, doing = line.split("\t")
        return cls(rank, host, int(beats), int(step), int(count), doing, "w" in flags, "f" in flags)

    @property
    def who(self) -> str:
        """The process, for people."""
        return f"process {self.rank} on {self.host}"

    def __str__(self) -> str:
        # What it does is part of a sentence: "is waiting for a batch".
        return (
            f"{self.who}, which {self.doing}, at step {self.step}" if self.doing else f"{self.who}, at step {self.step}"
        )
