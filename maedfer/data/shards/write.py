"""Shards of a list of clips: written by several processes, gone on with after any end."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maedfer._files import atomic_path, parse_json, read_file
from maedfer._progress import counted
from maedfer._workers import DIED, in_processes
from maedfer.data.annotations import Clip, clip_key
from maedfer.data.shards.layout import (
    CLIPS_FILE,
    INDEX_FILE,
    VERSION,
    WORK_FOLDER,
    ClipArrays,
    ShardSet,
    parse_set,
)
from maedfer.data.shards.options import ShardOptions
from maedfer.data.shards.pieces import Opener, PieceJob, source_state, write_piece
from maedfer.data.shards.quarantine import Quarantined, write_quarantine
from maedfer.data.shards.unfinished import ShardRecord, Unfinished, is_finished, refuse_other
from maedfer.data.source import ClipTable
from maedfer.data.video import open_video
from maedfer.data.video.base import shown
from maedfer.errors import InputError

# Of longer lists, the sizes of files are not looked up to tell how far it is.
_MANY = 50_000
# Shards that may wait to be put together.
_WAITING = 2


@dataclass(frozen=True)
class ShardsWritten:
    """What came of it.

    Args:
        about: what index.json holds.
        quarantined: clips that could not be read, in the order of keys; none are told of where all had been done.
        seconds: that it took.
        done_before: clips that an earlier run had done.
    """

    about: ShardSet
    quarantined: list[Quarantined]
    seconds: float
    done_before: int


def write_shards(
    clips: Sequence[Clip],
    out: str | Path,
    options: ShardOptions | None = None,
    *,
    classes: Sequence[str] = (),
    opener: Opener = open_video,
    opener_about: Mapping[str, Any] | None = None,
    workers: int = 1,
    progress: Callable[[float, int], None] = lambda share, size: None,
) -> ShardsWritten:
    """Write the clips of a list to shards.

    A run that was ended by whatever is gone on with by the same call: what is done stays, and every clip is stored
    once. The same clips and options give the same bytes, however often the run was ended and whatever `workers` is.

    Args:
        clips: of one list.
        out: folder of the shards; made if need be.
        options: which frames are stored, and how.
        classes: names in label order, as far as they are known.
        opener: opens a clip; a function or object that can be sent to processes. Its reader may have `boxes`.
        opener_about: what its readers' frames depend on, for index.json.
        workers: processes.
        progress: takes the share that is done, and the bytes that all will have, as far as that can be told.

    Raises:
        InputError: a clip is there twice, none exists or can be read, or `out` holds something else or cannot be
            written.
    """
    options, out, began = options or ShardOptions(), Path(out), time.monotonic()
    _refuse_twice(clips)
    table = clips if isinstance(clips, ClipTable) else ClipTable(clips)
    plan = _plan(table, options, classes, opener_about)
    if is_finished(out):
        about = _finished(out, plan)
        return ShardsWritten(about, [], time.monotonic() - began, len(table))
    if not any(os.path.exists(clip.path) for clip in table):
        raise InputError(
            f"{shown(table[0].source)}: none of its {counted(len(table), 'clip')} exists, the first as "
            f"{shown(table[0].path)}; give the folder that its paths start from"
        )
    with Unfinished(out, plan) as unfinished:
        run = _Writing(table, unfinished, options, list(classes), opener, workers, progress)
        done_before = run.go()
        if not run.records:
            unfinished.remove()
            raise InputError(
                f"{shown(table[0].source)}: none of its {counted(len(table), 'clip')} can be read; the first: "
                f"{run.failed[0].sentence}"
            )
        about = _finish(unfinished, plan, run.records, run.failed)
    return ShardsWritten(about, run.failed, time.monotonic() - began, done_before)


class _Writing:
    """Writes clips and puts shards together of them, in the order of keys."""

    def __init__(
        self,
        clips: ClipTable,
        unfinished: Unfinished,
        options: ShardOptions,
        classes: list[str],
        opener: Opener,
        workers: int,
        progress: Callable[[float, int], None],
    ) -> None:
        self._clips, self._unfinished, self._options = clips, unfinished, options
        self._classes, self._opener, self._workers, self._progress = classes, opener, workers, progress
        self._order = _order(len(clips), options.seed)
        self.records = unfinished.records()
        self.failed = [clip for record in self.records for clip in record.failed]
        # The first key that is in no shard.
        self._next = self.records[-1].end if self.records else 0
        # Bytes, or why there are none, of clips from there on.
        self._ready: dict[int, int | str] = {}
        self._keys: list[int] = []
        self._bytes = 0
        self._new_failed: list[Quarantined] = []
        self._putting: deque[Future[ShardRecord]] = deque()
        self._shards = len(self.records)

    def go(self) -> int:
        """Do all that is left to do; gives how many clips had been done before."""
        for key, piece in self._unfinished.whole_clips().items():
            if key < self._next or piece.state != source_state(self._clip(key).path):
                # It is in a shard already, or has changed.
                self._unfinished.clip_file(key).unlink()
            else:
                self._ready[key] = piece.length
        todo = [key for key in range(self._next, len(self._clips)) if key not in self._ready]
        weights = self._weights()
        whole = float(weights.sum())
        done = whole - float(weights[todo].sum())
        size = sum(record.file.bytes for record in self.records)
        size += sum(length for length in self._ready.values() if isinstance(length, int))
        with ThreadPoolExecutor(1) as self._pool:
            self._gather()
            self._progress(done / whole, round(size * whole / max(done, 1.0)) if done else 0)
            for job, result in self._results(map(self._job, todo)):
                self._ready[job.key] = result
                done += float(weights[job.key])
                size += result if isinstance(result, int) else 0
                self._gather()
                self._progress(done / whole, round(size * whole / done))
            if self._keys:
                self._close()
            while self._putting:
                self._take()
        self.failed += self._new_failed
        return len(self._clips) - len(todo)

    def _clip(self, key: int) -> Clip:
        return self._clips[int(self._order[key])]

    def _job(self, key: int) -> PieceJob:
        clip = self._clip(key)
        known = clip.label is not None and clip.label < len(self._classes)
        return PieceJob(
            key=key,
            path=clip.path,
            name=clip.name,
            label=clip.label,
            line=clip.line,
            class_name=self._classes[clip.label] if known and clip.label is not None else None,
            subject=clip.subject,
            file=self._unfinished.clip_file(key),
            options=self._options,
            opener=self._opener,
        )

    def _results(self, jobs: Iterator[PieceJob]) -> Iterator[tuple[PieceJob, int | str]]:
        if self._workers > 1:
            return in_processes(jobs, write_piece, self._workers, DIED)
        return ((job, write_piece(job)) for job in jobs)

    def _weights(self) -> np.ndarray:
        """What of the whole each clip is likely to be, by key."""
        if len(self._clips) > _MANY:
            return np.ones(len(self._clips))
        return np.array([1.0 + _bytes_of(self._clip(key).path) for key in range(len(self._clips))])

    def _gather(self) -> None:
        """Take the clips that are next to the shard that is open."""
        most = self._options.shard_size * 10**6
        while self._next in self._ready:
            result = self._ready.pop(self._next)
            if isinstance(result, str):
                clip = self._clip(self._next)
                self._new_failed.append(Quarantined(clip.name, clip.line, result))
            else:
                if self._keys and (self._bytes + result > most or len(self._keys) == self._options.clips_per_shard):
                    self._close()
                self._keys.append(self._next)
                self._bytes += result
            self._next += 1

    def _close(self) -> None:
        """Have the open shard put together while clips go on."""
        if len(self._putting) == _WAITING:
            self._take()
        arguments = self._shards, self._keys, self._next, self._new_failed
        self._putting.append(self._pool.submit(self._unfinished.put_together, *arguments))
        self._shards += 1
        self.failed += self._new_failed
        self._keys, self._bytes, self._new_failed = [], 0, []

    def _take(self) -> None:
        self.records.append(self._putting.popleft().result())


def _plan(
    clips: ClipTable, options: ShardOptions, classes: Sequence[str], opener_about: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What is to be written, as index.json has it."""
    plan = {
        "version": VERSION,
        "source": Path(clips[0].source).name,
        "source_sha256": _list_digest(clips),
        "classes": classes,
        "settings": {**options.about(), "crop": opener_about},
    }
    return json.loads(json.dumps(plan))


def _refuse_twice(clips: Sequence[Clip]) -> None:
    if not clips:
        raise InputError("shards need at least one clip")
    first: dict[str, int] = {}
    for clip in clips:
        other = first.setdefault(clip_key(clip.path), clip.line)
        if other != clip.line:
            raise InputError(
                f"{shown(clip.where)}: {shown(clip.name)} is in line {other} as well, and a clip is stored once: take "
                "one of the lines away"
            )


def _list_digest(clips: ClipTable) -> str:
    """SHA-256 of names, labels and, where they are known, subjects, whatever the list looks like."""
    digest = hashlib.sha256()
    for clip in clips:
        who = f"\0{clip.subject}" if clip.subject else ""
        digest.update(f"{clip.name}\0{clip.label}{who}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _order(count: int, seed: int | None) -> np.ndarray:
    """Which clip of the list has which key."""
    if seed is None:
        return np.arange(count)
    # By digests, so that no library's next version draws another order.
    drawn = [hashlib.blake2b(f"{seed} {number}".encode(), digest_size=8).digest() for number in range(count)]
    return np.array(sorted(range(count), key=drawn.__getitem__))


def _bytes_of(path: Path) -> int:
    """Bytes of a file, or of the files of a folder."""
    try:
        if path.is_dir():
            with os.scandir(path) as entries:
                return sum(entry.stat().st_size for entry in entries)
        return path.stat().st_size
    except OSError:
        return 0


def _finished(out: Path, plan: Mapping[str, Any]) -> ShardSet:
    """What is known of shards that were written before by the same plan."""
    content = read_file(out / INDEX_FILE)
    about = parse_set(content, shown(out / INDEX_FILE))
    found = parse_json(content)
    if any(found.get(name) != value for name, value in plan.items()):
        refuse_other(out, content, plan)
    # A process may have been killed before it could do so.
    shutil.rmtree(out / WORK_FOLDER, ignore_errors=True)
    return about


def _finish(
    unfinished: Unfinished, plan: Mapping[str, Any], records: Sequence[ShardRecord], failed: Sequence[Quarantined]
) -> ShardSet:
    """Write the index of all shards."""
    arrays = _arrays(records)
    content = arrays.content()
    sizes = {tuple(size) for size in np.unique(arrays.size, axis=0).tolist()}
    about = ShardSet(
        stored=plan["settings"]["format"],
        quality=plan["settings"]["quality"],
        size=sizes.pop() if len(sizes) == 1 else None,
        classes=tuple(plan["classes"]),
        source=plan["source"],
        source_sha256=plan["source_sha256"],
        settings=plan["settings"],
        clips=len(arrays.key),
        frames=int(arrays.frames.sum(dtype=np.int64)),
        quarantined=len(failed),
        clips_sha256=hashlib.sha256(content).hexdigest(),
        shards=tuple(record.file for record in records),
    )
    with atomic_path(unfinished.folder / CLIPS_FILE) as temporary:
        temporary.write_bytes(content)
    write_quarantine(unfinished.folder, failed)
    with atomic_path(unfinished.folder / INDEX_FILE) as temporary:
        temporary.write_text(about.text(), encoding="ascii")
    unfinished.remove()
    return about


def _arrays(records: Sequence[ShardRecord]) -> ClipArrays:
    """The arrays of all clips."""
    pieces = [piece for record in records for piece in record.clips]
    counts = [len(record.clips) for record in records]
    frames = np.concatenate([record.frames for record in records]).astype("<i4")
    lengths = np.array([piece.length for piece in pieces], "<i8")
    offset, first = _within(lengths, counts), _within(frames.astype("<i8"), counts)
    names = [piece.name.encode("utf-8", "surrogateescape") for piece in pieces]
    return ClipArrays(
        key=np.array([piece.key for piece in pieces], "<i8"),
        shard=np.repeat(np.arange(len(records), dtype="<i4"), counts),
        offset=offset,
        length=lengths,
        pictures=offset + np.array([piece.pictures for piece in pieces], "<i8"),
        first=first,
        frames=frames,
        size=np.array([piece.size for piece in pieces], "<i4"),
        fps=np.array([piece.fps for piece in pieces], "<f8"),
        label=np.array([piece.label for piece in pieces], "<i4"),
        line=np.array([piece.line for piece in pieces], "<i4"),
        box=np.array([[np.nan] * 4 if piece.box is None else piece.box for piece in pieces], "<f4"),
        digest=np.frombuffer(bytes.fromhex("".join(piece.digest for piece in pieces)), "|u1").reshape(-1, 32),
        names=np.frombuffer(b"".join(names), "|u1"),
        name_ends=np.cumsum([len(name) for name in names], dtype="<i8"),
        **_who([piece.subject for piece in pieces]),
    )


def _who(subjects: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays of who is in clips; none where nobody is known."""
    people = sorted({*subjects} - {""})
    if not people:
        return {}
    place = {"": -1, **{name: number for number, name in enumerate(people)}}
    texts = [name.encode("utf-8", "surrogateescape") for name in people]
    return {
        "subject": np.array([place[name] for name in subjects], "<i4"),
        "people": np.frombuffer(b"".join(texts), "|u1"),
        "people_ends": np.cumsum([len(text) for text in texts], dtype="<i8"),
    }


def _within(lengths: np.ndarray, counts: Sequence[int]) -> np.ndarray:
    """Where each row of its shard begins, when rows follow each other."""
    starts = np.cumsum(lengths) - lengths
    firsts = np.cumsum(counts) - counts
    return starts - np.repeat(starts[firsts], counts)
