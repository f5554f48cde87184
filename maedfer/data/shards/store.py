"""Where the bytes of shards come from: `open_store` gives a folder on a disk, or an address that fsspec knows.

A `LocalStore` reads by `os.pread` from a few files that it keeps open: threads share them without a lock, and so do
forked processes, because nobody moves a position in a file. Stores can be pickled, and used in a process that was
forked after they were.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from maedfer.data.shards.ranges import Range, check_ranges, gathered, plain
from maedfer.data.shards.remote import RemoteStore
from maedfer.data.video.base import in_a_sentence, shown
from maedfer.errors import InputError

# Files that a LocalStore keeps open: two for each of so many shards.
_OPEN_FILES = 32
# Reading so many bytes for nothing costs less than another call.
_GAP = 4 << 10
# Linux reads no more ahead for a call than its disk takes at once, usually this, and leaves out the rest of what it was
# told of.
_AHEAD = 128 << 10
# Seconds for which it is not told of the same bytes again: every batch with clips of a block would.
_REMEMBERED = 30.0
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.:-]*)://(.*)", re.DOTALL)


class LocalStore:
    """The files of a folder.

    Args:
        folder: that holds them.
    """

    # Whether reading takes a request to somewhere else.
    remote = False

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        self._lock = threading.Lock()
        self._files: OrderedDict[str, _OpenFile] = OrderedDict()
        self._process = os.getpid()
        # Until when bytes that the system was told of count as told.
        self._told: dict[tuple[str, int, int], float] = {}
        # Every clip of a shard has its place ready for sentences.
        self._places: dict[str, str] = {}

    def place(self, name: str) -> str:
        """The path of a file, as sentences name it."""
        if name not in self._places:
            self._places[name] = shown(self._folder / name)
        return self._places[name]

    def read(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """Bytes of a file, from `start` on, `length` of them or all.

        Raises:
            InputError: it is not there, cannot be read, or ends before; names the place.
        """
        place = self.place(name)
        with in_a_sentence(place), self._open(name, place) as file:
            return _pread(file, start, file.size - start if length is None else length, place)

    def read_ranges(self, name: str, ranges: Sequence[Range], size: int, place: str = "") -> list[memoryview]:
        """Several ranges of a file of known size; those that lie near each other are read in one go.

        Args:
            name: of the file.
            ranges: start and length of each, none of them empty, in any order.
            size: bytes that the file has.
            place: what sentences call it; its path where nothing is given.

        Returns:
            The bytes of each range.

        Raises:
            InputError: it is not there, cannot be read, is of another size, or a range is outside of it.
        """
        place = place or self.place(name)
        check_ranges(ranges, size, place)
        with in_a_sentence(place), self._open(name, place) as file:
            if file.size != size:
                raise InputError(
                    f"{place}: the file has {file.size} bytes, and its index says {size}: it was cut short, or belongs "
                    "to other shards; copy it again, or make the shards anew"
                )
            return gathered(ranges, _GAP, lambda start, stop: (start, _pread(file, start, stop - start, place)))

    def prefetch(self, name: str, start: int, stop: int) -> None:
        """Tell that these bytes will be read soon. Never fails: reading them will tell what is wrong."""
        now, told = time.monotonic(), (name, start, stop)
        if now < self._told.get(told, now):
            return
        self._told[told] = now + _REMEMBERED
        # macOS has no such call.
        with contextlib.suppress(AttributeError, OSError, ValueError, OverflowError), self._open(name, "") as file:
            stop = min(stop, file.size)
            for at in range(start, stop, _AHEAD):
                os.posix_fadvise(file.number, at, min(_AHEAD, stop - at), os.POSIX_FADV_WILLNEED)

    def close(self) -> None:
        """Close all files; reading opens them again."""
        with self._lock:
            self._keep(0)

    @contextlib.contextmanager
    def _open(self, name: str, place: str) -> Iterator[_OpenFile]:
        if self._process != os.getpid():
            # The lock may have been held by a thread that was not forked along.
            self._lock, self._files, self._process = threading.Lock(), OrderedDict(), os.getpid()
        with self._lock:
            if name not in self._files:
                self._files[name] = _OpenFile(self._folder / plain(name), place)
            self._files.move_to_end(name)
            file = self._files[name]
            file.readers += 1
            self._keep(_OPEN_FILES)
        try:
            yield file
        finally:
            with self._lock:
                file.readers -= 1
                if self._files.get(name) is not file and not file.readers:
                    file.close()

    def _keep(self, most: int) -> None:
        """Forget files that were read longest ago; those that a thread reads are closed when it has."""
        while len(self._files) > most:
            _, file = self._files.popitem(last=False)
            if not file.readers:
                file.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return LocalStore, (self._folder,)


def open_store(place: str | Path) -> LocalStore | RemoteStore:
    """The store of a folder of shards: a path, or an address (`scheme://...`)."""
    address = _ADDRESS.fullmatch(str(place))
    if address is None:
        return LocalStore(place)
    return LocalStore(address[2]) if address[1] == "file" else RemoteStore(str(place))


class _OpenFile:
    """An open file, and how many threads are reading it."""

    def __init__(self, path: Path, place: str) -> None:
        self.number, self.readers = -1, 0
        # Opening a named pipe would wait for ever.
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        status = os.fstat(self.number)
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise InputError(f"{place}: is not a file")
        self.size = status.st_size

    def close(self) -> None:
        """Close it, once."""
        number, self.number = self.number, -1
        if number >= 0:
            os.close(number)

    def __del__(self) -> None:
        self.close()


def _pread(file: _OpenFile, start: int, length: int, place: str) -> bytes:
    # Checked before memory is taken for it.
    if start < 0 or length < 0 or start + length > file.size:
        raise InputError(f"{place}: ends at byte {file.size}, before byte {start + length}: it was cut short")
    content = os.pread(file.number, length, start)
    while len(content) < length:
        more = os.pread(file.number, length - len(content), start + len(content))
        if not more:
            raise InputError(f"{place}: ends at byte {start + len(content)}, before byte {start + length}")
        content += more
    return content
