"""Which of the faces in one frame is which of those in the next: tracks of faces, and the tracker that makes them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from maedfer.errors import require
from maedfer.faces.frame import Detections
from maedfer.faces.smooth import REACH, OneEuro, gaussian

# Boxes that share less are of two faces.
_LEAST_OVERLAP = 0.1
# Seconds over which a speed is measured, and for how long it is believed to last.
_MEASURED, _LASTS = 0.1, 0.3
# Seconds that rounding cannot reach.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class FaceTrack:
    """One face, followed through a video.

    Args:
        face: its number: from 1 in the order in which faces appear (from left to right where they appear together), or
            who it is where whoever made the boxes says so.
        start: seconds; it is there from then on.
        times: float64 [k], seconds at which it was looked for and found, rising.
        boxes: float32 [k, 4], as they were found then; in live tracks filtered.
        scores: float32 [k], the detector's.
        stretches: float64 [k], when the stretch began in which it was found without a hole of more than the gap.
        smoothed: whether `boxes_at` smooths; not in live tracks, whose boxes are already.
    """

    face: int
    start: float
    times: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    stretches: np.ndarray
    smoothed: bool = True

    @property
    def end(self) -> float:
        """When it was found last, in seconds; it is there at that time."""
        return float(self.times[-1])

    def present(self, times: np.ndarray) -> np.ndarray:
        """Whether the face is there: bool [n] for times [n] in seconds."""
        times = np.asarray(times, np.float64)
        before = np.searchsorted(self.times, times, "right") - 1
        last, after = before.clip(min=0), (before + 1).clip(max=len(self.times) - 1)
        inside = (self.stretches[last] == self.stretches[after]) & (before + 1 < len(self.times))
        return (before >= 0) & (inside | (self.times[last] == times))

    def boxes_at(self, times: np.ndarray) -> np.ndarray:
        """Where the face is: float32 [n, 4] for times [n] in seconds.

        Linear between the times at which it was found, smoothed by a Gaussian of 0.15 seconds that looks as far forth
        as back and shrinks towards the ends of a stretch. Where the face is not there, it is the nearest box.
        """
        times, starts, ends = self._nearest(times)
        if not self.smoothed:
            starts = ends = times
        return gaussian(times, self.times, self.boxes, starts, ends).astype(np.float32)

    def scores_at(self, times: np.ndarray) -> np.ndarray:
        """The detector's score: float32 [n] for times [n] in seconds, linear between those at which it was found."""
        times, _, _ = self._nearest(times)
        return np.interp(times, self.times, self.scores).astype(np.float32)

    def _nearest(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The times, those at which the face is not there moved to where it is; start and end of their stretches."""
        times = np.asarray(times, np.float64)
        last = (np.searchsorted(self.times, times, "right") - 1).clip(min=0)
        after = (last + 1).clip(max=len(self.times) - 1)
        left, right = self.times[last], self.times[after]
        times = np.where(self.present(times), times, np.where(times - left <= right - times, left, right))
        starts = self.stretches[(np.searchsorted(self.times, times, "right") - 1).clip(min=0)]
        return times, starts, self.times[np.searchsorted(self.stretches, starts, "right") - 1]


@dataclass(eq=False)
class _Candidate:
    """A face that is followed, and may yet turn out to be none."""

    first: tuple[float, float, float]
    given: int | None
    filter: OneEuro | None
    face: int | None = None
    times: list[float] = field(default_factory=list)
    boxes: list[np.ndarray] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    stretches: list[float] = field(default_factory=list)
    speed: np.ndarray = field(default_factory=lambda: np.zeros(4))
    found: np.ndarray = field(default_factory=lambda: np.zeros(4))
    closed: bool = False
    confirmed: bool = False
    view: FaceTrack | None = None

    @property
    def start(self) -> float:
        return self.first[0]

    @property
    def last(self) -> float:
        return self.times[-1]

    def add(self, time: float, box: np.ndarray, score: float, new_stretch: bool) -> None:
        place = _place(box)
        if self.times and time <= self.last:
            # Two frames that are shown at once: the first one counts.
            return
        if self.times and not new_stretch:
            passed = time - self.last
            share = 1 - math.exp(-passed / _MEASURED)
            self.speed = self.speed + share * ((place - _place(self.found)) / passed - self.speed)
        elif self.filter is not None:
            self.filter = OneEuro()
        self.found = box
        self.stretches.append(time if new_stretch or not self.times else self.stretches[-1])
        self.times.append(time)
        self.boxes.append(box if self.filter is None else self.filter(time, box))
        self.scores.append(score)
        self.view = None

    def expected(self, time: float) -> np.ndarray:
        """The box at a time to come, if the face goes on as it does and slows down."""
        x, y, width, height = _place(self.found) + self.speed * _LASTS * (1 - math.exp((self.last - time) / _LASTS))
        width, height = math.exp(width), math.exp(height)
        return np.array([x - width / 2, y - height / 2, width, height])

    def track(self) -> FaceTrack:
        if self.view is None:
            assert self.face is not None
            self.view = FaceTrack(
                face=self.face,
                start=self.start,
                times=np.array(self.times),
                boxes=np.array(self.boxes, np.float32),
                scores=np.array(self.scores, np.float32),
                stretches=np.array(self.stretches),
                smoothed=self.filter is None,
            )
        return self.view

    def forget(self, time: float) -> None:
        """Drop what has no part in boxes at `time` and later ones."""
        count = sum(known < time - REACH - _ROUNDING for known in self.times[:-1]) - 1
        if count > 0:
            for items in (self.times, self.boxes, self.scores, self.stretches):
                del items[:count]
            self.view = None


class Tracker:
    """Makes tracks of what is found in one frame after another.

    A face goes on in the frame in which one is found that overlaps with where it was, or with where it was on the way
    to; of all ways to pair faces, the one whose overlaps have the largest sum is taken. Where boxes come with numbers
    of faces, these are the tracks.

    Args:
        gap: seconds; a face that is not found for longer is another one when it comes back.
        shortest: seconds; faces that were there for less are none. In a scene (from one cut to the next) shorter than
            twice that, a face must be there for half of the scene.
        live: whether nothing may be waited for: every face is one at once, holes stay, boxes are filtered.
    """

    def __init__(self, gap: float, shortest: float, live: bool) -> None:
        self._gap, self._shortest, self._live = gap + _ROUNDING, 0.0 if live else shortest - _ROUNDING, live
        self._open: list[_Candidate] = []
        self._undecided: list[_Candidate] = []
        self._numbered: list[_Candidate] = []
        # When and where faces that are numbered by others were seen first, whatever is forgotten.
        self._firsts: dict[int, tuple[float, float, float]] = {}
        self._matched: set[_Candidate] = set()
        self._count = 0
        self._newest = -math.inf
        self._scene: float | None = None
        # Whether faces that are numbered by others begin a new stretch, after a cut.
        self._cut_at = -math.inf
        self._ended = False

    @property
    def settled(self) -> float:
        """Seconds: up to then, inclusive, tracks will not change any more."""
        if self._ended:
            return math.inf
        settled = self._newest
        for candidate in self._undecided:
            settled = min(settled, _before(candidate.start))
        if not self._live:
            for candidate in self._open:
                # Smoothing looks forth, and so does whether a hole ends.
                begun = candidate.stretches[-1]
                settled = min(settled, max(_before(begun), candidate.last - REACH - _ROUNDING))
        return settled

    def tracks(self) -> list[FaceTrack]:
        """The faces that are ones for certain, by number."""
        return [candidate.track() for candidate in sorted(self._numbered, key=lambda item: (item.face, item.first))]

    def changes(self, time: float, found: Detections) -> bool:
        """Whether faces of the last frame are gone in this one, or others have come."""
        pairs = self._pairs(time, found)
        return len(pairs) < len(found) or set(pairs.values()) != self._matched

    def step(self, time: float, found: Detections) -> None:
        """Take what is found in the next frame that is looked at."""
        if self._scene is None:
            self._scene = time
        pairs = self._pairs(time, found)
        self._matched = set()
        for row, (box, score) in enumerate(zip(found.boxes, found.scores.tolist(), strict=True)):
            candidate = pairs.get(row)
            if candidate is None:
                given = None if found.faces is None else int(found.faces[row])
                if given is not None and any(item.given == given for item in self._matched):
                    # One face cannot be in two places.
                    continue
                candidate = self._begin(time, box, given)
            missed = candidate.times != [] and candidate.last < self._newest
            hole = candidate.times != [] and (
                candidate.last < self._cut_at or (missed and (self._live or time - candidate.last > self._gap))
            )
            candidate.add(time, box, score, hole)
            self._matched.add(candidate)
        self._newest = time
        for candidate in self._open:
            candidate.closed = time - candidate.last > self._gap
        self._open = [candidate for candidate in self._open if not candidate.closed]
        self._decide()

    def cut(self, before: float, time: float) -> None:
        """End all tracks with the scene whose last frame is `before`; another begins with the frame at `time`."""
        self._end_scene(before)
        self._scene = self._cut_at = time
        self._newest = max(self._newest, before)

    def end(self, time: float) -> None:
        """End all tracks, as the video does with its frame at `time`."""
        self._end_scene(time)
        self._ended = True

    def forget(self, time: float) -> None:
        """Let go of what nobody will ask for who asks for `time` and later ones."""
        for candidate in self._numbered:
            candidate.forget(time)
        opened = set(self._open)
        self._numbered = [item for item in self._numbered if item in opened or item.last >= time]

    def _begin(self, time: float, box: np.ndarray, given: int | None) -> _Candidate:
        known = (item for item in self._numbered if given is not None and item.given == given)
        candidate = next(known, None)
        if candidate is None:
            first = time, float(box[0]), float(box[1])
            if given is not None:
                first = self._firsts.setdefault(given, first)
            candidate = _Candidate(first, given, OneEuro() if self._live else None)
            if given is None:
                self._undecided.append(candidate)
            else:
                candidate.face = given
                self._numbered.append(candidate)
        candidate.closed = False
        if candidate not in self._open:
            self._open.append(candidate)
        return candidate

    def _pairs(self, time: float, found: Detections) -> dict[int, _Candidate]:
        """Which row of what was found is which open track."""
        near = [item for item in self._open if time - item.last <= self._gap or item.last == self._newest]
        if found.faces is not None:
            by_name = {item.given: item for item in reversed(near)}
            rows = {int(face): row for row, face in reversed(list(enumerate(found.faces.tolist())))}
            return {row: by_name[face] for face, row in rows.items() if face in by_name}
        if not near or not len(found):
            return {}
        overlaps = np.maximum(
            _overlaps(np.array([item.expected(time) for item in near]), found.boxes),
            _overlaps(np.array([item.found for item in near]), found.boxes),
        )
        overlaps[overlaps < _LEAST_OVERLAP] = 0
        if overlaps.size == 1:
            return {0: near[0]} if overlaps[0, 0] > 0 else {}
        assign = require("scipy.optimize", "faces").linear_sum_assignment
        return {
            int(row): near[place]
            for place, row in zip(*assign(overlaps, maximize=True), strict=True)
            if overlaps[place, row] > 0
        }

    def _end_scene(self, last: float) -> None:
        for candidate in self._open:
            candidate.closed = True
        self._open, self._matched = [], set()
        self._newest = max(self._newest, last)
        self._decide(last - self._scene if self._scene is not None else 0.0)

    def _decide(self, scene: float | None = None) -> None:
        """Tell faces from what was there for too short a time; `scene` is the length of the one that ends now."""
        undecided = []
        for candidate in self._undecided:
            length = candidate.last - candidate.start
            if length >= self._shortest or (scene is not None and 2 * length >= scene - _ROUNDING):
                candidate.confirmed = True
            elif candidate.closed and (scene is not None or self._newest - (self._scene or 0.0) > 2 * length):
                continue
            undecided.append(candidate)
        # Numbers are given in order, so that none is until all who came before have theirs.
        undecided.sort(key=lambda item: item.first)
        while undecided and undecided[0].confirmed:
            candidate = undecided.pop(0)
            self._count += 1
            candidate.face = self._count
            self._numbered.append(candidate)
        self._undecided = undecided


def _before(time: float) -> float:
    return math.nextafter(time, -math.inf)


def _place(box: np.ndarray) -> np.ndarray:
    """Centre and logarithms of the sides."""
    x, y, width, height = (float(value) for value in box)
    return np.array([x + width / 2, y + height / 2, math.log(max(width, 1e-3)), math.log(max(height, 1e-3))])


def _overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of each of boxes [n, 4] with each of others [m, 4]: float64 [n, m]."""
    first, second = first[:, None].astype(np.float64), second[None].astype(np.float64)
    low = np.maximum(first[..., :2], second[..., :2])
    high = np.minimum(first[..., :2] + first[..., 2:], second[..., :2] + second[..., 2:])
    common = (high - low).clip(min=0).prod(-1)
    union = first[..., 2:].prod(-1) + second[..., 2:].prod(-1) - common
    return common / np.maximum(union, 1e-9)
