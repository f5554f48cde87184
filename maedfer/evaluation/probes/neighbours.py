"""Votes of the nearest training clips, as DINO weighs them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Numbers of the similarities that are held at once.
_HELD = 2**24


@dataclass(frozen=True)
class NeighboursProbe:
    """The training clips themselves; `probabilities` asks the nearest ones.

    Args:
        features: float32 [n, C], of length 1.
        labels: int64 [n].
        classes: how many there are.
        k: neighbours that vote.
        temperature: of the votes.
    """

    features: np.ndarray
    labels: np.ndarray
    classes: int
    k: int
    temperature: float

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """The share of the votes of each class, float64 [n, classes], for features [n, C]."""
        asked = _unit(features)
        votes = np.zeros((len(asked), self.classes))
        step = max(1, _HELD // len(self.features))
        for start in range(0, len(asked), step):
            similar = asked[start : start + step] @ self.features.T
            nearest = np.argpartition(similar, -self.k, axis=1)[:, -self.k :]
            weights = np.take_along_axis(similar, nearest, 1).astype(np.float64)
            # The largest is taken off, so that no power overflows; shares do not change.
            weights = np.exp((weights - weights.max(1, keepdims=True)) / self.temperature)
            rows = np.arange(len(nearest))[:, None] + start
            np.add.at(votes, (np.broadcast_to(rows, nearest.shape), self.labels[nearest]), weights)
        return votes / votes.sum(1, keepdims=True)


def fit_knn(
    features: np.ndarray, labels: np.ndarray, classes: int, *, k: int = 20, temperature: float = 0.07
) -> NeighboursProbe:
    """A weighted vote of nearest neighbours.

    As in DINO (Caron et al. 2021, arXiv 2104.14294, appendix F.1, and its eval_knn.py): features are brought to length
    1, the k training clips of the largest cosine similarity s vote for their class with weight exp(s / 0.07). There k
    is one of 10, 20, 100, 200, chosen by the scores themselves (20 is best nearly everywhere).

    Args:
        features: [n, C] of the training clips.
        labels: int64 [n].
        classes: how many there are.
        k: neighbours that vote, at most n of them.
        temperature: what similarities are divided by.
    """
    return NeighboursProbe(_unit(features), labels, classes, min(k, len(labels)), temperature)


def _unit(features: np.ndarray) -> np.ndarray:
    values = np.asarray(features, np.float32)
    # Features that are all 0 are like none.
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
