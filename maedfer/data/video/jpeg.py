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

_START = b"\xff\xd8\xff"
# Where a note of the orientation may be: in EXIF or XMP.
_NOTES = (b"Exif\0", b"http://ns.adobe.com/")
_COLOURS = ("YCbCr", "Gray")


def jpeg_size(content: bytes) -> tuple[int, int] | None:
    """Height and width of a picture that `decode_jpeg` decodes; None of all others.

    Args:
        content: of a file of any kind.
    """
    module = _simplejpeg()
    if module is None or not content.startswith(_START) or any(note in content for note in _NOTES):
        return None
    with contextlib.suppress(Exception):
        height, width, colours, _ = module.decode_jpeg_header(content)
        if colours in _COLOURS and height * width <= MAX_PIXELS:
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


@lru_cache(maxsize=1)
def _simplejpeg() -> Any:
    """The module, or None where it is not installed."""
    try:
        import simplejpeg
    except ImportError:
        return None
    return simplejpeg
