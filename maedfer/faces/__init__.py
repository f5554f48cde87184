"""Faces: finding them in a video, following each of them through it, and cutting them out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maedfer._lazy import lazy

if TYPE_CHECKING:
    from maedfer.faces.boxes import read_boxes
    from maedfer.faces.crop import crop_square
    from maedfer.faces.detector import open_detector
    from maedfer.faces.find import find_tracks
    from maedfer.faces.follow import Follower
    from maedfer.faces.frame import Detections, Detector, Frame
    from maedfer.faces.record import DetectionRecord
    from maedfer.faces.track import FaceTrack

__all__ = [
    "DetectionRecord",
    "Detections",
    "Detector",
    "FaceTrack",
    "Follower",
    "Frame",
    "crop_square",
    "find_tracks",
    "open_detector",
    "read_boxes",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "boxes": ["read_boxes"],
        "crop": ["crop_square"],
        "detector": ["open_detector"],
        "find": ["find_tracks"],
        "follow": ["Follower"],
        "frame": ["Detections", "Detector", "Frame"],
        "record": ["DetectionRecord"],
        "track": ["FaceTrack"],
    },
)
