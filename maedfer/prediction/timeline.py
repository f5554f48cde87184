"""From frames to the windows of a video, one for each face in each stretch of time, in memory that does not grow.

A picture is kept until it is known who is in it, which takes about two seconds of a file and no time of a stream. Then
every face that a window needs is cut out of it at the size of the model, and the picture is let go.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from maedfer.faces.follow import Follower
from maedfer.faces.frame import Frame
from maedfer.faces.track import FaceTrack
from maedfer.prediction.clips import Cutter, Found, IsScored, chosen, nobody, nothing_scored, whole_frame
from maedfer.prediction.options import PredictionOptions
from maedfer.prediction.rows import Span, Window
from maedfer.prediction.sources import FileSource
from maedfer.prediction.whole import whole_windows
from maedfer.prediction.windows import EPSILON, Grid, ModelInput, OpenWindow, shown_frames, window_count, window_seconds

# Bytes of pictures that are kept until it is known who is in them; more of a file are read again.
_MOST_HELD = 1 << 28


def windows_of(
    source: FileSource,
    follower: Follower | None,
    model: ModelInput,
    options: PredictionOptions,
    scored: IsScored = nothing_scored,
    progress: Callable[[float], None] | None = None,
) -> Iterator[Window]:
    """The windows of a video, by time and then by number of the face.

    Args:
        source: the video.
        follower: finds the faces; None where frames are face crops already.
        model: what clips it takes.
        options: of the prediction.
        scored: for which windows no clip is needed, as their rows are there; these come without, and cost little.
        progress: is told the time up to which the video has been looked at, in seconds since its start.

    Raises:
        InputError: the video cannot be read to its end.
    """
    if options.whole:
        yield from whole_windows(source, follower, model, options, scored, progress)
        return
    timeline = Timeline(
        follower,
        model,
        options,
        scored,
        duration=source.end_time - source.first_time,
        until=source.shown_until,
        size=source.size,
        read=lambda index: source.read([index])[0],
    )
    for frame in source.frames(_wanted(source, follower, model, options, scored)):
        yield from timeline.push(frame)
        if progress is not None:
            progress(frame.time)
    yield from timeline.finish()


class Timeline:
    """Finds windows in frames as they come. See `windows_of`.

    Args:
        follower, model, options, scored: as there.
        duration: seconds from the first frame to the end of the last one, where that is known.
        until: when the last frame has been shown, where that is known.
        size: height and width of frames, where that is known.
        read: gives the picture of an earlier frame again, by its number; None where there is no way back.
    """

    def __init__(
        self,
        follower: Follower | None,
        model: ModelInput,
        options: PredictionOptions,
        scored: IsScored = nothing_scored,
        *,
        duration: float | None = None,
        until: float | None = None,
        size: tuple[int, int] | None = None,
        read: Callable[[int], np.ndarray] | None = None,
    ) -> None:
        self.follower, self.model, self.options, self.scored = follower, model, options, scored
        self.seconds = options.window or window_seconds(model.frames, model.stride)
        self.grid = Grid(self.seconds, options.hop, model.frames, duration)
        self._duration, self._until, self._size, self._read = duration, until, size, read
        self._cutter = Cutter(model, options)
        self._last: Frame | None = None
        # Frames that windows show and that nobody has been cut out of yet; and their times until the windows are done.
        self._pictures: deque[Frame] = deque()
        self._held = 0
        self._times: dict[int, float] = {}
        # Windows that wait for certainty of who is in them, and crops by frame and face.
        self._closed: deque[OpenWindow] = deque()
        self._crops: dict[int, dict[int, np.ndarray]] = {}

    def push(self, frame: Frame) -> list[Window]:
        """Take the next frame; gives the windows of which all is known now."""
        if self._size is None and frame.picture is not None:
            self._size = frame.picture.shape[0], frame.picture.shape[1]
        self._keep(self.grid.push(frame.index, frame.time))
        self._last = frame
        if self.follower is not None:
            self.follower.push(frame)
        return self._advance(np.inf if self.follower is None else self.follower.settled)

    def finish(self) -> list[Window]:
        """There are no more frames; gives the windows that are left."""
        self._keep(self.grid.finish(self._until))
        self._last = None
        if self.follower is not None:
            self.follower.finish()
        return self._advance(np.inf)

    def _keep(self, index: int | None) -> None:
        """Hold on to the last frame, if that is shown by a window."""
        frame = self._last
        if index is None or frame is None:
            return
        self._times[index] = frame.time
        picture = frame.picture
        # Of another face there may be no row yet: the picture is read again when that turns out.
        unneeded = all(self.scored(window.number, None) for window in self._showing(index))
        if picture is not None:
            too_many = self._read is not None and self._held + picture.nbytes > _MOST_HELD
            # It may be a part of several that were read at once, which it would keep.
            picture = None if unneeded or too_many else picture if picture.base is None else picture.copy()
            self._held += 0 if picture is None else picture.nbytes
        self._pictures.append(Frame(index, frame.time, picture))

    def _advance(self, settled: float) -> list[Window]:
        self._closed.extend(self.grid.closed())
        found: list[Window] = []
        if not any(time <= settled for time in self._next()):
            return found
        tracks = [] if self.follower is None else self.follower.tracks()
        while self._pictures and self._pictures[0].time <= settled:
            self._cut(self._pictures.popleft(), tracks)
        while self._closed and self._end_of(self._closed[0]) <= settled:
            found += self._windows(self._closed.popleft(), tracks)
        self._forget()
        return found

    def _next(self) -> Iterator[float]:
        """Up to when it must be known who is there for something to be done."""
        if self._pictures:
            yield self._pictures[0].time
        if self._closed:
            yield self._end_of(self._closed[0])

    def _end_of(self, window: OpenWindow) -> float:
        return self._times[int(window.indices[-1])]

    def _cut(self, frame: Frame, tracks: Sequence[FaceTrack]) -> None:
        """Cut everybody out of a frame for whom a window needs it."""
        if frame.picture is not None:
            self._held -= frame.picture.nbytes
        windows = self._showing(frame.index)
        if self.follower is None:
            faces: list[tuple[int, np.ndarray | None]] = [(1, None)]
        else:
            time = np.array([frame.time])
            faces = [(track.face, track.boxes_at(time)[0]) for track in tracks if track.present(time)[0]]
        crops = {}
        picture = frame.picture
        for face, box in faces:
            if all(self.scored(window.number, face) for window in windows):
                continue
            if picture is None:
                if self._read is None:
                    raise ValueError(f"frame {frame.index} is needed and came without its picture")
                picture = self._read(frame.index)
            crops[face] = self._cutter(picture, box)
        self._crops[frame.index] = crops

    def _windows(self, window: OpenWindow, tracks: Sequence[FaceTrack]) -> list[Window]:
        """The windows of all faces that are there for long enough, or the one of nobody."""
        end = np.inf if self.end is None else self.end
        there = window.samples < end - EPSILON
        # The first sample is a frame, whatever rounding has made of times.
        there[0] = True
        times = np.array([self._times[index] for index in window.indices.tolist()])
        assert window.until is not None
        span = Span(float(times[0]), window.until, float(times[int(there.sum()) // 2]))
        found = []
        for face, present, boxes, scores in self._faces(times, there, tracks):
            count = int(present.sum())
            if count < max(1.0, self.options.coverage * there.sum() - EPSILON):
                continue
            clip = None
            if not self.scored(window.number, face):
                places = np.flatnonzero(present)
                nearest = places[np.abs(places[None] - np.arange(len(present))[:, None]).argmin(1)]
                clip = np.stack([self._crops[index][face] for index in window.indices[nearest].tolist()])[None]
            found.append(Found(face, boxes[present], None if scores is None else scores[present], count, clip))
        return [
            one.window(window.number, span, "ok" if one.frames == len(times) else "partial")
            for one in chosen(found, self.options.faces)
        ] or [nobody(window.number, span)]

    def _faces(
        self, times: np.ndarray, there: np.ndarray, tracks: Sequence[FaceTrack]
    ) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray | None]]:
        """Number, presence [T], boxes [T, 4] and scores [T] of everybody at some times."""
        if self.follower is None:
            assert self._size is not None
            yield 1, there, np.tile(whole_frame(self._size), (len(times), 1)), None
            return
        for track in tracks:
            present = track.present(times) & there
            if present.any():
                yield track.face, present, track.boxes_at(times).astype(np.float64), track.scores_at(times)

    @property
    def end(self) -> float | None:
        """When the video ends; None where that is not known yet."""
        if self._duration is not None and self.grid.first is not None:
            return self.grid.first + self._duration
        return self.grid.end

    def _showing(self, index: int) -> list[OpenWindow]:
        """The windows that show a frame."""
        return [window for window in (*self._closed, *self.grid.open) if index in window.indices]

    def _forget(self) -> None:
        """Let go of what no window will ask for."""
        oldest = [int(self._closed[0].indices[0])] if self._closed else []
        if self.grid.oldest is not None:
            oldest.append(self.grid.oldest)
        first = min(oldest, default=None)
        for index in list(self._times):
            if first is not None and index >= first:
                break
            del self._times[index]
            self._crops.pop(index, None)
        if self.follower is not None and self._last is not None:
            self.follower.forget(self._times[first] if first is not None else self._last.time)


def _wanted(
    source: FileSource, follower: Follower | None, model: ModelInput, options: PredictionOptions, scored: IsScored
) -> Callable[[int], bool]:
    """Which frames of a file must come with their pictures."""
    window = options.window or window_seconds(model.frames, model.stride)
    count = window_count(source.end_time - source.first_time, window, options.hop)
    skip = next((k for k in range(count) if not scored(k, None)), count)
    shown = shown_frames(source.times, window, options.hop, model.frames, skip, count)

    def wanted(index: int) -> bool:
        return bool(shown[index - source.first]) or (follower is not None and follower.needs_picture(index))

    return wanted
