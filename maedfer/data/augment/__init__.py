"""Changes to the frames of training clips, and mixing of batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maedfer._lazy import lazy

if TYPE_CHECKING:
    from maedfer.data.augment.mixup import Mixup
    from maedfer.data.augment.rand_augment import RandAugment
    from maedfer.data.augment.transforms import EvalTransform, PretrainAugment, TrainAugment

__all__ = ["EvalTransform", "Mixup", "PretrainAugment", "RandAugment", "TrainAugment"]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "mixup": ["Mixup"],
        "rand_augment": ["RandAugment"],
        "transforms": ["EvalTransform", "PretrainAugment", "TrainAugment"],
    },
)
