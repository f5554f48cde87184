"""The disk of a folder: room, speed, and what runs ask of it (locks, renaming, hard links)."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from maedfer.doctor.finding import Finding, Options, note, ok, wrong

_MIB, _GIB = 1 << 20, 1 << 30
# Bytes of a piece, of the whole file, and seconds after which what is written is enough.
_PIECE, _MOST, _SECONDS = 8 * _MIB, 192 * _MIB, 3.0
_SMALL_FILES, _SMALL = 200, 4096
_SLOW = 30


def look(options: Options) -> Iterator[Finding]:
    """Room, large files, small files, what else a folder of a run needs."""
    folder = Path(options.folder)
    usage, kind = shutil.disk_usage(folder), file_system(folder)
    said = f"{kind}, {usage.free / _GIB:.1f} GiB free of {usage.total / _GIB:.1f}"
    if usage.free < _GIB:
        yield wrong("disk", said, "make room: a checkpoint of the base model takes 1 GiB")
        return
    if usage.free < 20 * _GIB:
        yield note("disk", said, "checkpoints of many epochs may not fit")
    else:
        yield ok("disk", said)
    yield from _large(folder)
    yield _many(folder)
    yield from _abilities(folder)


def file_system(folder: Path) -> str:
    """The kind of file system that a folder is on ("ext4", "nfs4")."""
    found, length = "unknown file system", -1
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mounts").read_text(errors="replace").splitlines():
            place, kind = line.split()[1:3]
            # Blanks are written by their numbers there.
            place = place.encode().decode("unicode_escape")
            if len(place) >= length and os.path.commonpath([place, folder.resolve()]) == place:
                found, length = kind, len(place)
    return found


def _large(folder: Path) -> Iterator[Finding]:
    path = folder / "large"
    # Not all alike, for disks that pack what they are given.
    piece = os.urandom(_PIECE)
    written, start = 0, time.perf_counter()
    with open(path, "wb", buffering=0) as file:
        while written < _MOST and time.perf_counter() - start < _SECONDS:
            written += file.write(piece)
        os.fsync(file.fileno())
        spent = time.perf_counter() - start
        with contextlib.suppress(OSError):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    speed = written / _MIB / max(spent, 1e-9)
    said = f"{speed:.0f} MiB/s, {written // _MIB} MiB with fsync"
    yield ok("disk, writing", said) if speed >= _SLOW else note("disk, writing", said, "checkpoints take long")
    read, spent, how = _read(path)
    speed = read / _MIB / max(spent, 1e-9)
    said = f"{speed:.0f} MiB/s, {how}"
    yield ok("disk, reading", said) if speed >= _SLOW else note("disk, reading", said, "clips come slowly from it")
    path.unlink()


def _read(path: Path) -> tuple[int, float, str]:
    """Bytes read, seconds, how; past the system's memory where that can be done."""
    # Memory that begins with a page, as O_DIRECT wants it.
    memory = mmap.mmap(-1, _PIECE)
    for flag, how in ((os.O_DIRECT, "past the cache"), (0, "maybe from the cache")):
        try:
            file = os.open(path, os.O_RDONLY | flag)
        except OSError:
            continue
        try:
            read, start = 0, time.perf_counter()
            while (part := os.readv(file, [memory])) and time.perf_counter() - start < _SECONDS:
                read += part
            return read, time.perf_counter() - start, how
        except OSError:
            continue
        finally:
            os.close(file)
    raise OSError(f"{path.name} was written and cannot be read")


def _many(folder: Path) -> Finding:
    place, content = folder / "small", os.urandom(_SMALL)
    place.mkdir()
    made = 0
    start = time.perf_counter()
    while made < _SMALL_FILES and time.perf_counter() - start < _SECONDS:
        (place / str(made)).write_bytes(content)
        made += 1
    middle = time.perf_counter()
    for number in range(made):
        (place / str(number)).read_bytes()
    writing, reading = made / (middle - start), made / (time.perf_counter() - middle)
    shutil.rmtree(place)
    said = f"{writing:.0f} made, {reading:.0f} read a second, of {_SMALL} bytes each"
    if min(writing, reading) < 100:
        return note("disk, small files", said, "keep clips in shards there: maedfer shard")
    return ok("disk, small files", said)


def _abilities(folder: Path) -> Iterator[Finding]:
    old, new = folder / "old", folder / "new"
    old.write_bytes(b"old")
    new.write_bytes(b"new")

    def rename() -> None:
        os.replace(new, old)
        if old.read_bytes() != b"new" or new.exists():
            raise OSError("the file is not what was put in its place")

    def link() -> None:
        os.link(old, new)
        if not os.path.samefile(old, new):
            raise OSError("the link leads to another file")

    def lock() -> None:
        with open(folder / "lock", "w") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            child = os.fork()
            if not child:
                os._exit(_may_lock(folder / "lock"))
            if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
                raise OSError("two processes have one lock")

    needs: dict[str, tuple[Callable[[], None], Callable[..., Finding], str]] = {
        "renaming": (rename, wrong, "checkpoints cannot be kept whole there: give another folder"),
        "hard links": (link, note, "checkpoints are copied in place of being linked"),
        "locks": (lock, note, "two runs in one folder are not noticed there: start one at a time"),
    }
    works = []
    for name, (attempt, verdict, advice) in needs.items():
        try:
            attempt()
            works.append(name)
        except OSError as error:
            yield verdict(f"disk, {name}", error.strerror or str(error), advice)
    if works:
        yield ok("disk, files", f"{', '.join(works)} work")


def _may_lock(path: Path) -> bool:
    with open(path, "r+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True
