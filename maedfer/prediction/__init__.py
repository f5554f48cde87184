"""Prediction: from a video of one's own to the expressions of each face in it over time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maedfer._lazy import lazy

if TYPE_CHECKING:
    from maedfer.prediction.options import PredictionOptions
    from maedfer.prediction.rows import Row, Window

__all__ = ["PredictionOptions", "Row", "Window"]

__getattr__, __dir__ = lazy(__name__, {"options": ["PredictionOptions"], "rows": ["Row", "Window"]})
