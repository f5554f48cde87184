"""The picture of scores over the number of labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from maedfer._figure_style import MARKERS, MUTED, PALETTE, PAPER, blank, styled
from maedfer.errors import require
from maedfer.studies.tables import Measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@styled
def label_curve(
    names: Sequence[str],
    clips: Sequence[int],
    points: Mapping[str, Mapping[str, Sequence[Measured]]],
    seeds: Mapping[str, Mapping[str, np.ndarray]],
    *,
    chance: Mapping[str, float] | None = None,
    width: float = 10.0,
) -> Figure:
    """Draw scores over the number of labels, which is on a logarithmic axis: one axes a metric.

    Args:
        names: of the parts of the labels [labels], rising.
        clips: how many clips each has [labels].
        points: metric -> condition -> mean and interval as shares [labels].
        seeds: metric -> condition -> shares, float64 [labels, seeds].
        chance: metric -> share that guessing has.
        width: of the figure, in inches.
    """
    figure = blank(width, 3.5)
    axes = figure.subplots(1, len(points), sharey=True, squeeze=False)[0]
    for axis, (metric, by_condition) in zip(axes, points.items(), strict=True):
        for index, (condition, row) in enumerate(by_condition.items()):
            _draw(axis, clips, row, seeds[metric][condition], index, condition)
        if metric in (chance or {}):
            axis.axhline(100 * (chance or {})[metric], color=MUTED, linewidth=0.9, linestyle=(0, (1, 2)), zorder=0)
        axis.set_title(f"{metric} (%)")
        axis.set_xlabel("labelled clips, and the part of all labels that they are")
        axis.grid(True, axis="y")
        _mark(axis, names, clips)
    if len(next(iter(points.values()))) > 1:
        axes[-1].legend(loc="upper left", labelspacing=0.5)
    return figure


def _draw(
    axis: Axes, clips: Sequence[int], row: Sequence[Measured], values: np.ndarray, index: int, label: str
) -> None:
    color = PALETTE[index % len(PALETTE)]
    places = np.asarray(clips, dtype=float)
    if all(point.low is not None and point.high is not None for point in row):
        low, high = ([100 * (getattr(point, end) or 0.0) for point in row] for end in ("low", "high"))
        axis.fill_between(places, low, high, color=color, alpha=0.14, linewidth=0)
    axis.plot(
        places,
        [100 * point.value for point in row],
        color=color,
        linewidth=2,
        marker=MARKERS[index % len(MARKERS)],
        markersize=6,
        markeredgecolor=PAPER,
        markeredgewidth=0.8,
        label=label,
        zorder=3,
    )
    if values.shape[1] > 1:
        across = np.broadcast_to(places[:, None], values.shape)
        axis.scatter(across, 100 * values, s=9, color=color, alpha=0.55, linewidths=0, zorder=2)


def _mark(axis: Axes, names: Sequence[str], clips: Sequence[int]) -> None:
    """A tick at every part, those that would overlap left out."""
    ticker = require("matplotlib.ticker", "train")
    axis.set_xscale("log")
    axis.margins(x=0.06)
    span = max(np.log(clips[-1] / clips[0]), 1e-9)
    kept: list[int] = []
    for place in range(len(clips)):
        if not kept or np.log(clips[place] / clips[kept[-1]]) > 0.09 * span:
            kept.append(place)
    axis.set_xticks([clips[place] for place in kept], [f"{clips[place]:,}\n{names[place]}" for place in kept])
    axis.xaxis.set_minor_locator(ticker.NullLocator())
