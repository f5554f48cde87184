"""The figure of README, drawn from committed results: what a clip costs, and what pre-training brings.

python -m benchmarks.summary    # writes docs/images/measured.png
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.results_file import make_place
from maedfer._figure_style import INK, LINE, MUTED, PALETTE
from maedfer.errors import InputError, require

RESULTS = Path(__file__).with_name("results")
OUT = RESULTS.parent.parent / "docs" / "images" / "measured.png"

# Workload and mode in the results -> how it is called here; the same for providers and pre-training targets.
_WORK = {("inference", "forward"): "inference", ("finetune_step", "step"): "training step"}
_PROVIDERS = {
    "vit_sdpa": ("ViT-B (VideoMAE)", "#b8bec6"),
    "published_plan": ("LGI-Former, published plan", "#9db8d6"),
    "ours": ("LGI-Former, maedfer", PALETTE[0]),
}
_TARGETS = {
    "scratch": "no pre-training",
    "motion": "motion",
    "appearance": "appearance",
    "joint": "appearance\nand motion",
}


def draw(results: Path = RESULTS) -> Any:
    """Draw the figure.

    Args:
        results: folder with micro_cpu_float32.json and learning.json.

    Returns:
        A matplotlib figure.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    timed = json.loads((results / "micro_cpu_float32.json").read_text(encoding="utf-8"))
    learned = json.loads((results / "learning.json").read_text(encoding="utf-8"))
    figure = require("matplotlib.figure", "train").Figure(figsize=(9.6, 3.1), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    _draw_times(left, timed)
    _draw_scores(right, learned)
    for axis in (left, right):
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.spines["bottom"].set_color(MUTED)
        axis.tick_params(length=0, labelsize=9, labelcolor=INK)
        axis.tick_params(axis="x", labelcolor=MUTED)
        axis.set_axisbelow(True)
        axis.grid(axis="x", color=LINE, linewidth=0.7)
    return figure


def _draw_times(axis: Any, results: dict[str, Any]) -> None:
    axis.set_title("Seconds for one clip of 16 × 160 × 160", loc="left", fontsize=10, fontweight="bold", color=INK)
    axis.set_xlabel(f"float32, {results['machine']['device'].replace('1 threads', 'one thread')}", color=MUTED)
    height = 0.26
    for group, (workload, mode) in enumerate(_WORK):
        rows = {row["provider"]: row for row in results["rows"] if (row["workload"], row["mode"]) == (workload, mode)}
        for number, (provider, (name, colour)) in enumerate(_PROVIDERS.items()):
            row = rows[provider]
            seconds = row["ms"] / row["sizes"]["B"] / 1000
            place = group + (number - 1) * height
            axis.barh(place, seconds, 0.88 * height, color=colour, label=name if not group else None)
            text = f"{seconds:.2f}"
            if provider == "ours":
                text += f"   {rows['published_plan']['ms'] / row['ms']:.1f} times as fast as the published plan"
            _label(axis, text, seconds, place)
    axis.set_yticks(range(len(_WORK)), _WORK.values())
    axis.set_ylim(len(_WORK) - 0.5, -0.5)
    axis.set_xlim(0, 1.15 * axis.get_xlim()[1])
    axis.legend(frameon=False, fontsize=8.5, loc="upper right", labelcolor=INK)


def _draw_scores(axis: Any, results: dict[str, Any]) -> None:
    conditions = results["scores"]["conditions"]
    axis.set_title("UAR (%) on drawn faces, by pre-training", loc="left", fontsize=10, fontweight="bold", color=INK)
    axis.set_xlabel("mean and each of three seeds; dashed: chance", color=MUTED)
    axis.axvline(100 / 7, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    for place, target in enumerate(_TARGETS):
        uar = conditions[target]["uar"]
        colour = PALETTE[0] if target == "joint" else "#9db8d6"
        axis.barh(place, 100 * uar["mean"], 0.6, color=colour)
        points = [100 * value for value in uar["values"]]
        axis.scatter(points, [place] * len(points), 18, color=INK, edgecolors="white", linewidths=0.6, zorder=3)
        _label(axis, f"{100 * uar['mean']:.1f}", max(points), place)
    axis.set_xlim(0, 45)
    axis.set_yticks(range(len(_TARGETS)), _TARGETS.values())
    axis.set_ylim(len(_TARGETS) - 0.5, -0.5)


def _label(axis: Any, text: str, x: float, y: float) -> None:
    axis.annotate(text, (x, y), (6, 0), textcoords="offset points", va="center", size=8.5, color=INK)


def main() -> int:
    """Write the picture; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.summary", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT, metavar="FILE", help="picture to write (default: %(default)s)")
    out = parser.parse_args().out
    try:
        make_place(out)
    except InputError as error:
        print(f"summary: error: {error}", file=sys.stderr)
        return 2
    draw().savefig(out, dpi=150)
    print(f"wrote {out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
