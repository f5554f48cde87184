"""Scores of expression recognition, from a confusion matrix whose rows are the true classes.

UAR (unweighted average recall) is the mean of the class recalls, WAR (weighted average recall) the accuracy over all
clips. All scores are shares in [0, 1]. A class without clips has no recall: it is None, and left out of UAR.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maedfer._files import atomic_path
from maedfer.errors import InputError


def confusion_matrix(labels: Any, predictions: Any, n: int) -> np.ndarray:
    """Count clips by true and predicted class.

    Args:
        labels, predictions: whole numbers in [0, n), of the same length.
        n: number of classes.

    Returns:
        int64 [n, n], rows are labels.

    Raises:
        InputError: lengths differ, or a number is out of range.
    """
    labels, predictions = np.asarray(labels, np.int64).ravel(), np.asarray(predictions, np.int64).ravel()
    if labels.shape != predictions.shape:
        raise InputError(f"{labels.size} labels but {predictions.size} predictions")
    for name, values in (("label", labels), ("prediction", predictions)):
        if values.size and not 0 <= values.min() <= values.max() < n:
            raise InputError(f"{name} out of range: found {values.min()} to {values.max()}, there are {n} classes")
    return np.bincount(labels * n + predictions, minlength=n * n).reshape(n, n)


def scores(confusion: Any) -> dict[str, Any]:
    """Score a confusion matrix.

    Args:
        confusion: counts [n, n], rows are labels.

    Returns:
        uar, war, macro_f1, weighted_f1 (None without clips); recall and f1, a list each with None where undefined;
        n, the number of clips; absent, the indices of the classes without clips. F1 of a class that has neither
        clips nor predictions is undefined and left out of macro_f1.
    """
    matrix = np.asarray(confusion, np.float64)
    hits, clips, predicted = np.diag(matrix), matrix.sum(1), matrix.sum(0)
    recall = [float(hit / count) if count else None for hit, count in zip(hits, clips, strict=True)]
    f1 = [
        float(2 * hit / (count + guess)) if count + guess else None
        for hit, count, guess in zip(hits, clips, predicted, strict=True)
    ]
    total = float(clips.sum())
    return {
        "uar": _mean(recall),
        "war": float(hits.sum() / total) if total else None,
        "recall": recall,
        "f1": f1,
        "macro_f1": _mean(f1),
        "weighted_f1": float(sum(c * f for c, f in zip(clips, f1, strict=True) if f is not None) / total)
        if total
        else None,
        "n": int(total),
        "absent": [index for index, count in enumerate(clips) if not count],
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


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
