"""Intervals of scores by bootstrap: over clips, or over the subjects whose clips they are.

Clips of one person are alike: an interval over clips says how far scores would be off for other clips of **these**
people, one over subjects how far for other people. The drawing unit is drawn with replacement as often as there are
units, the scores of what was drawn are computed as those of a test part, and the interval is between percentiles of
them.

With few units the plain percentiles are too narrow. They are moved outwards so that the interval of a mean has the
width that Student's t would give it ("expanded percentiles": Hesterberg 2015, What Teachers Should Know About the
Bootstrap, Am. Stat. 69, 371); over many units that changes nothing.

A class that is not among the clips that were drawn has no recall there and is left out of that resample's UAR, as
`scores` leaves it out of a test part's; its own interval is over the resamples that it is in. `absent` says how often
that was so: where it is more than rare, the class has too few clips, or subjects, for any interval.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from maedfer.errors import InputError
from maedfer.evaluation.metrics import confusion_matrix, intervals, share_intervals

RESAMPLES = 2000
LEVEL = 0.95
# Of fewer subjects an interval is told with a warning.
FEW = 10
# Numbers that are drawn at once.
_AT_ONCE = 1 << 22


class Units(NamedTuple):
    """What is drawn with replacement.

    Args:
        counts: int64 [kinds], how many units there are of each kind.
        sums: float64 [kinds, values], what a unit of the kind adds to the sums that scores are computed from.
    """

    counts: np.ndarray
    sums: np.ndarray

    @classmethod
    def made(cls, kinds: np.ndarray, values: np.ndarray, subjects: Sequence[str] | None) -> Units:
        """Clips, or subjects, as units.

        Args:
            kinds: int64 [n], the row of `values` that each clip has.
            values: float64 [kinds, values].
            subjects: who is in each clip; None = clips are drawn one by one.

        Raises:
            InputError: it is not known who is in a clip, or all are of one subject.
        """
        if subjects is None:
            return cls(np.bincount(kinds, minlength=len(values)), values)
        if not all(subjects):
            unknown = sum(not name for name in subjects)
            raise InputError(f"who is in {unknown} of {len(subjects)} clips is not known: no interval over subjects")
        people, of = np.unique(np.asarray(subjects, dtype=object).astype(str), return_inverse=True)
        if len(people) < 2:
            raise InputError(f"all clips are of one subject, {subjects[0]!r}: no interval over subjects")
        sums = np.zeros((len(people), values.shape[1]))
        np.add.at(sums, of, values[kinds])
        return cls(np.ones(len(people), np.int64), sums)

    @property
    def draws(self) -> int:
        """Units in a resample: as many as there are."""
        return int(self.counts.sum())

    def resampled(self, resamples: int, seed: int) -> np.ndarray:
        """The sums of `resamples` resamples, float64 [resamples, values]."""
        return np.concatenate([weights @ self.sums for weights in self._drawn(resamples, seed)])

    def _drawn(self, resamples: int, seed: int) -> Iterator[np.ndarray]:
        """How often each kind is in a resample: float64 [some resamples, kinds]."""
        generator = np.random.default_rng(seed)
        draws, kinds = self.draws, len(self.sums)
        at_once = max(1, _AT_ONCE // max(draws, kinds))
        for start in range(0, resamples, at_once):
            count = min(at_once, resamples - start)
            if kinds < draws:
                # Many units of few kinds: how often each kind is drawn is multinomial.
                yield generator.multinomial(draws, self.counts / draws, count).astype(np.float64)
                continue
            drawn = np.repeat(np.arange(kinds), self.counts)[generator.integers(0, draws, (count, draws))]
            drawn += kinds * np.arange(count)[:, None]
            yield np.bincount(drawn.ravel(), minlength=count * kinds).reshape(count, kinds).astype(np.float64)


def bootstrap_intervals(
    labels: Any,
    predictions: Any,
    n: int,
    subjects: Sequence[str] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> dict[str, Any]:
    """Intervals of UAR, WAR, both F1 scores, and recall and precision of each class.

    Args:
        labels, predictions: whole numbers in [0, n), of the same length, of a clip at least.
        n: number of classes.
        subjects: who is in each clip; intervals are over them. None = over clips.
        resamples: how many are drawn.
        seed: of the draw.
        level: share of resamples inside.

    Returns:
        units, how many clips or subjects there are; uar, war, macro_f1, weighted_f1, each (low, high); recall and
        precision, a list each, with None for a class that has none in any resample; absent, by number of the class the
        share of resamples that it is not in, of those classes that are in some clip but not in every resample.

    Raises:
        InputError: it is not known who is in some clip, or all are of one subject.
    """
    labels, predictions = np.asarray(labels, np.int64).ravel(), np.asarray(predictions, np.int64).ravel()
    # A kind for every cell of the confusion matrix that has clips: many classes have many cells.
    cells, kinds = np.unique(labels * n + predictions, return_inverse=True)
    true, said = cells // n, cells % n
    own = np.eye(n)
    values = np.concatenate([own[true], own[said], own[true] * (true == said)[:, None]], axis=1)
    units = Units.made(kinds, values, subjects)
    clips, predicted, hits = np.split(units.resampled(resamples, seed), 3, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall, precision, f1 = hits / clips, hits / predicted, 2 * hits / (clips + predicted)
    total = clips.sum(1)
    found = {
        "uar": mean_of_known(recall),
        "war": hits.sum(1) / total,
        "macro_f1": mean_of_known(f1),
        "weighted_f1": np.nansum(clips * f1, 1) / total,
    }
    draws = units.draws
    away = (clips == 0).mean(0)
    there = np.bincount(labels, minlength=n) > 0
    return {
        "units": draws,
        **{name: percentiles(values, draws, level) for name, values in found.items()},
        "recall": [percentiles(column, draws, level) for column in recall.T],
        "precision": [percentiles(column, draws, level) for column in precision.T],
        "absent": {index: float(away[index]) for index in range(n) if there[index] and away[index]},
    }


def percentiles(values: np.ndarray, draws: int, level: float = LEVEL) -> tuple[float, float] | None:
    """The interval between the expanded percentiles of what resamples gave; None where no resample gave anything.

    Args:
        values: of the resamples, NaN where one has none.
        draws: units in a resample.
        level: share of the resamples inside, were the units many.
    """
    known = values[np.isfinite(values)]
    if not len(known):
        return None
    tail = (1 - level) / 2
    if draws > 1:
        wide = math.sqrt(draws / (draws - 1)) * student(1 - tail, draws - 1)
        tail = math.erfc(wide / math.sqrt(2)) / 2
    low, high = np.quantile(known, [tail, 1 - tail])
    return float(low), float(high)


@lru_cache(maxsize=1024)
def student(share: float, freedom: int) -> float:
    """The quantile of Student's t, by bisection of its distribution function."""
    low, high = 0.0, 1e4
    while high - low > 1e-9 * (1 + low):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_below(middle, freedom) < share else (low, middle)
    return (low + high) / 2


def _student_below(value: float, freedom: int) -> float:
    """The share of Student's t below a value of 0 or more (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    if freedom > 10_000:
        return 1 - math.erfc(value / math.sqrt(2)) / 2
    angle = math.atan2(value, math.sqrt(freedom))
    square, odd = math.cos(angle) ** 2, freedom % 2
    term = total = 1.0
    for step in range(1 + odd, freedom - 2, 2):
        term *= square * step / (step + 1)
        total += term
    if not odd:
        return 0.5 + math.sin(angle) * total / 2
    inside = math.sin(angle) * math.cos(angle) * total if freedom > 1 else 0.0
    return 0.5 + (angle + inside) / math.pi


def mean_of_known(values: np.ndarray) -> np.ndarray:
    """The mean over columns that are numbers, float64 [rows]; NaN where none is."""
    known = np.isfinite(values)
    count = known.sum(1)
    sums = np.where(known, values, 0).sum(1)
    return np.divide(sums, count, out=np.full(len(values), np.nan), where=count > 0)


def interval_facts(labels: Any, predictions: Any, classes: Sequence[str], subjects: Sequence[str]) -> dict[str, Any]:
    """What metrics.json says of intervals.

    Args:
        labels, predictions: as for `bootstrap_intervals`.
        classes: names, in label order.
        subjects: who is in each clip, "" where that is not known; none where it is of no clip.

    Returns:
        level, resamples, seed; by_formula, over clips: UAR and WAR (`maedfer.evaluation.metrics.intervals`), recall and
        precision of each class (`share_intervals`); by_clip and by_subject, as `bootstrap_intervals` has them, `absent`
        by name of the class; by_subject is None where it is not known who is in every clip, or all are of one subject,
        and "note" says so where some are known; it also says where the subjects are few.
    """
    found: dict[str, Any] = {"level": LEVEL, "resamples": RESAMPLES, "seed": 0, "by_subject": None, "note": ""}
    confusion = confusion_matrix(labels, predictions, len(classes))
    hits = confusion.diagonal()
    shares = {"recall": share_intervals(hits, confusion.sum(1)), "precision": share_intervals(hits, confusion.sum(0))}
    found["by_formula"] = {**intervals(confusion), **shares}
    for name, who in (("by_clip", None), ("by_subject", subjects)):
        if who is None or any(who):
            try:
                one = bootstrap_intervals(labels, predictions, len(classes), who)
            except InputError as error:
                found["note"] = str(error)
                continue
            found[name] = {**one, "absent": {classes[index]: share for index, share in one["absent"].items()}}
            if who is not None and one["units"] < FEW:
                found["note"] = f"an interval over only {one['units']} subjects may be too narrow"
    return found


def interval_sentence(facts: dict[str, Any]) -> str:
    """The intervals of UAR and WAR in words, over subjects where they are known."""

    def told(part: dict[str, Any], over: str) -> str:
        both = (f"{name.upper()} {part[name][0]:.2%} to {part[name][1]:.2%}" for name in ("uar", "war"))
        return f"{', '.join(both)} over {over}"

    parts = [told(facts["by_formula"], "clips (by formula)")]
    if facts["by_subject"]:
        parts.append(told(facts["by_subject"], f"{facts['by_subject']['units']} subjects (by bootstrap)"))
    note = f"; {facts['note']}" if facts["note"] else ""
    return f"{facts['level']:.0%} intervals: {'; '.join(parts)}{note}"
