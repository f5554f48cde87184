"""The largest face of a video, read as a video of its own: cut out as `maedfer crop` does, without a file between."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from maedfer._files import read_file
from maedfer._progress import counted
from maedfer.data.video import VideoReader, open_video
from maedfer.data.video.base import look_at, shown
from maedfer.data.video.times import FrameTimes
from maedfer.faces.boxes import check_boxes, read_boxes
from maedfer.faces.crop import crop_square
from maedfer.faces.crop_options import CropOptions
from maedfer.faces.detector import open_detector
from maedfer.faces.find import follow_reader, times_of
from maedfer.faces.follow import Follower
from maedfer.faces.frame import Detector
from maedfer.faces.track import FaceTrack
from maedfer.faces.write_crops import NoFaceError, choose


class FaceReader(VideoReader):
    """Reads the crops of one face: those frames of a video in which it is.

    Args:
        reader: of the video; closed with this one.
        track: where the face is.
        times: of the video's frames.
        options: `size` and `margin` of the crops, and `fps`.

    Attributes:
        boxes: float32 [len(reader), 4], the face in each frame: x, y, width, height in pixels.
    """

    backend = "faces"

    def __init__(self, reader: VideoReader, track: FaceTrack, times: np.ndarray, options: CropOptions) -> None:
        self.path, self.fps = reader.path, reader.fps or options.fps or 0.0
        self.size = options.size, options.size
        self._reader, self._margin = reader, options.margin
        self._places = np.flatnonzero(track.present(times))
        self._shown = times[self._places]
        self.boxes = track.boxes_at(self._shown)

    def __len__(self) -> int:
        return len(self._places)

    @property
    def _frame_times(self) -> FrameTimes:
        following = np.diff(self._shown)
        return FrameTimes(self._shown, float(self._shown[-1] + (following.mean() if len(following) else 0.0)))

    def _read(self, positions: list[int]) -> np.ndarray:
        pictures = self._reader.read(self._places[positions])
        crops = [
            crop_square(picture, self.boxes[position], self.size[0], self._margin)
            for picture, position in zip(pictures, positions, strict=True)
        ]
        return np.stack(crops)

    def close(self) -> None:
        self._reader.close()


@dataclass(frozen=True)
class FaceOpener:
    """Opens videos as the crops of their largest face; can be sent to processes.

    Args:
        options: `size`, `margin`, `threshold`, `every`, `fps`, `detector` and `boxes` are heeded.
        threads: of the processor that a detector keeps busy; 0 = as many as there are.

    Raises:
        InputError: boxes or a detector of one's own cannot be used.
    """

    options: CropOptions
    threads: int = 0

    def __call__(self, path: str | Path) -> VideoReader:
        """Open a video.

        Raises:
            NoFaceError: there is no face in it.
            InputError: it cannot be read.
        """
        options = self.options
        with contextlib.ExitStack() as files:
            reader = files.enter_context(open_video(path))
            times = times_of(reader, options.fps)
            if options.boxes is not None:
                detector: Detector = read_boxes(options.boxes, path, times)
            else:
                detector = _detector(options.detector, options.threshold, self.threads)
            tracks = follow_reader(Follower(detector, every=options.every), reader, times)
            chosen = choose(tracks, times, "largest")
            if not chosen:
                raise NoFaceError(f"{shown(path)}: no face was found in its {counted(len(times), 'frame')}")
            files.pop_all()
            return FaceReader(reader, chosen[0], times, options)

    def about(self) -> dict[str, Any]:
        """What crops depend on; files by their content, wherever they are.

        Raises:
            InputError: boxes or a detector of one's own cannot be used.
        """
        options = self.options
        about: dict[str, Any] = {"size": options.size, "margin": options.margin}
        if options.boxes is not None:
            check_boxes(options.boxes)
            return about | {"boxes": _digest(options.boxes)}
        name = _detector(options.detector, options.threshold, self.threads).name
        own = None if options.detector is None else _digest(options.detector)
        return about | {"detector": own or name, "threshold": options.threshold, "every": options.every}


@lru_cache(maxsize=1)
def _detector(file: str | None, threshold: float, threads: int) -> Detector:
    """The detector of a process, opened once."""
    return open_detector(file, threshold=threshold, threads=threads)


def _digest(file: str) -> str:
    look_at(Path(file))
    return hashlib.sha256(read_file(file)).hexdigest()
