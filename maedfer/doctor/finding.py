"""What was found about one thing, and the verdict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "note", "wrong"]


@dataclass(frozen=True)
class Finding:
    """What was found about one thing.

    Args:
        name: of the thing.
        verdict: "ok"; "note", something to know that need not be mended; "wrong", something that does not work.
        found: what was found.
        advice: what to do; "" where nothing is to be done.
    """

    name: str
    verdict: Verdict
    found: str
    advice: str = ""

    def __str__(self) -> str:
        """A line."""
        advice = f"; {self.advice}" if self.advice else ""
        return f"{self.verdict:<6} {self.name:<19} {self.found}{advice}"


@dataclass(frozen=True)
class Options:
    """What is to be examined beside the installation.

    Args:
        folder: on the disk that is tried; made by the caller, and empty.
        data: a list of clips or a folder of shards; "" = none.
    """

    folder: str
    data: str = ""


def ok(name: str, found: str) -> Finding:
    """It works."""
    return Finding(name, "ok", found)


def note(name: str, found: str, advice: str = "") -> Finding:
    """It is as it is, and somebody may want to know."""
    return Finding(name, "note", found, advice)


def wrong(name: str, found: str, advice: str) -> Finding:
    """It does not work."""
    return Finding(name, "wrong", found, advice)
