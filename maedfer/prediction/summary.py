"""What the rows of a video come to: how long faces were there, and what they showed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from maedfer.prediction.rows import Row

UNCALIBRATED = "confidences are uncalibrated: the checkpoint holds no temperature, so they may be too sure"
NOT_A_LABEL = (
    "a label names the expression that people who annotated the training data would see in these seconds of video; it "
    "is no measurement of what somebody feels, thinks or intends, and no diagnosis"
)


def calibration(temperature: float | None) -> str:
    """What there is to say of confidences, in a sentence."""
    if temperature is None:
        return UNCALIBRATED
    return f"confidences are calibrated: logits are divided by the temperature {temperature:.6g} of the checkpoint"


@dataclass
class _Count:
    """What is added up over rows: those scored, those of each class, probabilities, confidences."""

    classes: int
    windows: int = 0
    first: float = 0.0
    last: float = 0.0
    predicted: np.ndarray = field(init=False)
    chances: np.ndarray = field(init=False)
    confidence: float = 0.0

    def __post_init__(self) -> None:
        self.predicted, self.chances = np.zeros(self.classes, np.int64), np.zeros(self.classes)

    def add(self, row: Row) -> None:
        sure = row.probabilities
        assert sure is not None
        if not self.windows:
            self.first = row.window.start
        self.last = max(self.last, row.window.end)
        self.windows += 1
        self.predicted[sure.argmax()] += 1
        self.chances += sure
        self.confidence += float(sure.max())

    def tell(self, names: Sequence[str]) -> dict[str, Any]:
        def means(totals: Sequence[float]) -> list[float | None]:
            # Of nothing there are none: zeros would count where tables are averaged.
            return [round(total / self.windows, 6) if self.windows else None for total in totals]

        return {
            "windows": self.windows,
            "shares": dict(zip(names, means(self.predicted.tolist()), strict=True)),
            "mean_probabilities": dict(zip(names, means(self.chances.tolist()), strict=True)),
            "mean_confidence": means([self.confidence])[0],
        }


def summarize(
    rows: Iterable[Row],
    classes: Sequence[str],
    hop: float = 0.0,
    ends: float = float("inf"),
    windows: int | None = None,
) -> dict[str, Any]:
    """Add up the rows of one video; memory grows with the number of faces only.

    Args:
        rows: in their order in the table.
        classes: names of the classes.
        hop: seconds that a window stands for at least.
        ends: when the video ends, after which none stands for anything.
        windows: how many there are; None = as many as rows tell apart, which are less than there are where several
            show the same frames and a table was read that does not number them.

    Returns:
        "windows" and "windows_without_a_face": spans of time, and those of them in which no face was for long enough;
        "minutes_with_a_face": covered by the others, a hop for each at least; "scored": rows with probabilities,
        "shares" of the classes among these, means of probabilities and confidence, None where there are none;
        "faces": the same for each face, with its seconds.
    """
    all_faces, faces = _Count(len(classes)), dict[int, _Count]()
    told_apart = empty = 0
    last: int | None = None
    covered, until = 0.0, float("-inf")
    for row in rows:
        window = row.window
        if window.number != last:
            told_apart, last = told_apart + 1, window.number
            empty += window.face is None and window.status == "no_face"
        if row.probabilities is None:
            continue
        all_faces.add(row)
        if window.face is not None:
            faces.setdefault(window.face, _Count(len(classes))).add(row)
        end = min(max(window.end, window.start + hop), ends)
        covered += max(0.0, end - max(until, window.start))
        until = max(until, end)
    told = all_faces.tell(classes)
    return {
        "windows": told_apart if windows is None else windows,
        "windows_without_a_face": empty,
        "minutes_with_a_face": round(covered / 60, 4),
        "scored": told.pop("windows"),
        **told,
        "faces": [
            {"face": number, "start": round(count.first, 3), "end": round(count.last, 3), **count.tell(classes)}
            for number, count in sorted(faces.items())
        ],
    }
