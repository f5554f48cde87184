"""What passes between a video, a detector and a tracker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

# A box is x, y, width, height in pixels of the frame as it is shown: x and y of its left upper corner, as floats that
# may lie outside of the frame.


@dataclass(frozen=True)
class Frame:
    """One frame of a video.

    Args:
        index: its position in the video, from 0.
        time: when it is shown, in seconds since the video's start.
        picture: uint8 [H, W, 3], RGB; None where nobody needs it, as what is in it is on record.
    """

    index: int
    time: float
    picture: np.ndarray | None


@dataclass(frozen=True)
class Detections:
    """Faces that were found in one frame.

    Args:
        boxes: float32 [n, 4], see the head of this module.
        scores: float32 [n], in [0, 1].
        faces: int64 [n], who they are, where whoever made the boxes says so; None elsewhere.
    """

    boxes: np.ndarray
    scores: np.ndarray
    faces: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.boxes)


class Detector(Protocol):
    """Whatever finds faces.

    Attributes:
        name: what it is called in summaries.
        note: what there is to know of it before results are used or published (licence of its training data).
        needs_pictures: False where boxes come from elsewhere and frames may be without their pictures.
    """

    name: str
    note: str
    needs_pictures: bool

    def detect(self, frames: Sequence[Frame]) -> list[Detections]:
        """Find the faces of each of some frames, which are all of one size."""
        ...
