"""Faces: finding them in a video, following each of them through it, and cutting them out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maedfer._lazy import lazy

if TYPE_CHECKING:
    from maedfer.faces.boxes import read_boxes
    from maedfer.faces.detector import open_detector
    from maedfer.faces.frame import Detections, Detector, Frame
    from maedfer.faces.record import DetectionRecord

__all__ = ["DetectionRecord", "Detections", "Detector", "Frame", "open_detector", "read_boxes"]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "boxes": ["read_boxes"],
        "detector": ["open_detector"],
        "frame": ["Detections", "Detector", "Frame"],
        "record": ["DetectionRecord"],
    },
)
