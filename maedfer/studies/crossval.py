"""All folds of a protocol: trained, scored each, and put together as the paper does.

Two figures are made of the same predictions, and named apart. *Pooled*: the predictions of all folds are put together
and scored once, which is what the MAE-DFER paper reports of data sets with folds. *Mean of the folds*: every fold is
scored on its own, and the mean and sample standard deviation over folds are taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from maedfer._progress import counted
from maedfer.data.leaks import leaks
from maedfer.data.video.base import shown
from maedfer.errors import InputError
from maedfer.evaluation.metrics import intervals
from maedfer.evaluation.paired import match_clips, pooled_intervals
from maedfer.evaluation.predictions import read_predictions
from maedfer.report import page as html
from maedfer.report import sections as parts
from maedfer.report.run_data import read_run
from maedfer.studies.folds import (
    FoldLists,
    about_shared,
    folds_in,
    folds_of_protocol,
    is_protocol,
    look_into,
    own_folds,
)
from maedfer.studies.grid import Job, is_done, run_jobs
from maedfer.studies.pooled import MEAN, METRICS, POOLED, pool_runs, read_metrics
from maedfer.studies.tables import Cell, Column, Measured, Table, write_tables
from maedfer.train.config import check_config, load_config
from maedfer.train.sources import look_for

# What every fold has of its own, or the study has as a whole.
_OWN = {
    "output": "give the folder of the study by --out",
    "data.train": "the lists of the folds are trained on",
    "data.test": "the lists of the folds are scored",
    "seed": "give --seeds, and --first-seed for others than those from 0 on",
    "task": "folds are fine-tuned",
}


@dataclass(frozen=True)
class CrossValidation:
    """Folds and seeds to be run.

    Args:
        recipe: name or file of a recipe, or None.
        out: folder of the study.
        folds: their lists.
        overrides: settings beyond the recipe, but for what every fold has of its own.
        seeds: of the runs of every fold.
        origin: where the folds are from, a sentence without its point.
        warnings: sentences on what is to be minded of them.
    """

    recipe: str | None
    out: Path
    folds: Sequence[FoldLists]
    overrides: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    origin: str = ""
    warnings: tuple[str, ...] = ()

    def job(self, seed: int, fold: FoldLists) -> Job:
        """The run of a fold."""
        own = (f"data.train={fold.train}", f"data.test={fold.test}", f"seed={seed}")
        name = fold.name if len(self.seeds) == 1 else f"seed {seed}, {fold.name}"
        return Job("finetune", self.recipe, self.folder(seed) / fold.name, (*self.overrides, *own), name)

    def folder(self, seed: int) -> Path:
        """Where the runs of a seed are."""
        return self.out / f"seed_{seed}"

    def pooled(self, seed: int) -> Path:
        """The folder of the pooled predictions of a seed, which `maedfer compare` and `maedfer report` take."""
        return self.folder(seed) / "pooled"

    @property
    def jobs(self) -> list[Job]:
        """All runs, those of the first seed first."""
        return [self.job(seed, fold) for seed in self.seeds for fold in self.folds]


def plan_crossval(
    recipe: str | None,
    out: str | Path,
    overrides: Sequence[str] = (),
    *,
    lists: str | Path | None = None,
    folds: int | None = None,
    split_seed: int = 0,
    seeds: Sequence[int] = (0,),
    shared_subjects: bool = False,
) -> CrossValidation:
    """Find or make the folds, and look whether they can be run.

    Folds are those of `lists`, or `folds` many of one's own clips in `data.train`, or those of the public data set that
    the recipe is of, in `data.root`.

    Args:
        recipe: name or file of a recipe; None = the defaults of fine-tuning.
        out: folder of the study; lists that are made are written into it.
        overrides: `section.key=value` settings of all runs.
        lists: folder that `maedfer prepare` or `maedfer lists` has written.
        folds: number of folds that one's own clips are divided into, by who is in them.
        split_seed: says who is in which fold, among equals.
        seeds: of the runs of every fold.
        shared_subjects: run folds of which somebody is in both parts all the same, and say so.

    Raises:
        InputError: naming what cannot be used, and what to do.
    """
    out = Path(out)
    if len(set(seeds)) < len(seeds) or not seeds:
        raise InputError(f"seeds must differ, and there must be one at least, got {list(seeds)}")
    cfg = load_config("finetune", recipe, overrides, check=False)
    refused = {key for key in _OWN if any(item.partition("=")[0] == key for item in overrides)}
    if folds is not None:
        refused.discard("data.train")
    for key in sorted(refused):
        raise InputError(f"{key} is not for crossval: {_OWN[key]}")
    # What cannot be run is told before lists are made.
    lists_to_come = replace(cfg.data, train="LIST", test="LIST")
    check_config(replace(cfg, data=lists_to_come))
    settings = list(overrides)
    warnings: list[str] = []
    if cfg.eval.select == "test":
        warnings.append(
            "the epoch of every fold is chosen on its test clips (eval.select=test): the scores are optimistic"
        )
    if lists is not None:
        if folds is not None:
            raise InputError("folds are given by lists, or made by number: give one of the two")
        found = folds_in(lists, cfg.data.classes)
        origin = f"{counted(len(found), 'fold')} of {shown(lists)}"
    elif folds is not None:
        if not cfg.data.train:
            raise InputError("data.train is not set: give the list of the clips that are to be divided into folds")
        found, base, origin = own_folds(cfg, folds, split_seed, out / "lists")
        # The lists that were made say who is in a clip, and count classes from 0.
        known = ("data.train", "data.root", "data.subject", "data.label_offset")
        settings = [item for item in settings if item.partition("=")[0] not in known]
        settings += [f"data.root={base}", "data.subject=", "data.label_offset=0"]
    elif is_protocol(recipe) and cfg.data.root:
        found = folds_of_protocol(str(recipe), cfg.data.root, out / "lists")
        settings.append("data.label_offset=0")
        origin = f"{counted(len(found), 'fold')} of {recipe}, as its authors have divided it"
    else:
        raise InputError(
            "which folds are meant is not said: give --lists DIR (as `maedfer prepare` writes them), or "
            "data.train=LIST with --folds N, or data.root=DIR of a public data set with its recipe"
        )
    plan = CrossValidation(recipe, out, found, tuple(settings), tuple(seeds), origin)
    return replace(plan, warnings=(*warnings, *_check_folds(plan, shared_subjects)))


def crossval(
    plan: CrossValidation,
    processes: int = 0,
    devices: Sequence[str] = (),
    say: Callable[[str], None] = print,
    progress: Callable[[float], None] | None = None,
) -> Path:
    """Run what is left of the folds, pool them, and write table and page.

    In the folder of the study: `seed_S/fold_K` (a run folder each), `seed_S/pooled` (pred.csv and metrics.json of all
    folds together), `table.csv`, `table.tex`, `report.html`, `report.json`.

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
    for seed in plan.seeds:
        pool_runs([plan.job(seed, fold).output for fold in plan.folds], plan.pooled(seed))
    table = result_table(plan)
    write_tables(table, plan.out / "table")
    return _write_page(plan, table)


def to_do(plan: CrossValidation) -> list[tuple[Job, bool]]:
    """All runs, and whether they are done."""
    return [(job, is_done(job)) for job in plan.jobs]


def result_table(plan: CrossValidation) -> Table:
    """The table of a study whose runs are done and pooled: a row a fold, then the two ways to put them together."""
    by_fold = [[read_metrics(plan.job(seed, fold).output) for seed in plan.seeds] for fold in plan.folds]
    pooled = [read_metrics(plan.pooled(seed)) for seed in plan.seeds]
    several = len(plan.seeds) > 1
    rows: list[tuple[Cell, ...]] = [
        (fold.name, *(Measured.over([run[key] for run in runs]) for key in METRICS), int(runs[0]["n"]))
        for fold, runs in zip(plan.folds, by_fold, strict=True)
    ]
    limits, over = _intervals(plan)
    spreads = [Measured.over([run[key] for run in pooled]) for key in METRICS]
    whole = [replace(cell, low=low, high=high) for cell, (low, high) in zip(spreads, limits, strict=True)]
    means = [Measured.over([float(np.mean([run[key] for run in runs])) for runs in by_fold]) for key in METRICS]
    rows += [(), (POOLED, *whole, int(pooled[0]["n"])), (MEAN, *means, None)]
    seeds = ", ".join(map(str, plan.seeds))
    notes = [
        "Pooled: the predictions of all folds are put together and scored once, as the MAE-DFER paper does"
        + (f"; mean ± sample standard deviation over seeds {seeds}" if several else "")
        + (f"; in brackets the 95 % interval over {over}." if over else "."),
        f"Mean of the folds: ± is the sample standard deviation over the {len(plan.folds)} folds"
        + (f", each the mean of seeds {seeds}; the rows of the folds have ± over seeds." if several else ".")
        + " A fold of few clips counts as much as one of many.",
    ]
    columns = (Column("fold", text=True), Column("UAR", percent=True), Column("WAR", percent=True), Column("clips"))
    name = f" of {Path(plan.recipe).stem}" if plan.recipe else ""
    title = f"Cross-validation{name}: {counted(len(plan.folds), 'fold')}"
    return Table(title, columns, tuple(rows), tuple(notes))


def _intervals(plan: CrossValidation) -> tuple[list[tuple[float | None, float | None]], str]:
    """Limits of the pooled scores, and over what they are intervals: people where all are known, else clips."""
    runs = [read_predictions(plan.pooled(seed) / "pred.csv") for seed in plan.seeds]
    if len(set(runs[0].names)) < len(runs[0].names):
        # A clip that is tested twice is no drawing unit.
        return [(None, None)] * len(METRICS), ""
    clips = match_clips(runs, [f"seed {seed}" for seed in plan.seeds])
    people = len(set(clips.subjects))
    if people < 2 and len(runs) == 1:
        found = intervals(read_metrics(plan.pooled(plan.seeds[0]))["confusion"])
        return [found[key] for key in METRICS], "clips"
    drawn = pooled_intervals(clips, [range(len(runs))], by_subject=people > 1)
    over = f"the {people} subjects, as for other people" if people > 1 else "clips"
    return [drawn[key]["interval"][0] for key in METRICS], over + (" and seeds" if len(runs) > 1 else "")


def _check_folds(plan: CrossValidation, shared_subjects: bool) -> list[str]:
    """Read all lists; sentences on what they share.

    Raises:
        InputError: clips of the first fold are not there, or somebody is in both parts of a fold.
    """
    notes: list[str] = []
    tested: dict[str, int] = {}
    again = 0
    for fold in plan.folds:
        cfg = plan.job(plan.seeds[0], fold).settings()
        clips = look_into(cfg, fold)
        if fold is plan.folds[0]:
            # In one fold are, as a rule, the clips of all.
            look_for(clips.train, str(fold.train))
            look_for(clips.test, str(fold.test))
        if clips.shared:
            about = about_shared(fold, clips.shared)
            if not shared_subjects:
                raise InputError(
                    f"{about}: scores would tell who is known rather than what is felt. Divide the clips by who is in "
                    "them (--folds N --subject PATTERN), or run them all the same by --shared-subjects, which the "
                    "report says"
                )
            notes.append(about)
        notes += leaks({f"training of {fold.name}": clips.train, f"test of {fold.name}": clips.test})
        for clip in clips.test:
            again += tested.setdefault(clip.name, fold.number) != fold.number
    if again:
        notes.append(
            f"{counted(again, 'clip')} more than once in the test parts of all folds: pooled, each counts as often"
        )
    return notes


def _around(column: Column, cell: Measured) -> str:
    """The spread or interval of a cell, without the number itself."""
    return column.shown(cell).partition(" ")[2].strip("[]").replace(", ", " to ")


def _write_page(plan: CrossValidation, table: Table) -> Path:
    run = read_run(plan.pooled(plan.seeds[0]))
    pooled, mean = table.rows[-2], table.rows[-1]
    tiles = [
        (f"{column.name}, {kind} (%)", column.shown(Measured(cell.value)), f"{_around(column, cell)}{note}")
        for kind, cells, note in (("pooled", pooled, ", all folds scored once"), ("mean", mean, ", over folds"))
        for column, cell in zip(table.columns[1:3], cells[1:3], strict=True)
        if isinstance(cell, Measured)
    ]
    per_class, found = parts.per_class(run)
    wrong, _ = parts.mistakes(run)
    of_runs = dict.fromkeys(
        f"{fold.name}: {note}"
        for fold in plan.folds
        for note in read_metrics(plan.job(plan.seeds[0], fold).output).get("notes", [])
    )
    several = f"What follows is of the pooled predictions of seed {plan.seeds[0]}." if len(plan.seeds) > 1 else ""
    body = [
        html.tiles(tiles),
        *(html.callout(f"{note}.", True) for note in plan.warnings),
        html.section("Folds", html.paragraph(f"{plan.origin}.") if plan.origin else "", table.html()),
        html.paragraph(several, "note") if several else "",
        per_class,
        wrong,
        html.fold("Notes of the runs", html.listing(of_runs)) if of_runs else "",
        html.settings(f"Settings of {plan.folds[0].name}", read_run(plan.jobs[0].output).config),
        html.settings("Environment", run.environment),
    ]
    seeds = f"seeds: {', '.join(map(str, plan.seeds))}"
    subtitle = f"{counted(len(plan.folds), 'fold')} · {seeds} · {plan.out.resolve().name}"
    numbers = {
        "kind": "crossval",
        "title": table.title,
        "origin": plan.origin,
        "warnings": list(plan.warnings),
        "folds": {fold.name: {"train": str(fold.train), "test": str(fold.test)} for fold in plan.folds},
        "seeds": list(plan.seeds),
        "table": table.numbers(),
        "pooled": found,
        "notes_of_runs": list(of_runs),
    }
    page = html.page(table.title, subtitle, body, parts.footer(run))
    return html.write(plan.out, page, numbers)
