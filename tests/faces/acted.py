"""Faces that move as a script says, for trackers: boxes that are known, and a detector that knows them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from maedfer.faces.frame import Detections, Frame

RATE = 25.0


@dataclass(frozen=True)
class Actor:
    """A face that is there in frames `first` to `last`, inclusive.

    Args:
        first, last: frames.
        place: gives x, y, width, height at a time in seconds.
        missed: frames in which no detector finds it.
    """

    first: int
    last: int
    place: Callable[[float], Sequence[float]]
    missed: frozenset[int] = frozenset()

    def box(self, time: float) -> np.ndarray:
        return np.array(self.place(time), np.float32)


@dataclass
class KnowingDetector:
    """A detector that knows the script; it keeps the frames that it was asked for."""

    actors: Sequence[Actor]
    needs_pictures: bool = True
    named: bool = False
    noise: float = 0.0
    asked: list[int] = field(default_factory=list)
    name: str = "script"
    note: str = ""

    def detect(self, frames: Sequence[Frame]) -> list[Detections]:
        return [self._one(frame) for frame in frames]

    def _one(self, frame: Frame) -> Detections:
        self.asked.append(frame.index)
        there = [
            (number, actor)
            for number, actor in enumerate(self.actors)
            if actor.first <= frame.index <= actor.last and frame.index not in actor.missed
        ]
        boxes = np.array([actor.box(frame.time) for _, actor in there], np.float32).reshape(-1, 4)
        random = np.random.default_rng(frame.index)
        boxes += (self.noise * random.standard_normal(boxes.shape)).astype(np.float32)
        # Detectors give the surest face first, whoever it is.
        order = random.permutation(len(there))
        faces = np.array([10 * number + 7 for number, _ in there], np.int64)[order] if self.named else None
        return Detections(boxes[order], np.linspace(0.9, 0.6, len(there), dtype=np.float32), faces)


def still(x: float, y: float = 40.0, side: float = 50.0) -> Callable[[float], Sequence[float]]:
    return lambda time: (x, y, side, 1.2 * side)


def frames_of(
    count: int, times: Sequence[float] | None = None, scenes: Mapping[int, int] | None = None
) -> Iterator[Frame]:
    """Frames of noise, the same from one frame to the next until a scene (first frame: seed) begins."""
    scenes = {0: 0, **(scenes or {})}
    picture = np.zeros((48, 64, 3), np.uint8)
    for index in range(count):
        if index in scenes:
            picture = np.random.default_rng(scenes[index]).integers(0, 256, (6, 8, 3), np.uint8)
            picture = (picture.repeat(8, 0).repeat(8, 1) // 8 * 8 + 3).astype(np.uint8)
        yield Frame(index, index / RATE if times is None else times[index], picture)
