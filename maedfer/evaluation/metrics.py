"""Scores of expression recognition: of a confusion matrix whose rows are the true classes, and of probabilities.

UAR (unweighted average recall) is the mean of the class recalls, WAR (weighted average recall) the accuracy over all
clips. All scores are shares in [0, 1]. A class without clips has no recall: it is None, and left out of UAR.

`intervals` here is by formula, of clips that are independent of each other; `maedfer.evaluation.bootstrap` has those by
bootstrap, over clips or over subjects.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

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
        uar, war, macro_f1, weighted_f1 (None without clips); recall, class_precision and f1, a list each with None
        where undefined; n, the number of clips; absent, the indices of the classes without clips. A class that is never
        predicted has no precision. F1 of a class that has neither clips nor predictions is undefined and left out of
        macro_f1.
    """
    matrix = np.asarray(confusion, np.float64)
    hits, clips, predicted = np.diag(matrix), matrix.sum(1), matrix.sum(0)
    recall = [float(hit / count) if count else None for hit, count in zip(hits, clips, strict=True)]
    precision = [float(hit / guess) if guess else None for hit, guess in zip(hits, predicted, strict=True)]
    f1 = [
        float(2 * hit / (count + guess)) if count + guess else None
        for hit, count, guess in zip(hits, clips, predicted, strict=True)
    ]
    total = float(clips.sum())
    return {
        "uar": _mean(recall),
        "war": float(hits.sum() / total) if total else None,
        "recall": recall,
        "class_precision": precision,
        "f1": f1,
        "macro_f1": _mean(f1),
        "weighted_f1": float(sum(c * f for c, f in zip(clips, f1, strict=True) if f is not None) / total)
        if total
        else None,
        "n": int(total),
        "absent": [index for index, count in enumerate(clips) if not count],
    }


def intervals(confusion: Any) -> dict[str, tuple[float, float]]:
    """The 95 % intervals of UAR and WAR over clips; they hold the score, and never leave [0, 1].

    WAR is one share, and has Wilson's score interval (Wilson 1927, J. Am. Stat. Assoc. 22, 209). UAR is a mean of
    independent shares, the recalls: their Wilson limits are combined as Zou, Huang and Zhang (2009, Comput. Stat. Data
    Anal. 53, 1080) do for linear functions of shares, each limit by its own squared distances. Neither is empty where
    all clips are right, or all wrong: of 0 in 4 the interval is 0 to 49 %.

    Args:
        confusion: counts [n, n], rows are labels, with a clip at least.
    """
    matrix = np.asarray(confusion, np.float64)
    clips, hits = matrix.sum(1), np.diag(matrix)
    present = clips > 0
    recall = hits[present] / clips[present]
    low, high = _wilson(hits[present], clips[present])
    uar, count = float(recall.mean()), int(present.sum())
    below = float(np.sqrt(((recall - low) ** 2).sum())) / count
    above = float(np.sqrt(((high - recall) ** 2).sum())) / count
    left, right = _wilson(hits.sum(keepdims=True), clips.sum(keepdims=True))
    return {"uar": (max(0.0, uar - below), min(1.0, uar + above)), "war": (float(left[0]), float(right[0]))}


def share_intervals(hits: Any, clips: Any) -> list[tuple[float, float] | None]:
    """The 95 % intervals of shares over clips (Wilson's), None where there are no clips: of recalls, of precisions.

    Args:
        hits, clips: whole numbers [n]; the share is hits / clips.
    """
    right, count = np.asarray(hits, np.float64), np.asarray(clips, np.float64)
    low, high = _wilson(right, np.maximum(count, 1))
    ends = zip(low.tolist(), high.tolist(), count.tolist(), strict=True)
    return [(left, right) if number else None for left, right, number in ends]


def auc_scores(probabilities: Any, labels: Any) -> list[float | None]:
    """The area under the ROC curve of each class against all others.

    It is the share of pairs of a clip of the class and one of another class in which the first has the higher
    probability of the class; equal ones count half (Mann and Whitney's statistic).

    Args:
        probabilities: [n, classes].
        labels: int64 [n].

    Returns:
        A value a class; None where it has no clips, or all of them.
    """
    values, true = np.asarray(probabilities, np.float64), np.asarray(labels, np.int64)
    found: list[float | None] = []
    for index in range(values.shape[1]):
        own = true == index
        count = int(own.sum())
        if not 0 < count < len(true):
            found.append(None)
            continue
        # Equal values share the mean of their ranks.
        _, place, repeats = np.unique(values[:, index], return_inverse=True, return_counts=True)
        ranks = (np.cumsum(repeats) - (repeats - 1) / 2)[place]
        found.append(float((ranks[own].sum() - count * (count + 1) / 2) / (count * (len(true) - count))))
    return found


def reliability(probabilities: Any, labels: Any, bins: int = 15) -> dict[str, list[Any]]:
    """The reliability curve: of how many clips the confidence is in a bin, how large it is, and how many are right.

    Args:
        probabilities: [n, classes], rows that sum up to 1.
        labels: int64 [n].
        bins: of the confidence, the largest probability, from 0 to 1, of equal width; upper edges belong to their bin.

    Returns:
        clips, whole numbers; confidence, the mean of each bin's; right, the share of its clips that are right; the
        latter two None where it has no clips.
    """
    values, true = np.asarray(probabilities, np.float64), np.asarray(labels, np.int64)
    confidence, right = values.max(1), values.argmax(1) == true
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    clips = np.bincount(place, minlength=bins)

    def means(weights: np.ndarray) -> list[float | None]:
        sums = np.bincount(place, weights=weights, minlength=bins)
        return [float(total / count) if count else None for total, count in zip(sums, clips, strict=True)]

    return {"clips": clips.tolist(), "confidence": means(confidence), "right": means(right)}


def calibration_scores(probabilities: Any, labels: Any, bins: int = 15) -> dict[str, float]:
    """How well probabilities say how often they are right; smaller is better in all three.

    Args:
        probabilities: [n, classes], rows that sum up to 1.
        labels: int64 [n], the true classes, n of them at least 1.
        bins: of the confidence, of equal width.

    Returns:
        ece, the expected calibration error: the mean over clips of |share that is right - mean confidence| of the bin
        that a clip's confidence is in; nll, the mean of -log p of the true class, where p below 1e-12 counts as that;
        brier, the mean over clips of the sum over classes of (p - 1 where it is true)^2.
    """
    values, true = np.asarray(probabilities, np.float64), np.asarray(labels, np.int64)
    curve = reliability(values, true, bins)
    gaps = (
        count * abs(right - confidence)
        for count, confidence, right in zip(curve["clips"], curve["confidence"], curve["right"], strict=True)
        if count
    )
    chosen = np.take_along_axis(values, true[:, None], 1)
    return {
        "ece": float(sum(gaps) / len(true)),
        "nll": float(-np.log(np.clip(chosen, 1e-12, None)).mean()),
        "brier": float(((values - np.eye(values.shape[1])[true]) ** 2).sum(1).mean()),
    }


def _wilson(hits: np.ndarray, clips: np.ndarray, z: float = 1.959964) -> tuple[np.ndarray, np.ndarray]:
    """Limits of Wilson's interval of each share hits / clips."""
    centre = (hits + z * z / 2) / (clips + z * z)
    half = z / (clips + z * z) * np.sqrt(hits * (clips - hits) / clips + z * z / 4)
    # Where none or all are right, one limit is the share itself, without its rounding.
    return np.where(hits == 0, 0.0, centre - half), np.where(hits == clips, 1.0, centre + half)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
