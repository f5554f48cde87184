"""Clips that are pictures: folders with one a frame, and animated WebP, which FFmpeg does not read."""

from __future__ import annotations

import os
import re
import stat
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np

from maedfer.data.video.base import MAX_PIXELS, PICTURE_SUFFIXES, VideoReader, in_a_sentence, look_at, shown
from maedfer.data.video.jpeg import decode_jpeg, jpeg_size
from maedfer.data.video.times import FrameTimes
from maedfer.errors import InputError, require

# Pictures that Pillow does not read, or not everywhere.
_OTHER_PICTURES = frozenset(".heic .heif .jxl .exr .dng .cr2 .nef .arw".split())
_NUMBER = re.compile(r"(\d+)")
# The letters before the number of a frame, its digits, and the ending.
_PLAIN = re.compile(r"([A-Za-z_]*)([0-9]+)(\.[A-Za-z0-9]+)")
# Larger files are left to Pillow, which does not take them into memory whole.
_LARGEST_FILE = 2**26
_HEXADECIMAL = re.compile(r"[0-9a-fA-F]{3,}")
# A number with a fraction or an exponent, as 0.04 and 1e-05; not a part of 12.30.05 or of s1e3.
_DECIMAL = re.compile(
    r"(?<!\d)(?<!\d[.,])(\d+[.,]\d+(?:[eE][+-]?\d+)?|(?<![A-Za-z])\d+[eE][+-]?\d+)(?!\d)(?![.,]\d)", re.ASCII
)

# OpenFace's names of a face in a frame: the number of the face is in front.
_FACE = re.compile(r"frame_det_(\d+)_\d+")

_Key = list[tuple[int, int | Fraction, str]]


class FrameFolderReader(VideoReader):
    """Reads a folder of pictures, one a frame.

    Grey pictures give three equal channels, 16-bit ones their upper 8 bits, transparency is dropped, the orientation
    noted in a picture is applied, and a picture of another size is resized to the first one's, as video decoders do.
    """

    backend = "frames"
    fps = 0.0

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files = _pictures_in(path)
        size = jpeg_size(_content_of_jpeg(self._place(0)))
        # Another picture is decoded to learn its size, and mostly asked for anyway.
        self._first: np.ndarray | None = None
        if size is None:
            self._first = _read_picture(path / self._files[0], None)
            size = self._first.shape[0], self._first.shape[1]
        self.size = size

    def __len__(self) -> int:
        return len(self._files)

    @property
    def _frame_times(self) -> FrameTimes:
        return FrameTimes(None, unknown="a folder of frames tells no times; give the frames per second (fps)")

    def close(self) -> None:
        self._first = None

    def _read_jpeg(self, positions: list[int]) -> list[np.ndarray]:
        found = []
        for position in positions:
            file = self._place(position)
            content = _content_of_jpeg(file)
            if jpeg_size(content) != self.size:
                raise InputError(
                    f"{shown(file)}: is no plain JPEG of {self.size[1]} x {self.size[0]}, which data.decode=cuda is "
                    "for: set data.decode=cpu"
                )
            found.append(np.frombuffer(content, np.uint8))
        return found

    def _read(self, positions: list[int]) -> np.ndarray:
        frames = self._room(len(positions))
        for row, position in enumerate(positions):
            if position == 0 and self._first is not None:
                frames[row] = self._first
            elif not decode_jpeg(_content_of_jpeg(self._place(position)), frames[row]):
                frames[row] = _read_picture(Path(self._place(position)), self.size)
        return frames

    def _place(self, position: int) -> str:
        return os.path.join(self.path, self._files[position])


def _pictures_in(folder: Path) -> list[str]:
    """The names of a folder's pictures in their order.

    Raises:
        InputError: there are none, some that cannot be read, or their order is not known.
    """
    inside = [name for name in os.listdir(folder) if not name.startswith(".")]
    if plain := _plainly_numbered(inside):
        return plain
    kinds = {name: os.path.splitext(name)[1].lower() for name in inside}
    names = _in_order(folder, [name for name in inside if kinds[name] in PICTURE_SUFFIXES])
    if others := sorted(name for name in inside if kinds[name] in _OTHER_PICTURES):
        raise InputError(
            f"{shown(folder)}: the folder has pictures of a kind that is not read ({shown(others[0])}); "
            "convert them to png or jpg"
        )
    if not names:
        below = sorted(name for name in inside if (folder / name).is_dir())
        hint = f"; is one of the folders in it meant, as {shown(below[0])}?" if below else ""
        raise InputError(f"{shown(folder)}: the folder has no frames (jpg, png, bmp, webp, tif, ...){hint}")
    return names


class WebPReader(VideoReader):
    """Reads an animated WebP picture by picture."""

    backend = "frames"
    fps = 0.0

    def __init__(self, path: Path) -> None:
        self.path = path
        self._image = require("PIL.Image", "video").open(path)
        width, height = self._image.size
        _check_size(path, width, height)
        self.size = height, width
        self._count = int(getattr(self._image, "n_frames", 1))

    def __len__(self) -> int:
        return self._count

    @cached_property
    def _frame_times(self) -> FrameTimes:
        durations = []
        for position in range(self._count):
            self._image.seek(position)
            # Only a picture that is decoded tells how long it is shown.
            self._image.load()
            durations.append(self._image.info.get("duration", 0) / 1000)
        ends = np.cumsum(durations, dtype=np.float64)
        if self._count > 1 and not ends[-1] > 0:
            return FrameTimes(None, unknown="its pictures have no durations; give the frames per second (fps)")
        return FrameTimes(ends - durations, float(ends[-1]))

    def close(self) -> None:
        self._image.close()

    def _read(self, positions: list[int]) -> np.ndarray:
        frames = np.empty((len(positions), *self.size, 3), np.uint8)
        for row, position in enumerate(positions):
            self._image.seek(position)
            frames[row] = np.asarray(self._image.convert("RGB"))
        return frames


def is_webp(path: Path) -> bool:
    """True where a file starts as WebP does."""
    with path.open("rb") as file:
        head = file.read(12)
    return head[:4] == b"RIFF" and head[8:] == b"WEBP"


def _in_order(folder: Path, names: list[str]) -> list[str]:
    """Sort the names of frames by the numbers in their names: 2 before 10, and 0.04 before 0.1 where they are seconds.

    Raises:
        InputError: the names do not tell the order: two with one number, some with other words or none in them, or
            numbers that read one way with and another way without a fraction.
    """
    if plain := _plainly_numbered(names):
        return plain
    return [file.name for file in _by_words_and_numbers(folder, [folder / name for name in names])]


def _plainly_numbered(names: list[str]) -> list[str]:
    """Sort names of pictures that differ in nothing but one number, written with as many digits in all.

    Mostly it is so, and then there is no question of their order.

    Returns:
        The names in order, or nothing where they are of another kind.
    """
    first = _PLAIN.fullmatch(names[0]) if names else None
    if first is None or first[3].lower() not in PICTURE_SUFFIXES:
        return []
    # All at once, as there may be hundreds; no name has a / in it.
    same = f"{re.escape(first[1])}[0-9]{{{len(first[2])}}}{re.escape(first[3])}/"
    return sorted(names) if re.fullmatch(f"(?:{same})+", "/".join((*names, ""))) else []


def _by_words_and_numbers(folder: Path, files: list[Path]) -> list[Path]:
    if not any(_NUMBER.search(file.stem) for file in files):
        # In words alone the order of the alphabet is the only one there is.
        return sorted(files)
    if all(_HEXADECIMAL.fullmatch(file.stem) for file in files) and len({_words(file.stem) for file in files}) > 1:
        raise _unordered(folder, files[0], files[-1], "may have hexadecimal numbers, as the others do, or none")
    counted = _Order(files, decimals=False)
    if not any(_DECIMAL.search(file.stem) for file in files):
        chosen = counted
    else:
        measured = _Order(files, decimals=True)
        chosen = counted if measured.fault and not counted.fault else measured
        if not counted.fault and not measured.fault and counted.files != measured.files:
            chosen = _seconds_or_not(folder, counted, measured)
    if chosen.fault:
        raise _unordered(folder, *chosen.fault)
    first, last = (_FACE.match(file.name) for file in (chosen.files[0], chosen.files[-1]))
    if first and last and first[1] != last[1]:
        raise InputError(
            f"{shown(folder)}: has faces of several persons ({shown(first[0])} and {shown(last[0])}); keep one"
        )
    return chosen.files


class _Order:
    """Files in the order of the numbers in their names, and the first two of which it is not sure, with the reason."""

    def __init__(self, files: list[Path], decimals: bool) -> None:
        keys = {file: _key(file.stem, decimals) for file in files}
        self.files = sorted(files, key=keys.__getitem__)
        self.fault: tuple[Path, Path, str] | None = None
        for before, after in pairwise(self.files):
            if keys[before] == keys[after]:
                self.fault = before, after, "have the same numbers in their names"
            elif not _differ_in_a_number(keys[before], keys[after]):
                self.fault = (
                    before,
                    after,
                    "differ in words before they differ in a number",
                )
            if self.fault:
                return
        if len(files) > 1 and all(file.stem.startswith("-") for file in files):
            self.fault = self.files[0], self.files[1], "start with what may be a minus or a dash, as all the others do"


def _seconds_or_not(folder: Path, counted: _Order, measured: _Order) -> _Order:
    """Choose between 1.10 as one number (before 1.2) and as two (after 1.2)."""
    numbers = [text for file in counted.files for text in _DECIMAL.findall(file.stem)]
    fractions = [re.split("[.,eE]", text)[1] for text in numbers if re.search("[.,]", text)]
    # Counts have no zeros in front and no exponents; numbers as programs write them have no zeros behind.
    one = any(len(text) > 1 and text[0] == "0" for text in fractions) or any("e" in text.lower() for text in numbers)
    two = any(len(text) > 1 and text[-1] == "0" for text in fractions)
    if one != two:
        return measured if one else counted
    first, second = next((a, b) for a, b in zip(counted.files, measured.files, strict=True) if a != b)
    raise _unordered(folder, first, second, "have one number with a fraction or two numbers, which changes the order")


def _unordered(folder: Path, first: Path, second: Path, why: str) -> InputError:
    return InputError(
        f"{shown(folder)}: the frames {shown(first.name)} and {shown(second.name)} {why}, so that their "
        "order is not known; name frames 00001, 00002, ..., and put other pictures elsewhere"
    )


def _key(stem: str, decimals: bool) -> _Key:
    """Sort key by which numbers in names count as numbers: frame_2 before frame_10."""
    key: _Key = []
    for place, part in enumerate(_DECIMAL.split(stem) if decimals else [stem]):
        if place % 2:
            key.append((0, Fraction(part.replace(",", ".")), ""))
        else:
            for text in filter(None, _NUMBER.split(part)):
                key.append((0, int(text), "") if text.isdecimal() else (1, 0, text.casefold()))
    if len(key) > 1 and key[0] == (1, 0, "-") and key[1][0] == 0:
        # A minus that nothing stands before.
        return [(0, -key[1][1], ""), *key[2:]]
    return key


def _words(stem: str) -> tuple[str, ...]:
    return tuple(_NUMBER.split(stem.casefold())[::2])


def _differ_in_a_number(first: _Key, second: _Key) -> bool:
    for a, b in zip(first, second, strict=False):
        if a != b:
            return a[0] == b[0] == 0
    return False


def _content_of_jpeg(name: str) -> bytes:
    """What is in a file that is called a JPEG; nothing of others, and of what cannot be read, as Pillow will say."""
    if not name.lower().endswith((".jpg", ".jpeg", ".jpe", ".jfif")):
        return b""
    try:
        # Opening a named pipe would wait for ever.
        opened = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(opened)
            if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST_FILE:
                return b""
            content = os.read(opened, status.st_size)
            return content if len(content) == status.st_size else b""
        finally:
            os.close(opened)
    except (OSError, ValueError):
        return b""


def _read_picture(file: Path, size: tuple[int, int] | None) -> np.ndarray:
    image_module = require("PIL.Image", "video")
    operations = require("PIL.ImageOps", "video")
    look_at(file)
    with in_a_sentence(file, "not a readable picture"), image_module.open(file) as image:
        _check_size(file, image.width, image.height)
        if image.format in ("GIF", "WEBP", "PNG", "TIFF", "AVIF") and getattr(image, "n_frames", 1) > 1:
            raise InputError(f"{shown(file)}: holds {image.n_frames} pictures, and a frame is one")
        image = operations.exif_transpose(image)
        if image.mode.startswith("I"):
            # Pillow would clip 16-bit grey to 255 instead of scaling it.
            grey = np.clip(np.asarray(image).astype(np.int64) >> 8, 0, 255).astype(np.uint8)
            image = image_module.fromarray(grey)
        if image.mode == "F":
            raise InputError(f"{shown(file)}: has floating-point pixels of unknown range; save it with 8 bits")
        image = image.convert("RGB")
        if size is not None and (image.height, image.width) != size:
            image = image.resize((size[1], size[0]), image_module.Resampling.BILINEAR)
        return np.asarray(image)


def _check_size(file: Path, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise InputError(
            f"{shown(file)}: has {width} x {height} pixels, more than the {MAX_PIXELS} that are read; the file may be "
            "damaged"
        )
