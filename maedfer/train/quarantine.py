"""Clips that could not be read while training, in the run folder's quarantine.csv.

A clip that cannot be read is replaced by the next one in the list that can be (`ClipDataset`): what takes its place
depends on the files alone, never on who met it first or when. What is kept here is the account of it, merged over
loader processes, training processes and the starts of a run, and the share of the list at which the run stops.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from maedfer._files import atomic_path, read_file
from maedfer.data.annotations import Clip
from maedfer.data.few_labels import SomeClips
from maedfer.errors import InputError, some
from maedfer.train.config import RunConfig
from maedfer.train.log import RunLog
from maedfer.train.processes import Runtime

QUARANTINE_FILE = "quarantine.csv"


class QuarantinedClip(NamedTuple):
    """A clip that could not be read: its name in the list, its file, what is wrong, the epoch it was met in, from 1."""

    clip: str
    file: str
    reason: str
    epoch: int


class Quarantine:
    """The broken clips of a run, the same in all its processes.

    Args:
        cfg: the run.
        runtime: its processes.
        clips: that are learned from.
    """

    def __init__(self, cfg: RunConfig, runtime: Runtime, clips: Sequence[Clip]) -> None:
        self.runtime, self.clips = runtime, clips
        self.path = Path(cfg.output) / QUARANTINE_FILE
        self.most, self.source = cfg.data.max_broken, cfg.data.train
        self.total = len(clips.chosen) if isinstance(clips, SomeClips) else len(clips)
        self.rows: dict[str, QuarantinedClip] = {}
        # Rows of an earlier start of the run: such a clip is tried again, and is then met again or can be read.
        self._earlier: set[str] = set()
        self._met: dict[str, QuarantinedClip] = {}
        self._read: set[str] = set()

    def open(self, going_on: bool) -> None:
        """Read the rows of the run's earlier starts, or take away a file of another run.

        Raises:
            InputError: the file is no quarantine.csv.
        """

        def rows() -> list[QuarantinedClip]:
            if not going_on:
                self.path.unlink(missing_ok=True)
            return read_quarantine(self.path) if self.path.is_file() else []

        self.rows = {row.clip: row for row in self.runtime.on_main(rows)}
        self._earlier = set(self.rows)

    def meet(self, broken: Mapping[int, str], read: Iterable[int], epoch: int) -> None:
        """Take note of what came out of this process's loader; `merge` tells the others.

        Args:
            broken: what is wrong, by number of the clip.
            read: numbers of clips that could be read.
            epoch: counted from 1.
        """
        for index, reason in broken.items():
            clip = self.clips[index]
            if clip.name not in self.rows or clip.name in self._earlier:
                self._met[clip.name] = QuarantinedClip(clip.name, str(clip.path), " ".join(reason.split()), epoch)
        if self._earlier:
            self._read.update(self._earlier.intersection(self.clips[index].name for index in read))

    @property
    def pending(self) -> bool:
        """Whether this process has something to tell the others."""
        return bool(self._met or self._read)

    def merge(self, step: int, log: RunLog) -> None:
        """Tell each other what was met; all processes do so at the same step.

        Raises:
            InputError: the broken clips are more than `data.max_broken` of the list; all processes raise it.
        """
        parts = self.runtime.gather((self._met, self._read))
        self._met, self._read = {}, set()
        met = {name: row for part, _ in reversed(parts) for name, row in part.items()}
        read = {name for _, part in parts for name in part}.intersection(self._earlier) - set(met)
        for name in sorted(met):
            if name in self.rows and name not in self._earlier:
                continue
            # The epoch stays that in which it was met first.
            self.rows.setdefault(name, met[name])
            self._earlier.discard(name)
            row = self.rows[name]
            log.record("quarantined", step=step, clip=row.clip, file=row.file, reason=row.reason, epoch=row.epoch)
        for name in read:
            del self.rows[name]
        self._earlier -= read
        if read:
            log.say(f"can be read again, and learned from: {some(sorted(read))}; no longer in {QUARANTINE_FILE}")
        if met or read:
            self._write(log)
        found = len(self.rows) - len(self._earlier)
        if met and found > self.most * self.total:
            names = sorted(set(self.rows) - self._earlier)
            raise InputError(
                f"{found:,} of {self.total:,} clips of {self.source!r} cannot be read, which is more than "
                f"data.max_broken={self.most:g} allows: {some(names)} ({self.rows[names[0]].reason}); look whether the "
                f"storage is there, or mend the clips that {self.path} names, and start the same command again; or "
                "raise data.max_broken"
            )

    def notes(self) -> list[str]:
        """What readers of a run's scores must know: no sentence, or one."""
        if not self.rows:
            return []
        were = "was" if len(self.rows) == 1 else "were"
        return [
            f"{len(self.rows):,} of {self.total:,} clips to learn from could not be read and {were} replaced by "
            f"others: {QUARANTINE_FILE} names them"
        ]

    def _write(self, log: RunLog) -> None:
        if not self.runtime.main:
            return
        try:
            write_quarantine(self.path, self.rows.values())
        except InputError as error:
            # The clips are in the log as well, and a run of days is worth more than its account of them.
            log.say(f"the run goes on, but {error}")


def write_quarantine(path: Path, rows: Collection[QuarantinedClip]) -> None:
    """Write clip, file, reason and epoch, in the order of epochs and names, whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    ordered = sorted(rows, key=lambda row: (row.epoch, row.clip))
    writer.writerows([QuarantinedClip._fields, *ordered])
    with atomic_path(path) as temporary:
        temporary.write_bytes(table.getvalue().encode("utf-8", "surrogateescape"))


def read_quarantine(path: str | Path) -> list[QuarantinedClip]:
    """Read a run's quarantine.csv back.

    Raises:
        InputError: it cannot be read, or is none; the message names the line.
    """
    try:
        lines = list(csv.reader(io.StringIO(read_file(path).decode("utf-8", "surrogateescape"), newline="")))
    except (OSError, csv.Error) as error:
        raise InputError(f"cannot read {str(path)!r}: {error}") from error
    if lines[:1] != [list(QuarantinedClip._fields)]:
        raise InputError(
            f"{str(path)!r} is not a quarantine.csv of a run: its first line must be clip,file,reason,epoch"
        )
    for number, line in enumerate(lines[1:], 2):
        if len(line) != 4 or not (line[3].isascii() and line[3].isdigit()):
            raise InputError(f"{str(path)!r} line {number}: not a clip, a file, a reason and an epoch")
    return [QuarantinedClip(clip, file, reason, int(epoch)) for clip, file, reason, epoch in lines[1:]]
