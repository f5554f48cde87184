"""Clips from video files and frame folders, behind one small interface.

A video file is indexed first (`maedfer.data.video.index`) and then decoded by PyAV, from a key frame where the index
shows that this gives what decoding in order does. PyAV says what the pixels are. decord is used only where it is asked
for by name, and refused where it is known to deliver other frames: in MPEG program streams it starts at the second
group of pictures, it counts frames that an edit list hides and fills their places with others, it takes the colours of
an odd last row from the row before, and of damaged packets it tells nothing.

Readers hold file handles and decoder threads: open them in the process that reads.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from functools import lru_cache
from itertools import dropwhile
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from maedfer.data.video.base import VideoReader, in_a_sentence, look_at, shown
from maedfer.data.video.index import OpenPackets, VideoIndex, index_video, open_indexed
from maedfer.data.video.pictures import FrameFolderReader, WebPReader, is_webp
from maedfer.data.video.streams import decode, demux, open_stream
from maedfer.data.video.times import FrameTimes
from maedfer.errors import InputError, require, unknown

Backend = Literal["auto", "decord", "pyav", "frames"]
# Decoding so many frames costs less than a seek, or than passing over packets, of which a decoder has taken some
# already that belong to frames to come.
_SEEK_MARGIN = 8
_PASS_MARGIN = 32


def open_video(path: str | Path, backend: Backend = "auto") -> VideoReader:
    """Open a video file, or a folder of frames.

    Args:
        path: file, or folder of pictures (jpg, png, bmp, webp, tif, ...), one a frame, in the order of the numbers in
            their names: 2 before 10.
        backend: "auto" = frames for a folder, PyAV for a file; or one of them, or "decord", by name.

    Raises:
        InputError: missing, empty, damaged or cut off file, no video in it, folder without frames or with frames whose
            order is not known, or a backend that cannot read this clip faithfully.
    """
    path = Path(path)
    if backend not in get_args(Backend):
        raise unknown("backend", backend, get_args(Backend))
    with in_a_sentence(path):
        return _open(path, backend)


def _open(path: Path, backend: Backend) -> VideoReader:
    status = look_at(path)
    if stat.S_ISDIR(status.st_mode):
        if backend not in ("auto", "frames"):
            raise InputError(
                f"{shown(path)}: is a folder, which backend {backend!r} cannot read; use 'auto' or 'frames'"
            )
        return FrameFolderReader(path)
    if backend == "frames":
        raise InputError(f"{shown(path)}: is a file, and backend 'frames' reads folders; use 'auto'")
    if status.st_size == 0:
        raise InputError(f"{shown(path)}: the file is empty (0 bytes)")
    if backend != "decord" and is_webp(path):
        return WebPReader(path)
    if backend != "decord":
        return PyAVReader(*open_indexed(path))
    index = index_video(path)
    if index.decord_obstacle:
        raise InputError(
            f"{shown(path)}: decord does not read this file exactly, as {index.decord_obstacle}; use 'auto' or 'pyav'"
        )
    return DecordReader(index)


class PyAVReader(VideoReader):
    """Reads by PyAV: forward frame by frame, or from a key frame where the index makes that exact."""

    backend = "pyav"

    def __init__(self, index: VideoIndex, read: OpenPackets | None = None) -> None:
        self.path, self.size, self.fps = index.path, index.size, index.fps
        self._index = index
        # What indexing has read already.
        self._read_before = read
        self._container: Any = None if read is None else read.container
        self._stream: Any = None if read is None else read.stream
        self._packets: Iterator[Any] = iter(())
        self._frames: Iterator[tuple[int, Any]] | None = None
        self._reformatter = require("av.video.reformatter", "video").VideoReformatter()
        self._margin = _SEEK_MARGIN if index.seekable else 0 if index.alone else _PASS_MARGIN
        # Position of the frame that the decoder delivers next.
        self._next = 0
        self._keys = index.keys
        self._times: list[int] = [] if index.pts is None else index.pts.tolist()
        self._position = {time: position for position, time in enumerate(self._times)}
        # Times of the frames that are wanted, where the others are spared, and the last frame that was spared.
        self._may_spare = index.sparing
        self._wanted: set[int] | None = None
        self._spared = -1

    def __len__(self) -> int:
        return self._index.frames

    @property
    def _frame_times(self) -> FrameTimes:
        return self._index.times

    def close(self) -> None:
        self._frames, self._packets, self._read_before = None, iter(()), None
        if self._container is not None:
            self._container.close()
            self._container = None

    def _read(self, positions: list[int]) -> np.ndarray:
        height, width = self._index.stored_size
        frames = np.empty((len(positions), *self.size, 3), np.uint8)
        if positions[0] <= self._spared:
            self._frames = None
        gaps = positions[-1] - positions[0] >= len(positions)
        self._wanted = {self._times[position] for position in positions} if self._may_spare and gaps else None
        for row, position in enumerate(positions):
            frame = self._advance(position)
            # Pictures may change their size on the way; the first one's counts. One thread: starting others, as is
            # done by default, takes longer than the work.
            picture = self._reformatter.reformat(frame, width, height, "rgb24", threads=1)
            frames[row] = self._index.orientation.apply(_pixels(picture))
        return frames

    def _advance(self, position: int) -> Any:
        """Decode up to the frame at `position`."""
        before = self._keys[: np.searchsorted(self._keys, position, side="right")]
        key = int(before[-1]) if len(before) else 0
        if self._frames is None or position < self._next or key > self._next + self._margin:
            self._start(key)
        assert self._frames is not None
        try:
            for decoded, frame in self._frames:
                if decoded != self._next and not (decoded <= position and decoded - 1 <= self._spared):
                    # A decoder may leave out what it cannot decode, without a word.
                    if self._spared >= 0:
                        raise _InexactSeekError
                    raise InputError(f"{shown(self.path)}: damaged, its frame {self._next} is missing")
                self._next = decoded + 1
                if decoded == position:
                    return frame
            if self._spared >= 0:
                raise _InexactSeekError
        except _InexactSeekError:
            self._keys, self._may_spare, self._wanted = self._keys[:0], False, None
            self.close()
            return self._advance(position)
        raise InputError(f"{shown(self.path)}: damaged, only {self._next} of {len(self)} frames can be decoded")

    def _start(self, key: int) -> None:
        if self._read_before is not None:
            self._stream.codec_context.flush_buffers()
            self._packets = iter(self._read_before.packets)
        # Opening again is the one way back to the first frame that is exact in every container.
        elif self._container is None or not key or (key < self._next and not self._index.seekable):
            self.close()
            self._container, self._stream = open_stream(self.path)
            self._packets = demux(self._container, self._stream)
        self._next, self._spared = key, -1
        self._frames = self._from_key(key) if key else self._in_order()

    def _in_order(self) -> Iterator[tuple[int, Any]]:
        for count, frame in enumerate(decode(self._spare(self._packets), self.path)):
            yield self._position.get(frame.pts, count) if self._index.timed else count, frame

    def _spare(self, packets: Iterator[Any]) -> Iterator[Any]:
        """Let the decoder leave out frames that are not wanted where no other frame refers to them."""
        for packet in packets:
            if self._index.sparing:
                spared = self._wanted is not None and packet.pts not in self._wanted and packet.size > 0
                self._stream.codec_context.skip_frame = "NONREF" if spared else "DEFAULT"
                if spared:
                    self._spared = max(self._spared, self._position.get(packet.pts, -1))
            yield packet

    def _from_key(self, key: int) -> Iterator[tuple[int, Any]]:
        time = self._times[key]
        packets = self._packets
        if self._index.seekable and self._read_before is None:
            self._container.seek(time, stream=self._stream)
            packets = demux(self._container, self._stream)
        else:
            self._stream.codec_context.flush_buffers()
            packets = dropwhile(lambda packet: packet.size and packet.pts != time, packets)
        position = key - 1
        try:
            for frame in decode(self._spare(packets), self.path):
                before, position = position, self._position.get(frame.pts, -1)
                exact = position == before + 1 or (self._spared > before >= key and position > before)
                if not exact or (position == key and not frame.key_frame):
                    raise _InexactSeekError
                yield position, frame
        except InputError as error:
            # Damage shows again when decoding in order, if there is any.
            raise _InexactSeekError from error
        if position != len(self) - 1 and self._spared < 0:
            # Decoders may hold frames back until enough key pictures have passed.
            raise _InexactSeekError


def _pixels(picture: Any) -> np.ndarray:
    """The pixels [H, W, 3] of an RGB frame of PyAV's where they lie: `to_ndarray` copies them."""
    (plane,) = picture.planes
    rows = np.frombuffer(plane, np.uint8).reshape(picture.height, plane.line_size)
    return rows[:, : 3 * picture.width].reshape(picture.height, picture.width, 3)


class DecordReader(VideoReader):
    """Reads by decord."""

    backend = "decord"

    def __init__(self, index: VideoIndex) -> None:
        self.path, self.size, self.fps = index.path, index.size, index.fps
        self._index = index
        decord = _decord()
        try:
            # A name with a folder in it is no protocol.
            self._reader = decord.VideoReader(str(index.path.absolute()), num_threads=1)
        except (RuntimeError, UnicodeError, decord.DECORDError, AssertionError) as error:
            raise InputError(f"{shown(index.path)}: decord cannot open the file; use 'auto' or 'pyav'") from error
        if len(self._reader) != index.frames:
            raise InputError(
                f"{shown(index.path)}: decord counts {len(self._reader)} frames where there are {index.frames}; "
                "use 'auto' or 'pyav'"
            )

    def __len__(self) -> int:
        return self._index.frames

    @property
    def _frame_times(self) -> FrameTimes:
        return self._index.times

    def close(self) -> None:
        self._reader = None

    def _read(self, positions: list[int]) -> np.ndarray:
        decord = _decord()
        try:
            frames = self._reader.get_batch(positions).asnumpy()
        except (RuntimeError, decord.DECORDError) as error:
            raise InputError(f"{shown(self.path)}: decord cannot decode it; use 'auto' or 'pyav'") from error
        if frames.shape[1:3] != self.size:
            raise InputError(
                f"{shown(self.path)}: decord gives frames of {frames.shape[1:3]} instead of {self.size}; use 'auto' or "
                "'pyav'"
            )
        return frames


class _InexactSeekError(Exception):
    """The decoder did not stand where the index says after a seek."""


@lru_cache(maxsize=1)
def _decord() -> Any:
    """decord, with FFmpeg's messages switched off: failures come as exceptions."""
    decord = require("decord", "video")
    decord.logging.set_level(decord.logging.QUIET)
    return decord
