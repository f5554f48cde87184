"""JPEG pictures by libjpeg-turbo alone (simplejpeg), in less than half of Pillow's time and with the same pixels.

Pillow says what the pixels are. What its decoder and this one might see differently is left to it: turned pictures,
other colours than those of photographs, and whatever is not whole.
"""

from __future__ import annotations

import contextlib
from functools import lru_cache
from typing import Any

import numpy as np

from maedfer.data.video.base import MAX_PIXELS

# Markers of a JPEG file: its start, a segment that may note an orientation (EXIF, XMP), and where pixels begin.
_START, _NOTES, _PIXELS = b"\xff\xd8", 0xE1, 0xDA
_COLOURS = ("YCbCr", "Gray")
# What stood before the pixels of the last picture that was looked at, and its size: neighbours mostly have the same.
_last: tuple[bytes, tuple[int, int]] | None = None


def jpeg_size(content: bytes) -> tuple[int, int] | None:
    """Height and width of a picture that `decode_jpeg` decodes; None of all others.

    Args:
        content: of a file of any kind.
    """
    global _last
    module = _simplejpeg()
    if module is None:
        return None
    if (last := _last) is not None and content.startswith(last[0]):
        return last[1]
    end = _end_of_header(content)
    if not end:
        return None
    with contextlib.suppress(Exception):
        height, width, colours, _ = module.decode_jpeg_header(content)
        if colours in _COLOURS and height * width <= MAX_PIXELS:
            _last = content[:end], (height, width)
            return height, width
    return None


def decode_jpeg(content: bytes, into: np.ndarray) -> bool:
    """Decode a picture that has the size of `into`, if that can be done as Pillow does it.

    Args:
        content: of a file of any kind.
        into: contiguous uint8 [H, W, 3], takes RGB; undefined where nothing was decoded.

    Returns:
        Whether it was decoded.
    """
    if jpeg_size(content) != into.shape[:2]:
        return False
    with contextlib.suppress(Exception):
        return bool(_simplejpeg().decode_jpeg(content, buffer=into).shape == into.shape)
    return False


def _end_of_header(content: bytes) -> int:
    """Where the pixels begin, after segments that follow each other and note no orientation; 0 of all other files."""
    if not content.startswith(_START):
        return 0
    place = 2
    while content[place : place + 1] == b"\xff":
        kind = content[place + 1] if place + 1 < len(content) else _NOTES
        if kind == _NOTES:
            return 0
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
        if kind == _PIXELS:
            return place if place <= len(content) else 0
    return 0


@lru_cache(maxsize=1)
def _simplejpeg() -> Any:
    """The module, or None where it is not installed."""
    try:
        import simplejpeg
    except ImportError:
        return None
    return simplejpeg
