"""The page that compares conditions, each run with several seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maedfer.errors import InputError
from maedfer.evaluation.predictions import Predictions, read_predictions
from maedfer.report import figures
from maedfer.report import page as html
from maedfer.report import sections as parts
from maedfer.report.conditions import FREE
from maedfer.report.figures import Curve, Panel
from maedfer.report.run_data import RunData, Scores, read_run
from maedfer.report.same_clips import same_clips

METRICS = ("uar", "war")

# What is said of conditions that their seeds do not pair.
_PAIRING_NOTES = {
    "": "The conditions have different numbers of seeds: no paired differences.",
    "position": "The conditions have different seeds: runs are paired in the order given.",
}


@dataclass(frozen=True)
class Difference:
    """What a condition has more than the first one, seed by seed.

    Args:
        metric: "UAR" or "WAR".
        label, base: the condition and the first one.
        values: differences as fractions [seeds].
    """

    metric: str
    label: str
    base: str
    values: NDArray[np.float64]

    @property
    def mean(self) -> float:
        """Mean difference."""
        return float(self.values.mean())

    @property
    def spread(self) -> float:
        """Sample standard deviation of the differences, NaN for a single seed."""
        return float(self.values.std(ddof=1)) if len(self.values) > 1 else float("nan")

    @property
    def wins(self) -> int:
        """Seeds in which the condition has the higher score."""
        return int((self.values > 0).sum())

    @property
    def verdict(self) -> str:
        """better, worse, equal, or unclear: one seed, seeds that disagree, or a mean difference within its spread."""
        if not self.values.any():
            return "equal"
        if len(self.values) > 1 and abs(self.mean) > self.spread:
            if (self.values > 0).all():
                return "better"
            if (self.values < 0).all():
                return "worse"
        return "unclear"

    def sentence(self) -> str:
        """The difference in words that claim no more than the numbers."""
        n = len(self.values)
        label, base = f'"{self.label}"', f'"{self.base}"'
        count = f"better in {self.wins} of {n} seed{'s' if n > 1 else ''}"
        if self.verdict == "equal":
            return f"{self.metric}: {label} and {base} score the same ({count})."
        size = f"mean difference {html.points(self.mean)} points"
        if n == 1:
            return f"{self.metric}: one seed says nothing about {label} against {base} ({size}, {count})."
        numbers = f"{size}, standard deviation {html.percent(self.spread)}, {count}"
        if self.verdict != "unclear":
            return f"{self.metric}: {label} is {self.verdict} than {base} ({numbers})."
        if not self.mean:
            return f"{self.metric}: {label} and {base} score the same on average ({numbers})."
        where = "higher" if self.mean > 0 else "lower"
        return f"{self.metric}: {label} is {where} than {base} on average, but not clearly so ({numbers})."


def write_comparison(
    out: str | Path,
    runs: Mapping[str, Sequence[str | Path]],
    title: str,
    note: str = "",
    *,
    pretraining: str | Path | None = None,
    pictures: Mapping[str, str | Path] | None = None,
) -> Path:
    """Compare conditions over seeds: tables, paired differences to the first condition, curves, confusion matrices.

    Args:
        out: folder for report.html and report.json.
        runs: condition -> run folders, one a seed; each has a metrics.json. Differences are paired by the seed of the
            settings where all conditions have the same seeds, else by position.
        title: heading of the page.
        note: plain text below it.
        pretraining: run folder whose loss and reconstructions are shown too.
        pictures: caption -> picture file (png, jpg, svg), shown at the end.

    Returns:
        Path of report.html.

    Raises:
        InputError: no runs, a run without scores, or a broken file.
    """
    conditions = _read(runs)
    pairing = _pairing(conditions)
    scores = {
        metric: {
            label: np.array([getattr(_scores(run), metric) for run in items]) for label, items in conditions.items()
        }
        for metric in METRICS
    }
    differences = _differences(scores) if pairing else []
    sections = {
        "scores": _score_section(conditions, scores, differences, pairing),
        "same_clips": same_clips(_predictions(conditions), pairing == "seed"),
        "curves": _curve_section(conditions),
        "classes": _class_section(conditions),
        "pretraining": _pretraining_section(pretraining),
    }
    shown, numbers = parts.merge(sections)
    gallery = "".join(html.picture(Path(path), caption) for caption, path in (pictures or {}).items())
    first = next(iter(conditions.values()))[0]
    body = [html.paragraph(note) if note else "", *shown, html.section("Pictures", gallery)]
    body.append(_difference_of_settings(conditions))
    folded = [html.settings(f"Settings of {first.path.name}", first.config)]
    counts = sorted({len(items) for items in conditions.values()})
    seeds = " to ".join(str(count) for count in {counts[0]: 0, counts[-1]: 0})
    subtitle = f"conditions: {len(conditions)} · seeds of each: {seeds}"
    head = {
        "kind": "comparison",
        "title": title,
        "note": note,
        "runs": {label: [str(run.path) for run in items] for label, items in conditions.items()},
    }
    tail = {
        "config": {label: items[0].config for label, items in conditions.items()},
        "environment": first.environment,
    }
    page = html.page(
        title, subtitle, [*body, *folded, html.settings("Environment", first.environment)], parts.footer(first)
    )
    return html.write(Path(out), page, {**head, **numbers, **tail})


def _read(runs: Mapping[str, Sequence[str | Path]]) -> dict[str, list[RunData]]:
    if not runs or not all(runs.values()):
        empty = next((label for label, paths in runs.items() if not paths), "")
        raise InputError(f"condition {empty!r} has no runs to compare" if runs else "there are no runs to compare")
    found = {label: [read_run(path) for path in paths] for label, paths in runs.items()}
    for items in found.values():
        for run in items:
            _scores(run)
    if len({frozenset(_seeds(items)) for items in found.values()}) == 1 and None not in _seeds(
        next(iter(found.values()))
    ):
        # The same seeds everywhere: in the same order too, so that position pairs them.
        found = {label: sorted(items, key=lambda run: run.setting("seed")) for label, items in found.items()}
    return found


def _predictions(conditions: Mapping[str, Sequence[RunData]]) -> dict[str, list[tuple[str, Predictions | None]]]:
    # Scores that were made of what is no probability are refused here.
    found: dict[str, list[tuple[str, Predictions | None]]] = {}
    for label, items in conditions.items():
        files = [run.path / "pred.csv" for run in items]
        found[label] = [(str(file.parent), read_predictions(file) if file.is_file() else None) for file in files]
    return found


def _pairing(conditions: Mapping[str, Sequence[RunData]]) -> str:
    # What makes two runs of different conditions a pair: their seed, else their place, else nothing.
    seeds = {tuple(_seeds(items)) for items in conditions.values()}
    if len(seeds) == 1 and None not in next(iter(seeds)):
        return "seed"
    return "position" if len({len(items) for items in conditions.values()}) == 1 else ""


def _scores(run: RunData) -> Scores:
    if run.scores is None:
        raise InputError(f"run {str(run.path)!r} has no metrics.json: evaluate it before it is compared")
    return run.scores


def _seeds(items: Sequence[RunData]) -> list[Any]:
    return [run.setting("seed") for run in items]


def _differences(scores: Mapping[str, Mapping[str, NDArray[np.float64]]]) -> list[Difference]:
    found = []
    for metric, by_label in scores.items():
        (base, reference), *others = by_label.items()
        found += [Difference(metric.upper(), label, base, np.round(values - reference, 12)) for label, values in others]
    return found


def _score_section(
    conditions: Mapping[str, list[RunData]],
    scores: Mapping[str, Mapping[str, NDArray[np.float64]]],
    differences: Sequence[Difference],
    pairing: str,
) -> tuple[str, parts.Numbers]:
    rows = []
    found: parts.Numbers = {"conditions": {}}
    for label, items in conditions.items():
        seeds = ",\N{NO-BREAK SPACE}".join(html.DASH if seed is None else str(seed) for seed in _seeds(items))
        cells: list[str | tuple[str, str]] = [label, seeds]
        numbers: parts.Numbers = {"seeds": _seeds(items)}
        for metric in METRICS:
            values = scores[metric][label]
            spread = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
            text = html.percent(float(values.mean())) + (f" ± {html.percent(spread)}" if len(values) > 1 else "")
            cells.append((text, " · ".join(html.percent(value, 1) for value in values)))
            numbers[metric] = {"mean": values.mean(), "std": spread, "values": values}
        clips = sorted({_scores(run).n for run in items})
        precisions = list(dict.fromkeys(run.precision for run in items))
        computed_in = " / ".join(html.DASH if name is None else name for name in precisions)
        cells += [" / ".join(f"{count:,}" for count in clips), computed_in, _time(items)]
        numbers |= {"clips": clips, "precision": precisions, "seconds": [_seconds(run) for run in items]}
        rows.append(cells)
        found["conditions"][label] = numbers
    head = ("condition", "seeds", "UAR (%)", "WAR (%)", "clips scored", "precision", "time per run")
    dots = figures.seed_comparison(
        {metric.upper(): by_label for metric, by_label in scores.items()}, paired=bool(pairing), width=10.0
    )
    alt = "UAR and WAR of every seed of every condition"
    caption = "A dot is a seed, the bar the mean, the band one sample standard deviation to either side"
    body = [
        html.table(head, rows, 2),
        html.paragraph("Mean ± sample standard deviation over seeds; below it every seed.", "note"),
        html.figure(dots, "seeds", alt, caption + (f"; thin lines join the same {pairing}." if pairing else ".")),
    ]
    found["differences"] = [
        {
            "metric": item.metric.lower(),
            "condition": item.label,
            "to": item.base,
            "mean": item.mean,
            "std": item.spread,
            "values": item.values,
            "better_in": item.wins,
            "seeds": len(item.values),
            "verdict": item.verdict,
            "sentence": item.sentence(),
        }
        for item in differences
    ]
    statements = html.listing(item.sentence() for item in differences)
    selected = {str(run.setting("eval.select")) for items in conditions.values() for run in items}
    warning = ""
    if "test" in selected:
        warning = html.callout(
            "The epoch of some runs was selected on the test clips (eval.select = test): their scores are optimistic.",
            True,
        )
    note = _PAIRING_NOTES.get(pairing, "") if len(conditions) > 1 else ""
    statements += html.paragraph(note, "note") if note else ""
    found |= {"pairing": pairing, "pairing_note": note}
    return html.section("Scores", statements, warning, *body), found


def _time(items: Sequence[RunData]) -> str:
    seconds = [value for run in items if (value := _seconds(run)) is not None]
    return parts.time_text(float(np.mean(seconds))) if seconds else html.DASH


def _seconds(run: RunData) -> float | None:
    seconds, whole = parts.total_seconds(run)
    return seconds if seconds or whole else None


def _difference_of_settings(conditions: Mapping[str, list[RunData]]) -> str:
    trees = [items[0].leaves() for items in conditions.values()]
    keys = [key for key in dict.fromkeys(key for tree in trees for key in tree) if key not in FREE]
    rows = [
        [key, *(html.setting(tree.get(key)) for tree in trees)]
        for key in keys
        if any(tree.get(key) != trees[0].get(key) for tree in trees)
    ]
    head = ("setting", *conditions)
    return html.section("Settings that differ", html.table(head, rows, len(head))) if rows else ""


def _curve_section(conditions: Mapping[str, list[RunData]]) -> tuple[str, parts.Numbers]:
    splits = {item.get("split") for items in conditions.values() for run in items for item in run.evals}
    split = "test" if "test" in splits else "val"
    wanted = (("Training loss", "loss", None), (f"UAR, {split}", "uar", split), (f"WAR, {split}", "war", split))
    panels = []
    for title, key, source in wanted:
        lines = {}
        for position, (label, items) in enumerate(conditions.items()):
            series = [_epoch_loss(run) if source is None else _evals(run, source, key) for run in items]
            line = _bundle([item for item in series if item])
            if line is not None:
                lines[label] = line._replace(color=position)
        if lines:
            panels.append(Panel(title, "epoch", lines, percent=source is not None))
    if not panels:
        return "", {}
    drawing = figures.curves(panels, columns=3, width=3.5 * len(panels), height=2.8)
    caption = "Mean over seeds; the band is one sample standard deviation to either side."
    alt = "Training loss, UAR and WAR over epochs"
    return html.section("Course of training", html.figure(drawing, "curves", alt, caption)), parts.panel_numbers(panels)


def _evals(run: RunData, split: str, key: str) -> dict[float, float]:
    part = RunData(run.path, evals=[item for item in run.evals if item.get("split") == split])
    return dict(zip(*part.series("evals", key, "epoch"), strict=True))


def _epoch_loss(run: RunData) -> dict[float, float]:
    if run.series("epochs", "loss", "epoch")[0]:
        return dict(zip(*run.series("epochs", "loss", "epoch"), strict=True))
    by_epoch: dict[float, list[float]] = {}
    for epoch, loss in zip(*run.series("steps", "loss", "epoch"), strict=True):
        by_epoch.setdefault(float(np.ceil(epoch)), []).append(loss)
    return {epoch: float(np.mean(values)) for epoch, values in by_epoch.items()}


def _bundle(series: Sequence[Mapping[float, float]]) -> Curve | None:
    # Mean and spread where every seed has a value: a mean over changing seeds would jump for no reason of its own.
    shared = sorted(set.intersection(*(set(item) for item in series))) if series else []
    if not shared:
        return None
    values = np.array([[item[x] for x in shared] for item in series])
    mean = values.mean(axis=0)
    if len(series) == 1:
        return Curve(shared, mean)
    spread = values.std(axis=0, ddof=1)
    return Curve(shared, mean, mean - spread, mean + spread)


def _class_section(conditions: Mapping[str, list[RunData]]) -> tuple[str, parts.Numbers]:
    pooled: dict[str, Scores] = {}
    for label, items in conditions.items():
        classes = {_scores(run).classes for run in items}
        if len(classes) > 1:
            raise InputError(f"the runs of condition {label!r} have different classes: compare runs of one data set")
        counts = np.sum([_scores(run).confusion for run in items], axis=0)
        pooled[label] = Scores.of(classes.pop(), counts)
    compact = len(pooled) > 2 and len(next(iter(pooled.values())).classes) < 9
    width = 3.35 if compact else 5.0
    drawings = [
        html.figure(
            figures.confusion_matrix(item.confusion, item.classes, title=label, width=width, clips=not compact),
            f"confusion{index}",
            f"Confusion matrix of {label}",
        )
        for index, (label, item) in enumerate(pooled.items())
    ]
    caption = "Confusion matrices, counts added up over seeds: share of each true class in %"
    caption += "." if compact else ", below it the clips."
    found = {label: parts.score_numbers(item) for label, item in pooled.items()}
    return html.section("Classes", html.row(*drawings), html.paragraph(caption, "note")), found


def _pretraining_section(path: str | Path | None) -> tuple[str, parts.Numbers]:
    if path is None:
        return "", {}
    run = read_run(path)
    if run.setting("task", "pretrain") != "pretrain":
        raise InputError(f"{str(path)!r} is a run of {run.setting('task')}, not of pre-training")
    text, found = parts.headline(run)
    panels = parts.training_panels(run)
    drawing = ""
    if panels:
        width = min(10.6, 4.2 * len(panels))
        alt = "Loss and learning rate of pre-training"
        drawing = html.figure(figures.curves(panels, width=width, height=2.6), "pretraining", alt)
    pictures, numbers = parts.reconstructions(run, "pretraining-pictures", clips=2)
    section = html.section(parts.title(run)[0], text, drawing, pictures)
    return section, {**found, "curves": parts.panel_numbers(panels), "reconstructions": numbers}
