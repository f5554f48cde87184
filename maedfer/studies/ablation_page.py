"""The page and the tables of an ablation study: what rows came to, and what the paper prints beside it."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maedfer._progress import counted
from maedfer.data.video.base import shown
from maedfer.errors import InputError, unknown
from maedfer.models import profile
from maedfer.models.profile import giga
from maedfer.report import figures
from maedfer.report import page as html
from maedfer.report import sections as parts
from maedfer.report.comparison import Difference
from maedfer.report.figures import Curve, Panel
from maedfer.report.run_data import read_run
from maedfer.studies.ablate import AblationStudy
from maedfer.studies.ablation_tables import AblationRow, AblationTable, PaperFigures
from maedfer.studies.pooled import METRICS
from maedfer.studies.seeds import about_seeds, over_seeds, scores_of
from maedfer.studies.tables import Cell, Column, Measured, Table, write_tables

# Recipes of data sets that the paper has scores of.
OF_THE_PAPER = frozenset(("dfew", "ferv39k", "mafw", "crema_d", "ravdess", "enterface05"))
_PAPER_NOTE = (
    "Parameters and multiply-adds (of one clip of 16 x 160 x 160, fine-tuned) are those that the MAE-DFER paper "
    "prints; they belong to the model and to no data set. Its scores of these rows are not known to this program: "
    "--paper FILE adds them. Which rows stand under a number of the paper follows its published switches."
)


def read_paper(file: str | Path, tables: Sequence[AblationTable]) -> list[AblationTable]:
    """Put scores of the paper, as a reader has typed them, into tables.

    Args:
        file: CSV with the columns table, row, UAR, WAR, scores in per cent; one that is empty is not known.
        tables: that the rows are of; rows of other tables are left out.

    Returns:
        The tables with these scores.

    Raises:
        InputError: the file cannot be read, names a row that its table does not have, or a score is none.
    """
    scores: dict[tuple[str, str], dict[str, float | None]] = {}
    known = {table.table: {row.name for row in table.rows} for table in tables}
    try:
        with open(file, encoding="utf-8-sig", newline="") as opened:
            reader = csv.DictReader(opened)
            if not {"table", "row", "UAR", "WAR"} <= set(reader.fieldnames or ()):
                raise InputError(f"{shown(file)}: the first line must name the columns table, row, UAR, WAR")
            for line in reader:
                where = f"{shown(file)}:{reader.line_num}"
                table, row = (line["table"] or "").strip(), (line["row"] or "").strip()
                if table not in known:
                    continue
                if row not in known[table]:
                    raise unknown(f"row of table {table}", row, sorted(known[table]), where=f"({where})")
                scores[table, row] = {metric: _score(line[metric.upper()], where) for metric in METRICS}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(f"{shown(file)} cannot be read: {why}") from error

    def filled(table: AblationTable, row: AblationRow) -> AblationRow:
        return dataclasses.replace(row, paper=dataclasses.replace(row.paper, **scores.get((table.table, row.name), {})))

    return [dataclasses.replace(table, rows=tuple(filled(table, row) for row in table.rows)) for table in tables]


def write_ablations(plan: AblationStudy) -> Path:
    """Write tables (`tables/table_N.csv`, `.tex`) and the page of a study whose runs are done.

    Returns:
        Path of the page.
    """
    first = read_run(plan.finetuning[0].output)
    body: list[str] = []
    numbers: dict[str, Any] = {}
    for table in plan.tables:
        scores = _scores(plan, table)
        results = result_table(plan, table, scores)
        write_tables(results, plan.out / "tables" / _file(table))
        said = sentences(plan, table, scores)
        # What all tables share stands on the page once.
        shown_here = dataclasses.replace(results, notes=results.notes[:1]).html()
        body.append(html.section(_heading(table), html.listing(said), shown_here, _picture(plan, table, scores)))
        numbers[table.table] = {
            "title": table.title,
            "source": table.source,
            "table": results.numbers(),
            "sentences": said,
            "scores": {row.name: {metric: scores[metric][row.name] for metric in METRICS} for row in table.rows},
        }
    notes = [html.callout(note, warn=note.startswith("Short form")) for note in plan.notes]
    beside = plan.recipe in OF_THE_PAPER
    apart = html.paragraph(_PAPER_NOTE, "note") if beside else _paper_apart(plan.tables)
    settings = [
        html.settings(f"Settings of {job.title}", read_run(job.output).config)
        for job in (plan.pretraining[0], plan.finetuning[0])
    ]
    title = "Ablations"
    subtitle = (
        f"{plan.recipe} · {counted(len(plan.tables), 'table')} · seeds: {', '.join(map(str, plan.seeds))} · "
        f"{plan.out.resolve().name}"
    )
    page = html.page(
        title,
        subtitle,
        [*notes, *body, apart, *settings, html.settings("Environment", first.environment)],
        parts.footer(first),
    )
    head = {"kind": "ablations", "title": title, "notes": list(plan.notes), "seeds": list(plan.seeds)}
    return html.write(plan.out, page, {**head, "tables": numbers})


def result_table(
    plan: AblationStudy, table: AblationTable, scores: Mapping[str, Mapping[str, Sequence[float]]]
) -> Table:
    """A table with our figures, and the paper's beside them where the data set is the paper's."""
    beside = plan.recipe in OF_THE_PAPER
    rows: list[tuple[Cell, ...]] = []
    for row in table.rows:
        cell = plan.cells[table.table, row.name]
        model = profile(cell.runs[0].settings().model)
        ours: tuple[Cell, ...] = (
            row.name,
            model.parameters / 1e6,
            giga(model.macs_published),
            *(over_seeds(scores[metric][row.name]) for metric in METRICS),
        )
        rows.append((*ours, *(_of_paper(row.paper) if beside else ())))
    columns = [Column(table.axis or "row", text=True), Column("parameters (M)"), Column("multiply-adds (G)")]
    columns += [Column(metric.upper(), percent=True) for metric in METRICS]
    if beside:
        columns += [Column(f"paper: {name}") for name in ("parameters (M)", "multiply-adds (G)")]
        columns += [Column(f"paper: {metric.upper()}", percent=True) for metric in METRICS]
    notes = [
        about_seeds(plan.seeds),
        *plan.notes,
        *([_PAPER_NOTE] if beside else []),
    ]
    return Table(_heading(table), tuple(columns), tuple(rows), tuple(notes))


def sentences(
    plan: AblationStudy, table: AblationTable, scores: Mapping[str, Mapping[str, Sequence[float]]]
) -> list[str]:
    """Every row against the one that is as the recipes have it, seed by seed."""
    base = next((row.name for row in table.rows if plan.cells[table.table, row.name].same), None)
    if base is None:
        return []
    return [
        Difference(
            "UAR", row.name, base, np.round(np.array(scores["uar"][row.name]) - np.array(scores["uar"][base]), 12)
        ).sentence()
        for row in table.rows
        if row.name != base
    ]


def _scores(plan: AblationStudy, table: AblationTable) -> dict[str, dict[str, list[float]]]:
    """Metric -> row -> share of each seed."""
    runs = {row.name: [scores_of(run.output) for run in plan.cells[table.table, row.name].runs] for row in table.rows}
    return {metric: {name: [run[metric] for run in several] for name, several in runs.items()} for metric in METRICS}


def _picture(plan: AblationStudy, table: AblationTable, scores: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    name = f"ablation-{table.table}"
    alt = f"UAR and WAR of the rows of {_heading(table)}"
    if table.axis:
        places = [float(row.name) for row in table.rows]
        lines = {
            metric.upper(): _line(places, [over_seeds(scores[metric][row.name]) for row in table.rows])
            for metric in METRICS
        }
        drawing = figures.curves([Panel("UAR and WAR", table.axis, lines, percent=True)], width=4.6, height=3.0)
        band = ", the band its 95 % interval" if len(plan.seeds) > 2 else ""
        return html.figure(drawing, name, alt, f"Mean over seeds{band}.")
    drawing = figures.seed_comparison({metric.upper(): by_row for metric, by_row in scores.items()}, width=10.0)
    caption = "A dot is a seed, the bar the mean, the band one sample standard deviation to either side"
    return html.figure(drawing, name, alt, f"{caption}; thin lines join the same seed.")


def _line(places: Sequence[float], points: Sequence[Measured]) -> Curve:
    mean = [point.value for point in points]
    low, high = ([getattr(point, end) for point in points] for end in ("low", "high"))
    return Curve(places, mean) if None in low else Curve(places, mean, low, high)


def _paper_apart(tables: Sequence[AblationTable]) -> str:
    """What the paper prints of the same rows, apart from ours as it is another data set and mostly another model."""
    rows: list[tuple[Cell, ...]] = []
    for table in tables:
        known = [row for row in table.rows if any(value is not None for value in vars(row.paper).values())]
        rows += [()] if rows and known else []
        rows += [(_heading(table), row.name, *_of_paper(row.paper)) for row in known]
    if not rows:
        return ""
    columns = (
        Column("table", text=True),
        Column("row", text=True),
        Column("parameters (M)"),
        Column("multiply-adds (G)"),
        *(Column(metric.upper(), percent=True) for metric in METRICS),
    )
    about = "These are of another data set and of the full-size model: no figure above can be held against them."
    found = Table("What the paper prints of these rows", columns, tuple(rows), (_PAPER_NOTE,))
    return html.fold(found.title, html.paragraph(about) + found.html())


def _of_paper(paper: PaperFigures) -> tuple[Cell, ...]:
    shares = (None if value is None else value / 100 for value in (paper.uar, paper.war))
    return (paper.parameters, paper.macs, *shares)


def _heading(table: AblationTable) -> str:
    number = f"Table {table.table}" if table.table.isdigit() else "Fig. 3" if table.table == "fig3" else table.table
    return f"{number}: {table.title}"


def _file(table: AblationTable) -> str:
    return f"table_{table.table}" if table.table.isdigit() else table.table


def _score(text: str | None, where: str) -> float | None:
    if not (text or "").strip():
        return None
    try:
        value = float(text or "")
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise InputError(f"{where}: {text!r} is no score in per cent, between 0 and 100")
    return value
