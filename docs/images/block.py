"""The picture of a block in docs/design.md.

python docs/images/block.py    # writes docs/images/block.png
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Rectangle

LOCAL, REPRESENTATIVE, INK, MUTED, PAPER = "#4477aa", "#ee6677", "#20242a", "#68717d", "#f2f4f7"

STAGES = [
    ("1  intra-region attention", r"$z_i \leftarrow z_i + \mathrm{MHSA}(\mathrm{LN}(z_i))$", "all rows of a region"),
    ("2  inter-region attention", r"$s \leftarrow s + \mathrm{MHSA}(\mathrm{LN}(s))$", "representative tokens"),
    (
        "3  local-global interaction",
        r"$x \leftarrow x + \mathrm{MHCA}(\mathrm{LN}(x), \mathrm{LN}(s))$",
        "every local token to all representative ones",
    ),
    ("4  feed-forward network", r"$z \leftarrow z + \mathrm{FFN}(\mathrm{LN}(z))$", "every row by itself"),
]
Place = tuple[float, float]

# Where a stage's panel begins, and how far the next one is.
WIDTH, STEP = 4.4, 5.3
REGIONS = [(column * 2.25, row * 2.3) for row in (1, 0) for column in (0, 1)]


def rows_of(x: float, y: float) -> tuple[Place, list[Place]]:
    """Places of a region's representative token and of its local tokens."""
    return (x + 0.42, y + 1.0), [(x + 0.98 + 0.5 * i, y + 0.42 + 0.58 * j) for j in range(3) for i in range(2)]


def draw_lines(axis: Any, pairs: Iterable[tuple[Place, Place]], **style: Any) -> None:
    """Join every pair of places."""
    for a, b in pairs:
        axis.plot(*zip(a, b, strict=True), zorder=2, **style)


def draw_stage(axis: Any, left: float, stage: int) -> None:
    """Draw one panel: the regions of a clip, and who attends to whom."""
    regions = [rows_of(left + x, y) for x, y in REGIONS]
    everything = [place for one, many in regions for place in (one, *many)]
    ones = [one for one, _ in regions]
    for x, y in REGIONS:
        box = FancyBboxPatch((left + x + 0.06, y + 0.06), 1.95, 1.9, "round,pad=0,rounding_size=0.14")
        axis.add_patch(box)
        box.set(facecolor=PAPER, edgecolor="#c9ced6", linewidth=0.8)
    if stage == 0:
        for one, many in regions:
            draw_lines(axis, itertools.combinations((one, *many), 2), color=MUTED, alpha=0.45, linewidth=0.8)
    elif stage == 1:
        draw_lines(axis, itertools.combinations(ones, 2), color=REPRESENTATIVE, linewidth=1.5)
    elif stage == 2:
        local = [place for _, many in regions for place in many]
        draw_lines(axis, itertools.product(ones, local), color=REPRESENTATIVE, alpha=0.16, linewidth=0.8)
        # What one token sees stands out from what all the others do.
        draw_lines(axis, itertools.product(ones, local[-1:]), color=REPRESENTATIVE, linewidth=1.5)
    for x, y in everything:
        is_one = (x, y) in ones
        busy = is_one or stage != 1
        colour = (REPRESENTATIVE if is_one else LOCAL) if busy else "#c5d3e4"
        patch = Circle((x, y), 0.19) if is_one else Rectangle((x - 0.15, y - 0.15), 0.3, 0.3)
        axis.add_patch(patch)
        patch.set(facecolor=colour, edgecolor="white", linewidth=0.9, zorder=4)
        if stage == 3:
            axis.plot([x, x], [y - 0.07, y + 0.07], color="white", linewidth=1.3, zorder=5)


def draw() -> Figure:
    """Draw the block."""
    figure = Figure(figsize=(11, 3.75))
    axis = figure.add_axes((0.005, 0.01, 0.99, 0.98))
    axis.set_xlim(-0.35, 3 * STEP + WIDTH + 0.35)
    axis.set_ylim(-2.35, 5.2)
    axis.set_axis_off()
    for stage, (title, formula, who) in enumerate(STAGES):
        left = stage * STEP
        axis.text(left + WIDTH / 2, 4.82, title, ha="center", va="center", size=10, weight="bold", color=INK)
        draw_stage(axis, left, stage)
        axis.text(left + WIDTH / 2, -0.42, formula, ha="center", va="center", size=10.5, color=INK)
        axis.text(left + WIDTH / 2, -0.95, who, ha="center", va="center", size=8.5, color=MUTED)
        if stage:
            arrow = FancyArrowPatch((left - 0.78, 2.2), (left - 0.08, 2.2), arrowstyle="-|>", mutation_scale=11)
            axis.add_patch(arrow)
            arrow.set(color=INK, linewidth=1.2)
    legend = [(REPRESENTATIVE, "representative token $s_i$ of a region"), (LOCAL, "local token $x_i$")]
    for (colour, text), x in zip(legend, (2.6, 8.6), strict=True):
        patch = Circle((x, -1.85), 0.17) if colour == REPRESENTATIVE else Rectangle((x - 0.14, -1.99), 0.28, 0.28)
        axis.add_patch(patch)
        patch.set(facecolor=colour, linewidth=0)
        axis.text(x + 0.35, -1.85, text, va="center", size=9, color=INK)
    axis.text(12.0, -1.85, r"$z_i = [s_i, x_i]$, one stream [B, M, S, C] throughout", va="center", size=9, color=INK)
    return figure


if __name__ == "__main__":
    out = Path(__file__).with_suffix(".png")
    draw().savefig(out, dpi=120)
    print(f"wrote {out}")
