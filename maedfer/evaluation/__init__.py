"""Scores of predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maedfer._lazy import lazy

if TYPE_CHECKING:
    from maedfer.evaluation.metrics import confusion_matrix, scores
    from maedfer.evaluation.predictions import Predictions, pool, read_predictions, write_predictions
    from maedfer.evaluation.score import predict, score_views

__all__ = [
    "Predictions",
    "confusion_matrix",
    "pool",
    "predict",
    "read_predictions",
    "score_views",
    "scores",
    "write_predictions",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "metrics": ["confusion_matrix", "scores"],
        "predictions": ["Predictions", "pool", "read_predictions", "write_predictions"],
        "score": ["predict", "score_views"],
    },
)
