"""Clips from video files and frame folders, behind one small interface: the same frames whoever decodes them.

A video file is indexed first (`maedfer.data.video.index`). decord then decodes it where the index shows that decord
delivers exactly the frames that sequential decoding does; PyAV decodes the rest, and takes over where decord is not
installed or fails. decord's own count and seeking are not relied on: in MPEG program streams it starts at the second
group of pictures, and it counts frames that an edit list hides and fills their places with others.

Readers hold file handles and decoder threads: open them in the process that reads.
"""

from __future__ import annotations

import abc
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from maedfer.data.video.index import VideoIndex, decode, index_video, open_stream
from maedfer.errors import InputError, require, unknown

Backend = Literal["auto", "decord", "pyav", "frames"]
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")
# Decoding so many frames costs less than a seek.
_SEEK_MARGIN = 8


def open_video(path: str | Path, backend: Backend = "auto") -> VideoReader:
    """Open a video file, or a folder of frames.

    Args:
        path: file, or folder with .jpg, .jpeg or .png frames (in natural order: 2 before 10).
        backend: "auto" = frames for a folder, else decord where it is exact, else PyAV; or one of them by name.

    Raises:
        InputError: missing, empty or damaged file, no video in it, folder without frames, or a backend that cannot
            read this clip faithfully.
    """
    path = Path(path)
    if backend not in get_args(Backend):
        raise unknown("backend", backend, get_args(Backend))
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if path.is_dir():
        if backend not in ("auto", "frames"):
            raise InputError(f"{path}: is a folder, which backend {backend!r} cannot read; use 'auto' or 'frames'")
        return FrameFolderReader(path)
    if backend == "frames":
        raise InputError(f"{path}: is a file, and backend 'frames' reads folders; use 'auto'")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty (0 bytes)")
    index = index_video(path)
    if backend == "pyav":
        return PyAVReader(index)
    if backend == "decord":
        if index.decord_obstacle:
            raise InputError(
                f"{path}: decord does not read this file exactly, as {index.decord_obstacle}; use 'auto' or 'pyav'"
            )
        return DecordReader(index)
    if index.decord_obstacle or _decord() is None:
        return PyAVReader(index)
    try:
        return DecordReader(index, fall_back=True)
    except InputError:
        return PyAVReader(index)


class VideoReader(abc.ABC):
    """An open clip: `len(reader)` frames of `reader.size` (height, width); `reader.read(indices)` fetches some.

    Attributes:
        path: file or folder.
        size: height and width of every frame, as displayed.
        fps: average frames per second; 0 where unknown (folders).
        backend: "decord", "pyav" or "frames".
    """

    path: Path
    size: tuple[int, int]
    fps: float
    backend: str

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def _read(self, positions: list[int]) -> np.ndarray:
        """Return frames at rising positions without repeats."""

    @abc.abstractmethod
    def close(self) -> None:
        """Free the file and the decoder."""

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return frames.

        Args:
            indices: positions in [0, len(reader)), in any order, with repeats if need be; each is decoded once.

        Returns:
            uint8 [n, H, W, 3], RGB.

        Raises:
            InputError: the file is damaged where one of the frames is.
            IndexError: a position outside the clip.
        """
        requested = np.asarray(indices, dtype=np.int64).reshape(-1)
        if requested.size == 0:
            return np.zeros((0, *self.size, 3), np.uint8)
        first, last = requested.min(), requested.max()
        if first < 0 or last >= len(self):
            raise IndexError(f"{self.path}: frames {first} to {last} are asked for, there are {len(self)}")
        positions, inverse = np.unique(requested, return_inverse=True)
        frames = self._read(positions.tolist())
        return frames if np.array_equal(positions, requested) else frames[inverse]

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class PyAVReader(VideoReader):
    """Reads by PyAV: forward frame by frame, or from a key frame where the index makes that exact."""

    backend = "pyav"

    def __init__(self, index: VideoIndex) -> None:
        self.path, self.size, self.fps = index.path, index.size, index.fps
        self._index = index
        self._container: Any = None
        self._frames: Iterator[tuple[int, Any]] | None = None
        # Position of the frame that the decoder delivers next.
        self._next = 0
        self._keys = index.keys
        pts = [] if index.pts is None else index.pts.tolist()
        self._position = {time: position for position, time in enumerate(pts)}

    def __len__(self) -> int:
        return self._index.frames

    def close(self) -> None:
        self._frames = None
        if self._container is not None:
            self._container.close()
            self._container = None

    def _read(self, positions: list[int]) -> np.ndarray:
        height, width = self._index.stored_size
        frames = np.empty((len(positions), *self.size, 3), np.uint8)
        for row, position in enumerate(positions):
            frame = self._advance(position)
            # Pictures may change their size on the way; the first one's counts.
            picture = frame.reformat(width=width, height=height, format="rgb24").to_ndarray()
            frames[row] = self._index.orientation.apply(picture)
        return frames

    def _advance(self, position: int) -> Any:
        """Decode up to the frame at `position`."""
        before = self._keys[: np.searchsorted(self._keys, position, side="right")]
        key = int(before[-1]) if len(before) else 0
        if self._frames is None or position < self._next or key > self._next + _SEEK_MARGIN:
            self._start(key)
        assert self._frames is not None
        try:
            for decoded, frame in self._frames:
                self._next = decoded + 1
                if decoded == position:
                    return frame
        except _InexactSeekError:
            self._keys = self._keys[:0]
            self.close()
            return self._advance(position)
        raise InputError(f"{self.path}: damaged, only {self._next} of {len(self)} frames can be decoded")

    def _start(self, key: int) -> None:
        if key and self._container is not None:
            self._frames = self._from_key(key)
        else:
            # Opening again is the one way back to the first frame that is exact in every container.
            self.close()
            self._container, self._stream = open_stream(self.path)
            self._frames = self._from_key(key) if key else enumerate(decode(self._container, self._stream, self.path))
        self._next = key

    def _from_key(self, key: int) -> Iterator[tuple[int, Any]]:
        assert self._index.pts is not None
        self._container.seek(int(self._index.pts[key]), stream=self._stream)
        position = key - 1
        try:
            for position, frame in enumerate(decode(self._container, self._stream, self.path), start=key):
                if self._position.get(frame.pts) != position or (position == key and not frame.key_frame):
                    raise _InexactSeekError
                yield position, frame
        except InputError as error:
            # Damage shows again when decoding in order, if there is any.
            raise _InexactSeekError from error
        if position != len(self) - 1:
            # Decoders may hold frames back until enough key pictures have passed.
            raise _InexactSeekError


class DecordReader(VideoReader):
    """Reads by decord; with `fall_back`, PyAV takes over for good when decord fails."""

    backend = "decord"

    def __init__(self, index: VideoIndex, fall_back: bool = False) -> None:
        self.path, self.size, self.fps = index.path, index.size, index.fps
        self._index = index
        self._fall_back = fall_back
        self._other: PyAVReader | None = None
        decord = _decord() or require("decord", "video")
        try:
            self._reader = decord.VideoReader(str(index.path), num_threads=1)
        except (RuntimeError, decord.DECORDError, AssertionError) as error:
            raise InputError(f"{index.path}: decord cannot open the file; use 'auto' or 'pyav'") from error
        if len(self._reader) != index.frames:
            raise InputError(
                f"{index.path}: decord counts {len(self._reader)} frames where there are {index.frames}; "
                "use 'auto' or 'pyav'"
            )

    def __len__(self) -> int:
        return self._index.frames

    def close(self) -> None:
        self._reader = None
        if self._other is not None:
            self._other.close()

    def _read(self, positions: list[int]) -> np.ndarray:
        if self._other is not None:
            return self._other._read(positions)
        decord = require("decord", "video")
        try:
            frames = self._reader.get_batch(positions).asnumpy()
            if frames.shape[1:3] != self.size:
                raise RuntimeError(f"frames of {frames.shape[1:3]} instead of {self.size}")
            return frames
        except (RuntimeError, decord.DECORDError) as error:
            if not self._fall_back:
                raise InputError(f"{self.path}: decord cannot decode it; use 'auto' or 'pyav'") from error
        self.backend = "pyav"
        self._reader = None
        self._other = PyAVReader(self._index)
        return self._other._read(positions)


class FrameFolderReader(VideoReader):
    """Reads a folder of pictures, one a frame.

    Grey pictures give three equal channels, 16-bit ones their upper 8 bits, transparency is dropped, the orientation
    noted in a picture is applied, and a picture of another size is resized to the first one's, as video decoders do.
    """

    backend = "frames"
    fps = 0.0

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files = sorted(
            (
                file
                for file in path.iterdir()
                if file.suffix.lower() in PICTURE_SUFFIXES and not file.name.startswith(".")
            ),
            key=lambda file: natural_key(file.name),
        )
        if not self._files:
            raise InputError(f"{path}: the folder has no frames ({', '.join(PICTURE_SUFFIXES)})")
        # The first picture is decoded to learn the size, and mostly asked for anyway.
        self._first: np.ndarray | None = _read_picture(self._files[0], None)
        self.size = self._first.shape[0], self._first.shape[1]

    def __len__(self) -> int:
        return len(self._files)

    def close(self) -> None:
        self._first = None

    def _read(self, positions: list[int]) -> np.ndarray:
        frames = np.empty((len(positions), *self.size, 3), np.uint8)
        for row, position in enumerate(positions):
            known = self._first if position == 0 else None
            frames[row] = _read_picture(self._files[position], self.size) if known is None else known
        return frames


class _InexactSeekError(Exception):
    """The decoder did not stand where the index says after a seek."""


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key by which numbers in names count as numbers: frame_2 before frame_10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


def _read_picture(file: Path, size: tuple[int, int] | None) -> np.ndarray:
    image_module = require("PIL.Image", "video")
    operations = require("PIL.ImageOps", "video")
    try:
        with image_module.open(file) as image:
            image = operations.exif_transpose(image)
            if image.mode.startswith("I"):
                # Pillow would clip 16-bit grey to 255 instead of scaling it.
                grey = np.clip(np.asarray(image).astype(np.int64) >> 8, 0, 255).astype(np.uint8)
                image = image_module.fromarray(grey)
            image = image.convert("RGB")
            if size is not None and (image.height, image.width) != size:
                image = image.resize((size[1], size[0]), image_module.Resampling.BILINEAR)
            return np.asarray(image)
    except (OSError, SyntaxError, ValueError, image_module.DecompressionBombError) as error:
        raise InputError(f"{file}: not a readable picture ({error})") from error


@lru_cache(maxsize=1)
def _decord() -> Any:
    """decord with FFmpeg's messages switched off (failures come as exceptions), or None where it cannot be loaded."""
    try:
        decord = require("decord", "video")
    except (ImportError, OSError):
        return None
    decord.logging.set_level(decord.logging.QUIET)
    return decord
