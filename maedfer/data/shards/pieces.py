"""One clip as it lies in a shard: its members, written to a file of its own until the shard is put together.

Such a file holds the members as the tar will have them, then a record of them as JSON, then the SHA-256 and the length
of the record.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import io
import json
import math
import multiprocessing
import os
import struct
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from maedfer._files import atomic_path, parse_json
from maedfer.data.shards.layout import BLOCK, key_text
from maedfer.data.shards.options import ShardOptions
from maedfer.data.video import VideoReader, open_video
from maedfer.data.video.base import MAX_PIXELS, shown, words
from maedfer.errors import InputError, MissingDependencyError, require

Opener = Callable[[Path], VideoReader]
# What a file of a clip ends with: digest and length of its record.
_END = struct.Struct("<32sQ")
# Pictures that are read at once, and their bytes.
_AT_ONCE, _BYTES_AT_ONCE = 16, 1 << 25
# What ustar can say of the length of a member.
_LONGEST = 8**11


@dataclass(frozen=True)
class PieceJob:
    """A clip to be written, as it is sent to a process.

    Args:
        key: its place in the order of writing.
        path, name, label, line: as the list has them; a label from 0 or None.
        class_name: of the label, where it is known.
        subject: who is in it, "" where that is not known.
        file: to be written.
        options: see there.
        opener: opens the clip; a reader with `boxes` (float32 [len, 4]) tells what its frames were cut out of.
    """

    key: int
    path: Path
    name: str
    label: int | None
    line: int
    class_name: str | None
    subject: str
    file: Path
    options: ShardOptions
    opener: Opener = open_video


@dataclass(frozen=True)
class Piece:
    """What is known of a written clip.

    Args:
        key, name, line: of the job.
        label: -1 where there is none.
        subject: as in the job.
        length: bytes of its members.
        pictures: where the bytes of the first picture begin.
        size: height and width of its pictures.
        fps: average frames a second, 0 where unknown.
        times: of each frame in seconds; None where the source tells none.
        bytes: of each picture.
        box: mean box in the source; None where nothing was cut out.
        digest: of its pictures, in hexadecimal digits.
        members_digest: of its members.
        state: size and time of the source's last change.
    """

    key: int
    name: str
    line: int
    label: int
    subject: str
    length: int
    pictures: int
    size: tuple[int, int]
    fps: float
    times: list[float] | None
    bytes: list[int]
    box: list[float] | None
    digest: str
    members_digest: str
    state: tuple[int, int]


class UnreadableClipError(Exception):
    """A clip that cannot be read, in words."""


def write_piece(job: PieceJob) -> int | str:
    """Write the file of a clip.

    Returns:
        The bytes of its members in a shard; or why the clip cannot be read.

    Raises:
        InputError: the file cannot be written.
        MissingDependencyError: of what everything needs.
    """
    try:
        with contextlib.ExitStack() as files:
            with _reading(job.path):
                state = source_state(job.path)
                reader = files.enter_context(job.opener(job.path))
                clip = _StoredClip(job, reader)
            # To wait for the disk for every clip takes longer than to write it; `is_intact` tells after a power cut.
            temporary = files.enter_context(atomic_path(job.file, sync=False))
            file = files.enter_context(temporary.open("wb"))
            record = json.dumps(dataclasses.asdict(clip.write(file, state))).encode("ascii")
            file.write(record + _END.pack(hashlib.sha256(record).digest(), len(record)))
        return clip.length
    except UnreadableClipError as error:
        return str(error)


def read_piece(file: BinaryIO) -> Piece:
    """Read the record of a clip's file; raises whatever is wrong with it."""
    end = file.seek(-_END.size, os.SEEK_END)
    digest, length = _END.unpack(file.read())
    file.seek(end - length)
    record = file.read(length)
    if hashlib.sha256(record).digest() != digest:
        raise ValueError
    piece = piece_of(parse_json(record))
    if piece.length != end - length:
        raise ValueError
    return piece


def is_intact(piece: Piece, file: BinaryIO) -> bool:
    """Whether the members in a clip's file are those that were written."""
    digest, left = hashlib.sha256(), piece.length
    file.seek(0)
    while left and (block := file.read(min(left, 1 << 20))):
        digest.update(block)
        left -= len(block)
    return digest.hexdigest() == piece.members_digest


def piece_of(content: dict[str, Any]) -> Piece:
    """A clip's record from what JSON has of it; raises whatever is wrong with it."""
    (rows, columns), (size, changed) = content.pop("size"), content.pop("state")
    # Records of earlier versions know nobody.
    return Piece(**{"subject": "", **content}, size=(rows, columns), state=(size, changed))


def source_state(path: Path) -> tuple[int, int]:
    """Size and time of the last change of a file or folder, by which it is seen that it has changed."""
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def header(name: str, size: int) -> bytes:
    """The block that comes before the content of a member: a regular file without owner and time."""
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")


class _StoredClip:
    """A clip on its way to a file."""

    def __init__(self, job: PieceJob, reader: VideoReader) -> None:
        self._job, self._reader = job, reader
        options = job.options
        self._positions = _positions(len(reader), options)
        self._times = _times(reader, options, self._positions)
        boxes = getattr(reader, "boxes", None)
        self._boxes = None if boxes is None else boxes[self._positions].astype(np.float64)
        self._size = _size(reader.size, options)
        self.length = 0

    def write(self, file: BinaryIO, state: tuple[int, int]) -> Piece:
        """Write the members; tells what there is."""
        self._file, self._digest, self._members_digest = file, hashlib.sha256(), hashlib.sha256()
        job, options, key = self._job, self._job.options, key_text(self._job.key)
        fps = (self._reader.fps or options.fps or 0.0) / options.stride
        box = None if self._boxes is None else np.round(self._boxes.mean(0), 2).tolist()
        about = {
            "name": job.name,
            "label": job.label,
            "class": job.class_name,
            "frames": len(self._positions),
            "size": self._size,
            "fps": fps,
            "times": self._times,
            "source": _source_digest(job.path),
        }
        if self._boxes is not None:
            about |= {"box": box, "boxes": np.round(self._boxes, 2).tolist()}
        if job.subject:
            about["subject"] = job.subject
        self._add(f"{key}.json", json.dumps(about, allow_nan=False).encode("ascii"))
        if job.label is not None:
            self._add(f"{key}.cls", str(job.label).encode("ascii"))
        pictures, sizes = self._write_jpeg(key) if options.format == "jpeg" else self._write_raw(key)
        return Piece(
            key=job.key,
            name=job.name,
            line=job.line,
            label=-1 if job.label is None else job.label,
            subject=job.subject,
            length=self.length,
            pictures=pictures,
            size=self._size,
            fps=fps,
            times=self._times,
            bytes=sizes,
            box=box,
            digest=self._digest.hexdigest(),
            members_digest=self._members_digest.hexdigest(),
            state=state,
        )

    def _write_jpeg(self, key: str) -> tuple[int, list[int]]:
        encode = require("simplejpeg", "shards").encode_jpeg
        first, sizes = self.length + BLOCK, []
        for number, picture in enumerate(self._pictures()):
            content = encode(picture, quality=self._job.options.quality, colorspace="RGB", colorsubsampling="420")
            self._digest.update(content)
            self._add(f"{key}.{number:06d}.jpg", content)
            sizes.append(len(content))
        return first, sizes

    def _write_raw(self, key: str) -> tuple[int, list[int]]:
        shape = (len(self._positions), *self._size, 3)
        start = io.BytesIO()
        about = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(start, about)
        whole = len(start.getvalue()) + math.prod(shape)
        if whole >= _LONGEST:
            raise UnreadableClipError(
                f"has {whole >> 30} GiB as raw pixels, and a member of a tar has 8 at most: store jpeg or fewer frames"
            )
        self._put(header(f"{key}.frames.npy", whole) + start.getvalue())
        first = self.length
        for picture in self._pictures():
            self._digest.update(picture.data)
            self._put(picture.tobytes())
        self._fill()
        return first, [math.prod(shape[1:])] * shape[0]

    def _add(self, name: str, content: bytes) -> None:
        self._put(header(name, len(content)) + content)
        self._fill()

    def _put(self, content: bytes) -> None:
        self._file.write(content)
        self._members_digest.update(content)
        self.length += len(content)

    def _fill(self) -> None:
        self._put(bytes(-self.length % BLOCK))

    def _pictures(self) -> Iterator[np.ndarray]:
        """The pictures as they are stored: uint8 [H, W, 3], contiguous."""
        height, width = self._reader.size
        at_once = max(1, min(_AT_ONCE, _BYTES_AT_ONCE // (3 * height * width)))
        for at in range(0, len(self._positions), at_once):
            with _reading(self._job.path):
                frames = self._reader.read(self._positions[at : at + at_once])
            if self._job.options.cut is not None:
                top, left, rows, columns = self._job.options.cut
                frames = frames[:, top : top + rows, left : left + columns]
            if frames.shape[1:3] != self._size:
                frames = _resized(frames, self._size)
            yield from np.ascontiguousarray(frames)


def _resized(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    # Processes that need no torch start in a moment, and take a fraction of the memory.
    import torch

    from maedfer.data.augment.operations import operations_by

    if multiprocessing.parent_process() is not None:
        # There are others.
        torch.set_num_threads(1)
    # Channels stay last in memory.
    planes = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
    return operations_by("auto").resize(planes, size).permute(0, 2, 3, 1).numpy()


def _positions(count: int, options: ShardOptions) -> np.ndarray:
    positions = np.arange(0, count, options.stride)
    if options.max_frames is not None and len(positions) > options.max_frames:
        start = (len(positions) - options.max_frames) // 2
        positions = positions[start : start + options.max_frames]
    return positions


def _times(reader: VideoReader, options: ShardOptions, positions: np.ndarray) -> list[float] | None:
    try:
        return reader.times[positions].tolist()
    except InputError:
        return None if options.fps is None else (positions / options.fps).tolist()


def _size(size: tuple[int, int], options: ShardOptions) -> tuple[int, int]:
    """Height and width of stored pictures."""
    if options.cut is not None:
        top, left, *inside = options.cut
        if top + inside[0] > size[0] or left + inside[1] > size[1]:
            raise InputError(
                f"has frames of {size[0]} x {size[1]} (height x width), which --cut {','.join(map(str, options.cut))} "
                "does not fit into"
            )
        size = inside[0], inside[1]
    if options.size is None:
        return size
    if isinstance(options.size, tuple):
        return options.size
    short = min(size)
    rows, columns = (max(1, (2 * side * options.size + short) // (2 * short)) for side in size)
    if rows * columns > MAX_PIXELS:
        raise InputError(
            f"has frames of {size[0]} x {size[1]} (height x width), which are too many pixels when resized"
        )
    return rows, columns


def _source_digest(path: Path) -> str:
    """SHA-256 of a file; of a folder, of the names and digests of the files in it."""
    with _reading(path):
        if not path.is_dir():
            digest = hashlib.sha256()
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
            return digest.hexdigest()
        files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
        lines = [os.fsencode(file.name) + b" " + _source_digest(file).encode() for file in files]
        return hashlib.sha256(b"\0".join(lines)).hexdigest()


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Make an `UnreadableClipError` of whatever reading a clip raises, unless it is no fault of the clip."""
    try:
        yield
    except (MissingDependencyError, UnreadableClipError):
        raise
    except InputError as error:
        raise UnreadableClipError(str(error).removeprefix(f"{shown(path)}: ")) from error
    except Exception as error:
        many = isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)
        if many or os.environ.get("MAEDFER_TRACEBACK", "0") not in ("", "0"):
            raise
        raise UnreadableClipError(f"{words(error)}; MAEDFER_TRACEBACK=1 shows where") from error
