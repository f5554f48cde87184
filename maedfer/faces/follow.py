"""Following faces through a video, frame by frame, in constant memory."""

from __future__ import annotations

from itertools import pairwise

from maedfer.faces.cuts import Signature, differ, find_cuts, signature
from maedfer.faces.frame import Detections, Detector, Frame
from maedfer.faces.record import DetectionRecord
from maedfer.faces.track import FaceTrack, Tracker


class Follower:
    """Finds faces in the frames of a video as they come, and follows them.

    Faces are looked for in every fifth frame. Where those of one such frame are not those of the next, or the scene
    changes between them, the frames between are looked at too, so that the beginnings and ends of tracks are exact to
    the frame. A cut ends every track. A face that is not found for up to `gap` seconds is taken to be there, on the way
    from where it was to where it is found again; one that is away for longer comes back under another number. Faces
    that are there for less than `shortest` seconds are none; in a scene that is shorter than twice that, a face must
    be there for half of it. Where boxes come from elsewhere, every frame is asked for and cuts are those alone
    that come with them (an attribute `cuts` of the detector, numbers of the frames directly after them); where they
    come with numbers of faces, these are the tracks.

    What is followed depends on nothing but the frames, their times and what was found in them: a record of that
    gives the same tracks.

    Args:
        detector: finds faces.
        every: frames from one that is looked at to the next.
        gap, shortest: seconds, see above.
        live: whether tracks must not wait for what is to come: every face is one at once, boxes are filtered instead of
            smoothed, time in which a face is not found is a hole, and frames between are not looked at.
        record: what was found in frames before, and where it is kept of others.
    """

    def __init__(
        self,
        detector: Detector,
        *,
        every: int = 5,
        gap: float = 1.0,
        shortest: float = 0.5,
        live: bool = False,
        record: DetectionRecord | None = None,
    ) -> None:
        if every < 1 or gap < 0 or shortest < 0:
            raise ValueError(f"every is 1 or more, gap and shortest are not negative; got {every}, {gap}, {shortest}")
        self._detector, self._live, self._record = detector, live, record
        self._every = every if detector.needs_pictures else 1
        # Whoever made boxes elsewhere may know of the cuts as well.
        self._known_cuts: frozenset[int] = getattr(detector, "cuts", frozenset())
        self._tracker = Tracker(gap, shortest, live)
        # Frames since the last one that was looked at, which is known by its time and its signature.
        self._waiting: list[Frame] = []
        self._first: int | None = None
        self._last_time: float | None = None
        self._last_signature: Signature | None = None

    @property
    def settled(self) -> float:
        """Seconds: what `tracks` tells of times up to then, inclusive, will not change any more."""
        return self._tracker.settled

    def tracks(self) -> list[FaceTrack]:
        """The faces by number, those alone that are certain to be ones and are not forgotten."""
        return self._tracker.tracks()

    def forget(self, time: float) -> None:
        """Let go of what nobody will ask for who asks for `time` and later ones."""
        self._tracker.forget(time)

    def needs_picture(self, index: int) -> bool:
        """Whether a frame must come with its picture, as what is in it is not on record."""
        if not self._detector.needs_pictures:
            return False
        # The last frame on record that is looked at in any case is compared with those that follow.
        return self._record is None or index + self._every > self._record.last_index

    def push(self, frame: Frame) -> None:
        """Take the next frame of the video; none may be left out."""
        if self._first is None:
            self._first = frame.index
        self._waiting.append(frame)
        if (frame.index - self._first) % self._every == 0:
            self._look()

    def finish(self) -> None:
        """End the tracks: there are no more frames."""
        if self._waiting:
            self._look()
        self._tracker.end(self._last_time or 0.0)
        if self._record is not None:
            self._record.flush()

    def _look(self) -> None:
        """Look at the newest frame, and at those between it and the one before if need be."""
        frames, self._waiting = self._waiting, []
        last = frames[-1]
        known = [None if self._record is None else self._record.get(frame.index) for frame in frames]
        # Of boxes from elsewhere some frames may come with pictures, whichever others need, and some without.
        mark = signature(last.picture) if last.picture is not None and self._detector.needs_pictures else None
        if known[-1] is not None:
            chosen = [(frame, *entry) for frame, entry in zip(frames, known, strict=True) if entry is not None]
        else:
            chosen = self._find(frames, known, mark)
            if self._record is not None:
                for frame, found, cut in chosen:
                    if frame.index > self._record.last_index:
                        self._record.add(frame, found, cut)
        times = {after.index: before.time for before, after in pairwise(frames)}
        for frame, found, cut in chosen:
            if cut and self._last_time is not None:
                self._tracker.cut(times.get(frame.index, self._last_time), frame.time)
            self._tracker.step(frame.time, found)
        self._last_time, self._last_signature = last.time, mark

    def _find(
        self, frames: list[Frame], known: list[tuple[Detections, bool] | None], mark: Signature | None
    ) -> list[tuple[Frame, Detections, bool]]:
        """The frames that are looked at, the newest one last, with what is found in them, and what follows a cut."""
        last, between = frames[-1], frames[:-1]
        cuts = self._cuts(frames, mark)
        found = self._detect(last)
        if self._live or not between or not (cuts or self._tracker.changes(last.time, found)):
            return [(last, found, bool(cuts))]
        entries = zip(between, known, strict=False)
        inner = [(frame, self._detect(frame) if entry is None else entry[0]) for frame, entry in entries]
        return [(frame, faces, place in cuts) for place, (frame, faces) in enumerate([*inner, (last, found)])]

    def _cuts(self, frames: list[Frame], mark: Signature | None) -> set[int]:
        """Positions of the frames directly before which the scene changes."""
        known = {place for place, frame in enumerate(frames) if frame.index in self._known_cuts}
        before = self._last_signature
        if before is None or mark is None or not differ(before, mark):
            return known
        between = [signature(frame.picture) for frame in frames[:-1] if frame.picture is not None]
        return (
            {place - 1 for place in find_cuts([before, *between, mark])} if len(between) == len(frames) - 1 else set()
        )

    def _detect(self, frame: Frame) -> Detections:
        if frame.picture is None and self._detector.needs_pictures:
            raise ValueError(f"frame {frame.index} came without its picture, and what is in it is not on record")
        # One by one, so that nothing depends on which frames were looked at together.
        return self._detector.detect([frame])[0]
