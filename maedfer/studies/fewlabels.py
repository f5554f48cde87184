"""Few labels: one fine-tuning with smaller and larger parts of the labels, several seeds of each, as a curve.

For one seed all conditions learn from the same clips, and the clips of a small part are among those of a larger one:
what differs between points of the curve is how many labels there are, and what differs between conditions is where
they start from. Another seed has other clips, so that the interval over seeds holds the luck of the draw.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from maedfer._files import atomic_path
from maedfer._progress import counted
from maedfer._values import is_address
from maedfer.data.few_labels import FewLabels, choose_few, parse_labels
from maedfer.data.source import as_source
from maedfer.data.video.base import shown
from maedfer.errors import InputError
from maedfer.models import build_model
from maedfer.report import page as html
from maedfer.report import sections as parts
from maedfer.report.comparison import Difference
from maedfer.report.run_data import read_run
from maedfer.studies.grid import Job, run_jobs
from maedfer.studies.label_curve import label_curve
from maedfer.studies.pooled import METRICS
from maedfer.studies.seeds import about_seeds, over_seeds, scores_of
from maedfer.studies.tables import Cell, Column, Measured, Table, write_tables
from maedfer.train.config import RunConfig, load_config
from maedfer.train.sources import read_clips
from maedfer.train.weights import initialise

# What the study has as a whole, or every run has of its own.
_OWN = {
    "output": "give the folder of the study by --out",
    "seed": "give --seeds, and --first-seed for others than those from 0 on",
    "task": "runs are fine-tuned",
    "data.labels": "give --labels",
    "data.labels_epoch": "give --epoch",
}
SCRATCH = "from scratch"
# Lower layers have nothing to keep where weights are random.
_OF_SCRATCH = ("train.init=", "optim.layer_decay=1")


@dataclass(frozen=True)
class LabelStudy:
    """Runs with parts of the labels.

    Args:
        recipe: name or file of a recipe, or None.
        out: folder of the study.
        common: settings of all runs.
        conditions: settings by the name of the condition.
        labels: parts, from the smallest on.
        clips: of each part, how many are learned from.
        seeds: of the runs of every condition and part.
        epoch: see `data.labels_epoch`.
    """

    recipe: str | None
    out: Path
    common: tuple[str, ...]
    conditions: Mapping[str, tuple[str, ...]]
    labels: tuple[FewLabels, ...]
    clips: tuple[int, ...]
    seeds: tuple[int, ...]
    epoch: str

    def job(self, condition: str, few: FewLabels, seed: int) -> Job:
        """One of the runs, in `<out>/<condition>/<labels>/seed_<seed>`."""
        text = "all" if few.all else f"{few.percent:.10g}%" if few.count is None else str(few.count)
        own = (f"data.labels={text}", *(() if few.all else (f"data.labels_epoch={self.epoch}",)), f"seed={seed}")
        folder = self.out / _as_folder(condition) / _as_folder(str(few)) / f"seed_{seed}"
        overrides = (*self.common, *self.conditions[condition], *own)
        return Job("finetune", self.recipe, folder, overrides, f"{condition}, {few}, seed {seed}")

    @property
    def jobs(self) -> list[Job]:
        """All runs: first of all parts and conditions with the first seed, as they say most."""
        return [
            self.job(condition, few, seed)
            for seed in self.seeds
            for few in self.labels
            for condition in self.conditions
        ]


def plan_fewlabels(
    recipe: str | None,
    out: str | Path,
    overrides: Sequence[str] = (),
    *,
    labels: Sequence[str],
    seeds: Sequence[int] = (0, 1, 2),
    inits: Mapping[str, str] | None = None,
    scratch: bool = False,
    scratch_with: Sequence[str] = (),
    epoch: Literal["whole", "once"] = "whole",
) -> LabelStudy:
    """Look whether a study can be run: settings, lists, labels enough for the classes, weights that fit.

    Args:
        recipe: name or file of a recipe; None = the defaults of fine-tuning.
        out: folder of the study.
        overrides: `section.key=value` settings of all runs.
        labels: parts of the labels, as in `data.labels`.
        seeds: of the runs, and of the choice of clips unless `data.labels_seed` is set.
        inits: weights to start from, by the name of the condition.
        scratch: also start from random weights, with one learning rate for all layers.
        scratch_with: further settings of the runs from scratch.
        epoch: "whole" = all runs take as many steps as one with all labels, "once" = as many epochs.

    Raises:
        InputError: naming what cannot be used, and what to do.
    """
    for key in _OWN:
        if any(item.partition("=")[0] == key for item in overrides):
            raise InputError(f"{key} is not for fewlabels: {_OWN[key]}")
    if not seeds or len(set(seeds)) < len(seeds):
        raise InputError(f"seeds must differ, and there must be one at least, got {list(seeds)}")
    if scratch_with and not scratch:
        raise InputError(f"{scratch_with[0]} is for runs from scratch, of which there are none: give --scratch too")
    parsed = list(dict.fromkeys(parse_labels(text, "--labels") for text in labels))
    if len(parsed) < 2 and not parsed[:1]:
        raise InputError("--labels names no part of the labels: give some, as in 1%,10%,all")
    conditions = _conditions(inits or {}, scratch, scratch_with, overrides)
    common = tuple(overrides)
    configs = {
        name: load_config("finetune", recipe, [*common, *own, f"output={out}"]) for name, own in conditions.items()
    }
    cfg = next(iter(configs.values()))
    if not cfg.data.test and not cfg.data.val:
        raise InputError("nothing would be scored: set data.test to the list of the clips that the curve is about")
    counts = _counts(cfg, parsed, seeds)
    order = sorted(range(len(parsed)), key=lambda index: (counts[index], parsed[index].all))
    for name, one in configs.items():
        _check_weights(name, one)
    return LabelStudy(
        recipe,
        Path(out),
        common,
        conditions,
        tuple(parsed[index] for index in order),
        tuple(counts[index] for index in order),
        tuple(seeds),
        epoch,
    )


def fewlabels(
    plan: LabelStudy,
    processes: int = 0,
    devices: Sequence[str] = (),
    say: Callable[[str], None] = print,
    progress: Callable[[float], None] | None = None,
) -> Path:
    """Run what is left, and write curve, table and page.

    In the folder of the study: a run folder for every condition, part and seed, `curve.png`, `table.csv`,
    `table.tex`, `report.html`, `report.json`.

    Args:
        plan: what to run.
        processes, devices: see `maedfer.studies.grid.shares`.
        say, progress: see `run_jobs`.

    Returns:
        Path of the page.

    Raises:
        InputError: runs have failed; the others are done, and the same call goes on with what is left.
    """
    run_jobs(plan.jobs, processes, say, progress, devices=devices)
    scores = read_scores(plan)
    table = result_table(plan, scores)
    write_tables(table, plan.out / "table")
    return _write_page(plan, scores, table)


def read_scores(plan: LabelStudy) -> dict[str, dict[str, np.ndarray]]:
    """UAR and WAR of all runs: metric -> condition -> float64 [labels, seeds]."""
    runs = {
        name: [[scores_of(plan.job(name, few, seed).output) for seed in plan.seeds] for few in plan.labels]
        for name in plan.conditions
    }
    return {
        metric: {
            name: np.array([[run[metric] for run in row] for row in table], np.float64) for name, table in runs.items()
        }
        for metric in METRICS
    }


def result_table(plan: LabelStudy, scores: Mapping[str, Mapping[str, np.ndarray]]) -> Table:
    """The table of a study whose runs are done: a row for every part of the labels and condition."""
    rows: list[tuple[Cell, ...]] = []
    for place, (few, clips) in enumerate(zip(plan.labels, plan.clips, strict=True)):
        if rows and len(plan.conditions) > 1:
            rows.append(())
        for name in plan.conditions:
            cells = [over_seeds(scores[metric][name][place].tolist()) for metric in METRICS]
            rows.append((str(few), clips, name, *cells))
    columns = (
        Column("labels", text=True),
        Column("clips"),
        Column("start", text=True),
        Column("UAR", percent=True),
        Column("WAR", percent=True),
    )
    notes = [
        about_seeds(plan.seeds),
        "A seed chooses the clips as well, the same ones for all conditions, the fewer among the more."
        if plan.jobs[0].settings().data.labels_seed is None
        else "All seeds learn from the same clips: the spread is that of training alone.",
        "All runs take as many steps as one with all labels."
        if plan.epoch == "whole"
        else "All runs take as many epochs, those with fewer labels fewer steps.",
    ]
    return Table(f"Few labels: {plan.recipe or 'own settings'}", columns, tuple(rows), tuple(notes))


def sentences(plan: LabelStudy, scores: Mapping[str, Mapping[str, np.ndarray]]) -> list[str]:
    """What the curve says of the first condition against the others, in words that claim no more than the numbers."""
    first, *others = plan.conditions
    chance = 1 / len(plan.jobs[0].settings().classes)
    found = []
    for other in others:
        for place, few in enumerate(plan.labels):
            values = np.round(scores["uar"][first][place] - scores["uar"][other][place], 12)
            found.append(f"{few}: {Difference('UAR', first, other, values).sentence()}")
        ours = scores["uar"][first].mean(axis=1)
        whole = over_seeds(scores["uar"][other][-1].tolist())
        goal = whole.value
        enough = next((place for place, mean in enumerate(ours) if mean >= goal), None)
        # What guessing comes to as well says nothing of how many labels are enough.
        learned = goal - (whole.spread or 0.0) > chance
        if learned and enough is not None and enough < len(plan.labels) - 1:
            found.append(
                f'"{first}" has a mean UAR of {html.percent(float(ours[enough]))} with {plan.labels[enough]} '
                f'({plan.clips[enough]:,} clips), "{other}" {html.percent(goal)} with {plan.labels[-1]} '
                f"({plan.clips[-1]:,} clips)."
            )
    return found


def _conditions(
    inits: Mapping[str, str], scratch: bool, scratch_with: Sequence[str], overrides: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    if (inits or scratch) and any(item.startswith("train.init=") for item in overrides):
        raise InputError("train.init is given as a setting and by --init or --scratch: give --init alone")
    found: dict[str, tuple[str, ...]] = {name: (f"train.init={place}",) for name, place in inits.items()}
    if scratch:
        if SCRATCH in found:
            raise InputError(f"two conditions are called {SCRATCH!r}: give --init another name")
        found[SCRATCH] = (*_OF_SCRATCH, *scratch_with)
    if not found:
        found["as set"] = ()
    folders: dict[str, str] = {}
    for name in found:
        other = folders.setdefault(_as_folder(name), name)
        if other != name:
            raise InputError(f"conditions {other!r} and {name!r} would have one folder: give names that differ more")
    return found


def _counts(cfg: RunConfig, parsed: Sequence[FewLabels], seeds: Sequence[int]) -> list[int]:
    """How many clips each part has; that there are enough is looked at for all of them before anything is run."""
    clips = as_source(read_clips(cfg, cfg.data.train))
    return [len(choose_few(clips, few, seeds[0], cfg.classes, shown(cfg.data.train))) for few in parsed]


def _check_weights(name: str, cfg: RunConfig) -> None:
    if not cfg.train.init:
        return
    if not is_address(cfg.train.init) and not os.path.exists(cfg.train.init):
        raise InputError(f"condition {name!r}: the weights {shown(cfg.train.init)} do not exist")
    model = build_model(cfg.model)
    try:
        initialise(model, cfg.train.init)
    except InputError as error:
        raise InputError(f"condition {name!r}: {error}") from error


def _as_folder(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name.replace("%", " percent")).strip("_.") or "_"


def _write_page(plan: LabelStudy, scores: Mapping[str, Mapping[str, np.ndarray]], table: Table) -> Path:
    first = read_run(plan.jobs[0].output)
    points = {
        metric.upper(): {name: [over_seeds(row) for row in values.tolist()] for name, values in scores[metric].items()}
        for metric in METRICS
    }
    seeds = {metric.upper(): scores[metric] for metric in METRICS}
    names = [str(few) for few in plan.labels]
    chance = {"UAR": 1 / len(first.scores.classes)} if first.scores is not None else {}
    drawing = label_curve(names, plan.clips, points, seeds, chance=chance)
    with atomic_path(plan.out / "curve.png") as path:
        drawing.savefig(path, format="png", dpi=200)
    said = sentences(plan, scores)
    alt = "UAR and WAR over the number of labels"
    band = ", the band its 95 % interval" if len(plan.seeds) > 2 else ""
    caption = f"Labels on a logarithmic axis; a dot is a seed, the line the mean{band}; dotted: the UAR of guessing."
    body = [
        html.listing(said),
        html.section("Curve", html.figure(drawing, "labels", alt, caption), table.html()),
        html.settings(f"Settings of {plan.jobs[0].title}", first.config),
        html.settings("Environment", first.environment),
    ]
    title = "Few labels"
    subtitle = (
        f"{plan.recipe or 'own settings'} · {counted(len(plan.conditions), 'condition')} · "
        f"seeds: {', '.join(map(str, plan.seeds))} · {plan.out.resolve().name}"
    )
    numbers = {
        "kind": "fewlabels",
        "title": title,
        "labels": names,
        "clips": list(plan.clips),
        "seeds": list(plan.seeds),
        "conditions": {name: list(own) for name, own in plan.conditions.items()},
        "scores": scores,
        "points": {
            metric: {name: [_numbers(point) for point in row] for name, row in by_name.items()}
            for metric, by_name in points.items()
        },
        "sentences": said,
        "table": table.numbers(),
    }
    return html.write(plan.out, html.page(title, subtitle, body, parts.footer(first)), numbers)


def _numbers(point: Measured) -> dict[str, float | None]:
    return {"mean": point.value, "std": point.spread, "low": point.low, "high": point.high}
