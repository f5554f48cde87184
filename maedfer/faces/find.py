"""Finding the faces of a whole video."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from maedfer.data.video import VideoReader, open_video
from maedfer.errors import InputError
from maedfer.faces.follow import Follower
from maedfer.faces.frame import Detector, Frame
from maedfer.faces.record import DetectionRecord
from maedfer.faces.track import FaceTrack

# Pictures that are read at once: few enough that their memory is used again, rather than mapped anew for each.
_AT_ONCE, _BYTES_AT_ONCE = 16, 1 << 25


def find_tracks(
    path: str | Path,
    detector: Detector,
    *,
    fps: float | None = None,
    every: int = 5,
    gap: float = 1.0,
    shortest: float = 0.5,
    record: DetectionRecord | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[FaceTrack]:
    """Find the faces of a video, and where they are when.

    Args:
        path: video file or folder of frames.
        detector: finds faces in frames, see `maedfer.faces.open_detector`.
        fps: frames a second of a folder of frames or another video that tells no times.
        every, gap, shortest, record: see `Follower`.
        progress: called as progress(done, frames) now and then.

    Returns:
        The faces by number.

    Raises:
        InputError: the video cannot be read, or has no times and no `fps` is given.
    """
    follower = Follower(detector, every=every, gap=gap, shortest=shortest, record=record)
    with open_video(path) as reader:
        return follow_reader(follower, reader, times_of(reader, fps), progress)


def follow_reader(
    follower: Follower, reader: VideoReader, times: np.ndarray, progress: Callable[[int, int], None] | None = None
) -> list[FaceTrack]:
    """Show all frames of an open video to a follower; gives the faces by number."""
    for frame in read_frames(reader, times, follower.needs_picture):
        follower.push(frame)
        if progress is not None and frame.index % _AT_ONCE == 0:
            progress(frame.index, len(reader))
    follower.finish()
    if progress is not None:
        progress(len(reader), len(reader))
    return follower.tracks()


def times_of(reader: VideoReader, fps: float | None) -> np.ndarray:
    """When each frame is shown: float64 [len(reader)] seconds; by `fps` where the video does not tell.

    Raises:
        InputError: the video does not tell, and no `fps` is given.
    """
    try:
        return reader.times
    except InputError:
        if fps is None:
            raise
        return np.arange(len(reader)) / fps


def read_frames(
    reader: VideoReader, times: np.ndarray, wanted: Callable[[int], bool] = lambda index: True, first: int = 0
) -> Iterator[Frame]:
    """Read frames of a video that follow each other.

    Args:
        reader: of the video.
        times: float64 [n], when each of them is shown.
        wanted: whether a frame is to come with its picture; asked shortly before it comes.
        first: number of the first one.
    """
    height, width = reader.size
    size = max(1, min(_AT_ONCE, _BYTES_AT_ONCE // (3 * height * width)))
    for at in range(0, len(times), size):
        shown = times[at : at + size].tolist()
        indices = range(first + at, first + at + len(shown))
        chosen = [index for index in indices if wanted(index)]
        pictures = dict(zip(chosen, reader.read(chosen), strict=True))
        for index, time in zip(indices, shown, strict=True):
            yield Frame(index, time, pictures.get(index))
