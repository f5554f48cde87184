"""Annotated videos: the video with boxes, names and bars, its own sound, and every frame at its own time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from maedfer._files import atomic_path
from maedfer.data.video import open_video
from maedfer.data.video.base import in_a_sentence, shown
from maedfer.errors import InputError, require
from maedfer.faces.boxes import read_boxes
from maedfer.faces.find import read_frames, times_of
from maedfer.faces.follow import Follower
from maedfer.faces.frame import Detections, Frame
from maedfer.faces.record import DetectionRecord
from maedfer.prediction.courses import Course, video_course
from maedfer.prediction.options import PredictionOptions
from maedfer.prediction.overlay import Box, FaceNow, Overlay
from maedfer.prediction.rows import Row
from maedfer.prediction.sound import SoundCopy
from maedfer.prediction.windows import EPSILON

# Ticks of a second in the file that is written: times are kept to 6 microseconds.
_TICKS = 90000
# Pictures whose shorter side has fewer pixels are enlarged, so that there is room for letters; none above the second.
_SMALL, _LARGE = 240, 1600
_LEAST = 16


def annotate_video(
    rows: Sequence[Row],
    classes: Sequence[str],
    video: str | Path,
    path: str | Path,
    *,
    options: PredictionOptions | None = None,
    record: str | Path | None = None,
    progress: Callable[[float], None] | None = None,
) -> None:
    """Write a video in which it can be seen what was found: an h264 mp4 of any length, in memory that does not grow.

    Every frame keeps its presentation time, the sound is that of the video, and pictures are upright. Probabilities
    are those of a face's windows, each at its middle, and between two middles in between.

    Args:
        rows: of the video.
        classes: names of the classes.
        video: the file, or the folder of frames.
        path: to write, .mp4.
        options: with which rows were made.
        record: what was found in the video's frames, as a run writes it (NAME.boxes.csv), so that every box is where
            the face was cut out. None = the boxes of the rows, which are means over their windows.
        progress: is told the share that is done.

    Raises:
        InputError: the video cannot be read, has no times, or is too narrow; or `path` cannot be written.
    """
    path, options = Path(path), options or PredictionOptions()
    if path.suffix.lower() != ".mp4":
        raise InputError(f"{shown(path)}: an annotated video is an mp4: give it a name that ends in .mp4")
    if path.exists() and os.path.exists(video) and os.path.samefile(path, video):
        raise InputError(f"{shown(path)}: is the video itself, which would be overwritten: give another name")
    with contextlib.ExitStack() as opened:
        reader = opened.enter_context(open_video(video))
        times = times_of(reader, options.fps)
        faces = _Faces(rows, box_source(rows, video, times, options, record, opened))
        scale = _scale(reader.size, video)
        height, width = (side * scale for side in reader.size)
        overlay = Overlay(classes, (height, width), faces.usual(len(classes)))
        with atomic_path(path) as part, in_a_sentence(path, "cannot be written"):
            with VideoWriter(part, (height, width), times, Path(video)) as writer:
                for frame in read_frames(reader, times):
                    assert frame.picture is not None
                    picture = frame.picture if scale == 1 else frame.picture.repeat(scale, 0).repeat(scale, 1)
                    writer.write(overlay.draw(picture, faces.at(frame.index, frame.time, scale)), frame.index)
                    if progress is not None:
                        progress((frame.index + 1) / len(times))


class BoxSource(Protocol):
    """Knows where faces are in the frames of a video."""

    def at(self, index: int, time: float) -> dict[int, Box | None]:
        """Who is in a frame, and where; asked for rising frames."""
        ...


class _Faces:
    """Who is in a frame, where, and what the face shows.

    Args:
        rows: of the video.
        boxes: says where faces are.
    """

    def __init__(self, rows: Sequence[Row], boxes: BoxSource) -> None:
        self._boxes = boxes
        self._courses = {course.face: _Chances(course) for course in video_course(rows).courses}

    def usual(self, classes: int) -> np.ndarray:
        """Mean probabilities over all windows, float64 [classes]."""
        total = sum((course.values.sum(0) for course in self._courses.values()), np.zeros(classes))
        return total / max(1, sum(len(course.values) for course in self._courses.values()))

    def at(self, index: int, time: float, scale: int) -> list[FaceNow]:
        """The faces of a frame by number; boxes in pixels of a picture enlarged by `scale`."""
        found = []
        for face, box in sorted(self._boxes.at(index, time).items()):
            course = self._courses.get(face)
            large = None if box is None else (box[0] * scale, box[1] * scale, box[2] * scale, box[3] * scale)
            found.append(FaceNow(face, large, None if course is None else course.at(time)))
        return found


class _Chances:
    """The probabilities of a face at any moment of its stretches, and of its windows beyond them."""

    def __init__(self, course: Course) -> None:
        windows = [row.window for row in course.rows]
        self._stretches = course.stretches
        self._times = np.array([window.time for window in windows])
        self._spans = [(window.start, window.end) for window in windows]
        self.values = np.array([row.probabilities for row in course.rows])

    def at(self, time: float) -> np.ndarray | None:
        for stretch in self._stretches:
            if stretch.start <= time <= stretch.end:
                values = stretch.probabilities.T
                return np.array([np.interp(time, stretch.times, value) for value in values])
        nearest = int(np.abs(self._times - time).argmin())
        start, end = self._spans[nearest]
        return self.values[nearest] if start <= time <= end else None


def box_source(
    rows: Sequence[Row],
    video: str | Path,
    times: np.ndarray,
    options: PredictionOptions,
    record: str | Path | None,
    opened: contextlib.ExitStack,
) -> BoxSource:
    """Who is in a frame of a video and where, as it was when its rows were made.

    Args:
        rows, video, options, record: as of `annotate_video`.
        times: float64 [frames], of the video.
        opened: closes what is opened.

    Raises:
        InputError: a file of boxes or a record cannot be read, or is of another video.
    """
    if not options.crop:
        return _WholeFrames(rows)
    if options.boxes is not None:
        low, high = options.between or (-np.inf, np.inf)
        looked_at = np.flatnonzero((times >= low - EPSILON) & (times <= high + EPSILON))
        follower = Follower(read_boxes(options.boxes, video, times))
        return _Followed(rows, follower, times, range(int(looked_at[0]), int(looked_at[-1]) + 1))
    if record is not None:
        known = opened.enter_context(DetectionRecord(record, ended=True))
        if known.last_index >= len(times):
            raise InputError(
                f"{shown(record)}: speaks of frame {known.last_index}, and {shown(video)} has {len(times)}"
            )
        follower = Follower(_OnRecord(), every=options.every, record=known)
        return _Followed(rows, follower, times, range(max(0, known.first_index), known.last_index + 1), Path(record))
    return _RowBoxes(rows)


class _WholeFrames:
    """Frames that are crops of a face already."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._face = next((row.window.face for row in rows if row.window.face is not None), None)

    def at(self, index: int, time: float) -> dict[int, Box | None]:
        return {} if self._face is None else {self._face: None}


class _RowBoxes:
    """Boxes of windows, each at its middle, and between two middles in between."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._pieces = []
        for course in video_course(rows).courses:
            boxes = {row.window.time: row.window.box for row in course.rows}
            for piece in course.stretches:
                if all(boxes[time] is not None for time in piece.times.tolist()):
                    corners = np.array([boxes[time] for time in piece.times.tolist()], np.float64)
                    self._pieces.append((course.face, piece, corners))

    def at(self, index: int, time: float) -> dict[int, Box | None]:
        found: dict[int, Box | None] = {}
        for face, piece, corners in self._pieces:
            if piece.start <= time <= piece.end:
                x, y, width, height = (float(np.interp(time, piece.times, corners[:, at])) for at in range(4))
                found[face] = (x, y, width, height)
        return found


class _OnRecord:
    """In place of a detector, where all that it found is on record."""

    name, note, needs_pictures = "record", "", True

    def detect(self, frames: Sequence[Frame]) -> list[Detections]:
        raise ValueError(f"frame {frames[0].index} is not on record")


class _Followed:
    """Faces that are followed once more, by what was found in frames; runs as far ahead as it must.

    Args:
        rows: of the video; only their faces count.
        follower: knows what is in each frame without a picture.
        times: float64 [frames] of the video.
        looked_at: frames that were.
        record: what they were read from, for errors.
    """

    def __init__(
        self, rows: Sequence[Row], follower: Follower, times: np.ndarray, looked_at: range, record: Path | None = None
    ) -> None:
        self._known = {row.window.face for row in rows}
        self._follower, self._times, self._record = follower, times, record
        self._looked_at, self._next = looked_at, looked_at.start

    def at(self, index: int, time: float) -> dict[int, Box | None]:
        if index not in self._looked_at:
            return {}
        while self._next < self._looked_at.stop and self._follower.settled < time:
            self._go_on()
        moment = np.array([time])
        found: dict[int, Box | None] = {}
        for track in self._follower.tracks():
            if track.face in self._known and track.present(moment)[0]:
                x, y, width, height = track.boxes_at(moment)[0].tolist()
                found[track.face] = (x, y, width, height)
        self._follower.forget(time)
        return found

    def _go_on(self) -> None:
        try:
            self._follower.push(Frame(self._next, float(self._times[self._next]), None))
            self._next += 1
            if self._next == self._looked_at.stop:
                self._follower.finish()
        except ValueError as error:
            if self._record is None or isinstance(error, InputError):
                raise
            raise InputError(
                f"{shown(self._record)}: is not of this video with these options ({error}): give it with those that it "
                "was made with"
            ) from error


class VideoWriter:
    """Encodes pictures at their times, with the sound of the video.

    Args:
        path: to write.
        size: height and width of the pictures.
        times: float64 [frames], seconds since the video's start.
        video: whose sound is taken over; None = there is none.
    """

    def __init__(self, path: Path, size: tuple[int, int], times: np.ndarray, video: Path | None = None) -> None:
        self._av = require("av", "video")
        self._ticks = np.round(times * _TICKS).astype(np.int64)
        # Frames that are shown at once are shown one after the other.
        self._ticks = np.maximum.accumulate(self._ticks - np.arange(len(times))) + np.arange(len(times))
        self._odd = size[0] % 2, size[1] % 2
        # The index first, so that a player need not have the whole file.
        self._file = self._av.open(
            str(path), "w", format="mp4", options={"movflags": "+faststart", "movie_timescale": str(_TICKS)}
        )
        try:
            span = float(times[-1] - times[0])
            rate = Fraction((len(times) - 1) / span if span > 0 else 25.0).limit_denominator(1001)
            options = {"crf": "20", "preset": "veryfast", "x264-params": "mbtree=0"}
            self._stream: Any = self._file.add_stream("libx264", rate=max(Fraction(1), rate), options=options)
            self._stream.height, self._stream.width = size[0] + self._odd[0], size[1] + self._odd[1]
            self._stream.pix_fmt = "yuv420p"
            self._stream.codec_context.time_base = Fraction(1, _TICKS)
            self._sound = None if video is None else SoundCopy(video, self._file)
        except BaseException:
            self._file.close()
            raise

    def write(self, picture: np.ndarray, index: int) -> None:
        """Write a frame, uint8 [H, W, 3], by its position in the video."""
        if any(self._odd):
            # Colours are stored for blocks of two by two.
            picture = np.pad(picture, ((0, self._odd[0]), (0, self._odd[1]), (0, 0)), mode="edge")
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame.pts, frame.time_base = int(self._ticks[index]), Fraction(1, _TICKS)
        if self._sound is not None:
            self._sound.copy(frame.pts / _TICKS)
        self._file.mux(self._stream.encode(frame))

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with contextlib.nullcontext() if self._sound is None else contextlib.closing(self._sound):
            try:
                if kind is None:
                    self._file.mux(self._stream.encode())
                    if self._sound is not None:
                        self._sound.copy(np.inf)
            finally:
                self._file.close()


def check_size(size: tuple[int, int], video: str | Path) -> None:
    """Refuse a video whose pictures are too small to be annotated.

    Args:
        size: height and width.
        video: whose they are.

    Raises:
        InputError: they are.
    """
    if min(size) < _LEAST:
        raise InputError(
            f"{shown(video)}: its frames have {size[1]} x {size[0]} pixels; of less than {_LEAST} in a direction no "
            "annotated video can be made: leave --annotate out"
        )


def _scale(size: tuple[int, int], video: str | Path) -> int:
    check_size(size, video)
    return max(1, min(-(-_SMALL // min(size)), _LARGE // max(size)))
