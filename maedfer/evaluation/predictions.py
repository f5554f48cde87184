"""What a model said about clips: its scores, pred.csv, and several folds put together."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maedfer._files import atomic_path
from maedfer.errors import InputError
from maedfer.evaluation.metrics import confusion_matrix, scores


@dataclass(frozen=True)
class Predictions:
    """What a model said about clips.

    Args:
        names: of the clips, n of them.
        labels: int64 [n].
        probabilities: float32 [n, classes].
        classes: names of the classes.
        features: float32 [n, C], where they were asked for.
    """

    names: list[str]
    labels: np.ndarray
    probabilities: np.ndarray
    classes: tuple[str, ...]
    features: np.ndarray | None = None

    @property
    def predicted(self) -> np.ndarray:
        """The most probable class of each clip, int64 [n]."""
        return self.probabilities.argmax(1)

    def metrics(self) -> dict[str, Any]:
        """The contents of metrics.json: classes, confusion matrix, scores, loss, and a note on absent classes."""
        confusion = confusion_matrix(self.labels, self.predicted, len(self.classes))
        result = {"classes": list(self.classes), "confusion": confusion.tolist(), **scores(confusion)}
        chosen = np.take_along_axis(self.probabilities, self.labels[:, None], 1)
        result["loss"] = float(-np.log(np.clip(chosen, 1e-12, None)).mean()) if len(self.labels) else None
        absent = [self.classes[index] for index in result.pop("absent")]
        result["notes"] = [f"no clips of {', '.join(absent)}: left out of UAR"] if absent else []
        return result


def write_predictions(path: str | Path, predictions: Predictions) -> None:
    """Write pred.csv: name, label, prediction, and a probability column `p_<class>` for each class."""
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "label", "prediction", *(f"p_{name}" for name in predictions.classes)])
        rows = zip(predictions.names, predictions.labels, predictions.predicted, predictions.probabilities, strict=True)
        for name, label, predicted, probabilities in rows:
            writer.writerow([name, int(label), int(predicted), *(f"{value:.7g}" for value in probabilities)])


def read_predictions(path: str | Path) -> Predictions:
    """Read pred.csv back.

    Raises:
        InputError: the file is absent or is no pred.csv; the message names the line.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r}: {error.strerror}") from error
    head = rows[0] if rows else []
    if head[:3] != ["name", "label", "prediction"] or any(not name.startswith("p_") for name in head[3:]):
        raise InputError(f"{str(path)!r} is not a pred.csv: its first line is {','.join(head)!r}")
    names: list[str] = []
    labels: list[int] = []
    probabilities: list[list[float]] = []
    for line, row in enumerate(rows[1:], 2):
        try:
            label, values = int(row[1]), [float(value) for value in row[3:]]
        except (ValueError, IndexError):
            label, values = -1, []
        if len(values) != len(head) - 3 or not 0 <= label < len(values):
            raise InputError(
                f"{str(path)!r} line {line}: not a name, a label, a prediction and {len(head) - 3} numbers"
            )
        names.append(row[0])
        labels.append(label)
        probabilities.append(values)
    return Predictions(
        names,
        np.asarray(labels, np.int64),
        np.asarray(probabilities, np.float32).reshape(len(names), len(head) - 3),
        tuple(name[2:] for name in head[3:]),
    )


def pool(parts: Sequence[Predictions]) -> tuple[Predictions, list[str]]:
    """Put the predictions of several folds together, to be scored once.

    Returns:
        All predictions, and notes on what is unusual about them.

    Raises:
        InputError: the folds do not have the same classes.
    """
    if not parts:
        raise InputError("no predictions to pool")
    for part in parts[1:]:
        if part.classes != parts[0].classes:
            raise InputError(f"the runs differ in their classes: {list(parts[0].classes)} and {list(part.classes)}")
    names = [name for part in parts for name in part.names]
    repeated = len(names) - len(set(names))
    notes = [f"{repeated} clip names occur more than once: the folds may overlap"] if repeated else []
    pooled = Predictions(
        names,
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.probabilities for part in parts]),
        parts[0].classes,
    )
    return pooled, notes
