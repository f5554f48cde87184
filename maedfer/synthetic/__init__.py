"""Drawn faces that act out seven expressions: a data set for the demo and the tests, made of nothing but numbers.

`write_dataset` makes a folder of clips with folds; `render_clip` paints one.
"""

from maedfer.synthetic.acting import EXPRESSIONS, TWINS, FaceTrack
from maedfer.synthetic.casting import FaceStyle
from maedfer.synthetic.clips import contact_sheet, encode_clip, render_clip, render_parameters
from maedfer.synthetic.dataset import write_dataset

__all__ = [
    "EXPRESSIONS",
    "TWINS",
    "FaceStyle",
    "FaceTrack",
    "contact_sheet",
    "encode_clip",
    "render_clip",
    "render_parameters",
    "write_dataset",
]
