"""What was looked at so far: a line for each clip in a file of the results, so that a run can be gone on with."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from maedfer.data.journal import Journal
from maedfer.preparation.look import ClipLook

LOOKS_FILE = "looks.jsonl"
_WHOLE, _TEXT = ("bytes", "frames", "height", "width", "gaps"), ("path", "digest", "problem")


class LookJournal(Journal):
    """The journal of a folder of results; use it as a context.

    Args:
        folder: made if need be.
        settings: what is looked at, and how; a folder holds one data set.

    Attributes:
        looks: what was found, by path.

    Raises:
        InputError: on entering: the folder holds something else or another data set, another process writes to it, or
            it cannot be written to.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        super().__init__(
            folder / LOOKS_FILE,
            settings,
            "prepared",
            holds="data set that was prepared",
            busy="prepares a data set",
            about="clips that were looked at",
            made="was prepared",
        )
        self.looks: dict[str, ClipLook] = {}

    def add(self, looks: Iterable[ClipLook]) -> None:
        """Note what was found of clips.

        Raises:
            InputError: nothing can be written any more.
        """
        looks = list(looks)
        self._write(*map(dataclasses.asdict, looks))
        self.looks |= {look.path: look for look in looks}

    def _begin(self, file: BinaryIO) -> None:
        self.looks = {look.path: look for look in self._lines(file, _look) or ()}


def _look(content: Any) -> ClipLook:
    """What was found of a clip, from what its line holds; raises whatever is wrong with it."""
    size, changed = map(int, content["state"])
    path, digest, problem = (content[name] for name in _TEXT)
    if not all(isinstance(value, str) for value in (path, digest, problem)):
        raise TypeError
    total, frames, height, width, gaps = (int(content[name]) for name in _WHOLE)
    return ClipLook(path, (size, changed), total, digest, frames, height, width, gaps, problem)
