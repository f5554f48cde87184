"""Video files: what they hold, and reading their frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maedfer._lazy import lazy

if TYPE_CHECKING:
    from maedfer.data.video.index import VideoIndex, index_video
    from maedfer.data.video.readers import VideoReader, open_video

__all__ = ["VideoIndex", "VideoReader", "index_video", "open_video"]

__getattr__, __dir__ = lazy(
    __name__, {"index": ["VideoIndex", "index_video"], "readers": ["VideoReader", "open_video"]}
)
