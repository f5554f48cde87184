"""Scores of predictions, and features of clips."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maedfer._lazy import lazy

if TYPE_CHECKING:
    from maedfer.evaluation.calibration import calibrated, fit_temperature
    from maedfer.evaluation.features import Features, extract_features, write_features
    from maedfer.evaluation.metrics import calibration_scores, confusion_matrix, intervals, scores
    from maedfer.evaluation.predictions import Predictions, pool, read_predictions, write_predictions
    from maedfer.evaluation.score import predict, score_views

__all__ = [
    "Features",
    "Predictions",
    "calibrated",
    "calibration_scores",
    "confusion_matrix",
    "extract_features",
    "fit_temperature",
    "intervals",
    "pool",
    "predict",
    "read_predictions",
    "score_views",
    "scores",
    "write_features",
    "write_predictions",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "calibration": ["calibrated", "fit_temperature"],
        "features": ["Features", "extract_features", "write_features"],
        "metrics": ["calibration_scores", "confusion_matrix", "intervals", "scores"],
        "predictions": ["Predictions", "pool", "read_predictions", "write_predictions"],
        "score": ["predict", "score_views"],
    },
)
