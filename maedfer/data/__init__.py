"""Data: annotation files, readers, frame sampling, augmentation, data sets, and their protocols."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maedfer._lazy import lazy

if TYPE_CHECKING:
    from maedfer.data.annotations import Clip, read_annotations, write_annotations
    from maedfer.data.dataset import ClipDataset, collate
    from maedfer.data.protocols import PROTOCOLS, write_protocol
    from maedfer.data.sampler import EpochSampler, SampleKey
    from maedfer.data.video.readers import open_video

__all__ = [
    "PROTOCOLS",
    "Clip",
    "ClipDataset",
    "EpochSampler",
    "SampleKey",
    "collate",
    "open_video",
    "read_annotations",
    "write_annotations",
    "write_protocol",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "annotations": ["Clip", "read_annotations", "write_annotations"],
        "dataset": ["ClipDataset", "collate"],
        "protocols": ["PROTOCOLS", "write_protocol"],
        "sampler": ["EpochSampler", "SampleKey"],
        "video.readers": ["open_video"],
    },
    ["augment", "protocols", "sampling", "video"],
)
