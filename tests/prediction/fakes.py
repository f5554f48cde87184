"""A video that is made of numbers, and a model that knows them: what is to come out is known without either."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maedfer.errors import InputError
from maedfer.prediction.many import VideoJob
from maedfer.prediction.options import PredictionOptions
from maedfer.prediction.rows import Row, Window
from maedfer.prediction.run import PredictionFiles
from maedfer.prediction.table import TableFormat, place_of
from maedfer.prediction.workers import WindowTask

CLASSES = ("happy", "sad", "none, of 'these'")


def window(number: int, face: int | None, value: int = 0) -> Window:
    """Window `number`, a hop of a second, 2.56 s long; its clip is one value."""
    start = number + 1 / 3
    if face is None:
        return Window(number, start, start + 2.56, start + 1.28, None, None, None, 0, "no_face")
    box = (10.0 * face, 20.125, 30.5 + number % 7, 31.0)
    clip = np.full((1, 2, 2, 2, 3), value, np.uint8)
    return Window(number, start, start + 2.56, start + 1.28, face, box, 0.9, 16, "ok", clip)


def windows(count: int, seed: int) -> list[Window]:
    """So many windows with none, one or two faces in each."""
    draw = np.random.default_rng(seed)
    found = []
    for number in range(count):
        faces: list[int | None] = [face for face in (1, 2) if draw.random() < 0.6]
        found += [window(number, face, int(draw.integers(1, 256))) for face in faces or [None]]
    return found


@dataclass
class FakeModel:
    """Probabilities and features that follow from the value of a clip."""

    batch_size: int = 1
    classes: tuple[str, ...] = CLASSES

    def score(self, clips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values = clips[:, 0, 0, 0, 0, 0].astype(np.float64)
        logits = np.stack([np.sin(values), np.cos(values), values / 200], 1)
        sure = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        return sure, np.stack([values, -values], 1).astype(np.float32)


def rows(video: str, found: list[Window]) -> list[Row]:
    """What the table is to hold."""
    model = FakeModel()
    return [Row(video, one, None if one.clip is None else model.score(one.clip[None])[0][0]) for one in found]


def find(task: WindowTask) -> Iterator[tuple[Any, Any]]:
    """Find the windows of a file that holds their number and a seed; of others say what is wrong."""
    text = Path(task.path).read_text()
    if text == "bad":
        raise InputError(f"{task.path}: is no video")
    if text == "defect":
        raise TypeError("a defect")
    if text == "die":
        import os

        os._exit(9)
    count, seed, *broken = map(int, text.split())
    yield "opened", {"seconds": count + 2.0}
    for number, one in enumerate(windows(count, seed)):
        if broken and number == broken[0]:
            raise InputError(f"{task.path}: breaks off")
        there = task.last is not None and place_of(one) <= task.last
        yield "window", Window(**{**vars(one), "clip": None}) if there else one
    yield "ended", {"frames": 25 * count}


def job(number: int, path: Path, out: Path, **settings: Any) -> VideoJob:
    """The job of a file for `find`."""
    files = PredictionFiles(out, path.stem, str(path), {"seed": 1, **settings}, TableFormat(CLASSES), channels=2)
    return VideoJob(files, WindowTask(number, str(path), PredictionOptions()))


class Silent:
    """Is told how it goes, and says nothing."""

    def row(self, row: Row) -> None: ...

    def ended(self, job: VideoJob) -> None: ...

    def progress(self, share: float, speed: float) -> None: ...
