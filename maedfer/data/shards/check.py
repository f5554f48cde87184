"""Whether shards are what they were when they were written: digests, counts, and every member of every tar."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from maedfer._files import parse_json
from maedfer._workers import DIED, in_processes
from maedfer.data.list_text import read_text, split_fields
from maedfer.data.shards.layout import (
    BLOCK,
    FRAME,
    FRAMES_START,
    QUARANTINE_FILE,
    WHO,
    ClipArrays,
    ShardFile,
    ShardIndex,
    key_text,
    picture_starts,
    read_index,
    refuse_unfinished,
)
from maedfer.data.shards.store import LocalStore
from maedfer.data.shards.unfinished import frames_file
from maedfer.data.video.base import look_at, shown, words
from maedfer.errors import InputError

_AT_ONCE = 1 << 20
# The end of a tar: two empty blocks.
_END = 2 * BLOCK


@dataclass(frozen=True)
class ShardsChecked:
    """What was found.

    Args:
        index: of the shards.
        wrong: a sentence for each thing that is wrong, with its file and place.
    """

    index: ShardIndex
    wrong: list[str]


def check_shards(
    folder: str | Path, *, workers: int = 1, progress: Callable[[float], None] = lambda share: None
) -> ShardsChecked:
    """Compare all files of a folder of shards with its index.

    Args:
        folder: of the shards.
        workers: processes.
        progress: takes the share that is done.

    Raises:
        InputError: the index itself is not there, of another version, or damaged, or the shards are not finished.
    """
    folder = Path(folder)
    look_at(folder)
    refuse_unfinished(folder)
    index = read_index(LocalStore(folder))
    wrong = list(_of_folder(folder, index))
    sizes = [shard.bytes for shard in index.about.shards]
    whole, done = sum(sizes), 0
    jobs = (_CheckJob(number, str(folder), _only(index, number)) for number in range(len(sizes)))
    found: dict[int, list[str]] = {}
    results: Iterator[tuple[_CheckJob, list[str]]] = ((job, _check(job)) for job in jobs)
    if workers > 1 and len(sizes) > 1:
        results = in_processes(jobs, _check, min(workers, len(sizes)), [f"a shard cannot be looked at: {DIED}"])
    for job, said in results:
        found[job.number] = said
        done += sizes[job.number]
        progress(done / whole)
    return ShardsChecked(index, wrong + [sentence for number in sorted(found) for sentence in found[number]])


@dataclass(frozen=True)
class _CheckJob:
    """A shard to be looked at, with an index of its own clips alone."""

    number: int
    folder: str
    index: ShardIndex


def _only(index: ShardIndex, number: int) -> ShardIndex:
    """The index of one shard."""
    clips = index.clips
    first, last = np.searchsorted(clips.shard, [number, number + 1]).tolist()
    start = int(clips.name_ends[first - 1]) if first else 0
    rows: dict[str, Any] = {
        field.name: getattr(clips, field.name)[first:last]
        for field in dataclasses.fields(ClipArrays)
        if field.name not in ("names", *WHO)
    }
    rows["names"] = clips.names[start : int(clips.name_ends[last - 1])]
    rows |= {"name_ends": rows["name_ends"] - start, "shard": rows["shard"] - number}
    if clips.subject is not None:
        rows |= {"subject": clips.subject[first:last], "people": clips.people, "people_ends": clips.people_ends}
    about = dataclasses.replace(index.about, shards=(index.about.shards[number],), clips=last - first)
    return ShardIndex(about, ClipArrays(**rows))


def _of_folder(folder: Path, index: ShardIndex) -> Iterator[str]:
    """What is wrong with what is beside the shards."""
    known = {name for shard in index.about.shards for name in (shard.name, shard.frames_name)}
    for path in sorted(folder.glob("shard-*")):
        # Other programs put files of their own beside tars.
        if path.name not in known and path.name.endswith((".tar", ".frames.npy")):
            yield f"{shown(path)}: is not in the index: it belongs to other shards"
    names = [index.name(number) for number in range(len(index))]
    if len(set(names)) < len(names):
        seen: dict[str, int] = {}
        for number, name in enumerate(names):
            if seen.setdefault(name, number) != number:
                yield f"{shown(folder / 'index.npz')}: {shown(name)} is there twice"
    counted, path = 0, folder / QUARANTINE_FILE
    if path.is_file():
        try:
            counted = sum(1 for _ in split_fields(read_text(path).splitlines()[1:], ","))
        except ValueError:
            yield f"{shown(path)}: is no table of name, line, reason"
            return
    if counted != index.about.quarantined:
        yield f"{shown(path)}: has {counted} clips, and index.json counts {index.about.quarantined}"


def _check(job: _CheckJob) -> list[str]:
    """What is wrong with a shard."""
    shard, folder = job.index.about.shards[0], Path(job.folder)
    try:
        rows = _frames(folder / shard.frames_name, shard)
        with (folder / shard.name).open("rb") as tar:
            return _Tar(job.index, shown(folder / shard.name), tar, rows).look()
    except InputError as error:
        return [str(error)]
    except OSError as error:
        return [f"{shown(error.filename or folder / shard.name)}: {words(error)}"]


def _frames(path: Path, shard: ShardFile) -> np.ndarray:
    content = path.read_bytes()
    rows = np.frombuffer(content[FRAMES_START:], "|u1")
    if hashlib.sha256(content).hexdigest() != shard.frames_sha256:
        raise InputError(f"{shown(path)}: is not what was written (its digest differs): copy it again")
    if len(rows) != shard.frames * FRAME.itemsize or content != frames_file(rows.view(FRAME)):
        raise InputError(f"{shown(path)}: does not have the {shard.frames} frames that index.json counts")
    return rows.view(FRAME)


class _Tar:
    """A tar that is compared with its index, clip by clip."""

    def __init__(self, index: ShardIndex, place: str, file: BinaryIO, rows: np.ndarray) -> None:
        self._index, self._place, self._file, self._rows = index, place, file, rows
        self._shard = index.about.shards[0]

    def look(self) -> list[str]:
        """What is wrong."""
        size = os.fstat(self._file.fileno()).st_size
        if size < self._shard.bytes:
            ends = self._index.clips.offset + self._index.clips.length
            lost = int((ends > size).sum())
            return [
                f"{self._place}: is cut short, {size} bytes of {self._shard.bytes}: {lost} of its {len(ends)} clips "
                "are not whole; copy it again"
            ]
        if size > self._shard.bytes:
            return [f"{self._place}: has {size} bytes, and index.json says {self._shard.bytes}: copy it again"]
        same = self._digest() == self._shard.sha256
        found = []
        for number in range(len(self._index)):
            said = self._clip(number)
            if said:
                key = key_text(self._index.clips.key[number])
                found.append(f"{self._place}: clip {key} ({shown(self._index.name(number))}): {said}")
        end = int(self._index.clips.offset[-1] + self._index.clips.length[-1])
        if not found and (end + _END != size or self._read(end, _END) != bytes(_END)):
            found.append(f"{self._place}: byte {end}: the tar does not end after its last clip")
        if not found and not same:
            found.append(f"{self._place}: is not what was written (its digest differs): copy it again")
        return found

    def _digest(self) -> str:
        digest = hashlib.sha256()
        self._file.seek(0)
        while block := self._file.read(_AT_ONCE):
            digest.update(block)
        return digest.hexdigest()

    def _read(self, start: int, length: int) -> bytes:
        self._file.seek(start)
        return self._file.read(length)

    def _clip(self, number: int) -> str:
        """What is wrong with a clip first; nothing where it is as it should be."""
        clips, stored = self._index.clips, self._index.about.stored
        first, count = int(clips.first[number]), int(clips.frames[number])
        rows = self._rows[first : first + count]
        names = self._names(number)
        starts = picture_starts(stored, int(clips.pictures[number]), rows["bytes"]).tolist()
        at, end = int(clips.offset[number]), int(clips.offset[number] + clips.length[number])
        digest, before = hashlib.sha256(), set[str]()
        for place, name in enumerate(names):
            member = self._member(at, end, name, before)
            if isinstance(member, str):
                return member
            content = at + BLOCK
            picture = place - (len(names) - count)
            if name.endswith(".jpg"):
                if (content, member) != (starts[picture], int(rows["bytes"][picture])):
                    return f"byte {at}: {name} is not where the index has it, or of another length"
                digest.update(self._read(content, member))
            elif name.endswith(".npy"):
                wrong = self._array(number, content, member, digest)
                if wrong:
                    return f"byte {at}: {name} {wrong}"
            else:
                wrong = self._text(number, self._read(content, member), name, rows)
                if wrong:
                    return f"byte {at}: {name} {wrong}"
            at = content + -(-member // BLOCK) * BLOCK
            if self._read(content + member, at - content - member).strip(b"\0"):
                return f"byte {content + member}: after {name} there is something that the index does not know"
            before.add(name)
        if at != end:
            return f"byte {at}: after its last member there is something that the index does not know"
        if digest.digest() != clips.digest[number].tobytes():
            return f"bytes {starts[0]} to {end}: its pictures are not what was written (their digest differs)"
        return ""

    def _names(self, number: int) -> list[str]:
        """Names of a clip's members in their order."""
        clips, key = self._index.clips, key_text(self._index.clips.key[number])
        names = [f"{key}.json", *([f"{key}.cls"] if clips.label[number] >= 0 else [])]
        if self._index.about.stored == "raw":
            return [*names, f"{key}.frames.npy"]
        return names + [f"{key}.{frame:06d}.jpg" for frame in range(int(clips.frames[number]))]

    def _member(self, at: int, end: int, name: str, before: set[str]) -> int | str:
        """The length of the member at a place, or what is wrong with it."""
        if at + BLOCK > end:
            return f"byte {at}: {name} is missing"
        block = self._read(at, BLOCK)
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.TarError as error:
            return f"byte {at}: instead of the header of {name} there is something else ({words(error)})"
        if info.name != name:
            outside = info.name.startswith("/") or ".." in info.name.split("/")
            what = (
                "leads out of the folder" if outside else "is there twice" if info.name in before else "does not belong"
            )
            return f"byte {at}: member {shown(info.name)[:100]!r} {what}, where {name} should be"
        if not info.isreg() or info.linkname:
            return f"byte {at}: {name} is a link, a folder or a device, not a file"
        if at + BLOCK + info.size > end:
            return f"byte {at}: {name} has {info.size} bytes, which are more than there are"
        return info.size

    def _array(self, number: int, content: int, length: int, digest: Any) -> str:
        clips = self._index.clips
        start, pixels = int(clips.pictures[number]) - content, int(clips.frames[number]) * self._pixels(number)
        if start <= 0 or start + pixels != length:
            return "is not as long as its frames are"
        shape = (int(clips.frames[number]), *clips.size[number].tolist(), 3)
        if f"'shape': {shape}".encode() not in self._read(content, start):
            return f"does not say that its shape is {list(shape)}"
        self._file.seek(content + start)
        while pixels:
            block = self._file.read(min(pixels, _AT_ONCE))
            digest.update(block)
            pixels -= len(block)
        return ""

    def _pixels(self, number: int) -> int:
        return 3 * int(self._index.clips.size[number].prod(dtype=np.int64))

    def _text(self, number: int, content: bytes, name: str, rows: np.ndarray) -> str:
        """What is wrong with the label or the description of a clip."""
        clips = self._index.clips
        label = int(clips.label[number])
        if name.endswith(".cls"):
            return "" if content == str(label).encode() else f"has another label than the index, which says {label}"
        times = None if np.isnan(rows["time"]).any() else rows["time"].tolist()
        wanted = {
            "name": self._index.name(number),
            "label": None if label < 0 else label,
            "frames": len(rows),
            "size": clips.size[number].tolist(),
            "fps": float(clips.fps[number]),
            "times": times,
        }
        who = self._index.subject(number)
        wanted |= {"subject": who} if who else {}
        try:
            found = dict(parse_json(content))
        except (ValueError, TypeError, RecursionError):
            return "is no JSON"
        other = [key for key, value in wanted.items() if key not in found or found[key] != value]
        return (
            f"has another {other[0]} than the index, which says {shown(str(wanted[other[0]]))[:100]}" if other else ""
        )
