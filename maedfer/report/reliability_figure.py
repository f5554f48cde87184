"""The reliability diagram: how often a model is right, over how sure it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from maedfer._figure_style import MUTED, PALETTE, TINT, blank, styled
from maedfer.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def reliability_diagram(curves: Mapping[str, Mapping[str, Sequence[Any]]], *, width: float = 4.4) -> Figure:
    """Draw shares of right clips over the confidence of each bin, and below them how many clips each bin has.

    Args:
        curves: by what a line is called, what `maedfer.evaluation.metrics.reliability` gives: clips, confidence and
            right of bins of equal width from 0 to 1. Dots are as large as their bins have clips.
        width: of the figure, in inches.
    """
    if not curves or not all(sum(curve["clips"]) for curve in curves.values()):
        raise InputError("reliability_diagram() needs at least one curve of a clip or more")
    figure = blank(width, 1.12 * width)
    axis, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    axis.plot([0, 100], [0, 100], color=MUTED, linewidth=0.8, linestyle=(0, (3, 2)), label="as sure as right")
    bins = len(next(iter(curves.values()))["clips"])
    edges = 100 * np.arange(bins) / bins
    for position, (name, curve) in enumerate(curves.items()):
        clips = np.array(curve["clips"])
        filled = np.flatnonzero(clips).tolist()
        sure = 100 * np.array([curve["confidence"][at] for at in filled], dtype=float)
        right = 100 * np.array([curve["right"][at] for at in filled], dtype=float)
        color = PALETTE[position % len(PALETTE)]
        axis.plot(sure, right, color=color, linewidth=1, label=name)
        sizes = 10 + 110 * clips[filled] / clips.sum()
        axis.scatter(sure, right, s=sizes, color=color, linewidths=0, alpha=0.85, zorder=3)
        # Bars of several lines stand side by side.
        broad = 90 / bins / len(curves)
        left = edges + 5 / bins + broad * position
        shares = 100 * clips / clips.sum()
        below.bar(left, shares, broad, align="edge", color=color if len(curves) > 1 else TINT, linewidth=0)
    axis.set(xlim=(0, 102), ylim=(-2, 102))
    axis.set_ylabel("right (%)")
    axis.grid(True)
    axis.legend(loc="upper left")
    below.set_xlabel("confidence (%)")
    below.set_ylabel("clips (%)")
    below.grid(True, axis="y")
    return figure
