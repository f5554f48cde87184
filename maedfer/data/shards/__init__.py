"""Shards: clips decoded once and kept in tar files, with an index of every picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maedfer._lazy import lazy

if TYPE_CHECKING:
    from maedfer.data.shards.layout import ShardIndex, is_shards, read_index
    from maedfer.data.shards.reader import open_clip
    from maedfer.data.shards.store import open_store

__all__ = ["ShardIndex", "is_shards", "open_clip", "open_store", "read_index"]

__getattr__, __dir__ = lazy(
    __name__,
    {"layout": ["ShardIndex", "is_shards", "read_index"], "reader": ["open_clip"], "store": ["open_store"]},
)
