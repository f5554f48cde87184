"""Colours and style of figures, and an empty figure to draw on.

Colours are Paul Tol's "bright" scheme, which stays apart under the common forms of colour blindness; where there are
more groups than colours the marker or the dash changes too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec

from maedfer.errors import require

if TYPE_CHECKING:
    from matplotlib.figure import Figure

P = ParamSpec("P")

PALETTE = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#8f8f8f")
HEAT = "#1f5f99"
TINT = "#b4c8dd"
INK = "#20242a"
MUTED = "#68717d"
LINE = "#dfe3e8"
PAPER = "#fefefe"

MARKERS = "o^sDvP"
_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "text.color": INK,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 8.5,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "legend.handlelength": 1.6,
    "lines.linewidth": 1.5,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "white",
    "savefig.dpi": 200,
    "svg.fonttype": "none",
}


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw in the style of the reports."""

    @wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Figure:
        matplotlib = require("matplotlib", "train")
        with matplotlib.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return wrapper


def blank(width: float, height: float) -> Figure:
    """An empty figure of so many inches, laid out by itself."""
    figure = require("matplotlib.figure", "train").Figure(figsize=(width, height), layout="constrained")
    require("matplotlib.backends.backend_agg", "train").FigureCanvasAgg(figure)
    return figure
