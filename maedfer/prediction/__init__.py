"""Prediction: from a video of one's own to the expressions of each face in it over time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maedfer._lazy import lazy

if TYPE_CHECKING:
    from maedfer.prediction.options import PredictionOptions
    from maedfer.prediction.predictor import Predictor, open_predictor
    from maedfer.prediction.rows import Row, Window

__all__ = ["PredictionOptions", "Predictor", "Row", "Window", "open_predictor"]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "options": ["PredictionOptions"],
        "predictor": ["Predictor", "open_predictor"],
        "rows": ["Row", "Window"],
    },
)
