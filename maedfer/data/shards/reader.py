"""A clip of a shard, read as a video is: `open_clip` gives what `maedfer.data.video.open_video` gives."""

from __future__ import annotations

import functools
import hashlib
import io
import os
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.lib.format

from maedfer.data.shards.layout import BLOCK, ShardIndex, key_text, picture_starts
from maedfer.data.shards.pictures import decode_pictures
from maedfer.data.shards.remote import RemoteStore
from maedfer.data.shards.store import LocalStore
from maedfer.data.video.base import VideoReader, shown
from maedfer.data.video.times import FrameTimes
from maedfer.errors import InputError

# In the header of a member: the end of its name, its length in octal digits, and its kind, that of an ordinary file.
_NAME_END, _LENGTH, _KIND, _FILES = 100, slice(124, 135), 156, b"0\0"
# Pictures that are compared with their digest at a time.
_AT_ONCE = 64


def open_clip(
    index: ShardIndex, number: int, store: LocalStore | RemoteStore, *, check: bool = False, threads: int = 1
) -> ShardClipReader:
    """Open a clip of a folder of shards. Nothing is read before frames or times are asked for.

    Args:
        index: of the shards.
        number: of the clip, its row in the index.
        store: where the shards are.
        check: compare all pictures with their digest before any is given.
        threads: that decode pictures of the clip at the same time. A loader that has a thread for every clip needs one.

    Raises:
        IndexError: there is no such clip.
    """
    if not 0 <= number < len(index):
        raise IndexError(f"{store.place('')}: clip {number} is asked for, there are {len(index)}")
    return ShardClipReader(index, number, store, check=check, threads=threads)


class ShardClipReader(VideoReader):
    """Reads a clip of a shard. Only bytes that the index points to are read, and no member's name becomes a path."""

    backend = "shards"

    def __init__(
        self, index: ShardIndex, number: int, store: LocalStore | RemoteStore, *, check: bool, threads: int
    ) -> None:
        self._index, self._number, self._store = index, number, store
        self._shard = index.tar(number)
        self._check, self._threads = check, threads
        height, width = index.clips.size[number].tolist()
        self.path, self.size = Path(store.place(self._shard.name)), (height, width)
        self.fps = float(index.clips.fps[number])
        self._count = int(index.clips.frames[number])

    def __len__(self) -> int:
        return self._count

    @cached_property
    def name(self) -> str:
        """What sentences call the clip: its shard, key and name in the list."""
        return self._index.where(self._number, self._store)

    @cached_property
    def _rows(self) -> np.ndarray:
        try:
            return self._index.read_frames(self._number, self._store)
        except InputError as error:
            name = shown(self._index.name(self._number))
            raise InputError(f"{error} (wanted for clip {self._key}, {name})") from error

    @cached_property
    def _key(self) -> str:
        return key_text(self._index.clips.key[self._number])

    @cached_property
    def _frame_times(self) -> FrameTimes:
        starts = self._rows["time"].astype(np.float64)
        if not np.isfinite(starts).all():
            return FrameTimes(None, unknown="its source told no times; give the frames per second (fps)")
        if (np.diff(starts) < 0).any():
            raise InputError(f"{self.name}: its times go back: the file of frames is damaged")
        # A last frame is shown as long as frames are on average.
        period = 1 / self.fps if self.fps else float(np.diff(starts).mean()) if len(starts) > 1 else 0.0
        return FrameTimes(starts, float(starts[-1]) + period)

    def _read(self, positions: list[int]) -> np.ndarray:
        if self._check:
            self._compare()
        frames = self._room(len(positions))
        return self._jpeg(positions, frames) if self._index.about.stored == "jpeg" else self._raw(positions, frames)

    def close(self) -> None:
        """Nothing is held: the store has the files."""

    def _read_jpeg(self, positions: list[int]) -> list[np.ndarray]:
        if self._index.about.stored != "jpeg":
            return super()._read_jpeg(positions)
        if self._check:
            self._compare()
        return [np.frombuffer(content, np.uint8) for content in self._files(positions)]

    def _jpeg(self, positions: list[int], frames: np.ndarray) -> np.ndarray:
        def where(place: int) -> str:
            return f"{self.name}: frame {positions[place]}"

        return decode_pictures(self._files(positions), self.size, where, self._threads, frames)

    def _files(self, positions: list[int]) -> list[memoryview]:
        pictures = []
        for position, member in zip(positions, self._members(positions), strict=True):
            self._is_member(member[:BLOCK], f"{self._key}.{position:06d}.jpg", len(member) - BLOCK)
            pictures.append(member[BLOCK:])
        return pictures

    def _members(self, positions: list[int]) -> list[memoryview]:
        """Headers and content of JPEG files. Most headers come along anyway, as they are between the pictures."""
        starts, lengths = self._starts[positions], self._rows["bytes"][positions].astype(np.int64)
        return self._bytes((starts - BLOCK).tolist(), (lengths + BLOCK).tolist())

    @cached_property
    def _starts(self) -> np.ndarray:
        first = int(self._index.clips.pictures[self._number])
        return picture_starts("jpeg", first, self._rows["bytes"])

    def _raw(self, positions: list[int], frames: np.ndarray) -> np.ndarray:
        one = self.size[0] * self.size[1] * 3
        starts = [self._raw_start + position * one for position in positions]
        for frame, content in zip(frames, self._bytes(starts, [one] * len(positions)), strict=True):
            frame.reshape(-1)[:] = np.frombuffer(content, np.uint8)
        return frames

    @cached_property
    def _raw_start(self) -> int:
        """Where the first picture begins, once it is sure that what is in front of it says so."""
        first, shape = int(self._index.clips.pictures[self._number]), (self._count, *self.size, 3)
        # An array's header is shorter than a block, and begins with one.
        start = (first - 1) // BLOCK * BLOCK
        (before,) = self._bytes([start - BLOCK], [first - start + BLOCK])
        length = first - start + int(np.prod(shape, dtype=np.int64))
        self._is_member(before[:BLOCK], f"{self._key}.frames.npy", length)
        if before[BLOCK:] != _array_header(shape) and not _says(before[BLOCK:], shape):
            raise InputError(f"{self.name}: its array is not uint8 {list(shape)}, or damaged")
        return first

    def _is_member(self, header: memoryview, name: str, length: int) -> None:
        """Refuse bytes that are not the file which the index says is there."""
        said = header[:_NAME_END].tobytes().partition(b"\0")[0]
        if said != name.encode() or header[_KIND] not in _FILES or header[_LENGTH] != b"%011o" % length:
            raise InputError(
                f"{self.name}: instead of {name} with {length} bytes, {shown(os.fsdecode(said))[:60]!r} is there: the "
                "shard is damaged or belongs to another index: maedfer shard --check tells more"
            )

    def _compare(self) -> None:
        digest = hashlib.sha256()
        for first in range(0, self._count, _AT_ONCE):
            positions = list(range(first, min(first + _AT_ONCE, self._count)))
            if self._index.about.stored == "jpeg":
                for member in self._members(positions):
                    digest.update(member[BLOCK:])
            else:
                frames = np.empty((len(positions), *self.size, 3), np.uint8)
                digest.update(self._raw(positions, frames).data)
        if digest.digest() != self._index.clips.digest[self._number].tobytes():
            raise InputError(
                f"{self.name}: its pictures are not those that were written (their digest differs): copy the shard "
                "again, or make it anew"
            )
        self._check = False

    def _bytes(self, starts: list[int], lengths: list[int]) -> list[memoryview]:
        ranges = list(zip(starts, lengths, strict=True))
        return self._store.read_ranges(self._shard.name, ranges, self._shard.bytes, self.name)


@functools.lru_cache(maxsize=1024)
def _array_header(shape: tuple[int, ...]) -> bytes:
    """What numpy writes in front of an array of bytes."""
    file = io.BytesIO()
    numpy.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.getvalue()


def _says(header: memoryview, shape: tuple[int, ...]) -> bool:
    """Whether the header of an array that something else wrote says the same; this takes longer."""
    file = io.BytesIO(header)
    try:
        numpy.lib.format.read_magic(file)
        found = numpy.lib.format.read_array_header_1_0(file)
    except Exception:
        # What a damaged header makes it raise cannot be listed.
        return False
    return found == (shape, False, np.dtype(np.uint8)) and file.tell() == len(header)
