"""Sections of a report about one run: each gives HTML and the numbers behind it, both empty where there is nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maedfer._progress import duration
from maedfer.errors import require
from maedfer.evaluation.predictions import read_predictions
from maedfer.report import figures
from maedfer.report import page as html
from maedfer.report.figures import Curve, Panel
from maedfer.report.run_data import RunData, Scores, count_parameters, number, read_features, read_pictures
from maedfer.train.checkpoints import existing

TASKS = {"pretrain": "Pre-training", "finetune": "Fine-tuning", "evaluate": "Evaluation"}
# Names of the parts of the loss, where they are not what they are called, by target.
LOSS_PARTS: dict[str, dict[str, str]] = {
    "appearance": {"motion": "motion (not trained)"},
    "motion": {"appearance": "appearance (not trained)"},
    "pixels": {"appearance": "first frames", "motion": "other frames"},
}
MAX_POINTS = 800

Numbers = dict[str, Any]


def title(run: RunData) -> tuple[str, str]:
    """Heading of a run and the line below it."""
    task, model = TASKS.get(str(run.setting("task")), "Run"), run.setting("model.name")
    line = [run.path.resolve().name]
    if run.setting("seed") is not None:
        line.append(f"seed {run.setting('seed')}")
    for key in ("train", "test"):
        if run.setting(f"data.{key}"):
            line.append(f"{key}: {'/'.join(Path(run.setting(f'data.{key}')).parts[-2:])}")
    return f"{task} · {model}" if model else task, " · ".join(line)


def ending(run: RunData) -> tuple[str, Numbers]:
    """That a run has not ended, and how far it came; nothing where it has, or where nothing is known of it."""
    facts = run.environment
    stopped = facts.get("outcome") == "stopped"
    if not stopped and ("ended" not in facts or facts["ended"] is not None):
        return "", {}
    found: Numbers = {"ended": False, "step": None, "epoch": None}
    text = f"This run has not ended: it was {'stopped' if stopped else 'killed, or goes on'}"
    if run.steps:
        step, epoch = number(run.steps[-1].get("step")) or 0.0, number(run.steps[-1].get("epoch")) or 0.0
        of = "" if (epochs := number(run.setting("optim.epochs"))) is None else f" of {epochs:g}"
        text += f"; the last step in its log is {step:,.0f}, in epoch {epoch:g}{of}"
        found |= {"step": step, "epoch": epoch}
    if existing(run.path):
        text += ". The command that started it goes on from its last checkpoint"
    return html.callout(f"{text}.", warn=True), found


def headline(run: RunData, by_subject: Mapping[str, Any] | None = None) -> tuple[str, Numbers]:
    """The most important numbers of a run as tiles; intervals are over subjects where those are given."""
    items: list[tuple[str, str, str]] = []
    found: Numbers = {}
    if run.scores is not None:
        scores = run.scores
        for key, (low, high) in scores.intervals.items():
            value = getattr(scores, key)
            ends, units = ((low, high), "clips") if by_subject is None else (by_subject[key], "subjects")
            note = f"{html.percent(ends[0], 1)} to {html.percent(ends[1], 1)}, 95 % over {units}"
            items.append((f"{key.upper()} (%)", html.percent(value), note))
            found |= {key: value, f"{key}_interval_95": [low, high]}
        items.append(("macro F1 (%)", html.percent(scores.macro_f1), ""))
        views, split = number(run.metrics.get("views")), run.metrics.get("split")
        note = f"{len(scores.classes)} classes" + ("" if views is None else f", {views:g} views")
        if run.precision is not None:
            note += f", {run.precision}"
            found["precision"] = run.precision
        skipped = number(run.metrics.get("skipped"))
        if skipped:
            note += f", {skipped:,.0f} more could not be read"
            found["skipped"] = int(skipped)
        items.append(("clips scored" if split in (None, "test") else f"clips scored ({split})", f"{scores.n:,}", note))
        found |= {"macro_f1": scores.macro_f1, "weighted_f1": scores.weighted_f1, "n": scores.n}
    else:
        for key, name in _loss_names(run).items():
            values = run.series("steps", key)[1]
            if values:
                final = (run.series("epochs", key, "epoch")[1] or values)[-1]
                items.append((name, f"{final:.4f}", f"from {values[0]:.4f}"))
                found |= {key: final, f"first_{key}": values[0]}
        if run.evals:
            latest = run.evals[-1]
            note = f"{latest.get('split')}, epoch {latest.get('epoch')}"
            items += [(f"{key.upper()} (%)", html.percent(number(latest.get(key))), note) for key in ("uar", "war")]
            found["latest_scores"] = {key: latest.get(key) for key in ("split", "epoch", "uar", "war")}
    effort = _effort(run)
    found |= {key: value for key, (value, _) in effort.items()}
    return html.tiles(items) + html.tiles([tile for _, tile in effort.values()], small=True), found


def _loss_names(run: RunData) -> dict[str, str]:
    names = {"loss": "loss", "appearance": "appearance", "motion": "motion"}
    return names | LOSS_PARTS.get(str(run.setting("model.target")), {})


def _effort(run: RunData) -> dict[str, tuple[float, tuple[str, str, str]]]:
    # What the run took: value and tile by key, those that are known.
    found: dict[str, tuple[float, tuple[str, str, str]]] = {}
    steps = run.series("steps", "step")[1]
    epochs = len(run.epochs)
    if epochs:
        found["epochs"] = epochs, ("epochs", f"{epochs:,}", f"{steps[-1]:,.0f} steps" if steps else "")
    elif steps:
        found["steps"] = steps[-1], ("steps", f"{steps[-1]:,.0f}", "")
    seconds, whole = total_seconds(run)
    if seconds or whole:
        note = "" if whole else "without parts that were killed"
        found["seconds"] = seconds, ("time", time_text(seconds), note)
    speed = run.series("steps", "clips_per_s")[1]
    if speed:
        wait = run.series("steps", "data_wait")[1]
        note = f"{100 * np.mean(wait):.0f} % waiting for data" if wait else ""
        found["clips_per_s"] = float(np.median(speed)), ("clips per second", f"{np.median(speed):.3g}", note)
    parameters = count_parameters(run)
    if parameters:
        found["parameters"] = parameters, ("parameters", f"{parameters / 1e6:.2f} M", run.trained)
    memory = run.series("steps", "memory_mb")[1]
    if memory:
        found["memory_mb"] = max(memory), ("peak memory", f"{max(memory) / 1024:.1f} GB", "")
    return found


def total_seconds(run: RunData) -> tuple[float, bool]:
    """Time from start to end in seconds, parts before a resumption included, and whether all of them are known."""
    log = run.path / "log.jsonl"
    earlier = run.environment.get("earlier")
    pieces = [*(earlier if isinstance(earlier, list) else []), run.environment]
    total, whole = 0.0, True
    for piece in pieces:
        try:
            start = datetime.fromisoformat(piece["started"])
            if piece is run.environment and not piece.get("ended"):
                # The run goes on, or was killed: up to its last word.
                end = datetime.fromtimestamp(log.stat().st_mtime, tz=start.tzinfo)
            else:
                end = datetime.fromisoformat(piece["ended"])
            total += max(0.0, (end - start).total_seconds())
        except (KeyError, TypeError, ValueError, OSError):
            whole = False
    return total, whole


def time_text(seconds: float) -> str:
    """Time that was taken as people say it; times are noted to the second."""
    return duration(seconds) if seconds >= 1 else "under 1 s"


def selection(run: RunData) -> tuple[str, Numbers]:
    """How the scored weights were chosen, said plainly."""
    select, metric = run.setting("eval.select"), str(run.setting("eval.metric", "war"))
    if run.scores is None or run.setting("task") != "finetune" or select is None:
        return "", {}
    epoch = number(run.metrics.get("epoch"))
    which = "" if epoch is None else f" (epoch {epoch:g})"
    found: Numbers = {"select": select, "metric": metric, "epoch": epoch}
    if select == "last":
        text = f"Scored weights: those of the last epoch{which}; no score had a part in the choice."
        return html.callout(text), found
    split = run.metrics.get("split", "test")
    same = split != select and run.setting("data.val") == run.setting("data.test")
    if split != select and not same:
        text = f"Scored weights: the epoch with the best {metric.upper()} on the validation clips{which}; "
        return html.callout(text + "the scored clips had no part in the choice."), found
    found["selected_on_scored_clips"] = True
    also = ", with data.val the same list as data.test" if same else ""
    text = (
        f"The epoch was selected on the {split} clips (eval.select = {select}{also}): these are the scores of the epoch"
        f" with the best {metric.upper()} on the very clips that are scored{which}. They are optimistic, and comparable"
        " only with results that were selected in the same way."
    )
    last = [item for item in run.evals if item.get("split") == select]
    if last and (uar := number(last[-1].get("uar"))) is not None and (war := number(last[-1].get("war"))) is not None:
        found |= {"last_epoch_uar": uar, "last_epoch_war": war}
        text += f" The last epoch has UAR {html.percent(uar)} and WAR {html.percent(war)}."
    return html.callout(text, warn=True), found


def training_panels(run: RunData, selected: float | None = None) -> list[Panel]:
    """Loss with its parts, learning rate, and scores over epochs, as far as they were logged."""
    losses = {name: Curve(*run.series("steps", key)) for key, name in _loss_names(run).items()}
    losses = {name: line for name, line in losses.items() if len(line.x)}  # type: ignore[arg-type]
    panels = [Panel("Training loss", "step", losses)] if losses else []
    scored: dict[str, Curve] = {}
    evaluated: dict[str, Curve] = {}
    for split, dashed in (("val", True), ("test", False)):
        part = RunData(run.path, evals=[item for item in run.evals if item.get("split") == split])
        for color, key in enumerate(("uar", "war")):
            x, y = part.series("evals", key, "epoch")
            if x:
                scored[f"{key.upper()} {split}"] = Curve(x, y, color=color, dashed=dashed)
        x, y = part.series("evals", "loss", "epoch")
        if x:
            evaluated[split] = Curve(x, y, color=2, dashed=dashed)
    if scored:
        label = "" if selected is None else "selected"
        panels.append(Panel("UAR and WAR", "epoch", scored, mark=selected, mark_label=label, percent=True))
    if evaluated:
        panels.append(Panel("Loss on scored clips", "epoch", evaluated, mark=selected))
    rates = run.series("steps", "lr")
    if rates[0]:
        panels.append(Panel("Learning rate", "step", {"learning rate": Curve(*rates)}))
    return panels


def curves(run: RunData) -> tuple[str, Numbers]:
    """The course of the run."""
    chosen = number(run.metrics.get("epoch")) if run.setting("eval.select") in ("val", "test") else None
    panels = training_panels(run, chosen)
    if not panels:
        return "", {}
    width = 10.6 if len(panels) > 2 else 3.6 * len(panels)
    drawing = figures.curves(panels, columns=len(panels), width=width, height=2.6)
    alt = "Curves of " + ", ".join(panel.title.lower() for panel in panels)
    return html.section("Course of training", html.figure(drawing, "curves", alt)), panel_numbers(panels)


def panel_numbers(panels: Sequence[Panel]) -> Numbers:
    """The points of the panels by title and line."""
    return {
        panel.title: {
            name: {
                key: value
                for key, value in line._asdict().items()
                if key in ("x", "y", "low", "high") and value is not None
            }
            for name, line in panel.lines.items()
        }
        for panel in panels
    }


def score_numbers(scores: Scores) -> Numbers:
    """A confusion matrix and what follows from it, for report.json."""
    return {
        "classes": list(scores.classes),
        "confusion": scores.confusion,
        "clips": scores.counts,
        "recall": scores.recall,
        "f1": scores.f1,
        "uar": scores.uar,
        "war": scores.war,
        "macro_f1": scores.macro_f1,
        "weighted_f1": scores.weighted_f1,
        "n": scores.n,
    }


def per_class(run: RunData, table: str = "") -> tuple[str, Numbers]:
    """Confusion matrix and bars of every class, and a table below them."""
    scores = run.scores
    if scores is None:
        return "", {}
    width = min(1.5 + 0.52 * max(len(scores.classes), 5), 6.0)
    matrix = figures.confusion_matrix(scores.confusion, scores.classes, width=width)
    height = float(matrix.get_size_inches()[1])
    bars = figures.class_bars(
        scores.classes, scores.recall, scores.f1, scores.counts, width=10.2 - width, height=height
    )
    alt = "Recall and F1 of each class"
    found = score_numbers(scores)
    notes = run.metrics.get("notes")
    notes = [str(note) for note in notes] if isinstance(notes, list) else []
    found["notes"] = notes
    return html.section(
        "Classes",
        html.row(
            html.figure(matrix, "confusion", "Confusion matrix", "Share of each true class in %, below it the clips."),
            html.figure(bars, "bars", alt, "Dashed: mean recall (UAR); dotted: mean F1 (macro F1)."),
        ),
        table,
        # How the epoch was selected stands above the curves already.
        *(html.paragraph(f"Note: {note}.", "note") for note in notes if "best epoch" not in note),
    ), found


def folds(run: RunData) -> tuple[str, Numbers]:
    """The runs whose predictions were put together, each with its own scores."""
    parts = run.metrics.get("folds")
    if not isinstance(parts, list) or not all(isinstance(part, Mapping) for part in parts):
        return "", {}
    keys = ("uar", "war")
    rows = [
        (str(part.get("run")), *(html.percent(number(part.get(key))) for key in keys), f"{part.get('n', 0):,}")
        for part in parts
    ]
    values = [[number(part.get(key)) for part in parts] for key in keys]
    means = (None if None in each else float(np.mean(np.array(each, float))) for each in values)
    rows.append(("mean of the runs", *map(html.percent, means), ""))
    if run.scores is not None:
        both = html.percent(run.scores.uar), html.percent(run.scores.war)
        rows.append(("all clips together", *both, f"{run.scores.n:,}"))
    return html.section("Folds", html.table(("run", "UAR (%)", "WAR (%)", "clips"), rows)), {"runs": parts}


def mistakes(run: RunData, most: int = 10) -> tuple[str, Numbers]:
    """The clips that were recognised wrongly with the highest probability."""
    path = run.path / "pred.csv"
    if not path.is_file():
        return "", {}
    predictions = read_predictions(path)
    said = predictions.predicted
    wrong = np.flatnonzero(said != predictions.labels)
    surest = wrong[np.argsort(-predictions.probabilities[wrong, said[wrong]], kind="stable")][:most]
    if not len(surest):
        return "", {}
    rows = [
        {
            "clip": predictions.names[index],
            "true": predictions.classes[predictions.labels[index]],
            "predicted": predictions.classes[said[index]],
            "probability": float(predictions.probabilities[index, said[index]]),
            "probability_of_true": float(predictions.probabilities[index, predictions.labels[index]]),
        }
        for index in surest
    ]
    cells = [
        (item["clip"], item["true"], item["predicted"], *(html.percent(item[key], 1) for key in list(item)[3:]))
        for item in rows
    ]
    head = ("clip", "true", "predicted", "its probability (%)", "of the true class (%)")
    return html.fold(f"Surest mistakes ({len(rows)} of {len(wrong)})", html.table(head, cells, 3)), {"clips": rows}


def reconstructions(run: RunData, name: str = "pictures", clips: int = 3) -> tuple[str, Numbers]:
    """Masked clips and what the model makes of them, as in Fig. 4 of the paper."""
    pictures: dict[str, Any] = read_pictures(run.path / "reconstructions.npz")
    if not pictures:
        return "", {}
    # What an objective does not train is noise, and the sum with it.
    untrained = {"appearance": ("motion", "full"), "motion": ("appearance", "full"), "pixels": ("appearance", "motion")}
    for picture in untrained.get(str(run.setting("model.target")), ()):
        pictures.pop(picture, None)
    before = read_pictures(run.path / "reconstructions_start.npz")
    shape = pictures["original"].shape
    key = next((key for key in ("full", "appearance", "motion") if key in pictures), "")
    if key in before and before[key].shape == shape:
        pictures["untrained"] = before[key]
    cube = min(int(run.setting("model.encoder.patch_size", [2])[0]), shape[1])
    gain = _motion_gain(pictures["motion"]) if "motion" in pictures else 1.0
    drawing = figures.reconstruction_grid(**pictures, clips=clips, cube=cube, motion_gain=gain, width=10.4)
    words = {
        "masked": "what the model sees",
        "untrained": "what it made of that before training",
        "appearance": "the appearance it predicts for the odd frame",
        "motion": "the motion it predicts for the even frame (the change from the odd one, on grey)",
        "full": "their sum, the even frame" if {"appearance", "motion"} <= set(pictures) else "what it reconstructs",
        "original": "the original",
    }
    ratio = number(run.setting("model.mask_ratio"))
    caption = f"A column is one cube of {cube} frames"
    caption += (
        "." if ratio is None else f"; {100 * ratio:.0f} % of the cubes are hidden, the others are shown as they are."
    )
    caption += f" From top to bottom: {'; '.join(words[key] for key in words if key in pictures)}."
    if run.setting("model.normalize_target"):
        caption += " Brightness and contrast of each hidden cube are taken from the original."
    if gain > 1:
        caption += f" Motion is shown {gain:g} times as strong as it is."
    found = {
        "rows": [key for key in words if key in pictures],
        "clips": shape[0],
        "shown": min(clips, shape[0]),
        "motion_gain": gain,
    }
    return html.figure(drawing, name, "Masked input, reconstruction and original of several clips", caption), found


def _motion_gain(motion: NDArray[Any]) -> float:
    # Small movements are hard to see on grey: strengthened up to three times, as far as no clip loses much of it.
    size = np.abs(motion.astype(np.float32) - 0.5).reshape(len(motion), -1)
    strongest = float(np.quantile(size, 0.99, axis=1).max())
    return float(np.clip(np.floor(0.5 / max(strongest, 1e-6)), 1, 3))


def embedding(run: RunData) -> tuple[str, Numbers]:
    """t-SNE of the pooled features, as in Fig. 5 of the paper."""
    arrays = read_features(run.path / "features.npz")
    features, labels = arrays.get("features"), arrays.get("labels")
    if features is None or labels is None or len(features) < 8 or not np.isfinite(features).all() or not features.std():
        return "", {}
    chosen = _stratified(labels, MAX_POINTS)
    perplexity = float(min(30, len(chosen) // 4))
    points = tsne(features[chosen], perplexity)
    classes = run.scores.classes if run.scores is not None else [str(index) for index in range(int(labels.max()) + 1)]
    predictions = arrays["predictions"][chosen] if "predictions" in arrays else None
    drawing = figures.tsne_scatter(points, labels[chosen], classes, predictions=predictions, width=7.4)
    count = (
        f"{len(chosen):,} of {len(labels):,} clips, drawn evenly from the classes" if len(chosen) < len(labels) else ""
    )
    caption = (
        f"t-SNE of the features before the classifier, {count or f'{len(labels):,} clips'}; perplexity {perplexity:g}."
    )
    if predictions is not None:
        caption += " Hollow: recognised wrongly."
    found = {"points": points.round(4), "labels": labels[chosen], "index": chosen, "perplexity": perplexity}
    if predictions is not None:
        found["predictions"] = predictions
    return html.section("Features", html.figure(drawing, "tsne", "t-SNE of the features, by class", caption)), found


def tsne(features: NDArray[Any], perplexity: float, seed: int = 0) -> NDArray[np.float64]:
    """Embed features [n, C] in the plane [n, 2], after reduction to their 50 main directions; repeatable by `seed`."""
    manifold = require("sklearn.manifold", "train")
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    if min(centred.shape) > 50:
        _, _, directions = np.linalg.svd(centred, full_matrices=False)
        centred = centred @ directions[:50].T
    model = manifold.TSNE(perplexity=perplexity, init="pca", random_state=seed, n_jobs=1)
    return np.asarray(model.fit_transform(centred), dtype=np.float64)


def _stratified(labels: NDArray[Any], limit: int) -> NDArray[np.int64]:
    # At most `limit` indices in which every class keeps its share, the same ones every time.
    if len(labels) <= limit:
        return np.arange(len(labels))
    order = np.random.default_rng(0).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    return np.sort(order[np.linspace(0, len(order) - 1, limit).astype(int)])


def details(run: RunData) -> str:
    """Settings and environment, folded away."""
    return html.settings("Settings", run.config) + html.settings("Environment", run.environment)


def footer(run: RunData) -> str:
    """What the page was made from, and what of it was unreadable."""
    text = "Made by maedfer from the files of the run; every number is in report.json."
    if run.torn:
        text += f" log.jsonl was cut off in line {run.torn} when the run was stopped; what is before it is shown."
    return text


def merge(parts: Mapping[str, tuple[str, Numbers]]) -> tuple[list[str], Numbers]:
    """Split named sections into their HTML and their numbers, without the empty ones."""
    return [text for text, _ in parts.values()], {name: found for name, (_, found) in parts.items() if found}
