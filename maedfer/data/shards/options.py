"""What can be chosen of shards."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, get_args

from maedfer.data.shards.layout import Stored
from maedfer.data.video.base import MAX_PIXELS
from maedfer.errors import InputError, unknown
from maedfer.setting import check_range, documented, setting


@documented
@dataclass(frozen=True)
class ShardOptions:
    """Which frames of clips are stored, and how. Without other words all of them, as they are."""

    format: Stored = setting("jpeg", doc="jpeg, or raw: uint8 pixels, which take about ten times the space")
    quality: int = setting(90, low=1, high=100, doc="of jpeg, 1 to 100")
    size: int | tuple[int, int] | None = setting(
        None,
        low=1,
        high=8192,
        doc="of pictures: the short side, the aspect is kept; or height and width, to which they are stretched; None = "
        "as they are",
    )
    cut: tuple[int, int, int, int] | None = setting(
        None, low=0, doc="top, left, height, width of what is cut out of every frame before, as augment.crop does"
    )
    stride: int = setting(1, low=1, doc="every so many frames one is stored, from the first on")
    max_frames: int | None = setting(None, low=1, doc="of longer clips so many frames from the middle are stored")
    fps: float | None = setting(None, above=0, doc="frames a second of folders of frames, which tell no times")
    shard_size: int = setting(512, low=1, high=100_000, doc="most megabytes of a shard, unless one clip has more")
    clips_per_shard: int | None = setting(None, low=1, doc="most clips of a shard; None = as many as fit")
    seed: int | None = setting(
        None, low=0, doc="clips are stored in an order drawn by it; None = in the order of the list"
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            check_range(field, getattr(self, field.name), field.name)
        if self.format not in get_args(Stored):
            raise unknown("format", self.format, get_args(Stored))
        if isinstance(self.size, tuple) and (len(self.size) != 2 or math.prod(self.size) > MAX_PIXELS):
            raise InputError(f"size must be one number, or height and width of {MAX_PIXELS} pixels at most")
        if self.cut is not None and (len(self.cut) != 4 or min(self.cut[2:]) < 1):
            raise InputError(f"cut must be top, left, height, width in pixels, got {list(self.cut)}")

    def about(self) -> dict[str, Any]:
        """What the content of shards depends on, as index.json has it."""
        about = dataclasses.asdict(self)
        return about | {"quality": None} if self.format == "raw" else about
