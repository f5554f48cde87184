"""The faces of one video, each in a file of its own: an mp4, or a folder of jpg files."""

from __future__ import annotations

import abc
import contextlib
import csv
import io
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from maedfer._files import atomic_folder, atomic_path
from maedfer._progress import counted
from maedfer.data.video import VideoReader, open_video
from maedfer.data.video.base import shown
from maedfer.errors import InputError, require
from maedfer.faces.boxes import read_boxes
from maedfer.faces.crop import crop_square
from maedfer.faces.crop_options import CropOptions
from maedfer.faces.find import follow_reader, read_frames, times_of
from maedfer.faces.follow import Follower
from maedfer.faces.frame import Detector
from maedfer.faces.track import FaceTrack

# Ticks of a second in mp4 files: the usual rates are whole numbers of them.
_TICKS = 90_000
# The part of the work that finding is; the rest is cutting out.
_FINDING = 0.75
# Times whose boxes are computed at once.
_AT_ONCE = 4096


class NoFaceError(InputError):
    """A video in which nobody is, or nobody for long enough."""


@dataclass(frozen=True)
class CroppedFace:
    """One face of a video, and the file that its crops are in.

    Args:
        face: its number in the video.
        file: relative to the folder of results.
        start, end: seconds since the video's start: when its first frame is shown, and until when its last one is.
        frames: how many there are.
        video_frames: how many the video has.
        width, height: of the video's frames in pixels.
        box: x, y, width, height in pixels, mean over the frames.
        detection: mean score of the detector.
    """

    face: int
    file: str
    start: float
    end: float
    frames: int
    video_frames: int
    width: int
    height: int
    box: tuple[float, float, float, float]
    detection: float


def crop_video(
    path: str | Path,
    name: str,
    out: str | Path,
    options: CropOptions | None = None,
    *,
    detector: Detector | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> list[CroppedFace]:
    """Write the faces of a video.

    A face's crops are those of the frames in which it is there, with the times at which these are shown, counted from
    the first of them. The video is read twice: who is the largest face is known at its end. Files are there when all of
    them are whole.

    Args:
        path: video file or folder of frames.
        name: of the files, without a suffix; may be in folders, which are made.
        out: folder of results.
        options: see there.
        detector: finds faces; not needed where `options.boxes` are given.
        progress: takes the share that is done.

    Returns:
        The faces that were written, by number.

    Raises:
        NoFaceError: there is no face.
        InputError: the video cannot be read, or the files cannot be written.
    """
    options, out = options or CropOptions(), Path(out)
    with open_video(path) as reader:
        times = times_of(reader, options.fps)
        if options.boxes is not None:
            detector = read_boxes(options.boxes, path, times)
        if detector is None:
            raise ValueError("neither a detector nor boxes are given")
        tracks = follow_reader(
            Follower(detector, every=options.every),
            reader,
            times,
            lambda done, frames: progress(_FINDING * done / frames),
        )
        chosen = choose(tracks, times, options.faces)
        if not chosen:
            raise NoFaceError(f"{shown(path)}: no face was found in its {counted(len(times), 'frame')}")
        ends = np.append(times[1:], _end(reader, times, options.fps))
        with contextlib.ExitStack() as files:
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            crops = [_Crop(track, times, ends, _file_name(name, track, options)) for track in chosen]
            for crop in crops:
                crop.open(files, out, options)
            wanted = np.zeros(len(times), bool)
            for crop in crops:
                wanted[crop.places] = True
            upcoming = deque(sorted(crops, key=lambda crop: int(crop.places[0])))
            there: list[_Crop] = []
            for frame in read_frames(reader, times, lambda index: bool(wanted[index])):
                while upcoming and upcoming[0].places[0] <= frame.index:
                    there.append(upcoming.popleft())
                if frame.picture is not None:
                    there = [crop for crop in there if crop.add(frame.index, frame.picture)]
                progress(_FINDING + (1 - _FINDING) * (frame.index + 1) / len(times))
            if options.save_boxes:
                text = _boxes_text(crops, times)
                files.enter_context(atomic_path(out / f"{name}.boxes.csv")).write_text(text, encoding="ascii")
        return [crop.told(reader.size) for crop in crops]


def choose(tracks: Sequence[FaceTrack], times: np.ndarray, faces: str | int) -> list[FaceTrack]:
    """Choose faces by the area of their boxes, summed over the frames.

    Args:
        tracks: of all faces.
        times: of the video's frames.
        faces: "all", "largest", or how many of the largest ones.

    Returns:
        The faces by number.
    """
    if faces == "all":
        return list(tracks)
    count = 1 if faces == "largest" else int(faces)
    largest = sorted(tracks, key=lambda track: (-_area(track, times), track.face))[:count]
    return sorted(largest, key=lambda track: track.face)


def _area(track: FaceTrack, times: np.ndarray) -> float:
    return sum(float(boxes[:, 2:].astype(np.float64).prod(1).sum()) for _, boxes in _boxes(track, times))


def _boxes(track: FaceTrack, times: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Positions of the frames in which a face is, and its boxes in them, some at a time."""
    places = np.flatnonzero(track.present(times))
    for start in range(0, len(places), _AT_ONCE):
        some = places[start : start + _AT_ONCE]
        yield some, track.boxes_at(times[some])


def _end(reader: VideoReader, times: np.ndarray, fps: float | None) -> float:
    """Until when the last frame is shown."""
    try:
        return reader.end_time
    except InputError:
        if fps is None:
            raise
        return float(times[-1]) + 1 / fps


def _file_name(name: str, track: FaceTrack, options: CropOptions) -> str:
    # Where there is one crop a video it has the video's name, so that lists stay what they are.
    face = "" if options.faces == "largest" else f"_face{track.face}"
    return name + face + (".mp4" if options.format == "mp4" else "")


class _Crop:
    """The crops of one face, on their way to a file."""

    def __init__(self, track: FaceTrack, times: np.ndarray, ends: np.ndarray, file: str) -> None:
        parts = list(_boxes(track, times))
        self.track, self.file = track, file
        self.places = np.concatenate([places for places, _ in parts])
        self.boxes = np.concatenate([boxes for _, boxes in parts])
        self.scores = track.scores_at(times[self.places])
        self.start, self.end = float(times[self.places[0]]), float(ends[self.places[-1]])
        self._times, self._ends = times, ends
        self._next = 0

    def open(self, files: contextlib.ExitStack, out: Path, options: CropOptions) -> None:
        """Choose where they go; the file is put into its place when `files` are closed."""
        self._margin, self._size = options.margin, options.size
        path = out / self.file
        if options.format == "mp4":
            temporary = files.enter_context(atomic_path(path))
            rate = Fraction(len(self.places) / max(self.end - self.start, 1e-3)).limit_denominator(1001)
            self._writer: _CropWriter = _VideoWriter(temporary, options.size, rate, options.written_quality)
        else:
            self._writer = _FolderWriter(files.enter_context(atomic_folder(path)), options.written_quality)

    def add(self, place: int, picture: np.ndarray) -> bool:
        """Cut the face out of the frame at `place`, if it is there; gives whether it is in later ones."""
        if self.places[self._next] == place:
            crop = crop_square(picture, self.boxes[self._next], self._size, self._margin)
            start, end = float(self._times[place]), float(self._ends[place])
            self._writer.add(crop, start - self.start, end - start)
            self._next += 1
        if self._next < len(self.places):
            return True
        self._writer.close()
        return False

    def told(self, size: tuple[int, int]) -> CroppedFace:
        x, y, width, height = self.boxes.mean(0, dtype=np.float64).tolist()
        return CroppedFace(
            face=self.track.face,
            file=self.file,
            start=self.start,
            end=self.end,
            frames=len(self.places),
            video_frames=len(self._times),
            width=size[1],
            height=size[0],
            box=(x, y, width, height),
            detection=float(self.scores.mean(dtype=np.float64)),
        )


class _CropWriter(abc.ABC):
    """Takes crops in their order."""

    @abc.abstractmethod
    def add(self, picture: np.ndarray, time: float, duration: float) -> None:
        """Take the next one, shown at `time` for `duration` seconds."""

    @abc.abstractmethod
    def close(self) -> None:
        """Complete the file."""


class _VideoWriter(_CropWriter):
    """Writes h264; the same crops give the same bytes."""

    def __init__(self, path: Path, size: int, rate: Fraction, crf: int) -> None:
        self._path, self._size, self._rate, self._crf = path, size, rate, crf
        self._container: Any = None
        self._stream: Any = None
        self._last = -1
        self._durations: dict[int, int] = {}

    def add(self, picture: np.ndarray, time: float, duration: float) -> None:
        av = require("av", "video")
        if self._container is None:
            # Opened by its first picture, so that no more encoders are at work than faces are there at once.
            self._container = av.open(str(self._path), "w", format="mp4")
            self._stream = self._container.add_stream("libx264", rate=self._rate, options=self._options())
            self._stream.height = self._stream.width = self._size
            self._stream.pix_fmt = "yuv420p"
            self._stream.time_base = self._stream.codec_context.time_base = Fraction(1, _TICKS)
            self._stream.codec_context.thread_count = 1
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        self._last = frame.pts = max(self._last + 1, round(time * _TICKS))
        frame.time_base = Fraction(1, _TICKS)
        self._durations[frame.pts] = max(1, round(duration * _TICKS))
        self._mux(self._stream.encode(frame))

    def close(self) -> None:
        self._mux(self._stream.encode())
        self._container.close()

    def _options(self) -> dict[str, str]:
        # One thread, and no macroblock tree: x264's output depends on both, and with the tree even on the run. Frames
        # in the order in which they are shown: mp4 tells how long each is shown in the order of decoding.
        own = "scenecut=0:open-gop=0:threads=1:lookahead-threads=1:mbtree=0:bframes=0"
        return {"crf": str(self._crf), "preset": "veryfast", "x264-params": f"keyint=24:min-keyint=24:{own}"}

    def _mux(self, packets: Sequence[Any]) -> None:
        for packet in packets:
            packet.duration = self._durations.pop(packet.pts, packet.duration)
            self._container.mux(packet)


class _FolderWriter(_CropWriter):
    """Writes 00001.jpg, 00002.jpg, ..."""

    def __init__(self, folder: Path, quality: int) -> None:
        self._folder, self._quality = folder, quality
        self._image = require("PIL.Image", "video")
        self._count = 0

    def add(self, picture: np.ndarray, time: float, duration: float) -> None:
        self._count += 1
        file = self._folder / f"{self._count:05d}.jpg"
        self._image.fromarray(picture).save(file, "JPEG", quality=self._quality)

    def close(self) -> None:
        pass


def _boxes_text(crops: Sequence[_Crop], times: np.ndarray) -> str:
    """Boxes by frame and face, as `read_boxes` reads them."""
    rows = [
        (int(place), crop.track.face, box, score)
        for crop in crops
        for place, box, score in zip(crop.places, crop.boxes.tolist(), crop.scores.tolist(), strict=True)
    ]
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["frame", "time", "face", "x", "y", "width", "height", "score"])
    for place, face, box, score in sorted(rows, key=lambda row: row[:2]):
        writer.writerow([place, f"{times[place]:.6f}", face, *(f"{value:.9g}" for value in (*box, score))])
    return table.getvalue()
