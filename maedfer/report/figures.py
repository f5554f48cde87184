"""Figures of the reports, drawn with matplotlib from plain arrays (Agg, no pyplot, no global state).

Every function returns a `matplotlib.figure.Figure`; save it with `figure.savefig("name.pdf")`. Shares (recall, F1, UAR,
WAR) go in as fractions and are drawn as percentages.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from maedfer._figure_style import HEAT, INK, MARKERS, MUTED, PALETTE, PAPER, TINT, blank, styled
from maedfer.errors import InputError, require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Curve(NamedTuple):
    """One line: `y` over `x` (same length), and a band between `low` and `high` where both are given."""

    x: ArrayLike
    y: ArrayLike
    low: ArrayLike | None = None
    high: ArrayLike | None = None
    color: int | None = None  # index into PALETTE; None: the position in the panel
    dashed: bool = False


class Panel(NamedTuple):
    """One axes of `curves`: named lines, an optional vertical mark (for example the selected epoch)."""

    title: str
    x_label: str
    lines: Mapping[str, Curve]
    mark: float | None = None
    mark_label: str = ""
    percent: bool = False


@styled
def curves(panels: Sequence[Panel], *, columns: int = 3, width: float = 10.0, height: float = 2.7) -> Figure:
    """Draw lines over steps or epochs, one axes a panel.

    Args:
        panels: what to draw; a line longer than 1,000 points is averaged in equal bins and its range shown as a band.
        columns: panels in a row.
        width: of the figure, in inches.
        height: of one row, in inches.
    """
    if not panels:
        raise InputError("curves() needs at least one panel to draw")
    columns = min(columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = blank(width, height * rows)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, panel in zip(axes, panels, strict=False):
        _draw_panel(axis, panel)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    return figure


def _draw_panel(axis: Axes, panel: Panel) -> None:
    scale = 100.0 if panel.percent else 1.0
    if panel.mark is not None:
        axis.axvline(panel.mark, color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)), label=panel.mark_label or None)
    longest = 0
    for position, (label, line) in enumerate(panel.lines.items()):
        x, y, low, high = _thin(label, line)
        color = PALETTE[(position if line.color is None else line.color) % len(PALETTE)]
        dash = (0, (4, 2)) if line.dashed else "solid"
        marker = "o" if len(x) <= 12 else None
        axis.plot(
            x, y * scale, color=color, linestyle=dash, label=label, marker=marker, markersize=3.2, markeredgewidth=0
        )
        if low is not None and high is not None:
            axis.fill_between(x, low * scale, high * scale, color=color, alpha=0.18, linewidth=0)
        longest = max(longest, len(x))
    axis.set_title(f"{panel.title} (%)" if panel.percent else panel.title)
    axis.set_xlabel(panel.x_label)
    axis.grid(True, axis="y")
    axis.margins(x=0.02)
    axis.ticklabel_format(axis="y", style="plain", useOffset=False)
    if panel.x_label in ("epoch", "step", "layer"):
        axis.xaxis.set_major_locator(require("matplotlib.ticker", "train").MaxNLocator(nbins=6, integer=True))
    if len(panel.lines) > 1 or (panel.mark is not None and panel.mark_label):
        axis.legend(loc="best", borderaxespad=0.2, labelspacing=0.3)


def _thin(label: str, line: Curve, limit: int = 1000, bins: int = 250) -> tuple[Any, Any, Any, Any]:
    x, y = np.asarray(line.x, dtype=float), np.asarray(line.y, dtype=float)
    if x.ndim != 1 or x.shape != y.shape:
        raise InputError(f"curve {label!r}: x and y must be 1-D and equally long, got {x.shape} and {y.shape}")
    low = None if line.low is None else np.asarray(line.low, dtype=float)
    high = None if line.high is None else np.asarray(line.high, dtype=float)
    if len(x) <= limit or low is not None:
        return x, y, low, high
    edges = np.linspace(0, len(x), bins + 1).astype(int)[:-1]
    counts = np.diff(np.append(edges, len(x)))
    mean_x, mean_y = np.add.reduceat(x, edges) / counts, np.add.reduceat(y, edges) / counts
    return mean_x, mean_y, np.minimum.reduceat(y, edges), np.maximum.reduceat(y, edges)


@styled
def confusion_matrix(
    confusion: ArrayLike, classes: Sequence[str], *, title: str = "", width: float | None = None, clips: bool = True
) -> Figure:
    """Draw a confusion matrix: shade and large figure are the share of the true class in %, below it the clips.

    Args:
        confusion: counts [classes, classes], rows true, columns predicted; a row without clips stays blank.
        classes: names, in label order.
        title: above the matrix.
        width: of the figure in inches; by default it grows with the number of classes.
        clips: whether the number of clips is written into the cells.
    """
    counts = np.asarray(confusion, dtype=float)
    n = len(classes)
    if counts.shape != (n, n):
        raise InputError(f"confusion matrix has shape {counts.shape}, but there are {n} class names")
    totals = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    width = width or 1.5 + 0.52 * max(n, 4)
    figure = blank(width, 0.9 + (width - 1.2) * 0.88)
    axis = figure.subplots()
    rectangle = require("matplotlib.patches", "train").Rectangle
    size = float(np.clip(72 * (width - 1.2) / n * (0.24 if clips else 0.3), 4.5, 9))
    for row in range(n):
        for column in range(n):
            shade = share[row, column]
            # Opacity, not lightness: the cell then fits a light and a dark page alike.
            cell = rectangle((column - 0.48, row - 0.46), 0.96, 0.92, facecolor=HEAT, alpha=0.04 + 0.92 * shade)
            axis.add_patch(cell)
            if not totals[row, 0]:
                continue
            ink = "white" if shade > 0.75 else (INK if counts[row, column] else MUTED)
            middle = row - 0.13 if clips else row
            axis.text(column, middle, f"{100 * shade:.1f}", ha="center", va="center", color=ink, fontsize=size)
            if clips:
                count = f"{counts[row, column]:.0f}"
                axis.text(column, row + 0.24, count, ha="center", va="center", color=ink, fontsize=0.72 * size)
    axis.set(xlim=(-0.5, n - 0.5), ylim=(n - 0.5, -0.5))
    axis.set_xticks(range(n), classes, rotation=40, ha="right", rotation_mode="anchor", color=INK)
    axis.set_yticks(range(n), classes, color=INK)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    if title:
        axis.set_title(title)
    return figure


@styled
def class_bars(
    classes: Sequence[str],
    recall: ArrayLike,
    f1: ArrayLike,
    counts: ArrayLike,
    *,
    width: float = 4.8,
    height: float | None = None,
) -> Figure:
    """Draw recall and F1 of every class as bars, with its number of clips and the means (UAR, macro F1) as lines.

    Args:
        classes: names, in label order (top to bottom).
        recall: fraction per class; NaN for a class without clips, which gets no bar.
        f1: fraction per class; NaN likewise.
        counts: clips per class.
        width: of the figure, in inches.
        height: of the figure, in inches; by default it grows with the number of classes.
    """
    n = len(classes)
    values = {"recall": np.asarray(recall, dtype=float), "F1": np.asarray(f1, dtype=float)}
    clips = np.asarray(counts)
    for name, value in (*values.items(), ("counts", clips)):
        if value.shape != (n,):
            raise InputError(f"class_bars(): {name} has shape {value.shape}, but there are {n} class names")
    figure = blank(width, height or 1.0 + 0.46 * n)
    axis = figure.subplots()
    place = np.arange(n)
    for position, (name, value) in enumerate(values.items()):
        mean = 100 * np.nanmean(value) if np.isfinite(value).any() else math.nan
        bars = axis.barh(
            place + 0.37 * position - 0.185,
            100 * np.nan_to_num(value),
            0.34,
            color=PALETTE[0] if position == 0 else TINT,
            linewidth=0,
            label=f"{name} (mean {mean:.1f})",
        )
        for bar, share in zip(bars, value, strict=True):
            inside = share > 0.12
            axis.text(
                bar.get_width() + (-1 if inside else 1),
                bar.get_y() + bar.get_height() / 2,
                "no clips" if math.isnan(share) else f"{100 * share:.1f}",
                ha="right" if inside else "left",
                va="center_baseline",
                fontsize=7,
                color=MUTED if not inside else PAPER if position == 0 else INK,
            )
        dash = (0, (3, 2)) if position == 0 else (0, (1, 1.5))
        axis.axvline(mean, color=MUTED, linewidth=0.9, linestyle=dash, zorder=0)
    axis.set_yticks(place, [f"{name}\n{count:,} clips" for name, count in zip(classes, clips, strict=True)], color=INK)
    axis.set(xlim=(0, 101), ylim=(n - 0.45, -0.55))
    axis.set_xticks(range(0, 101, 20))
    axis.tick_params(axis="y", length=0)
    axis.grid(True, axis="x")
    axis.spines["left"].set_visible(False)
    axis.set_xlabel("%")
    figure.legend(loc="outside upper right", ncols=2, columnspacing=1.2)
    return figure


@styled
def reconstruction_grid(
    masked: ArrayLike,
    original: ArrayLike,
    *,
    appearance: ArrayLike | None = None,
    motion: ArrayLike | None = None,
    full: ArrayLike | None = None,
    untrained: ArrayLike | None = None,
    clips: int = 3,
    columns: int = 8,
    cube: int = 2,
    motion_gain: float = 1.0,
    width: float = 10.0,
) -> Figure:
    """Draw masked clips beside what the model makes of them; a column is one cube in time (two frames by default).

    Rows, as far as they are given: masked input, prediction before training, predicted appearance (first frame of the
    cube), predicted motion (last frame, on grey), their sum (last frame), original (last frame; the first one where
    only the appearance is given).

    Args:
        masked: pictures [n, T, H, W, 3] in [0, 1]; likewise the following.
        original: the clip as it is.
        appearance: its first frames are drawn.
        motion: differences around 0.5; its last frames are drawn.
        full: masked cubes filled with the prediction.
        untrained: the prediction before training.
        clips: at most so many of the n are drawn.
        columns: at most so many cubes are drawn, spread evenly over the clip.
        cube: frames per cube.
        motion_gain: factor on the motion, for the eye.
        width: of the figure, in inches.
    """
    last = 0 if motion is None and full is None else cube - 1
    if motion is not None:
        motion = 0.5 + motion_gain * (np.asarray(motion, dtype=np.float32) - 0.5)
    wanted = (
        ("masked input", masked, last),
        ("before training", untrained, last),
        ("appearance", appearance, 0),
        ("motion", motion, last),
        ("reconstruction" if appearance is None or motion is None else "sum", full, last),
        ("original", original, last),
    )
    rows = [(name, np.asarray(value, dtype=np.float32), frame) for name, value, frame in wanted if value is not None]
    shape = rows[0][1].shape
    for name, value, _ in rows:
        if value.ndim != 5 or value.shape[-1] != 3 or value.shape != shape or shape[1] < cube:
            raise InputError(
                f"reconstruction {name!r} has shape {value.shape}; all pictures must be [n, T, H, W, 3] of one shape"
                f" with T >= {cube}"
            )
    clips, cubes = min(clips, shape[0]), shape[1] // cube
    chosen = np.unique(np.linspace(0, cubes - 1, min(columns, cubes)).round().astype(int))
    # Small pictures are enlarged by repetition (the cubes stay sharp), large ones averaged down: the page stays light.
    grow, shrink = max(1, 96 // shape[3]), max(1, shape[3] // 160)
    cell_w, cell_h = shape[3] * grow // shrink, shape[2] * grow // shrink
    gap = max(2, cell_w // 40)
    sheet_w, sheet_h = len(chosen) * (cell_w + gap) - gap, len(rows) * (cell_h + gap) - gap
    label_width, head, between = 1.12, 0.24, 0.16
    picture_width = width - label_width
    picture_height = picture_width * sheet_h / sheet_w
    total = head + clips * picture_height + (clips - 1) * between + 0.02
    figure = blank(width, total)
    figure.set_layout_engine("none")
    for clip in range(clips):
        sheet = np.zeros((sheet_h, sheet_w, 4), dtype=np.uint8)
        for row, (_, value, frame) in enumerate(rows):
            for column, index in enumerate(chosen):
                picture = _resize(value[clip, index * cube + frame], grow, shrink)
                top, left = row * (cell_h + gap), column * (cell_w + gap)
                sheet[top : top + cell_h, left : left + cell_w, :3] = picture[:cell_h, :cell_w]
                sheet[top : top + cell_h, left : left + cell_w, 3] = 255
        bottom = total - head - (clip + 1) * picture_height - clip * between
        box = (label_width / width, bottom / total, picture_width / width, picture_height / total)
        axis = figure.add_axes(box)
        axis.imshow(sheet, interpolation="none", aspect="auto")
        axis.set_axis_off()
        for row, (name, _, _) in enumerate(rows):
            middle = row * (cell_h + gap) + cell_h / 2
            axis.text(-sheet_w * 0.01, middle, name, ha="right", va="center")
        if clip == 0:
            for column, index in enumerate(chosen):
                span = f"{index * cube + 1}" if cube == 1 else f"{index * cube + 1}\N{EN DASH}{(index + 1) * cube}"
                middle = column * (cell_w + gap) + cell_w / 2
                text = f"frames {span}" if column == 0 and cube > 1 else span
                axis.text(middle, -sheet_h * 0.01, text, ha="center", va="bottom", color=MUTED)
    return figure


def _resize(picture: NDArray[np.float32], grow: int, shrink: int) -> NDArray[np.uint8]:
    height, width = (side // shrink * shrink for side in picture.shape[:2])
    parts = picture[:height, :width].reshape(height // shrink, shrink, width // shrink, shrink, 3)
    small = np.nan_to_num(parts.mean(axis=(1, 3)), nan=0.5)
    pixels = (np.clip(small, 0, 1) * 255 + 0.5).astype(np.uint8)
    return pixels.repeat(grow, axis=0).repeat(grow, axis=1)


@styled
def tsne_scatter(
    points: ArrayLike,
    labels: ArrayLike,
    classes: Sequence[str],
    *,
    predictions: ArrayLike | None = None,
    width: float = 6.4,
) -> Figure:
    """Draw an embedding of the features in the plane, coloured by class.

    Args:
        points: coordinates [n, 2].
        labels: true class of each point, int [n].
        classes: names, in label order.
        predictions: int [n]; a point that was recognised wrongly is drawn hollow.
        width: of the figure, in inches.
    """
    place, truth = np.asarray(points, dtype=float), np.asarray(labels)
    if place.ndim != 2 or place.shape[1] != 2 or truth.shape != place.shape[:1]:
        raise InputError(f"tsne_scatter(): points {place.shape} and labels {truth.shape} must be [n, 2] and [n]")
    wrong = np.zeros(len(place), dtype=bool) if predictions is None else np.asarray(predictions) != truth
    figure = blank(width, 0.66 * width)
    axis = figure.subplots()
    size = float(np.clip(12000 / max(len(place), 1), 12, 30))
    handles = []
    for index, name in enumerate(classes):
        chosen = truth == index
        if not chosen.any():
            continue
        color, marker = PALETTE[index % len(PALETTE)], MARKERS[index // len(PALETTE) % len(MARKERS)]
        good, bad = place[chosen & ~wrong], place[chosen & wrong]
        style: dict[str, Any] = {"marker": marker, "s": size}
        axis.scatter(*bad.T, facecolors="none", edgecolors=color, linewidths=0.9, **style)
        axis.scatter(*good.T, facecolors=color, edgecolors=PAPER, linewidths=0.3, **style)
        # A handle of its own: the class may have no point that is filled.
        handles.append(axis.scatter([], [], c=color, label=name, marker=marker, s=24))
    if wrong.any():
        handles.append(
            axis.scatter([], [], facecolors="none", edgecolors=MUTED, linewidths=0.9, s=24, label="recognised wrongly")
        )
    axis.set_aspect("equal", adjustable="datalim")
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    figure.legend(handles=handles, loc="outside right center", labelspacing=0.7, handletextpad=0.3)
    return figure


@styled
def seed_comparison(
    scores: Mapping[str, Mapping[str, ArrayLike]], *, paired: bool = True, width: float = 10.0
) -> Figure:
    """Draw every seed of every condition as a dot, the mean as a bar, the sample standard deviation as a broad line.

    Args:
        scores: metric name -> condition -> fraction per seed [n] (NaN where a run has no score).
        paired: join the dots of the same position (the same seed) of neighbouring conditions by thin lines.
        width: of the figure, in inches.
    """
    if not scores or not all(scores.values()):
        raise InputError("seed_comparison() needs at least one metric with one condition")
    conditions = list(next(iter(scores.values())))
    figure = blank(width, 0.75 + 0.52 * len(conditions))
    axes = figure.subplots(1, len(scores), squeeze=False)[0]
    for axis, (metric, by_condition) in zip(axes, scores.items(), strict=True):
        before: NDArray[np.float64] | None = None
        for row, condition in enumerate(conditions):
            values = 100 * np.atleast_1d(np.asarray(by_condition[condition], dtype=float))
            color = PALETTE[row % len(PALETTE)]
            known = values[np.isfinite(values)]
            # Seeds are spread a little, so that equal scores stay countable.
            heights = row + np.linspace(-0.12, 0.12, len(values)) if len(values) > 1 else np.array([float(row)])
            if paired and before is not None and len(before) == len(values):
                axis.plot([before, values], [heights - 1, heights], color=MUTED, alpha=0.35, linewidth=0.7, zorder=1)
            if len(known) > 1:
                mean, spread = known.mean(), known.std(ddof=1)
                axis.plot([mean - spread, mean + spread], [row, row], color=color, alpha=0.22, linewidth=11, zorder=0,
                          solid_capstyle="butt")  # fmt: skip
            if len(known):
                axis.plot([known.mean()] * 2, [row - 0.27, row + 0.27], color=color, linewidth=2.2, zorder=2)
            axis.scatter(values, heights, s=26, color=color, edgecolors=PAPER, linewidths=0.6, zorder=3)
            before = values
        axis.set_yticks(range(len(conditions)), conditions if axis is axes[0] else [""] * len(conditions), color=INK)
        axis.set_ylim(len(conditions) - 0.5, -0.5)
        axis.tick_params(axis="y", length=0)
        axis.spines["left"].set_visible(False)
        axis.grid(True, axis="x")
        axis.margins(x=0.08)
        axis.set_title(f"{metric} (%)")
    return figure
