"""Clips that could not be read: left out of shards, and listed with the reason."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from maedfer._files import atomic_path
from maedfer.data.shards.layout import QUARANTINE_FILE
from maedfer.data.video.base import shown

_COLUMNS = ("name", "line", "reason")


@dataclass(frozen=True)
class Quarantined:
    """A clip that is in no shard.

    Args:
        name, line: as the list has it.
        reason: why it could not be read.
    """

    name: str
    line: int
    reason: str

    @property
    def sentence(self) -> str:
        """Name, line and reason, as it is printed."""
        return f"{shown(self.name)} (line {self.line}): {self.reason}"


def write_quarantine(folder: Path, clips: Sequence[Quarantined]) -> None:
    """Write the list of a folder of shards, by line; where there are none, an earlier one is removed."""
    path = folder / QUARANTINE_FILE
    if not clips:
        path.unlink(missing_ok=True)
        return
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows((clip.name, clip.line, clip.reason) for clip in sorted(clips, key=lambda clip: clip.line))
    with atomic_path(path) as temporary:
        # Names that are not UTF-8 keep their bytes.
        temporary.write_bytes(table.getvalue().encode("utf-8", "surrogateescape"))
