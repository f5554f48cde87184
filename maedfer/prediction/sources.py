"""Frames with their times, from files, folders of frames, devices and streams."""

from __future__ import annotations

import abc
import contextlib
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from maedfer._values import expand_home
from maedfer.data.video import VideoReader, open_video
from maedfer.data.video.base import MAX_PIXELS, shown, words
from maedfer.errors import InputError, require
from maedfer.faces.find import read_frames
from maedfer.faces.frame import Frame
from maedfer.prediction.options import PredictionOptions
from maedfer.prediction.windows import EPSILON, RATE

AnySource = TypeVar("AnySource", bound="FrameSource")

# Seconds after which a stream that sends nothing has ended.
_SILENCE = 30.0
# Seconds by which a clock does not go forth or back from one frame to the next, unless it is set anew.
_BACK, _FORTH = 1.0, 600.0


def always(index: int) -> bool:
    """Every frame's picture is wanted."""
    return True


class FrameSource(abc.ABC):
    """A video that is looked at from its first frame to its last.

    Attributes:
        name: as it was given.
        size: height and width of its frames.
    """

    name: str
    size: tuple[int, int]

    @abc.abstractmethod
    def frames(self, wanted: Callable[[int], bool] = always) -> Iterator[Frame]:
        """All frames in order.

        Args:
            wanted: whether a frame must come with its picture, by its number; asked shortly before it comes.
        """

    def __enter__(self: AnySource) -> AnySource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abc.abstractmethod
    def close(self) -> None:
        """Free the file and the decoder."""


class FileSource(FrameSource):
    """A video file or a folder of frames, from one second to another.

    Args:
        path: of the file or folder.
        fps: frames a second of what tells no times.
        between: seconds from which and up to which frames are looked at; all when None.

    Attributes:
        all_times: float64, when the frames of the file are shown, in seconds since its start.
        times: the same of those that are looked at.
        first: number of the first of these in the file.
        first_time, end_time: when the first one is shown, and until when the last one, or what is looked at.
        shown_until: until when the last one is shown, be it longer than what is looked at.

    Raises:
        InputError: it cannot be read, tells no times although no fps is given, or has no frame in that time.
    """

    def __init__(self, path: str | Path, fps: float | None = None, between: tuple[float, float] | None = None) -> None:
        self.name = str(path)
        self._path = Path(expand_home(self.name))
        # A second reader, for frames that are asked for while the first one goes through the video.
        self._again: VideoReader | None = None
        self._under_way = False
        self.reader = open_video(self._path)
        try:
            self.size = self.reader.size
            times, end = self._times(fps)
            self.all_times = times
            start, stop = (0, len(times)) if between is None else _stretch(times, between)
            if start == stop:
                raise InputError(
                    f"{shown(path)}: has no frame between {between[0]:g} and {between[1]:g} seconds: its frames are "
                    f"from {times[0]:.3f} to {end:.3f}"
                    if between is not None and len(times)
                    else f"{shown(path)}: has no frames"
                )
        except BaseException:
            self.close()
            raise
        self.first, self.times = start, times[start:stop]
        self.first_time = float(times[start])
        self.end_time = self.shown_until = float(times[stop]) if stop < len(times) else end
        if between is not None:
            self.end_time = max(float(times[stop - 1]), min(between[1], self.end_time))

    def frames(self, wanted: Callable[[int], bool] = always) -> Iterator[Frame]:
        """See `FrameSource.frames`."""
        self._under_way = True
        yield from read_frames(self.reader, self.times, wanted, self.first)
        self._under_way = False

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Read frames by their numbers in the file, beside what `frames` is reading.

        Returns:
            uint8 [n, H, W, 3].
        """
        if not self._under_way:
            return self.reader.read(indices)
        if self._again is None:
            self._again = open_video(self._path)
        return self._again.read(indices)

    def close(self) -> None:
        """Free the file and the decoders."""
        self.reader.close()
        if self._again is not None:
            self._again.close()

    def _times(self, fps: float | None) -> tuple[np.ndarray, float]:
        try:
            return self.reader.times, self.reader.end_time
        except InputError:
            if fps is None:
                raise
            count = len(self.reader)
            return np.arange(count) / fps, count / fps


class LiveSource(FrameSource):
    """A device or a stream that PyAV opens, for as long as it goes on.

    Times are those of the stream since its first frame, or of this machine's clock where it tells none. Frames that
    are not later than the one before are passed over; where a stream's clock is set anew, its frames follow on the
    last one.

    Args:
        name: URL, or file of the device.
        between: seconds from which and up to which frames are looked at.

    Attributes:
        ended: why the stream ended, where it broke off.

    Raises:
        InputError: it cannot be opened, or has no video.
    """

    def __init__(self, name: str, between: tuple[float, float] | None = None) -> None:
        self._av = require("av", "video")
        self.name, self.between = without_password(name), between
        self.ended = ""
        try:
            self._container = self._av.open(
                name,
                format="v4l2" if _is_device(name) else None,
                metadata_errors="replace",
                timeout=(_SILENCE, _SILENCE),
            )
        except (self._av.FFmpegError, OSError, ValueError) as error:
            raise InputError(f"{shown(self.name)}: cannot be opened as a stream ({words(error)})") from error
        video = self._container.streams.video
        if not video:
            self._container.close()
            raise InputError(f"{shown(self.name)}: the stream has no video")
        self._stream = video[0]
        height, width = self._stream.height, self._stream.width
        if not 0 < height * width <= MAX_PIXELS:
            self._container.close()
            raise InputError(
                f"{shown(self.name)}: the stream does not say how large its pictures are, or they are too large"
            )
        self.size = height, width

    def frames(self, wanted: Callable[[int], bool] = always) -> Iterator[Frame]:
        """See `FrameSource.frames`; what is wanted cannot be chosen."""
        first: float | None = None
        last, count = -np.inf, 0
        begun = time.monotonic()
        start, stop = (-np.inf, np.inf) if self.between is None else self.between
        for frame in self._decoded():
            told = time.monotonic() - begun if frame.pts is None else float(frame.pts * frame.time_base)
            if first is None:
                first = told
            elif count and not first + last - _BACK < told < first + last + _FORTH:
                first = told - last - 1 / RATE
            now = told - first
            if now > stop + EPSILON:
                return
            if now > last and now >= start - EPSILON:
                height, width = self.size
                picture = frame.to_ndarray(format="rgb24", width=width, height=height)
                yield Frame(count, now, picture)
                last, count = now, count + 1
        if not count:
            why = f" ({self.ended})" if self.ended else ""
            raise InputError(f"{shown(self.name)}: the stream ended without a frame{why}")

    def close(self) -> None:
        """End the connection."""
        self._container.close()

    def _decoded(self) -> Iterator[Any]:
        try:
            for packet in self._container.demux(self._stream):
                # Streams are joined between two pictures that need no other one: what comes before cannot be decoded.
                with contextlib.suppress(self._av.InvalidDataError):
                    yield from packet.decode()
        except (self._av.FFmpegError, OSError) as error:
            self.ended = words(error)


def open_source(item: str | Path, options: PredictionOptions) -> FileSource | LiveSource:
    """Open what is to be looked at.

    Args:
        item: a video file, a folder of frames, a device (/dev/video0), or a URL with :// in it.
        options: `fps` and `between` of them.

    Raises:
        InputError: it cannot be opened, or not looked at as the options have it.
    """
    between = options.between
    return LiveSource(str(item), between) if is_live(item) else FileSource(item, options.fps, between)


def is_live(item: str | Path) -> bool:
    """Whether something is a device or the URL of a stream, and no file or folder."""
    return (isinstance(item, str) and "://" in item) or _is_device(str(item))


def without_password(url: str, instead: str = "***@") -> str:
    """A URL with something else in place of the name and password for its host, if it has them."""
    return re.sub(r"(?<=://)[^/?#]*@", instead, url, count=1)


def _is_device(name: str) -> bool:
    try:
        return stat.S_ISCHR(os.stat(name).st_mode)
    except (OSError, ValueError):
        return False


def _stretch(times: np.ndarray, between: tuple[float, float]) -> tuple[int, int]:
    start = np.searchsorted(times, between[0] - EPSILON)
    return int(start), max(int(start), int(np.searchsorted(times, between[1] + EPSILON, side="right")))
