"""Scenes without a video: pictures, times, and a detector that knows where everybody is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from maedfer.faces.frame import Detections, Frame

SIZE = (48, 64)
# x, y, width, height of somebody at a time in seconds; None where they are away.
Path = Callable[[float], tuple[float, float, float, float] | None]


@dataclass
class Scene:
    """Frames at some times, and people on their ways through them."""

    times: np.ndarray
    people: Sequence[Path]
    seed: int = 0
    pictures: dict[int, np.ndarray] = field(default_factory=dict)

    def picture(self, index: int) -> np.ndarray:
        """Noise, another for each frame, and brighter where people are."""
        if index not in self.pictures:
            generator = np.random.default_rng((self.seed, index))
            # One scene: its brightness does not jump.
            picture = generator.integers(60, 100, (*SIZE, 3), np.uint8)
            for number, (x, y, width, height) in self.at(index):
                picture[int(y) : int(y + height), int(x) : int(x + width)] += np.uint8(40 + 30 * number)
            self.pictures[index] = picture
        return self.pictures[index]

    def at(self, index: int) -> list[tuple[int, tuple[float, float, float, float]]]:
        """Who is in a frame, and where."""
        found = [(number, path(float(self.times[index]))) for number, path in enumerate(self.people)]
        return [(number, box) for number, box in found if box is not None]

    def frames(self, wanted: Callable[[int], bool] = lambda index: True) -> Iterator[Frame]:
        for index, time in enumerate(self.times.tolist()):
            yield Frame(index, time, self.picture(index) if wanted(index) else None)


class Knowing:
    """A detector that knows the scene; it counts the frames that it was shown."""

    name, note, needs_pictures = "the scene's own", "", True

    def __init__(self, scene: Scene) -> None:
        self.scene, self.seen = scene, 0

    def detect(self, frames: Sequence[Frame]) -> list[Detections]:
        self.seen += len(frames)
        found = []
        for frame in frames:
            boxes = np.array([box for _, box in self.scene.at(frame.index)], np.float32).reshape(-1, 4)
            scores = np.array([0.9 - 0.1 * number for number, _ in self.scene.at(frame.index)], np.float32)
            found.append(Detections(boxes, scores))
        return found


def still(x: float, side: float, *away: tuple[float, float], speed: float = 0.0) -> Path:
    """Somebody who moves slowly, and is away between some times."""

    def path(time: float) -> tuple[float, float, float, float] | None:
        if any(start <= time < end for start, end in away):
            return None
        return x + speed * time, 10 + 3 * np.sin(time), side, side * 1.1

    return path
