"""What can be chosen of crops."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from maedfer.errors import InputError
from maedfer.setting import check_range, documented, setting

CropFormat = Literal["mp4", "frames"]
# Lowest, usual and highest quality.
_QUALITIES: dict[CropFormat, tuple[int, int, int]] = {"mp4": (0, 12, 51), "frames": (1, 95, 100)}


@documented
@dataclass(frozen=True)
class CropOptions:
    """How faces are found in videos, cut out and written."""

    faces: Literal["largest", "all"] | int = setting(
        "largest",
        doc="whose crops are written: of the face that covers the largest area over time, of everybody, or of the N "
        "largest ones",
    )
    size: int = setting(
        224,
        low=16,
        high=4096,
        doc="side of the crops in pixels; more than the 160 that recipes train with, so that random crops and scaling "
        "have something to take from",
    )
    format: CropFormat = setting("mp4", doc="one mp4 (h264) for each face, or one folder of jpg files")
    quality: int | None = setting(
        None,
        doc="of mp4: x264's crf, 0 to 51, lower is better (12 when None); of jpg: 1 to 100, higher is better (95)",
    )
    margin: float = setting(1.3, low=0.5, doc="side of the square that is cut out, in longer sides of the face's box")
    threshold: float = setting(0.5, above=0, below=1, doc="least score of a face")
    every: int = setting(5, low=1, high=50, doc="frames from one that faces are looked for in to the next one")
    fps: float | None = setting(None, above=0, doc="frames a second of a folder of frames, which tells no times")
    detector: str | None = setting(None, doc="file of a detector (CenterFace, YuNet); None = CenterFace", path=True)
    boxes: str | None = setting(None, doc="CSV of boxes made elsewhere, instead of a detector", path=True)
    save_boxes: bool = setting(False, doc="write the boxes of every frame as well, as `boxes` takes them")

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            check_range(field, getattr(self, field.name), field.name)
        if self.format not in _QUALITIES:
            raise InputError(f"format must be {' or '.join(_QUALITIES)}, got {self.format!r}")
        if self.faces not in ("largest", "all") and (not isinstance(self.faces, int) or self.faces < 1):
            raise InputError(f"faces must be largest, all, or a number from 1 on, got {self.faces!r}")
        if self.format == "mp4" and self.size % 2:
            raise InputError(f"size must be even, as pictures of mp4 files are; got {self.size}")
        lowest, _, highest = _QUALITIES[self.format]
        if self.quality is not None and not lowest <= self.quality <= highest:
            raise InputError(
                f"quality must be between {lowest} and {highest} where format is {self.format}, got {self.quality}"
            )
        if self.boxes is not None and self.detector is not None:
            raise InputError("boxes come from a file or from a detector: give boxes or detector, not both")

    @property
    def written_quality(self) -> int:
        """The quality that is meant: the one that was given, or the format's usual one."""
        return _QUALITIES[self.format][1] if self.quality is None else self.quality
