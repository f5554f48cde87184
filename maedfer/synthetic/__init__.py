"""Drawn faces that act out seven expressions: a data set for the demo and the tests, made of nothing but numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maedfer._lazy import lazy

if TYPE_CHECKING:
    from maedfer.synthetic.casting import FaceStyle
    from maedfer.synthetic.dataset import contact_sheet, render_clip, write_dataset

__all__ = ["FaceStyle", "contact_sheet", "render_clip", "write_dataset"]

__getattr__, __dir__ = lazy(
    __name__, {"casting": ["FaceStyle"], "dataset": ["contact_sheet", "render_clip", "write_dataset"]}
)
