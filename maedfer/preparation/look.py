"""What is found of a clip when it is looked at: its size, its frames, its digest, and what is wrong with it."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from maedfer._workers import DIED, in_processes
from maedfer.data.annotations import in_lists
from maedfer.data.video import open_video
from maedfer.data.video.base import PICTURE_SUFFIXES, shown, words
from maedfer.errors import InputError, MissingDependencyError

MISSING, EMPTY = "it is not there", "it is empty"
# Clips that a process takes at once; frames that are decoded at once; bytes that are read at once.
_BATCH, _AT_ONCE, _BYTES = 8, 32, 1 << 20
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class ClipLook:
    """What was found of a clip.

    Args:
        path: relative to the data set's folder, or absolute.
        state: size and time of the last change of its file or folder, by which it is seen that it has changed.
        bytes: of its file, or of its pictures together.
        digest: SHA-256 of its file, or of its pictures' names, sizes and bytes in the order of the names; "" = unknown.
        frames: how many there are.
        height, width: of its frames, in pixels.
        gaps: how many numbers are left out between those in its pictures' names.
        problem: what is wrong with it; "" where it can be used.
    """

    path: str
    state: tuple[int, int]
    bytes: int = 0
    digest: str = ""
    frames: int = 0
    height: int = 0
    width: int = 0
    gaps: int = 0
    problem: str = ""


@dataclass(frozen=True)
class LookJob:
    """Some clips that are looked at by one process.

    Args:
        root: the data set's folder.
        paths: of the clips, relative to it or absolute.
        every: decode every frame, not the first, the middle and the last one alone.
        digests: read all bytes.
    """

    root: str
    paths: tuple[str, ...]
    every: bool
    digests: bool


def look_at_clips(
    root: Path, paths: Sequence[str], *, workers: int = 1, every: bool = False, digests: bool = True
) -> Iterator[list[ClipLook]]:
    """Look at clips, in several processes where there are several workers; what is found comes a few clips at a time.

    A clip that ends the process that reads it is found out, and is a clip with a problem like others.

    Args:
        root, paths, every, digests: see `LookJob`.
        workers: processes.
    """
    rest = iter(paths)
    jobs = (LookJob(str(root), batch, every, digests) for batch in iter(lambda: tuple(islice(rest, _BATCH)), ()))
    if workers == 1 or len(paths) < 2:
        yield from map(look_at_job, jobs)
        return
    fallen: list[LookJob] = []
    for job, looks in in_processes(jobs, look_at_job, min(workers, len(paths)), None):
        if looks is None:
            fallen += [LookJob(job.root, (path,), every, digests) for path in job.paths]
        else:
            yield looks
    for job, looks in in_processes(fallen, look_at_job, 1, None):
        (path,) = job.paths
        yield [ClipLook(path, state_of(root / path), problem=DIED)] if looks is None else looks


def look_at_job(job: LookJob) -> list[ClipLook]:
    """Look at the clips of a job."""
    return [look_at_clip(Path(job.root), path, every=job.every, digests=job.digests) for path in job.paths]


def look_at_clip(root: Path, name: str, *, every: bool = False, digests: bool = True) -> ClipLook:
    """Look at a clip; whatever is wrong with it is its problem.

    Args:
        root, every, digests: see `LookJob`.
        name: path of the clip, relative to `root` or absolute.
    """
    path = root / name
    state = state_of(path)
    if not in_lists(name):
        return ClipLook(name, state, problem="its name has line breaks or the like, which no list can hold: rename it")
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            pictures = _pictures(path)
            size = sum(entry.stat().st_size for entry in pictures)
            bare = next((entry.name for entry in pictures if not entry.stat().st_size), None)
            if not pictures:
                return ClipLook(name, state, problem=_nothing(path))
            if bare is not None:
                return ClipLook(name, state, size, problem=f"its picture {shown(bare)} is empty (0 bytes)")
            gaps = _gaps(pictures)
        else:
            pictures, size, gaps = [], status.st_size, 0
            if not size:
                return ClipLook(name, state, problem=f"{EMPTY} (0 bytes)")
        digest = _digest(path, pictures) if digests else ""
        with open_video(path) as reader:
            frames = len(reader)
            if not frames:
                return ClipLook(name, state, size, digest, problem="it has no frames")
            ends = sorted({0, frames // 2, frames - 1})
            for start in range(0, frames, _AT_ONCE) if every else ():
                reader.read(range(start, min(start + _AT_ONCE, frames)))
            if not every:
                reader.read(ends)
            height, width = reader.size
    except FileNotFoundError:
        dangling = path.is_symlink()
        return ClipLook(name, state, problem="it is a link to something that is not there" if dangling else MISSING)
    except MissingDependencyError:
        raise
    except (InputError, OSError, ValueError) as error:
        text = str(error) if isinstance(error, InputError) else words(error)
        return ClipLook(name, state, problem=text.removeprefix(f"{shown(path)}: "))
    return ClipLook(name, state, size, digest, frames, height, width, gaps)


def state_of(path: Path) -> tuple[int, int]:
    """Size and time of the last change of what is at a path; zeros where nothing is."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return 0, 0
    return status.st_size, status.st_mtime_ns


def file_digest(path: Path, add: Callable[[bytes], object] | None = None) -> str:
    """SHA-256 of a file's bytes, in hexadecimal digits; or nothing, where `add` takes the bytes.

    Raises:
        OSError: it cannot be read.
    """
    whole = hashlib.sha256()
    add = add or whole.update
    with open(path, "rb") as file:
        while piece := file.read(_BYTES):
            add(piece)
    return whole.hexdigest()


def _digest(path: Path, pictures: Sequence[os.DirEntry[str]]) -> str:
    if not pictures:
        return file_digest(path)
    whole = hashlib.sha256()
    for entry in pictures:
        whole.update(f"{entry.name}\0{entry.stat().st_size}\0".encode("utf-8", "surrogateescape"))
        file_digest(Path(entry.path), whole.update)
    return whole.hexdigest()


def _pictures(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        found = [entry for entry in entries if entry.name[0] != "."]
    return sorted(
        (entry for entry in found if os.path.splitext(entry.name)[1].lower() in PICTURE_SUFFIXES),
        key=lambda entry: entry.name,
    )


def _nothing(folder: Path) -> str:
    inside = sorted(name for name in os.listdir(folder) if name[0] != ".")
    return f"no pictures are in it, but {shown(inside[0])}" if inside else f"{EMPTY} (no pictures are in it)"


def _gaps(pictures: Sequence[os.DirEntry[str]]) -> int:
    """Numbers that are left out between the first and the last of the last numbers in names that are alike."""
    parts = [list(_NUMBER.finditer(os.path.splitext(entry.name)[0])) for entry in pictures]
    if not all(parts):
        return 0
    numbers = {int(found[-1][0]) for found in parts}
    heads = {entry.name[: found[-1].start()] for entry, found in zip(pictures, parts, strict=True)}
    return max(numbers) - min(numbers) + 1 - len(numbers) if len(heads) == 1 and len(numbers) == len(parts) else 0
