"""Whether a video file is all there, as far as its container says: most decoders read what there is without a word.

Containers say how long they are in their head (Matroska, AVI, FLV, ASF, MXF), in every part (Ogg, MPEG program streams,
MP4) or by a mark at their end (GIF, PNG, JPEG); those with an index of all pictures (MP4) are compared with it in
`maedfer.data.video.index`. Nothing in an MPEG transport stream or a bare stream of pictures says how long it is: one
that ends between two packets cannot be told from a whole one.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

# How much of a file's head and tail is looked at; a page of Ogg is shorter than this.
_NEAR = 1 << 17
# Where a file has more parts, it is damaged, or not looked at to its end.
_STEPS = 200_000
_UNKNOWN = None
_EMPTY, _PARTIAL = "its end is empty", "it ends within a packet"


def missing_end(path: Path, container: set[str]) -> str | None:
    """Compare a file's length with what is written in it.

    Args:
        path: the file.
        container: FFmpeg's names of its format.

    Returns:
        What is missing, in words; "" where the file ends as it should; None where it does not tell.
    """
    for names, check in _CHECKS.items():
        if container & set(names.split()):
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                try:
                    return check(file, size)
                except (struct.error, IndexError):
                    return _UNKNOWN
    return _UNKNOWN


def ends_in_zeros(path: Path) -> bool:
    """True where the last bytes are, as in a file whose room was reserved before it was downloaded."""
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 16))
        return not any(file.read())


def _shorter(size: int, should: int, margin: int = 0) -> str:
    return f"it has {size} of {should} bytes" if size + margin < should else ""


def _at(file: BinaryIO, place: int, count: int) -> bytes:
    file.seek(place)
    return file.read(count)


def _riff(file: BinaryIO, size: int) -> str | None:
    place = 0
    while (head := _at(file, place, 8))[:4] == b"RIFF":
        length = struct.unpack("<I", head[4:])[0]
        if length in (0, 0xFFFFFFFF):
            # The recorder was never told to finish.
            return _UNKNOWN
        # Some writers count the eight bytes of the head as well.
        if missing := _shorter(size, place + 8 + length, margin=8):
            return missing
        place += 8 + length + length % 2
    return "" if place else _UNKNOWN


def _matroska(file: BinaryIO, size: int) -> str | None:
    place = 0
    for _ in range(_STEPS):
        if place >= size:
            return _shorter(size, place)
        data = _at(file, place, 16)
        if not data[0]:
            return _EMPTY
        name = 9 - data[0].bit_length()
        if len(data) <= name:
            return _PARTIAL
        width = 9 - data[name].bit_length()
        length = int.from_bytes(data[name : name + width], "big") & ((1 << 7 * width) - 1)
        place += name + width
        if length == (1 << 7 * width) - 1:
            # Written while it was recorded: the elements in it are looked at.
            continue
        place += length
        if data[:4] == b"\x18\x53\x80\x67":
            return _shorter(size, place)
    return _UNKNOWN


def _flash(file: BinaryIO, size: int) -> str | None:
    head = _at(file, 0, _NEAR)
    mark = b"\0\x08filesize\0"
    at = head.find(mark)
    should = struct.unpack(">d", head[at + len(mark) :][:8])[0] if at >= 0 else 0
    return _shorter(size, int(should)) if 0 < should < 1 << 53 else _UNKNOWN


def _windows_media(file: BinaryIO, size: int) -> str | None:
    head = _at(file, 0, _NEAR)
    at = head.find(bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365"))
    if at < 0 or struct.unpack_from("<I", head, at + 88)[0] & 1:
        # Written to be sent while it was recorded.
        return _UNKNOWN
    should = struct.unpack_from("<Q", head, at + 40)[0]
    return _shorter(size, should) if should else _UNKNOWN


def _ogg(file: BinaryIO, size: int) -> str | None:
    start = max(0, size - _NEAR)
    tail = _at(file, start, _NEAR)
    at = tail.rfind(b"OggS")
    page = tail[at:]
    if at < 0 or len(page) < 27 or len(page) < 27 + page[26]:
        return _PARTIAL
    return _shorter(size, start + at + 27 + page[26] + sum(page[27 : 27 + page[26]]))


def _program_stream(file: BinaryIO, size: int) -> str | None:
    start = max(0, size - _NEAR)
    tail = _at(file, start, _NEAR)
    at = tail.rfind(b"\0\0\1\xba")
    if at < 0:
        return _UNKNOWN if any(tail) else _EMPTY
    # MPEG-2's head of a pack tells how much stuffing follows; MPEG-1's has none.
    at += 14 + (tail[at + 13] & 7) if tail[at + 4] >> 6 == 1 else 12
    while tail[at : at + 3] == b"\0\0\1" and tail[at + 3 : at + 4] != b"\xb9":
        if at + 6 > len(tail):
            return _PARTIAL
        at += 6 + struct.unpack_from(">H", tail, at + 4)[0]
    return _shorter(size, start + at) or _UNKNOWN


def _transport_stream(file: BinaryIO, size: int) -> str | None:
    head = _at(file, 0, 2048)
    for length, first in ((188, 0), (192, 4), (204, 0)):
        if len(head) > first + 3 * length and all(head[first + k * length] == 0x47 for k in range(4)):
            if size % length:
                return _PARTIAL
            return _UNKNOWN if any(_at(file, size - length, length)) else _EMPTY
    return _UNKNOWN


def _boxes(file: BinaryIO, size: int) -> str | None:
    place, fragments = 0, False
    for _ in range(_STEPS):
        if place + 8 > size:
            return _PARTIAL if fragments and place < size else _UNKNOWN
        head = _at(file, place, 16)
        length, kind = struct.unpack(">I4s", head[:8])
        if length == 1:
            length = struct.unpack(">Q", head[8:])[0]
        fragments = fragments or kind == b"moof"
        if length < 8:
            return _EMPTY if fragments and not any(head) else _UNKNOWN
        place += length
        # Anything may have been put behind the last box.
        if kind in (b"moov", b"moof", b"mdat") and (missing := _shorter(size, place)):
            return missing
    return _UNKNOWN


def _material(file: BinaryIO, size: int) -> str | None:
    head = _at(file, 0, _NEAR)
    at = head.find(b"\x06\x0e\x2b\x34\x02\x05\x01\x01\x0d\x01\x02\x01\x01\x02")
    if at < 0:
        return _UNKNOWN
    at += 16
    at += 1 + (head[at] & 0x7F if head[at] & 0x80 else 0)
    footer = struct.unpack_from(">Q", head, at + 24)[0]
    return _shorter(size, footer + 1) if footer else _UNKNOWN


def _gif(file: BinaryIO, size: int) -> str | None:
    return _ends_with(b";", file, size)


def _jpegs(file: BinaryIO, size: int) -> str | None:
    return _ends_with(b"\xff\xd9", file, size)


def _ends_with(mark: bytes, file: BinaryIO, size: int) -> str:
    tail = _at(file, max(0, size - _NEAR), _NEAR).rstrip(b"\0")
    return "" if tail.endswith(mark) else "its end mark is missing"


def _png(file: BinaryIO, size: int) -> str | None:
    return "" if b"IEND\xae\x42\x60\x82" in _at(file, max(0, size - _NEAR), _NEAR) else "its end mark is missing"


_CHECKS: dict[str, Callable[[BinaryIO, int], str | None]] = {
    "avi": _riff,
    "matroska webm": _matroska,
    "flv": _flash,
    "asf": _windows_media,
    "ogg": _ogg,
    "mpeg": _program_stream,
    "mpegts": _transport_stream,
    "mov mp4": _boxes,
    "mxf": _material,
    "gif": _gif,
    "mjpeg": _jpegs,
    "apng": _png,
}
