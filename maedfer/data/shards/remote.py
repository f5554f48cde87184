"""Shards at an address: ranges of bytes of files that fsspec reads.

Ranges that lie near each other are one request; what came is kept up to a stated number of bytes; threads that want the
same bytes wait for one request; what fails is asked for again, after waits that grow, a stated number of times.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import os
import re
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from maedfer.data.shards.ranges import Range, check_ranges, gathered, plain
from maedfer.data.video.base import shown, words
from maedfer.errors import InputError, MissingDependencyError, require

# Reading so many bytes for nothing costs less than another request.
_GAP = 256 << 10
# What is small is asked for with its neighbours, in blocks: the rows of a clip are a kilobyte of a file that every
# clip of the shard needs.
_BLOCK = 256 << 10
# Answers that say something other than "later": 408 and 429 are those of a server that has too much to do.
_FINAL = frozenset(range(400, 500)) - {408, 429}
# A whole file may take so many times as long as a few of its bytes: the index of a million clips has 150 MB.
_WHOLE = 10
_PASSWORD = re.compile(r"://[^/?]*@")
# What forked processes have of their parents' connections; to close them would end them for the parent too.
_of_parents: list[Any] = []
_stores: weakref.WeakSet[RemoteStore] = weakref.WeakSet()


class RemoteStore:
    """The files below an address, which fsspec reads: https://..., s3://..., gs://..., hf://...

    Args:
        url: of the folder. A question in an http address (`?token=...`) is asked with every file.
        cache: bytes that are kept of what was read. What is being read comes on top.
        tries: how often a range is asked for before it is given up.
        wait: seconds before the second try; each further wait is twice as long.
        seconds: that a request for a range may take, ten times as long for a whole file; a file system of fsspec that
            is not asynchronous (most are) keeps to times of its own.
        sleep: what waits.
    """

    remote = True

    def __init__(
        self,
        url: str,
        *,
        cache: int = 64 << 20,
        tries: int = 4,
        wait: float = 0.5,
        seconds: float = 60.0,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._url = url
        self._again = functools.partial(
            RemoteStore, url, cache=cache, tries=tries, wait=wait, seconds=seconds, sleep=sleep
        )
        self._cache, self._tries, self._wait, self._seconds, self._sleep = cache, tries, wait, seconds, sleep
        self._refusal = ""
        self._begin()
        _stores.add(self)

    def place(self, name: str) -> str:
        """The address of a file as sentences name it, without passwords and questions."""
        return shown(f"{_PASSWORD.sub('://', self._url).partition('?')[0].rstrip('/')}/{name}")

    def read(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """Bytes of a file, from `start` on, `length` of them or all.

        Raises:
            InputError: it is not there, cannot be read, or ends before; names the place and the range.
        """
        place = self.place(name)
        if length is None:
            return self._ask(name, place, start, None, start)
        if length == 0:
            return b""
        parts = []
        for at in range(start // _BLOCK * _BLOCK, start + length, _BLOCK):
            first, last = max(start, at), min(start + length, at + _BLOCK)
            _, content = self._kept(name, place, at, at + _BLOCK, last)
            parts.append(content[first - at : last - at])
        return b"".join(parts)

    def read_ranges(self, name: str, ranges: Sequence[Range], size: int, place: str = "") -> list[memoryview]:
        """Several ranges of a file of known size; those that lie near each other are one request.

        Args:
            name: of the file.
            ranges: start and length of each, none of them empty, in any order.
            size: bytes that the file has.
            place: what sentences call it; its address where nothing is given.

        Returns:
            The bytes of each range.

        Raises:
            InputError: the last try failed as well; names the place and the bytes.
        """
        place = place or self.place(name)
        check_ranges(ranges, size, place)
        return gathered(ranges, _GAP, lambda start, stop: self._kept(name, place, start, stop, stop))

    def prefetch(self, name: str, start: int, stop: int) -> None:
        """Fetch bytes that will be read soon, as one request, of at most half of what is kept.

        Ranges are then found in it where they lie in it as a whole.

        Raises:
            InputError: as for `read_ranges`.
        """
        stop = min(stop, start + self._cache // 2)
        if stop > start:
            self._kept(name, self.place(name), start, stop, stop)

    def close(self) -> None:
        """Give up what is kept, and the connections; reading makes new ones."""
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._pieces: OrderedDict[tuple[str, int, int], _Piece] = OrderedDict()
        self._filesystem: Any = None
        self._root = ""

    def _kept(self, name: str, place: str, start: int, stop: int, enough: int) -> tuple[int, bytes]:
        """Bytes that hold a range, and where they begin: kept ones, or fetched now.

        Args:
            enough: of the bytes up to `stop`, those from here on may be missing, where the file ends.
        """
        while True:
            with self._lock:
                holding = (piece for piece in reversed(self._pieces.values()) if piece.holds(name, start, stop, enough))
                piece = next(holding, None)
                fetch = piece is None
                if piece is None:
                    piece = self._pieces[name, start, stop] = _Piece(name, start, stop)
                self._pieces.move_to_end((piece.name, piece.start, piece.stop))
            if fetch:
                self._fetch(piece, place, enough)
            content = piece.content.result()
            # Another thread may have been content with less.
            if len(content) >= enough - piece.start:
                return piece.start, content

    def _fetch(self, piece: _Piece, place: str, enough: int) -> None:
        try:
            piece.content.set_result(self._ask(piece.name, place, piece.start, piece.stop, enough))
        except BaseException as error:
            piece.content.set_exception(error)
            raise
        finally:
            with self._lock:
                self._forget(piece)

    def _forget(self, latest: _Piece) -> None:
        """Let go of what failed, and of what was used longest ago until the rest is within bounds."""
        key = latest.name, latest.start, latest.stop
        if latest.content.exception() and self._pieces.get(key) is latest:
            del self._pieces[key]
        came = [(key, piece.came) for key, piece in self._pieces.items() if piece.came]
        total = sum(length for _, length in came)
        for key, length in came:
            if total <= self._cache:
                break
            del self._pieces[key]
            total -= length

    def _ask(self, name: str, place: str, start: int, stop: int | None, enough: int) -> bytes:
        """Ask for bytes until they come, or the tries are used up."""
        what = "the file" if stop is None else f"bytes {start} to {stop - 1}"
        reason = ""
        for number in range(self._tries):
            if self._refusal:
                raise InputError(f"{place}: {self._refusal}")
            if number:
                self._sleep(self._wait * 2 ** (number - 1))
            try:
                content = self._request(plain(name), start, stop)
            except FileNotFoundError:
                raise InputError(f"{place}: there is no such file") from None
            except (InputError, MissingDependencyError):
                raise
            except Exception as error:
                if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
                    raise
                reason = self._words(error, stop)
                if isinstance(error, PermissionError) or getattr(error, "status", None) in _FINAL:
                    raise InputError(f"{place}: {what} cannot be read ({reason})") from error
                continue
            if stop is not None and len(content) > stop - start:
                self._refusal = (
                    "the server sends whole files where some of their bytes are asked for; copy the shards to a disk, "
                    "or to a server that answers ranges"
                )
                continue
            if len(content) >= enough - start:
                return content
            reason = f"{len(content)} bytes came"
        if self._refusal:
            raise InputError(f"{place}: {self._refusal}")
        raise InputError(f"{place}: {what} cannot be read after {self._tries} tries ({reason})")

    def _request(self, name: str, start: int, stop: int | None) -> bytes:
        system = self._connected()
        path = _below(self._root, name)
        limits = {} if stop is None and not start else {"start": start, "end": stop}
        if not system.async_impl:
            return bytes(system.cat_file(path, **limits))
        sync = require("fsspec.asyn", "shards").sync

        async def get() -> bytes:
            # One that takes too long is ended, so that its connection is given back.
            return await asyncio.wait_for(system._cat_file(path, **limits), self._allowed(stop))

        return sync(system.loop, get)

    def _allowed(self, stop: int | None) -> float:
        """Seconds for bytes up to a place, or for a whole file."""
        return self._seconds * (_WHOLE if stop is None else 1)

    def _connected(self) -> Any:
        with self._lock:
            if self._filesystem is None:
                core = require("fsspec.core", "shards")
                try:
                    # One of its own: those that fsspec keeps are shared, with whatever others made of them.
                    self._filesystem, self._root = core.url_to_fs(self._url, skip_instance_cache=True)
                except ImportError as error:
                    raise MissingDependencyError(f"{self.place('')}: {error}") from error
                except ValueError as error:
                    raise InputError(f"{self.place('')}: {words(error)}") from error
            return self._filesystem

    def _words(self, error: Exception, stop: int | None) -> str:
        """What an error says, without what is secret in an address."""
        status = getattr(error, "status", None)
        if status is not None:
            return f"the server answers {status} {shown(getattr(error, 'message', ''))}".rstrip()
        if isinstance(error, TimeoutError | asyncio.TimeoutError):
            return f"no answer within {self._allowed(stop):g} s"
        text, parts = words(error), urlsplit(self._url)
        for secret in filter(None, (parts.netloc.rpartition("@")[0], parts.query)):
            text = text.replace(secret, "***")
        return text

    def __reduce__(self) -> tuple[Any, ...]:
        return self._again, ()


@dataclass(frozen=True)
class _Piece:
    """Bytes of a file that were asked for."""

    name: str
    start: int
    stop: int
    content: Future[bytes] = field(default_factory=Future)

    @property
    def came(self) -> int:
        """How many bytes have come; 0 as long as they are waited for, and where that has failed."""
        return len(self.content.result()) if self.content.done() and not self.content.exception() else 0

    def holds(self, name: str, start: int, stop: int, enough: int) -> bool:
        """Whether the bytes from `start` on to `enough` are in it, or will be, and those to `stop` were asked for."""
        asked = self.name == name and self.start <= start and stop <= self.stop
        return asked and (not self.content.done() or self.start + self.came >= enough)


def _begin_anew() -> None:
    """In a process that was forked: a thread that was not forked along may have held a lock, and runs connections."""
    for store in list(_stores):
        _of_parents.append(store._filesystem)
        store._begin()


os.register_at_fork(after_in_child=_begin_anew)


def _below(root: str, name: str) -> str:
    """The address of a file in a folder: before a question, if it has one."""
    parts = urlsplit(root)
    if parts.scheme in ("http", "https"):
        return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}"))
    return f"{root.rstrip('/')}/{name}"
