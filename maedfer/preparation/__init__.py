"""From a data set as it lies on disk to lists that can be trained on: checked, cropped where need be, and split."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maedfer._lazy import lazy

if TYPE_CHECKING:
    from maedfer.preparation.options import PrepareOptions
    from maedfer.preparation.prepare import Prepared, prepare_dataset

__all__ = ["PrepareOptions", "Prepared", "prepare_dataset"]

__getattr__, __dir__ = lazy(__name__, {"options": ["PrepareOptions"], "prepare": ["Prepared", "prepare_dataset"]})
