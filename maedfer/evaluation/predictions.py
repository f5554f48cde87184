"""What a model said about clips: its scores, pred.csv, and several folds put together."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from maedfer._files import atomic_path
from maedfer.errors import InputError
from maedfer.evaluation.metrics import auc_scores, calibration_scores, confusion_matrix, reliability, scores

# Beside pred.csv, the clips of the list that are not in it; absent where there are none.
SKIPPED_FILE = "skipped.csv"
# The column of pred.csv that says who is in a clip, where that is known.
SUBJECT = "subject"


class Skipped(NamedTuple):
    """A clip that could not be read and has no scores: its name, label (-1 where there is none), and what is wrong."""

    name: str
    label: int
    reason: str


@dataclass(frozen=True)
class Predictions:
    """What a model said about clips.

    Args:
        names: of the clips, n of them.
        labels: int64 [n].
        probabilities: float32 [n, classes].
        classes: names of the classes.
        features: float32 [n, C], where they were asked for.
        skipped: clips of the list that could not be read, and are in none of the above.
        logits: float32 [n, views, classes], where they were asked for.
        subjects: who is in each clip, n of them, "" where that is not known; none where it is of no clip.
    """

    names: list[str]
    labels: np.ndarray
    probabilities: np.ndarray
    classes: tuple[str, ...]
    features: np.ndarray | None = None
    skipped: tuple[Skipped, ...] = ()
    logits: np.ndarray | None = None
    subjects: tuple[str, ...] = ()

    @property
    def predicted(self) -> np.ndarray:
        """The most probable class of each clip, int64 [n]."""
        return self.probabilities.argmax(1)

    def metrics(self) -> dict[str, Any]:
        """The contents of metrics.json: classes, confusion matrix, scores, loss, how many clips were skipped, notes.

        Of probabilities: "auc" of each class against the others (None where it has no clips, or all) and their mean,
        "macro_auc"; "ece", "brier" and the curve "reliability"; see `maedfer.evaluation.metrics`.

        Raises:
            InputError: a label is out of range, or a probability is not a finite number.
        """
        if not np.isfinite(self.probabilities).all():
            clip = self.names[int(np.flatnonzero(~np.isfinite(self.probabilities).all(1))[0])]
            raise InputError(f"the probabilities of clip {clip!r} are not finite: there is nothing to score")
        confusion = confusion_matrix(self.labels, self.predicted, len(self.classes))
        result = {"classes": list(self.classes), "confusion": confusion.tolist(), **scores(confusion)}
        chosen = np.take_along_axis(self.probabilities, self.labels[:, None], 1)
        result["loss"] = float(-np.log(np.clip(chosen, 1e-12, None)).mean()) if len(self.labels) else None
        result |= {"auc": None, "macro_auc": None, "ece": None, "brier": None, "reliability": None}
        if len(self.labels):
            areas = auc_scores(self.probabilities, self.labels)
            known = [area for area in areas if area is not None]
            result |= {"auc": areas, "macro_auc": float(np.mean(known)) if known else None}
            sure = calibration_scores(self.probabilities, self.labels)
            result |= {"ece": sure["ece"], "brier": sure["brier"]}
            result["reliability"] = reliability(self.probabilities, self.labels)
        absent = [self.classes[index] for index in result.pop("absent")]
        result["skipped"] = len(self.skipped)
        result["notes"] = [f"no clips of {', '.join(absent)}: left out of UAR"] if absent else []
        if self.skipped:
            whole = len(self.names) + len(self.skipped)
            result["notes"].append(
                f"{len(self.skipped)} of {whole} clips could not be read and are not scored, {SKIPPED_FILE} names them"
            )
        return result


def write_predictions(path: str | Path, predictions: Predictions) -> None:
    """Write pred.csv: name, label, prediction, and a probability column `p_<class>` for each class.

    Where it is known who is in clips, a column `subject` comes before the probabilities.

    Clips that were skipped are written to skipped.csv beside it: name, label, reason.
    """
    who: list[list[str]] = [[name] for name in predictions.subjects] or [[]] * len(predictions.names)
    told = [SUBJECT] if predictions.subjects else []
    head = ["name", "label", "prediction", *told, *(f"p_{name}" for name in predictions.classes)]
    rows = zip(
        predictions.names, predictions.labels, predictions.predicted, who, predictions.probabilities, strict=True
    )
    write_table(
        path,
        head,
        (
            [name, int(label), int(predicted), *subject, *(f"{value:.7g}" for value in probabilities)]
            for name, label, predicted, subject, probabilities in rows
        ),
    )
    write_skipped(Path(path).with_name(SKIPPED_FILE), predictions.skipped)


def write_skipped(path: str | Path, skipped: Sequence[Skipped]) -> None:
    """Write name, label and reason of clips that were skipped; without any, an earlier file is removed."""
    if skipped:
        write_table(path, Skipped._fields, skipped)
    else:
        Path(path).unlink(missing_ok=True)


def write_table(path: str | Path, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file, whole or not at all; names that are no UTF-8 keep their bytes."""
    with (
        atomic_path(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows(rows)


def read_predictions(path: str | Path) -> Predictions:
    """Read pred.csv back, with the skipped.csv beside it where there is one.

    Raises:
        InputError: the file is absent, is no pred.csv, or holds what is no probability; the message names the line.
    """
    rows = _read_table(path)
    head = next(rows, (1, []))[1]
    first = 4 if head[3:4] == [SUBJECT] else 3
    if head[:3] != ["name", "label", "prediction"] or any(not name.startswith("p_") for name in head[first:]):
        raise InputError(f"{str(path)!r} is not a pred.csv: its first line is {','.join(head)!r}")
    count = len(head) - first
    names: list[str] = []
    subjects: list[str] = []
    labels: list[int] = []
    probabilities: list[list[float]] = []
    for line, row in rows:
        try:
            label, values = int(row[1]), [float(value) for value in row[first:]]
        except (ValueError, IndexError):
            label, values = -1, []
        if len(values) != count or not 0 <= label < count:
            raise InputError(f"{str(path)!r} line {line}: not a name, a label, a prediction and {count} numbers")
        if not all(0 <= value <= 1 for value in values):
            wrong = next(text for text, value in zip(row[first:], values, strict=True) if not 0 <= value <= 1)
            raise InputError(
                f"{str(path)!r} line {line}: {wrong} is no probability, the scores of {row[0]!r} are worth nothing: "
                "evaluate the run anew"
            )
        names.append(row[0])
        subjects += row[3:first]
        labels.append(label)
        probabilities.append(values)
    return Predictions(
        names,
        np.asarray(labels, np.int64),
        np.asarray(probabilities, np.float32).reshape(len(names), count),
        tuple(name[2:] for name in head[first:]),
        skipped=_read_skipped(Path(path).with_name(SKIPPED_FILE)),
        subjects=tuple(subjects),
    )


def _read_skipped(path: Path) -> tuple[Skipped, ...]:
    if not path.is_file():
        return ()
    rows = _read_table(path)
    head = next(rows, (1, []))[1]
    if head != list(Skipped._fields):
        raise InputError(f"{str(path)!r} is not a {SKIPPED_FILE}: its first line is {','.join(head)!r}")
    found = []
    for line, row in rows:
        try:
            name, label, reason = row
            found.append(Skipped(name, int(label), reason))
        except ValueError:
            raise InputError(f"{str(path)!r} line {line}: not a name, a label and a reason") from None
    return tuple(found)


def _read_table(path: str | Path) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV file with the number of the line that each ends in."""
    try:
        with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            reader = csv.reader(file)
            # Spreadsheets may leave empty lines at the end.
            yield from ((reader.line_num, row) for row in reader if row)
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r}: {error.strerror}") from error
    except csv.Error as error:
        raise InputError(f"{str(path)!r} is not a CSV file: {error}") from error


def pool(parts: Sequence[Predictions]) -> tuple[Predictions, list[str]]:
    """Put the predictions of several folds together, to be scored once.

    Returns:
        All predictions, and notes on what is unusual about them.

    Raises:
        InputError: the folds do not have the same classes in the same order.
    """
    if not parts:
        raise InputError("no predictions to pool")
    for part in parts[1:]:
        if part.classes != parts[0].classes:
            order = " in another order" if sorted(part.classes) == sorted(parts[0].classes) else ""
            raise InputError(
                f"the runs differ in their classes: {list(parts[0].classes)} and {list(part.classes)}{order}"
                ": only runs with the same classes in the same order can be put together"
            )
    names = [name for part in parts for name in part.names]
    repeated = len(names) - len(set(names))
    notes = [f"{repeated} clip names occur more than once: the folds may overlap"] if repeated else []
    pooled = Predictions(
        names,
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.probabilities for part in parts]),
        parts[0].classes,
        skipped=tuple(clip for part in parts for clip in part.skipped),
        subjects=tuple(name for part in parts for name in part.subjects or [""] * len(part.names))
        if any(part.subjects for part in parts)
        else (),
    )
    return pooled, notes
