"""Plots of a results file, beside it: time against the amount of work, and how near to the floor operations come."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from maedfer._figure_style import INK, PALETTE
from maedfer.errors import require
from maedfer.report.figures import Curve, Panel, curves

Row = dict[str, Any]

# Series of a sweep -> its axis, the place of a row on it, and whether it is the tokens of a clip that grow.
_SERIES: dict[str, tuple[str, Callable[[Row], int], bool]] = {
    "frames": ("tokens of a clip (longer clips)", lambda row: row["tokens"], True),
    "pixels": ("tokens of a clip (larger frames)", lambda row: row["tokens"], True),
    "batch": ("clips at once", lambda row: row["sizes"]["B"], False),
    "region": ("tokens of a region", lambda row: math.prod(row["sizes"]["region"]), False),
}
_MODELS = {"ours": "LGI-Former", "vit_sdpa": "ViT-B"}


def draw(results: dict[str, Any], out: Path) -> list[Path]:
    """Draw what the results hold.

    Args:
        results: of a run.
        out: the results file; plots are named after it.

    Returns:
        The files written.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    require("matplotlib", "train")
    timed = [row for row in results["rows"] if row.get("ms")]
    written = []
    panels = sweep_panels(timed)
    if panels:
        path = out.with_name(f"{out.stem}_growth.png")
        curves(panels, columns=2).savefig(path, dpi=150)
        written.append(path)
    compared = [row for row in timed if not row["workload"].startswith("sweep_")]
    if compared:
        path = out.with_name(f"{out.stem}_floor.png")
        _bars(compared).savefig(path, dpi=150)
        written.append(path)
    return written


def sweep_panels(rows: Sequence[Row]) -> list[Panel]:
    """A panel for each sweep and each thing that changes along it: milliseconds of a clip.

    Where clips grow, a dashed line is what linear growth from the base clip would give.
    """
    panels = []
    for workload in dict.fromkeys(row["workload"] for row in rows if row["workload"].startswith("sweep_")):
        work = {"sweep_inference": "inference", "sweep_step": "training step"}[workload]
        for series, (axis, place, grows) in _SERIES.items():
            lines: dict[str, Curve] = {}
            for number, (provider, name) in enumerate(_MODELS.items()):
                line = sorted(
                    (
                        row
                        for row in rows
                        if (row["workload"], row["provider"]) == (workload, provider)
                        and row["size"].startswith(("base", series))
                    ),
                    key=place,
                )
                # Two regions have 200 tokens: one of them is drawn.
                line = list({place(row): row for row in reversed(line)}.values())[::-1]
                if len(line) < 2:
                    continue
                x = [place(row) for row in line]
                ms, p20, p80 = ([row[key] / row["sizes"]["B"] for row in line] for key in ("ms", "p20", "p80"))
                lines[name] = Curve(x, ms, p20, p80, color=number)
                if grows:
                    linear = [ms[0] / x[0] * tokens for tokens in x]
                    lines[f"{name}, if linear"] = Curve(x, linear, color=number, dashed=True)
            if lines:
                panels.append(Panel(f"{work}: ms of a clip", axis, lines))
    return panels


def _bars(rows: Sequence[Row]) -> Any:
    """Share of the floor that every provider reaches, one group of bars a workload, size and mode."""
    groups = list(dict.fromkeys((row["workload"], row["size"], row["mode"]) for row in rows))
    providers = list(dict.fromkeys(row["provider"] for row in rows))
    figure = require("matplotlib.figure", "train").Figure(figsize=(8, 1 + 0.42 * len(groups)), layout="constrained")
    axis = figure.subplots()
    style = {
        # Where there are more providers than colours, stripes tell them apart.
        name: {"facecolor": PALETTE[number % len(PALETTE)], "hatch": "///" if number >= len(PALETTE) else None}
        for number, name in enumerate(providers)
    }
    labelled: set[str] = set()
    for place, group in enumerate(groups):
        members = [row for row in rows if (row["workload"], row["size"], row["mode"]) == group]
        height = 0.8 / len(members)
        for number, row in enumerate(members):
            name = row["provider"]
            y = place - 0.4 + (number + 0.5) * height
            label = None if name in labelled else name
            axis.barh(y, 100 * row["of_floor"], height, label=label, edgecolor="white", linewidth=0, **style[name])
            labelled.add(name)
    axis.set_yticks(range(len(groups)), ["  ".join(group) for group in groups], color=INK, fontsize=7)
    axis.set_ylim(len(groups) - 0.5, -0.5)
    axis.set_xlabel("share of the device's own copy or matrix product, %")
    axis.axvline(100, color=INK, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=4, fontsize=7, frameon=False)
    return figure
