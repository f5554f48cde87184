"""What probes have found, written down: a folder a probe, a table, probe.json, a page."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from maedfer.evaluation.metrics import confusion_matrix, scores
from maedfer.evaluation.paired import SameClips, pooled_intervals
from maedfer.evaluation.predictions import Predictions
from maedfer.evaluation.probes.fit import ProbeChoice
from maedfer.studies.tables import Column, Measured, Table

FEATURES, FITS, RUNS, RESULT_FILE = "features", "fits", "runs", "probe.json"
METRICS = ("uar", "war")
_SETTINGS = {"k": "k", "c": "C", "lr": "learning rate", "weight_decay": "weight decay"}


class ProbeTask(NamedTuple):
    """One probe.

    Args:
        who: whose features: "model" or "random".
        kind: of the probe.
        layer: of the encoder.
        seed: of the probe.
    """

    who: str
    kind: str
    layer: int
    seed: int

    @property
    def folder(self) -> str:
        """Its name below runs/."""
        begin = "random_" if self.who == "random" else ""
        return f"{begin}{self.kind}_layer{self.layer}_seed{self.seed}"


@dataclasses.dataclass(frozen=True)
class ScoredProbe:
    """A probe that was fitted, how its hyper-parameters were found, and what it says of the test part."""

    task: ProbeTask
    fitted: ProbeChoice
    predictions: Predictions

    @property
    def confusion(self) -> np.ndarray:
        """Counts [classes, classes], rows true."""
        return confusion_matrix(self.predictions.labels, self.predictions.predicted, len(self.predictions.classes))

    @property
    def scores(self) -> dict[str, Any]:
        """UAR, WAR and the like, as shares."""
        return scores(self.confusion)


@dataclasses.dataclass(frozen=True)
class ProbeGroup:
    """The probes of one kind on one layer of one model, of several seeds.

    Args:
        who, kind, layer: as of a task.
        probes: a seed each.
        uar, war: mean and standard deviation over seeds, and the interval of the mean for other clips, or other
            subjects where they are known.
        validation: the mean over seeds of the UAR, or WAR, that chose; None where nothing was chosen.
    """

    who: str
    kind: str
    layer: int
    probes: tuple[ScoredProbe, ...]
    uar: Measured
    war: Measured
    validation: float | None

    def numbers(self) -> dict[str, Any]:
        """For probe.json."""
        return {
            "features": self.who,
            "probe": self.kind,
            "layer": self.layer,
            "uar": dataclasses.asdict(self.uar),
            "war": dataclasses.asdict(self.war),
            "validation": self.validation,
            "seeds": [one.task.seed for one in self.probes],
        }


@dataclasses.dataclass(frozen=True)
class ProbeResult:
    """What a study of probes has found.

    Args:
        output: its folder.
        groups: one for each kind, layer and model.
        differences: what the model has more than random weights, by kind and layer: UAR with its interval.
        sentences: the same in words.
        notes: what is to be known of the scores.
        page: of the report.
    """

    output: Path
    groups: tuple[ProbeGroup, ...]
    differences: Mapping[tuple[str, int], Measured]
    sentences: tuple[str, ...]
    notes: tuple[str, ...]
    page: Path


def told(groups: Sequence[ProbeGroup]) -> list[ProbeGroup]:
    """Of each kind, the layer that validation clips choose, by the features of the model; the last one of equals."""
    found: dict[str, ProbeGroup] = {}
    for group in groups:
        if group.who == "model":
            best = found.get(group.kind)
            if best is None or (group.validation or 0.0) >= (best.validation or 0.0):
                found[group.kind] = group
    return list(found.values())


def score_table(groups: Sequence[ProbeGroup], about: Mapping[str, Any]) -> Table:
    """The scores of the model's probes."""
    columns = [Column("probe", text=True), Column("layer"), Column("UAR", percent=True), Column("WAR", percent=True)]
    columns.append(Column("validation", percent=True))
    mine = [group for group in groups if group.who == "model"]
    rows = [(group.kind, group.layer, group.uar, group.war, group.validation) for group in mine]
    note = (
        f"{_spread(groups)} Validation: {str(about['options']['metric']).upper()} of the clips that chose "
        "hyper-parameters, mean over seeds."
    )
    return Table("Scores of probes", tuple(columns), tuple(rows), (note,))


def random_table(groups: Sequence[ProbeGroup], differences: Mapping[tuple[str, int], Measured]) -> Table:
    """The UAR of the model's probes beside that of random weights."""
    names = [Column("probe", text=True), Column("layer"), Column("UAR", percent=True)]
    names += [Column("random weights", percent=True), Column("difference", percent=True, signed=True)]
    by = {(group.who, group.kind, group.layer): group.uar for group in groups}
    rows = [
        (kind, layer, by["model", kind, layer], by["random", kind, layer], difference)
        for (kind, layer), difference in differences.items()
    ]
    note = f"UAR. {_spread(groups)} The difference is taken seed by seed, on the same clips."
    return Table("Against random weights", tuple(names), tuple(rows), (note,))


def _spread(groups: Sequence[ProbeGroup]) -> str:
    unit = "subjects" if _by_subject(groups[0].probes[0].predictions) else "clips"
    seeds = len(groups[0].probes)
    spread = f"Mean and sample standard deviation over {seeds} seeds" if seeds > 1 else "One seed"
    return f"{spread}; in brackets the 95 % interval over seeds and {unit} of the test part, by bootstrap."


def group_probes(scored: Sequence[ScoredProbe], metric: str) -> list[ProbeGroup]:
    """Probes that differ in nothing but the seed, together; `metric` chose their hyper-parameters."""
    parts: dict[tuple[str, str, int], list[ScoredProbe]] = {}
    for one in scored:
        parts.setdefault(one.task[:3], []).append(one)
    found = []
    for (who, kind, layer), probes in parts.items():
        best = [getattr(one.fitted.best, metric) for one in probes if one.fitted.best is not None]
        drawn = _drawn([probes])
        uar, war = (_measured([one.scores[name] for one in probes], drawn[name]["interval"][0]) for name in METRICS)
        found.append(ProbeGroup(who, kind, layer, tuple(probes), uar, war, float(np.mean(best)) if best else None))
    return found


def differences_to_random(groups: Sequence[ProbeGroup]) -> dict[tuple[str, int], Measured]:
    """What the model has more than random weights in UAR, seed by seed."""
    by = {(group.who, group.kind, group.layer): group for group in groups}
    found = {}
    for (who, kind, layer), group in by.items():
        other = by.get(("random", kind, layer))
        if who == "model" and other is not None:
            pairs = zip(group.probes, other.probes, strict=True)
            values = [left.scores["uar"] - right.scores["uar"] for left, right in pairs]
            interval = _drawn([other.probes, group.probes])["uar"]["difference_interval"][0]
            found[kind, layer] = _measured(values, interval)
    return found


def _drawn(conditions: Sequence[Sequence[ScoredProbe]]) -> dict[str, Any]:
    """`pooled_intervals` of probes on the same test part, over its subjects where they are known."""
    probes = [one for condition in conditions for one in condition]
    first = probes[0].predictions
    said = np.stack([one.predictions.predicted for one in probes])
    clips = SameClips(first.labels, said, first.classes, first.subjects)
    ends = np.cumsum([0, *map(len, conditions)])
    numbers = [range(start, end) for start, end in itertools.pairwise(ends)]
    return pooled_intervals(clips, numbers, by_subject=_by_subject(first), pairs=True)


def _by_subject(predictions: Predictions) -> bool:
    return len({*predictions.subjects}) > 1


def _measured(values: Sequence[float], interval: tuple[float, float] | None) -> Measured:
    low, high = interval or (None, None)
    return dataclasses.replace(Measured.over(values), low=low, high=high)


def sentence(group: ProbeGroup, difference: Measured | None, groups: Sequence[ProbeGroup]) -> str:
    """The scores of a group in words that claim no more than the numbers.

    Args:
        group: of the model.
        difference: to random weights; None where they were not probed.
        groups: all of the study.
    """
    layers = {one.layer for one in groups if one.who == "model" and one.kind == group.kind}
    where = f"layer {group.layer}" + (", chosen by validation clips" if len(layers) > 1 else "")
    shown = Column("", percent=True)
    text = f"{group.kind} ({where}): UAR {shown.shown(group.uar)} %, WAR {shown.shown(group.war)} %"
    if difference is None:
        return f"{text}."
    other = next(one for one in groups if (one.who, one.kind, one.layer) == ("random", group.kind, group.layer))
    low, high = difference.low or 0.0, difference.high or 0.0
    verdict = "above" if low > 0 else "below" if high < 0 else "not clearly apart from"
    points = Column("", percent=True, signed=True).shown(dataclasses.replace(difference, spread=None))
    return f"{text}: {verdict} random weights, UAR {shown.shown(other.uar)} %, a difference of {points} points."


def grid_note(groups: Sequence[ProbeGroup]) -> str:
    """Where the choice of a number is at the end of its grid, so that a better one may lie beyond; "" if nowhere."""
    at = [
        f"{group.layer}" + (" (random weights)" if group.who == "random" else "")
        for group in groups
        if group.kind == "linear" and any(one.fitted.at_the_end for one in group.probes)
    ]
    return f"linear: C is at the end of its grid in some seed, of layer {', '.join(at)}" if at else ""


def choice(settings: Mapping[str, float]) -> str:
    """Hyper-parameters as people read them."""
    return ", ".join(f"{_SETTINGS[key]} {value:g}" for key, value in settings.items())


def footer() -> str:
    """Below the page."""
    return f"Made by maedfer; every number is in {RESULT_FILE} and report.json, a row a probe in probe.csv."
