"""The tables of docs/plan.md, made by the commands above them, and its figure.

python -m tests.cli.plan_page writes both anew.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maedfer._figure_style import LINE, MARKERS, MUTED, PALETTE, blank, styled
from maedfer.cli import main as maedfer
from maedfer.planning import Machine, RunPlan, plan_run, training_job
from tests.helpers import REPOSITORY

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = REPOSITORY / "docs" / "plan.md"
FIGURE = REPOSITORY / "docs" / "images" / "plan.png"
COMMAND = "python -m tests.cli.plan_page"
_BLOCK = re.compile(r"(```sh\nmaedfer (plan [^\n]*)\n```\n\n```text\n)(.*?)(```\n)", re.DOTALL)

VOXCELEB2, TEN_TIMES = 1_092_009, 10_920_090
LINES = {
    "VoxCeleb2, 128 clips a step": (VOXCELEB2, 128),
    "VoxCeleb2, 4,096": (VOXCELEB2, 4096),
    "ten times the clips, 128": (TEN_TIMES, 128),
    "ten times the clips, 4,096": (TEN_TIMES, 4096),
}


def renewed(page: str) -> str:
    """The page with what its commands print made anew."""
    return _BLOCK.sub(lambda block: f"{block[1]}{printed(block[2])}{block[4]}", page)


def commands(page: str) -> list[str]:
    """The commands whose output the page shows."""
    return [block[2] for block in _BLOCK.finditer(page)]


def printed(command: str) -> str:
    """What a command prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        status = maedfer(shlex.split(command))
    assert status == 0, command
    return out.getvalue()


@cache
def plans(clips: int, batch: int) -> list[RunPlan]:
    """From 1 to 512 GPUs, those that share the batch."""
    job = training_job("voxceleb2_pretrain", [f"train.batch_size={batch}"], clips)
    machine = Machine.of_gpu("h100")
    return [plan_run(job, machine, gpus) for gpus in (2**power for power in range(10)) if batch % gpus == 0]


def shown() -> dict[str, Any]:
    """The numbers of the figure."""
    return {
        name: [
            [plan.gpus, float(f"{plan.hours:.3g}"), float(f"{plan.price:.3g}"), plan.bottleneck] for plan in plans(*run)
        ]
        for name, run in LINES.items()
    }


@styled
def draw(lines: dict[str, Any]) -> Figure:
    """Hours and price against the number of GPUs; a point's form is what holds the run up."""
    figure = blank(7.6, 3.4)
    held = {
        "compute": "computing",
        "small": "small passes",
        "gradients": "gradients",
        "disk": "disks",
        "saving": "checkpoints",
    }
    forms = dict(zip(held, MARKERS, strict=False))
    axes = figure.subplots(1, 2)
    named: list[Any] = []
    for axis, column, title in zip(axes, (1, 2), ("hours", "price, USD"), strict=True):
        for number, (name, points) in enumerate(lines.items()):
            colour = PALETTE[number // 2]
            dash = "-" if number % 2 == 0 else "--"
            gpus, values = [point[0] for point in points], [point[column] for point in points]
            line = axis.plot(gpus, values, dash, color=colour, label=name, zorder=2)[0]
            if column == 1:
                named.append(line)
            for point in points:
                axis.plot(point[0], point[column], forms[point[3]], color=colour, markersize=4, zorder=3)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xticks([1, 8, 64, 512], ["1", "8", "64", "512"])
        axis.minorticks_off()
        ticks = (0.1, 1, 10, 100) if column == 1 else (10, 100, 1000, 10000)
        axis.set_yticks(ticks, [f"{tick:,g}" for tick in ticks])
        axis.grid(color=LINE)
        axis.set_title(title)
        axis.set_xlabel("GPUs")
    used = {point[3] for points in lines.values() for point in points}
    marks = [
        axes[1].plot([], [], form, color=MUTED, markersize=4, label=held[name])[0]
        for name, form in forms.items()
        if name in used
    ]
    figure.legend(handles=named, loc="outside upper center", ncols=4)
    figure.legend(handles=marks, loc="outside lower center", ncols=5, title="held up by", title_fontsize=8)
    return figure


def main() -> None:
    """Write page and figure anew."""
    path: Path = PAGE
    path.write_text(renewed(path.read_text(encoding="utf-8")), encoding="utf-8")
    lines = shown()
    # The figure carries its numbers, so that a test can tell whether it is stale.
    draw(lines).savefig(FIGURE, metadata={"Description": json.dumps(lines), "Software": None})


if __name__ == "__main__":
    main()
