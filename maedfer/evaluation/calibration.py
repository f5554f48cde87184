"""A temperature that makes a classifier's confidence mean what it says.

The logits z_v of every view v of a clip are divided by one temperature T, and the probabilities are the mean of the
softmax over views: p = mean_v softmax(z_v / T) (temperature scaling: Guo et al. 2017, On Calibration of Modern Neural
Networks). T is fitted by the negative log-likelihood of clips that the model was not trained on.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from maedfer.errors import InputError
from maedfer.evaluation.metrics import calibration_scores, reliability

# Fewer clips than this say nothing of a confidence.
LEAST_CLIPS = 10
# Temperatures that are looked at: the ends are far from whatever a classifier that has learnt something needs.
_RANGE = (0.02, 50.0)
_GRID = 161


def calibrated(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities at a temperature.

    Args:
        logits: [n, views, classes].
        temperature: above 0; 1 leaves probabilities as they are.

    Returns:
        float64 [n, classes].
    """
    scaled = np.asarray(logits, np.float64) / temperature
    powers = np.exp(scaled - scaled.max(2, keepdims=True))
    return (powers / powers.sum(2, keepdims=True)).mean(1)


def fit_temperature(logits: np.ndarray, labels: np.ndarray, what: str = "the clips") -> float:
    """The temperature of the least negative log-likelihood.

    A search over a grid of the logarithm of T finds the valley, which need not be the only one where several views are
    averaged; a golden-section search inside finds its lowest point to a millionth.

    Args:
        logits: [n, views, classes], finite.
        labels: int64 [n].
        what: what messages call the clips.

    Raises:
        InputError: there are too few clips, or no temperature is the best one: all are right with whatever confidence,
            or none is better than to say nothing.
    """
    labels = np.asarray(labels, np.int64)
    if len(labels) < LEAST_CLIPS:
        raise InputError(
            f"{what}: {len(labels)} scored, and a temperature takes {LEAST_CLIPS} at least, better some hundreds: give "
            "a longer list of validation clips"
        )

    def loss(logarithm: float) -> float:
        return _mean_loss(logits, labels, float(np.exp(logarithm)))

    grid = np.linspace(np.log(_RANGE[0]), np.log(_RANGE[1]), _GRID).tolist()
    losses = [loss(value) for value in grid]
    lowest = int(np.argmin(losses))
    if lowest == 0 or not min(losses) > 0:
        raise InputError(
            f"{what}: no temperature is the best one, as the model is right wherever it is sure (the smaller, the "
            "better): give validation clips that it does not know, and more of them"
        )
    if lowest == _GRID - 1:
        raise InputError(
            f"{what}: no temperature is the best one, as the model does no better than to guess (the larger, the "
            "better): do the labels go with its classes?"
        )
    return float(np.exp(_golden(loss, grid[lowest - 1], grid[lowest + 1])))


def calibration_facts(logits: np.ndarray, labels: np.ndarray, temperature: float) -> dict[str, Any]:
    """How calibrated clips are, as they are and at a temperature.

    Returns:
        n; "before" and "after" with ece, nll, brier and the curve reliability each; nll is the loss that
        `fit_temperature` makes least.
    """
    before, after = (
        {
            **calibration_scores(calibrated(logits, each), labels),
            "nll": _mean_loss(logits, labels, each),
            "reliability": reliability(calibrated(logits, each), labels),
        }
        for each in (1.0, temperature)
    )
    return {"n": len(labels), "before": before, "after": after}


def _mean_loss(logits: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    """The mean of -log p of the true classes, exact also where p is too small for a float."""
    scaled = np.asarray(logits, np.float64) / temperature
    largest = scaled.max(2)
    normaliser = largest + np.log(np.exp(scaled - largest[..., None]).sum(2))
    true = np.take_along_axis(scaled, labels[:, None, None], 2)[..., 0] - normaliser
    most = true.max(1)
    return float(-(most + np.log(np.exp(true - most[:, None]).mean(1))).mean())


def _golden(function: Any, low: float, high: float, width: float = 1e-6) -> float:
    """Where a function with one valley in [low, high] is lowest."""
    ratio = (np.sqrt(5) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = function(left), function(right)
    while high - low > width:
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = function(right)
    return (low + high) / 2
