"""The card of a model with what its run has measured: data, scores, confusion, calibration, settings, versions.

No places of files, no names of clips, machines or people go into it: settings of the machine are left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maedfer._values import is_address
from maedfer.dataclass_tree import map_paths, without
from maedfer.errors import InputError
from maedfer.evaluation.metrics import scores as class_scores
from maedfer.models import profile
from maedfer.models.card import Card, CardFacts, base_card, fenced, metric_entries, one_line, table
from maedfer.models.serialization import read_clip_settings, read_config
from maedfer.report.evidence import Evidence
from maedfer.report.page import percent
from maedfer.report.run_data import RunData, Scores, number, read_run
from maedfer.train.config_file import config_tree, dump_tree, resolve
from maedfer.train.settings import RunConfig

# What the hub calls a score, and what it is called here.
_ON_THE_HUB = {
    "uar": ("recall", "UAR, unweighted average recall"),
    "war": ("accuracy", "WAR, accuracy over all clips"),
    "macro_f1": ("f1", "macro F1"),
}
_NAMES = {
    "uar": "UAR (mean recall of the classes)",
    "war": "WAR (accuracy)",
    "macro_f1": "macro F1",
    "weighted_f1": "weighted F1",
}
_ERRORS = {"ece": "ECE", "nll": "NLL", "brier": "Brier"}


def model_card(
    source: str | Path, repository: str, facts: CardFacts | None = None, scores: str | Path | None = None
) -> Card:
    """Write the card of the model of a run, or of a saved model.

    Args:
        source: folder of a run that has ended, or of a saved model.
        repository: where the model will be, "user/name".
        facts: what its publisher says of it.
        scores: folder of the run or evaluation whose scores are told; None = the run's own, else those of its
            evaluation.

    Raises:
        InputError: no such folders, a broken file in one, or scores of other classes than the model has.
    """
    facts = facts or CardFacts()
    source = Path(source)
    is_run = (source / "model").is_dir()
    folder = source / "model" if is_run else source
    config, kept = read_config(folder), read_clip_settings(folder)
    card = base_card(config, kept, profile(config).parameters, repository, facts)
    run = read_run(source) if is_run else None
    scored = _scored(source if is_run else None, scores)
    if scored is not None and scored.scores is not None:
        classes = kept.classes if kept is not None else ()
        if classes and scored.scores.classes != classes:
            raise InputError(
                f"{str(scored.path)!r} has scores of {', '.join(scored.scores.classes)}, and the model's classes are "
                f"{', '.join(classes)}: give the evaluation of this model"
            )
        evidence = Evidence(scored)
        card.sections["Scores"] = _scores(scored, scored.scores, evidence)
        card.sections["Calibration"] += _as_it_is(evidence)
        _note_on_the_hub(card, scored, scored.scores, facts)
    elif run is not None and run.setting("task") == "pretrain":
        card.sections["Scores"] = _losses(run)
    temperature = kept.temperature if kept is not None else None
    if temperature is not None:
        card.sections["Calibration"] += _calibration(source, scored, temperature)
    if run is not None:
        card.sections["Data"] = _data(run, scored, facts)
        card.sections["Settings"] = _settings(run)
        card.sections["Versions"] = _versions(run)
    return card


def _scored(run: Path | None, scores: str | Path | None) -> RunData | None:
    """The folder whose scores are told."""
    if scores is not None:
        found = read_run(scores)
        if found.scores is None:
            raise InputError(
                f"{str(scores)!r} has no scores: give the folder of an evaluation, or of a run that was scored"
            )
        return found
    if run is None:
        return None
    for folder in (run, run / "evaluation"):
        if (folder / "metrics.json").is_file():
            return read_run(folder)
    return None


def _scores(run: RunData, scores: Scores, evidence: Evidence) -> str:
    split = run.metrics.get("split", "test")
    views = number(run.metrics.get("views"))
    said = f"Over {scores.n:,} {split} clips" + ("" if views is None else f", {views:g} views of each")
    if run.precision is not None:
        said += f", computed in {run.precision}"
    columns: list[tuple[str, Mapping[str, Any]]] = [("95 % interval over clips", scores.intervals)]
    if evidence.predictions is not None:
        columns = [("95 % interval over clips (bootstrap)", evidence.intervals["by_clip"])]
    if evidence.by_subject is not None:
        columns.append((f"over {evidence.by_subject['units']} people (bootstrap)", evidence.by_subject))
    rows = [
        (name, percent(getattr(scores, key)), *(_span(part.get(key)) for _, part in columns))
        for key, name in _NAMES.items()
    ]
    parts = [f"{said}, in %:", table(("score", "value", *(name for name, _ in columns)), rows)]
    if evidence.by_subject is None:
        parts.append(
            "It is not known who is in the clips: where people are in several of them, intervals over clips are too "
            "narrow."
        )
    notes = run.metrics.get("notes")
    parts += [f"Note: {_without_places(str(note))}." for note in notes] if isinstance(notes, list) else []
    precision = class_scores(scores.confusion)["class_precision"]
    head = ("true class", "clips", "recall (%)", "precision (%)", "F1 (%)", *(f"as {name}" for name in scores.classes))
    confusion = [
        (
            name,
            f"{scores.counts[index]:,}",
            *(percent(values[index]) for values in (scores.recall, precision, scores.f1)),
            *counts,
        )
        for index, (name, counts) in enumerate(zip(scores.classes, scores.confusion.tolist(), strict=True))
    ]
    parts += ["By class, with how many clips of it were taken for which one:", table(head, confusion)]
    return "\n\n".join(parts)


def _span(interval: Sequence[float] | None) -> str:
    return "" if interval is None else " to ".join(percent(limit, 1) for limit in interval)


def _note_on_the_hub(card: Card, run: RunData, scores: Scores, facts: CardFacts) -> None:
    """Scores as metadata, where the data set has a name; without one they would be of nothing."""
    card.metadata["metrics"] = [kind for kind, _ in _ON_THE_HUB.values()]
    if facts.data is None:
        return
    values = {key: getattr(scores, key) for key in _ON_THE_HUB}
    name = one_line(facts.data)
    result: dict[str, Any] = {
        "task": {"type": "video-classification", "name": "Dynamic facial expression recognition"},
        "dataset": {"name": name, "type": re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "data"},
        "metrics": metric_entries({key: value for key, value in values.items() if value == value}, _ON_THE_HUB),
    }
    result["dataset"]["split"] = str(run.metrics.get("split", "test"))
    card.metadata["model-index"] = [{"name": card.title, "results": [result]}]


def _losses(run: RunData) -> str:
    values = run.series("epochs", "loss", "epoch")
    if not values[0]:
        return ""
    return f"Loss of reconstruction in training: {values[1][-1]:.4f} in the last of {values[0][-1]:g} epochs."


def _calibration(source: Path, scored: RunData | None, temperature: float) -> str:
    """What the temperature has changed, where the evaluation that has fitted it is there."""
    folders = [] if scored is None else [scored.path]
    folders += sorted(source.glob("evaluation*"))
    for folder in folders:
        facts = read_run(folder).metrics.get("calibration") if (folder / "metrics.json").is_file() else None
        if isinstance(facts, Mapping) and facts.get("temperature") == temperature:
            rows = [
                (
                    name,
                    *(
                        f"{facts[split][when][key]:.4f}"
                        for split in ("validation", "test")
                        for when in ("before", "after")
                    ),
                )
                for key, name in _ERRORS.items()
            ]
            head = ("error", "validation, before", "after", "test, before", "after")
            return f"\n\n{table(head, rows)}"
    return ""


def _as_it_is(evidence: Evidence) -> str:
    """Calibration errors of the probabilities that were scored."""
    if evidence.predictions is None:
        return ""
    ece, brier = (float(evidence.metrics[key]) for key in ("ece", "brier"))
    return f"\n\nOf the scored clips, without a temperature: ECE {percent(ece)} %, Brier score {brier:.4f}."


def _data(run: RunData, scored: RunData | None, facts: CardFacts) -> str:
    lists = {key: run.setting(f"data.{key}") for key in ("train", "val")}
    lists["test"] = (scored or run).setting("data.test")
    known = dict(_mapping(run.environment.get("lists")))
    if scored is not None and scored is not run:
        known |= {"test": _mapping(scored.environment.get("lists")).get("test")}
    named = ", ".join(f"{key}: {_file(str(path))}{_digest(known.get(key))}" for key, path in lists.items() if path)
    init = run.setting("train.init")
    parts = [
        f"{one_line(facts.data)}, as its publisher names it." if facts.data else "Its publisher does not name it.",
        f"Lists of clips: {named}." if named else "",
        f"Training began from {_file(str(init))}." if init else "Training began from random weights.",
    ]
    return " ".join(part for part in parts if part)


def _digest(facts: Any) -> str:
    """What tells a list from others of its name."""
    told = _mapping(facts)
    parts = [str(told.get("clips") or ""), f"SHA-256 {told['sha256']}" if told.get("sha256") else ""]
    said = "; ".join(part for part in parts if part)
    return f" ({one_line(said)})" if said else ""


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _settings(run: RunData) -> str:
    """Every setting that decides what comes out, without paths."""
    if not run.config:
        return ""
    cfg = map_paths(resolve(run.config), lambda key, path: _file(path))
    tree: dict[str, Any] = without(RunConfig, config_tree(cfg), "machine")
    shown = fenced(dump_tree(tree), "yaml")
    return f"<details><summary>All that decide what comes out</summary>\n\n{shown}\n\n</details>"


def _versions(run: RunData) -> str:
    facts = run.environment
    versions = facts.get("versions")
    if not isinstance(versions, Mapping):
        return ""
    shown = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    device, precision = facts.get("device"), facts.get("precision")
    revision, changes = facts.get("git_revision"), facts.get("git_changes")
    code = f", from revision {revision} of the code" if revision else ""
    code += f" with changes whose SHA-256 is {changes}" if revision and changes else ""
    return f"{shown}; trained on {device} in {precision}{code}."


def _file(path: str) -> str:
    """The name of a file without the folders above it; an address as it is."""
    return one_line(path if is_address(path) else Path(path).name)


def _without_places(note: str) -> str:
    """A note without names of clips and files: up to the sentence that has some."""
    note = re.sub(r" \(the first .*\)", "", one_line(note)).rstrip(".")
    found = re.search(r"[/\\'\"]", note)
    if found is None:
        return note
    return note[: found.start()].rpartition(": ")[0] or "one that names files is left out"
