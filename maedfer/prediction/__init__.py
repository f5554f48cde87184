"""Prediction: from a video of one's own to the expressions of each face in it over time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maedfer._lazy import lazy

if TYPE_CHECKING:
    from maedfer.prediction.api import predict
    from maedfer.prediction.options import PredictionOptions
    from maedfer.prediction.prediction import Prediction
    from maedfer.prediction.predictor import Predictor, open_predictor
    from maedfer.prediction.rows import Row, Window
    from maedfer.prediction.segments import Segment

__all__ = ["Prediction", "PredictionOptions", "Predictor", "Row", "Segment", "Window", "open_predictor", "predict"]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "api": ["predict"],
        "options": ["PredictionOptions"],
        "prediction": ["Prediction"],
        "predictor": ["Predictor", "open_predictor"],
        "rows": ["Row", "Window"],
        "segments": ["Segment"],
    },
)
