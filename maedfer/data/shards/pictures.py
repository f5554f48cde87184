"""Pictures of shards: JPEG, decoded by libjpeg-turbo (simplejpeg), which other threads need not wait for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from maedfer.data.video.base import words
from maedfer.errors import InputError, require

Bytes = bytes | memoryview


def decode_pictures(
    pictures: Sequence[Bytes],
    size: tuple[int, int],
    where: Callable[[int], str],
    threads: int = 1,
    into: np.ndarray | None = None,
) -> np.ndarray:
    """Decode JPEG files of one size.

    Grey pictures give three equal channels. A picture with errors that a viewer would pass over is refused.

    Args:
        pictures: content of each file.
        size: height and width that they have.
        where: names a picture, by its place among them, for errors.
        threads: that decode at the same time. A loader that has a thread for every clip needs one.
        into: contiguous uint8 [n, H, W, 3] that takes the frames; None = fresh memory.

    Returns:
        uint8 [n, H, W, 3], RGB.

    Raises:
        InputError: one is damaged, or of another size.
        MissingDependencyError: simplejpeg is not installed.
    """
    decode = require("simplejpeg", "shards").decode_jpeg
    frames = np.empty((len(pictures), *size, 3), np.uint8) if into is None else into

    def one(number: int) -> None:
        # Bytes that are no JPEG can promise any size: only what fits into the frame is decoded.
        try:
            found = decode(pictures[number], buffer=frames[number]).shape
        except Exception as error:
            raise InputError(f"{where(number)}: damaged, or no JPEG of {_by(size)} ({words(error)})") from error
        if found != (*size, 3):
            raise InputError(f"{where(number)}: a picture of {_by(found[:2])} among those of {_by(size)}")

    if threads == 1:
        for number in range(len(pictures)):
            one(number)
    else:
        with ThreadPoolExecutor(threads) as pool:
            # Of several errors, the one of the earliest picture is raised.
            for _ in pool.map(one, range(len(pictures))):
                pass
    return frames


def _by(size: Sequence[int]) -> str:
    return f"{size[1]} x {size[0]}"
