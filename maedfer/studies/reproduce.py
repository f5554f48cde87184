"""The published fold tables, beside what the published weights score here.

Every fold is scored as the published code does: two clips spread over each video at the stride of the recipe, the mean
of their softmax, the class of the largest; in float32.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from maedfer._files import atomic_path
from maedfer._progress import counted
from maedfer.data.protocols import find_protocol
from maedfer.data.video.base import shown
from maedfer.errors import InputError, unknown
from maedfer.evaluation.predictions import read_predictions
from maedfer.preparation import Prepared, PrepareOptions, prepare_dataset
from maedfer.preparation.look import file_digest
from maedfer.report import page as html
from maedfer.report import sections as parts
from maedfer.report.run_data import read_run
from maedfer.studies.grid import Job, run_jobs
from maedfer.studies.pooled import MEAN, METRICS, POOLED, pool_runs, read_metrics
from maedfer.studies.tables import Cell, Column, Table, write_tables
from maedfer.train.config import RunConfig, load_config
from maedfer.train.evaluate import model_to_score


@dataclass(frozen=True)
class PublishedScores:
    """What is published of a data set with the fine-tuned weights, in per cent.

    Args:
        folds: UAR and WAR of each fold.
        total: of all; it is the mean of the folds.
    """

    folds: tuple[tuple[float, float], ...]
    total: tuple[float, float]


PUBLISHED: dict[str, PublishedScores] = {
    "dfew": PublishedScores(
        ((62.59, 74.88), (61.96, 72.49), (64.00, 74.91), (63.07, 74.05), (65.42, 75.81)), (63.41, 74.43)
    ),
    "ferv39k": PublishedScores(((43.29, 52.50),), (43.29, 52.50)),
    "mafw": PublishedScores(
        ((36.11, 46.71), (42.37, 54.82), (46.25, 58.87), (45.42, 59.50), (41.66, 55.27)), (42.36, 55.03)
    ),
}
# Points above or below the published score from which on something is another thing, and not a little different.
_FAR = 3.0
# Probability by which the best class leads the next, below which rounding may decide.
_CLOSE = 0.002
# How folds are called in the names of files and folders.
_FOLD = re.compile(r"(?<![A-Za-z])(?:fold|split|set)[ _-]?0*([0-9]{1,3})(?![0-9])", re.IGNORECASE)
_SETTING = re.compile(r"[a-z_]+(\.[a-z_]+)*=")


@dataclass(frozen=True)
class Reproduction:
    """What is to be scored.

    Args:
        dataset: a key of `PUBLISHED`.
        root: its folder.
        out: folder of the study.
        weights: files or folders by fold, from 1.
        overrides: settings beyond the recipe.
    """

    dataset: str
    root: Path
    out: Path
    weights: Mapping[int, Path]
    overrides: tuple[str, ...] = ()

    def output(self, fold: int) -> Path:
        """The folder of a fold's scores."""
        return self.out / f"fold_{fold}"

    def job(self, fold: int, root: str) -> Job:
        """The evaluation of a fold."""
        settings = (
            f"data.root={root}",
            f"data.test={self.out / 'lists' / f'fold_{fold}.csv'}",
            f"eval.checkpoint={self.weights[fold]}",
            "train.precision=fp32",
            "report=false",
        )
        return Job("evaluate", self.dataset, self.output(fold), (*settings, *self.overrides))

    def settings(self, fold: int) -> RunConfig:
        """The settings of a fold, before its list is made.

        Raises:
            InputError: they cannot be run.
        """
        return self.job(fold, str(self.root)).settings()


def plan_reproduction(
    dataset: str, root: str | Path, out: str | Path, weights: Sequence[str], overrides: Sequence[str] = ()
) -> Reproduction:
    """Find out which weights are of which fold, and look whether they can be scored.

    Args:
        dataset: a key of `PUBLISHED`.
        root: the data set's folder.
        out: folder of the study.
        weights: a file or folder each, whose name tells the fold (fold_1, split01, set_1), or `K=FILE`.
        overrides: settings beyond the recipe, such as `train.device=cuda:1`.

    Raises:
        InputError: naming what cannot be used, and what to do.
    """
    if dataset not in PUBLISHED:
        raise unknown("data set", dataset, PUBLISHED, "of those with published weights")
    if not os.path.isdir(root):
        raise InputError(f"{shown(root)}: no such folder; give the one that the data set was unpacked to")
    by_fold = folds_of_weights(weights, len(PUBLISHED[dataset].folds))
    plan = Reproduction(dataset, Path(root), Path(out), by_fold, tuple(overrides))
    for item in overrides:
        key = item.partition("=")[0]
        if key in ("output", "data.root", "data.test", "eval.checkpoint", "eval.runs", "data.classes"):
            raise InputError(f"{key} is not for reproduce, which says itself what is scored: leave it out")
    # What is mistyped is no fault of the weights.
    load_config("finetune", dataset, overrides, check=False)
    for fold, file in by_fold.items():
        try:
            model_to_score(plan.settings(fold))
        except InputError as error:
            raise InputError(f"weights of fold {fold}, {shown(file)}: {error}") from error
    return plan


def folds_of_weights(items: Sequence[str], count: int) -> dict[int, Path]:
    """Which weights are of which fold.

    Args:
        items: paths, or `K=path`.
        count: number of folds there are.

    Raises:
        InputError: a path is not there, the name tells no fold or several, or a fold has two.
    """
    found: dict[int, Path] = {}
    for item in items:
        head, equals, tail = item.partition("=")
        named = bool(equals) and head.strip().isdecimal() and not os.path.exists(item)
        path = Path(tail if named else item)
        if not path.exists():
            raise InputError(f"weights {shown(path)} do not exist: give a published file, or a folder of a model")
        fold = int(head) if named else _told_fold(path, count)
        if not 1 <= fold <= count:
            raise InputError(f"weights {shown(path)}: there is no fold {fold}, but {counted(count, 'fold')}")
        if fold in found:
            raise InputError(f"fold {fold} has two weights, {shown(found[fold])} and {shown(path)}: give one of them")
        found[fold] = path
    if not found:
        raise InputError("no weights are given: give a published file for each fold that is to be scored")
    return dict(sorted(found.items()))


def split_weights(items: Sequence[str]) -> tuple[list[str], list[str]]:
    """Tell weights from `key=value` settings that follow them."""
    settings = [item for item in items if _SETTING.match(item) and not os.path.exists(item)]
    return [item for item in items if item not in settings], settings


def reproduce(
    plan: Reproduction,
    options: PrepareOptions,
    processes: int = 0,
    devices: Sequence[str] = (),
    say: Callable[[str], None] = print,
    progress: Callable[[str, float], None] = lambda what, share: None,
) -> tuple[Table, list[str], Path]:
    """Check the data, score what is not scored yet, and write table and page.

    In the folder of the study: `data` (what `maedfer prepare` writes), `lists`, `fold_K` (an evaluation each), `pooled`
    (all that were scored together), `table.csv`, `table.tex`, `report.html`, `report.json`.

    Args:
        plan: what to score.
        options: of the check of the data.
        processes, devices: see `maedfer.studies.grid.shares`.
        say: takes a line when a fold ends.
        progress: takes what is being done and the share of it that is done.

    Returns:
        The table, sentences on what may explain differences, and the path of the page.

    Raises:
        InputError: the data is not there, or an evaluation has failed; the same call goes on.
    """
    prepared = prepare_dataset(plan.dataset, plan.root, plan.out / "data", options, progress=progress)
    lists = plan.out / "lists"
    lists.mkdir(parents=True, exist_ok=True)
    for fold in plan.weights:
        _keep(plan.out / "data" / f"fold_{fold}" / "test.csv", lists / f"fold_{fold}.csv")
    # The folder that paths of its lists start from, which is another one where faces were cut out.
    words = shlex.split(prepared.commands[-1])
    root = next(word.partition("=")[2] for word in words if word.startswith("data.root="))
    jobs = [plan.job(fold, root) for fold in plan.weights]
    run_jobs(jobs, processes, say, lambda share: progress("scoring", share), devices=devices)
    pool_runs([job.output for job in jobs], plan.out / "pooled")
    table = reproduction_table(plan)
    sentences = explain(plan, prepared)
    write_tables(table, plan.out / "table")
    return table, sentences, _write_page(plan, prepared, table, sentences)


def reproduction_table(plan: Reproduction) -> Table:
    """The published table beside what was scored: a row a fold, their mean, and all of them pooled."""
    published = PUBLISHED[plan.dataset]
    found = {fold: read_metrics(plan.output(fold)) for fold in plan.weights}
    rows: list[tuple[Cell, ...]] = []
    for fold, there in enumerate(published.folds, 1):
        here = found.get(fold)
        scores = None if here is None else [float(here[key]) for key in METRICS]
        rows.append(_row(f"fold_{fold}", None if here is None else int(here["n"]), there, scores))
    if len(published.folds) > 1:
        whole = len(found) == len(published.folds)
        means = [float(np.mean([run[key] for run in found.values()])) for key in METRICS] if whole else None
        pooled = read_metrics(plan.out / "pooled")
        name = POOLED if whole else f"{_named(list(found))} pooled"
        rows += [
            (),
            _row(f"total: {MEAN}", None, published.total, means),
            _row(name, int(pooled["n"]), None, [pooled[key] for key in METRICS]),
        ]
    columns = (
        Column("fold", text=True),
        Column("clips"),
        *(
            Column(what, percent=True, signed=what == "difference", group=key.upper())
            for key in METRICS
            for what in ("published", "here", "difference")
        ),
    )
    title = f"{find_protocol(plan.dataset).title}: the published fold table, and the published weights here"
    views = counted(int(next(iter(found.values()))["views"]), "view")
    notes = [f"Published: what is published with the fine-tuned weights; here: {views}, argmax of their mean softmax."]
    if len(published.folds) > 1:
        notes.append(
            "The published total is the mean of the published folds, and is compared with the mean of the folds here; "
            "pooled, all predictions are put together and scored once, which gives another number."
        )
    missing = sorted({*range(1, len(published.folds) + 1)} - {*found})
    if missing:
        notes.append(f"No weights were given of {_named(missing)}: no total is compared.")
    return Table(title, columns, tuple(rows), tuple(notes))


def explain(plan: Reproduction, prepared: Prepared) -> list[str]:
    """Sentences on how far scores are from the published ones, and what may be the reason."""
    published, protocol = PUBLISHED[plan.dataset], find_protocol(plan.dataset)
    sentences, exact = [], []
    given = protocol.folds_in(plan.root)
    for fold in plan.weights:
        metrics = read_metrics(plan.output(fold))
        points = [100 * metrics[key] - there for key, there in zip(METRICS, published.folds[fold - 1], strict=True)]
        clips = abs(round(points[1] / 100 * metrics["n"]))
        if all(abs(value) < 0.0051 for value in points):
            exact.append(fold)
        else:
            sentences.append(
                f"Fold {fold} differs from the published scores by {html.points(points[0] / 100)} points of UAR and "
                f"{html.points(points[1] / 100)} points of WAR, which is {counted(clips, 'clip')} of {metrics['n']:,}"
                + _far(points)
            )
        tested = len(given[fold - 1].test)
        lost = tested - metrics["n"]
        if lost > 0:
            sentences.append(
                f"Fold {fold}: {lost:,} of its {tested:,} test clips are not scored, which alone can change WAR by "
                f"up to {100 * lost / tested:.2f} points."
            )
        sentences += [f"Fold {fold}: {note}." for note in metrics["notes"]]
        close = _close(plan.output(fold))
        if close and fold not in exact:
            sentences.append(
                f"Fold {fold}: in {counted(close, 'clip')} the two best classes are less than {100 * _CLOSE:g} points "
                "apart; other arithmetic (half precision, another device) may decide these otherwise."
            )
    if exact:
        sentences.insert(0, f"{_named(exact, True)} {'is' if len(exact) == 1 else 'are'} as published, to two digits.")
    sentences += _other_settings(plan)
    sentences += _same_weights(plan.weights)
    missing = sorted({*range(1, len(published.folds) + 1)} - {*plan.weights})
    if missing:
        sentences.append(f"{_named(missing, True)}: no weights were given, and nothing is scored.")
    return [*sentences, *prepared.mind]


def _told_fold(path: Path, count: int) -> int:
    """The fold that a name tells, that of the file before those of the folders that it is in."""
    if count == 1:
        return 1
    for name in (path.stem if path.is_file() else path.name, *(folder.name for folder in path.absolute().parents)):
        told = {int(number) for number in _FOLD.findall(name)}
        if len(told) > 1:
            raise InputError(f"weights {shown(path)}: {shown(name)!r} names several folds: give K={shown(path)}")
        if told:
            return told.pop()
    raise InputError(f"weights {shown(path)}: its name tells no fold (fold_1, split01, set_1): give K={shown(path)}")


def _keep(source: Path, target: Path) -> None:
    """Copy a list, unless it is there as it is: what was scored on it is known to be done."""
    content = source.read_bytes()
    if not target.is_file() or target.read_bytes() != content:
        with atomic_path(target) as temporary:
            temporary.write_bytes(content)


def _row(name: str, clips: int | None, there: Sequence[float] | None, here: Sequence[float] | None) -> tuple[Cell, ...]:
    cells: list[Cell] = [name, clips]
    for index in range(len(METRICS)):
        published = None if there is None else there[index] / 100
        own = None if here is None else here[index]
        cells += [published, own, None if published is None or own is None else own - published]
    return tuple(cells)


def _far(points: Sequence[float]) -> str:
    if min(points) > _FAR:
        return (
            ": far above. Weights of another fold have been trained on clips that this fold tests; "
            "are these of this fold?"
        )
    if max(points) < -_FAR:
        return (
            ": far below. Frames that were extracted otherwise, weights of another data set or "
            "pre-training, or labels in another order do that; single clips do not."
        )
    return "."


def _close(folder: Path) -> int:
    """How many clips a little noise could decide otherwise."""
    best = np.sort(read_predictions(folder / "pred.csv").probabilities, axis=1)[:, -2:]
    return int((best[:, 1] - best[:, 0] < _CLOSE).sum()) if best.shape[1] == 2 else 0


def _other_settings(plan: Reproduction) -> list[str]:
    """Sentences on settings that change scores and are not those of the published evaluation."""
    usual = load_config("finetune", plan.dataset, check=False)
    here = plan.settings(next(iter(plan.weights)))
    pairs = {
        "data.stride": (usual.data.stride, here.data.stride),
        "data.fit": (usual.data.fit, here.data.fit),
        "data.label_offset": (usual.data.label_offset, here.data.label_offset),
        "eval.views": (usual.eval.views, here.eval.views),
        "train.precision": ("fp32", here.train.precision),
    }
    changed = [f"{key} is {own} here, {theirs} there" for key, (theirs, own) in pairs.items() if own != theirs]
    return [f"Settings are not those of the published evaluation: {'; '.join(changed)}."] if changed else []


def _same_weights(weights: Mapping[int, Path]) -> list[str]:
    """A sentence on folds whose files have the same bytes."""
    by_digest: dict[str, list[int]] = {}
    for fold, path in weights.items():
        by_digest.setdefault(file_digest(path) if path.is_file() else os.path.realpath(path), []).append(fold)
    return [
        f"{_named(folds, True)} have the same weights: those of one fold have been trained on what the others test."
        for folds in by_digest.values()
        if len(folds) > 1
    ]


def _named(folds: Sequence[int], first: bool = False) -> str:
    word = "fold" if len(folds) == 1 else "folds"
    return f"{word.capitalize() if first else word} {_numbers(folds)}"


def _numbers(folds: Mapping[int, object] | Sequence[int]) -> str:
    numbers = [str(fold) for fold in folds]
    return numbers[0] if len(numbers) == 1 else f"{', '.join(numbers[:-1])} and {numbers[-1]}"


def _write_page(plan: Reproduction, prepared: Prepared, table: Table, sentences: Sequence[str]) -> Path:
    run = read_run(plan.out / "pooled")
    per_class, found = parts.per_class(run)
    wrong, _ = parts.mistakes(run)
    first = next(iter(plan.weights))
    run_of_first = read_run(plan.output(first))
    files = [
        (str(fold), str(path), file_digest(path) if path.is_file() else html.DASH)
        for fold, path in plan.weights.items()
    ]
    body = [
        html.section("Fold table", table.html()),
        html.section("Differences, and what may explain them", html.listing(sentences)),
        html.section("Data", html.listing(prepared.found)),
        per_class,
        wrong,
        html.fold("Weights", html.table(("fold", "file", "SHA-256"), files, 3)),
        html.settings(f"Settings of fold {first}", run_of_first.config),
        html.settings("Environment", run_of_first.environment),
    ]
    subtitle = f"folds scored: {_numbers(plan.weights)} · {run_of_first.precision} · {plan.out.resolve().name}"
    numbers = {
        "kind": "reproduction",
        "title": table.title,
        "dataset": plan.dataset,
        "weights": [{"fold": int(fold), "path": path, "sha256": digest} for fold, path, digest in files],
        "table": table.numbers(),
        "explanations": list(sentences),
        "data": {"found": list(prepared.found), "mind": list(prepared.mind), "left_out": dict(prepared.quarantined)},
        "pooled": found,
    }
    page = html.page(table.title, subtitle, body, parts.footer(run))
    return html.write(plan.out, page, numbers)
