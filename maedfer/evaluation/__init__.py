"""Scores of predictions, and features of clips."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maedfer._lazy import lazy

if TYPE_CHECKING:
    from maedfer.evaluation.bootstrap import bootstrap_intervals, interval_facts
    from maedfer.evaluation.calibration import calibrated, fit_temperature
    from maedfer.evaluation.class_map import ClassMap
    from maedfer.evaluation.features import Features, extract_features, write_features
    from maedfer.evaluation.metrics import (
        auc_scores,
        calibration_scores,
        confusion_matrix,
        intervals,
        reliability,
        scores,
    )
    from maedfer.evaluation.paired import match_clips, mcnemar, pooled_intervals
    from maedfer.evaluation.predictions import Predictions, pool, read_predictions, write_predictions
    from maedfer.evaluation.score import predict, score_views

__all__ = [
    "ClassMap",
    "Features",
    "Predictions",
    "auc_scores",
    "bootstrap_intervals",
    "calibrated",
    "calibration_scores",
    "confusion_matrix",
    "extract_features",
    "fit_temperature",
    "interval_facts",
    "intervals",
    "match_clips",
    "mcnemar",
    "pool",
    "pooled_intervals",
    "predict",
    "read_predictions",
    "reliability",
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
        "bootstrap": ["bootstrap_intervals", "interval_facts"],
        "class_map": ["ClassMap"],
        "metrics": [
            "auc_scores",
            "calibration_scores",
            "confusion_matrix",
            "intervals",
            "reliability",
            "scores",
        ],
        "paired": ["match_clips", "mcnemar", "pooled_intervals"],
        "predictions": ["Predictions", "pool", "read_predictions", "write_predictions"],
        "score": ["predict", "score_views"],
    },
)
