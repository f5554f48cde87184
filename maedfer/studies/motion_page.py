"""The page, table and figure of `maedfer.studies.motion`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maedfer._figure_style import INK, MUTED, PALETTE, PAPER, blank, styled
from maedfer._progress import counted
from maedfer.errors import some
from maedfer.report import page as html
from maedfer.report.run_data import read_run
from maedfer.studies.motion import SPEEDS, TASKS, MotionStudy, people
from maedfer.studies.tables import Column, Measured, Table, write_tables

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ASKED = {
    "order": "Are the frames of a window in their order, or backwards?",
    "speed": f"Are they {', '.join(map(str, SPEEDS[:-1]))} or {SPEEDS[-1]} frames of the video apart?",
    "speaker": "Who is it, of the people of this half?",
}


def write_motion_page(study: MotionStudy, results: Mapping[str, Any]) -> Path:
    """Write report.html, report.json, table.csv and table.tex into the folder of the study.

    Args:
        study: what was done.
        results: of `run_motion`.

    Returns:
        Path of report.html.
    """
    table = result_table(study, results)
    write_tables(table, study.out / "table")
    options = study.options
    run = read_run(study.jobs[0].output)
    body: list[str] = [
        html.paragraph(
            "Encoders that were pre-trained on the faces of one half of the people, without labels, are asked by "
            "probes of their frozen features about the other half, whom they have not seen, and the other way around. "
            "Order and speed take motion; who somebody is, a picture tells."
        )
    ]
    if study.left_out:
        body.append(html.callout(f"{counted(len(study.left_out), 'video')} left out: {some(study.left_out, 3, '; ')}."))
    for kind, tasks in results.items():
        alt = f"UAR of each encoder by the {kind} probe, with intervals over people"
        caption = "UAR with 95% intervals over people; the dashed line is chance."
        drawn = html.figure(scores_figure(tasks), f"motion-{kind}", alt, caption)
        body.append(html.section(f"The {kind} probe", drawn, html.listing(sentences(tasks))))
    body.append(html.section("Numbers", table.html()))
    settings = html.settings("Settings of the first pre-training", run.config)
    body += [settings, html.settings("Environment", run.environment)]
    clips = sum(map(len, study.halves))
    known = {clip.subject for half in study.halves for clip in half}
    subtitle = f"{counted(clips, 'video')} of {people(len(known))} · {counted(options.steps, 'step')} of pre-training"
    title = "What the encoder learns of motion"
    numbers = {
        "kind": "motion",
        "title": title,
        "results": results,
        "options": {name: getattr(options, name) for name in options.__dataclass_fields__},
        "left_out": list(study.left_out),
        "videos": [[clip.name for clip in half] for half in study.halves],
        "table": table.numbers(),
    }
    footer = "Made by maedfer; every number is in report.json, and what probes say of each window in the folder probes."
    return html.write(study.out, html.page(title, subtitle, body, footer), numbers)


def result_table(study: MotionStudy, results: Mapping[str, Any]) -> Table:
    """UAR of every encoder on every question."""
    rows: list[tuple[Any, ...]] = []
    for kind, tasks in results.items():
        for name in study.conditions:
            scores = [tasks[task]["scores"][name]["uar"] for task in TASKS]
            rows.append((kind, name, *(Measured(one["mean"], None, *one["interval"]) for one in scores)))
        rows.append((kind, "chance", *(tasks[task]["chance"] for task in TASKS)))
        rows.append(())
    columns = (Column("probe", text=True), Column("encoder", text=True))
    scored = tuple(Column(f"{task}, UAR", percent=True, digits=1) for task in TASKS)
    first = next(iter(results.values()))
    windows = ", ".join(f"{task} {first[task]['windows']} windows" for task in TASKS)
    notes = (
        f"Intervals of 95% over people ({people(first['order']['people'])}); {windows}.",
        "Whoever is tested was not seen in pre-training.",
    )
    title = "What the encoder learns of motion: frozen features after pre-training on videos without labels"
    return Table(title, (*columns, *scored), tuple(rows[:-1]), notes)


def sentences(tasks: Mapping[str, Any]) -> list[str]:
    """What may be said of the questions: gains of the last encoder over each other one, with intervals."""
    found = []
    for task in TASKS:
        result = tasks[task]
        *_, last = result["scores"]
        parts = []
        for name, gain in result["gains"].items():
            low, high = gain["uar"]["interval"]
            clear = "" if low > 0 or high < 0 else ", which is not clear"
            parts.append(
                f"{html.points(gain['uar']['mean'], 1)} points of UAR over {name} (95% interval "
                f"{html.points(low, 1)} to {html.points(high, 1)}{clear})"
            )
        found.append(f"{task.capitalize()}: {_ASKED[task]} Pre-trained on {last}: {' and '.join(parts)}.")
    return found


@styled
def scores_figure(tasks: Mapping[str, Any], *, width: float = 10.0) -> Figure:
    """Draw the UAR of every encoder on every question, with its interval, and chance.

    Args:
        tasks: results of one kind of probe.
        width: of the figure, in inches.
    """
    names = list(tasks[TASKS[0]]["scores"])
    figure = blank(width, 0.9 + 0.42 * len(names))
    axes = figure.subplots(1, len(TASKS), squeeze=False)[0]
    for axis, task in zip(axes, TASKS, strict=True):
        for row, name in enumerate(names):
            score = tasks[task]["scores"][name]["uar"]
            low, high = (100 * edge for edge in score["interval"])
            color = PALETTE[row % len(PALETTE)]
            axis.plot([low, high], [row, row], color=color, linewidth=2.2, solid_capstyle="butt", zorder=2)
            axis.scatter([100 * score["mean"]], [row], s=42, color=color, edgecolors=PAPER, linewidths=0.8, zorder=3)
        axis.axvline(100 * tasks[task]["chance"], color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        axis.set_yticks(range(len(names)), names if axis is axes[0] else [""] * len(names), color=INK)
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.tick_params(axis="y", length=0)
        axis.spines["left"].set_visible(False)
        axis.grid(True, axis="x")
        axis.margins(x=0.08)
        axis.set_title(f"{task}, UAR (%)")
    return figure
