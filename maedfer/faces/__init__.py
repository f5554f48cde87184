"""Faces: finding them in a video, following each of them through it, and cutting them out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maedfer._lazy import lazy

if TYPE_CHECKING:
    from maedfer.faces.detector import open_detector
    from maedfer.faces.frame import Detections, Detector, Frame

__all__ = ["Detections", "Detector", "Frame", "open_detector"]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "detector": ["open_detector"],
        "frame": ["Detections", "Detector", "Frame"],
    },
)
