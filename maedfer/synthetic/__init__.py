"""Drawn faces that act out seven expressions: a data set for the demo and the tests, made of nothing but numbers.

`write_dataset` makes a folder of clips with folds; `render_clip` paints one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from maedfer._lazy import lazy

if TYPE_CHECKING:
    from maedfer.synthetic.acting import EXPRESSIONS, TWINS, Performance
    from maedfer.synthetic.casting import FaceStyle
    from maedfer.synthetic.clips import contact_sheet, encode_clip, render_clip, render_parameters
    from maedfer.synthetic.dataset import write_dataset
    from maedfer.synthetic.scene import write_scene

__all__ = [
    "EXPRESSIONS",
    "TWINS",
    "FaceStyle",
    "Performance",
    "contact_sheet",
    "encode_clip",
    "render_clip",
    "render_parameters",
    "write_dataset",
    "write_scene",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "acting": ["EXPRESSIONS", "TWINS", "Performance"],
        "casting": ["FaceStyle"],
        "clips": ["contact_sheet", "encode_clip", "render_clip", "render_parameters"],
        "dataset": ["write_dataset"],
        "scene": ["write_scene"],
    },
)
