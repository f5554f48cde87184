"""Logistic regression on standardised features."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from maedfer.errors import require

# Steps of L-BFGS at most, as in CLIP.
_STEPS = 1000
# A feature whose spread is so small a part of its size is the same number everywhere, but for rounding.
_CONSTANT = 1e-6


@dataclass(frozen=True)
class LinearProbe:
    """A linear layer with softmax.

    Args:
        mean, scale: float64 [C], what features are standardised by.
        weight: float64 [classes, C] for standardised features.
        bias: float64 [classes]; -inf for a class without training clips.
    """

    mean: np.ndarray
    scale: np.ndarray
    weight: np.ndarray
    bias: np.ndarray

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """Float64 [n, classes], for features [n, C]."""
        logits = (np.asarray(features, np.float64) - self.mean) / self.scale @ self.weight.T + self.bias
        powers = np.exp(logits - logits.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)


def fit_linear(features: np.ndarray, labels: np.ndarray, classes: int, *, c: float = 1.0) -> LinearProbe:
    """L2-regularised multinomial logistic regression, by scikit-learn.

    It minimises ||W||^2 / 2 + C * sum of -log p(label) over the training clips; the bias is free. Features are
    standardised by mean and standard deviation of the training clips before. The protocol is CLIP's (Radford et al.
    2021, arXiv 2103.00020, appendix A.3): L-BFGS with at most 1000 steps, the strength of regularisation chosen on
    validation clips from a logarithmic grid, then the regression is fitted again. There the grid has 96 steps from 1e-6
    to 1e6 for 1/C and the validation clips are fitted as well in the end; features are not standardised.

    Args:
        features: [n, C] of the training clips.
        labels: int64 [n].
        classes: how many there are.
        c: C above, the inverse of the strength of regularisation.
    """
    linear_model = require("sklearn.linear_model", "train")
    values = np.asarray(features, np.float64)
    mean, scale = values.mean(0), values.std(0)
    scale = np.where(scale > _CONSTANT * np.abs(mean).clip(1e-30), scale, 1.0)
    present, numbers = np.unique(labels, return_inverse=True)
    regression = linear_model.LogisticRegression(C=c, max_iter=_STEPS, tol=1e-5)
    with warnings.catch_warnings():
        # Where classes can be parted, and little holds the weights, they grow until the steps are over.
        warnings.simplefilter("ignore", require("sklearn.exceptions", "train").ConvergenceWarning)
        regression.fit((values - mean) / scale, numbers)
    weight, bias = np.zeros((classes, values.shape[1])), np.full(classes, -np.inf)
    if len(present) == 2:
        # One layer tells two classes apart: the softmax of 0 and z is its sigmoid.
        weight[present[1]], bias[present] = regression.coef_[0], (0.0, regression.intercept_[0])
    else:
        weight[present], bias[present] = regression.coef_, regression.intercept_
    return LinearProbe(mean, scale, weight, bias)
