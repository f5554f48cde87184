"""Two runs, or several seeds of two conditions, on the same clips: McNemar's test and paired bootstrap.

What two runs say of one clip is not independent: where both are right or both wrong, nothing tells them apart.
McNemar's test looks at the clips of which one of them is right alone. A paired bootstrap draws clips, or the subjects
whose clips they are, and takes the difference of both runs on what was drawn.

Several seeds of a condition are pooled in two levels: the score of a condition is the mean over its seeds, all scored
on the same clips. What it varies by over clips (or subjects) is what the mean over seeds varies by over resamples of
them, the same ones for all runs. What it varies by over seeds is their sample variance over their number k, less what
of that is due to which clips there are; of differences where the seeds of two conditions are pairs. Both are added up,
and the interval is that of Student's t with Satterthwaite's degrees of freedom, of which few seeds leave few: two seeds
that differ tell next to nothing. One seed says nothing of others: the interval is then between percentiles of
resamples, that of these very weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from maedfer.errors import InputError, some
from maedfer.evaluation.bootstrap import LEVEL, RESAMPLES, Units, mean_of_known, percentiles, student
from maedfer.evaluation.predictions import Predictions

SCORES = ("uar", "war")


class McNemar(NamedTuple):
    """McNemar's test of two runs.

    Args:
        first_alone, second_alone: clips of which only one is right.
        p: exact: twice the smaller tail of the binomial distribution of `first_alone` with a share of a half, 1 at
            most.
        mid_p: the same with half the probability of what was found, less conservative (Lancaster 1961, J. Am. Stat.
            Assoc. 56, 223).
    """

    first_alone: int
    second_alone: int
    p: float
    mid_p: float


class SameClips(NamedTuple):
    """What several runs say of the same clips, put in one order.

    Args:
        labels: int64 [n].
        predicted: int64 [runs, n].
        classes: names.
        subjects: who is in each clip, n of them; none where that is not known of every clip.
    """

    labels: np.ndarray
    predicted: np.ndarray
    classes: tuple[str, ...]
    subjects: tuple[str, ...]

    @property
    def right(self) -> np.ndarray:
        """Which clips each run has right, bool [runs, n]."""
        return self.predicted == self.labels


def mcnemar(first: Any, second: Any) -> McNemar:
    """McNemar's exact test of whether two runs are right equally often.

    Args:
        first, second: bool [n], which clips each of them has right.
    """
    first, second = np.asarray(first, bool), np.asarray(second, bool)
    alone, other = int((first & ~second).sum()), int((second & ~first).sum())
    fewer, both = min(alone, other), alone + other
    # Whole numbers without rounding, however many clips there are.
    ways = tail = 1
    for count in range(fewer):
        ways = ways * (both - count) // (count + 1)
        tail += ways
    p = 1.0 if alone == other else _share(2 * tail, both)
    return McNemar(alone, other, p, min(1.0, _share(2 * tail - ways, both)))


def _share(ways: int, power: int) -> float:
    """ways / 2 ** power, 1 at most; both may be beyond what a float holds."""
    shift = max(0, ways.bit_length() - 64)
    return min(1.0, math.ldexp(ways >> shift, shift - power))


def match_clips(runs: Sequence[Predictions], names: Sequence[str]) -> SameClips:
    """Put what several runs say into one order, that of the first, by the names of clips.

    Args:
        runs: one at least.
        names: of the runs, for messages.

    Raises:
        InputError: the runs differ in their classes or clips, a clip has two labels or subjects, or is there twice.
    """
    first, found = runs[0], []
    for run, name in zip(runs, names, strict=True):
        place = {clip: index for index, clip in enumerate(run.names)}
        if len(place) < len(run.names):
            twice = next(clip for index, clip in enumerate(run.names) if place[clip] != index)
            raise InputError(f"{name}: clip {twice!r} is there twice: clips are matched by their names")
        if run.classes != first.classes:
            raise InputError(
                f"{names[0]} and {name} differ in their classes: {list(first.classes)} and {list(run.classes)}"
            )
        lacking = [clip for clip in first.names if clip not in place]
        known = set(first.names)
        extra = [clip for clip in run.names if clip not in known]
        if lacking or extra:
            parts = []
            for clips, whole, one, other in ((lacking, first, names[0], name), (extra, run, name, names[0])):
                if clips:
                    few = some([repr(clip) for clip in clips], 3)
                    parts.append(f"{len(clips)} of {len(whole.names)} clips of {one} are not in {other} ({few})")
            raise InputError(f"the runs were not scored on the same clips: {'; '.join(parts)}")
        order = np.array([place[clip] for clip in first.names])
        other_label = np.flatnonzero(run.labels[order] != first.labels)
        if len(other_label):
            clip = first.names[other_label[0]]
            raise InputError(f"clip {clip!r} has another label in {names[0]} than in {name}")
        found.append((run.predicted[order], [run.subjects[index] for index in order] if run.subjects else None))
    people = [who for _, who in found if who is not None]
    for who in people[1:]:
        other_person = next((at for at, (one, two) in enumerate(zip(people[0], who, strict=True)) if one != two), None)
        if other_person is not None:
            clip = first.names[other_person]
            raise InputError(f"clip {clip!r} has another subject in one of the runs than in others")
    known_people = tuple(people[0]) if people and all(people[0]) else ()
    return SameClips(first.labels, np.stack([said for said, _ in found]), first.classes, known_people)


def pooled_intervals(
    clips: SameClips,
    conditions: Sequence[Sequence[int]],
    by_subject: bool = False,
    *,
    pairs: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> dict[str, Any]:
    """Mean UAR and WAR of conditions over their seeds, what each has more than the first one, and intervals of both.

    Args:
        clips: of all runs.
        conditions: numbers of the runs of each condition.
        by_subject: draw subjects rather than clips.
        pairs: whether the seeds of conditions are pairs, by position.
        resamples: how many are drawn.
        seed: of the draw.
        level: share of resamples inside.

    Returns:
        units, how many clips or subjects there are; uar and war, each with "mean" and "interval" of every condition,
        and of every one but the first "difference" and "difference_interval", a list each.

    Raises:
        InputError: subjects are to be drawn and not known, or all clips are of one.
    """
    runs, count = len(clips.predicted), len(clips.classes)
    # What scores are computed from: the clips of each class, and of those the ones that each run has right.
    rows = np.concatenate([clips.labels[:, None], clips.right.T], axis=1)
    kinds, of = np.unique(rows, axis=0, return_inverse=True)
    own = np.eye(count)[kinds[:, 0]]
    values = np.concatenate([own, *(own * kinds[:, 1 + run, None] for run in range(runs))], axis=1)
    units = Units.made(of.ravel(), values, clips.subjects if by_subject else None)
    sums = np.concatenate([units.counts @ units.sums[None], units.resampled(resamples, seed)])
    parts = sums.reshape(len(sums), runs + 1, count)
    whole, hits = parts[:, 0], parts[:, 1:]
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = hits / whole[:, None]
    uar = mean_of_known(recall.reshape(-1, count)).reshape(-1, runs)
    scores = {"uar": uar, "war": hits.sum(2) / whole.sum(1, keepdims=True)}
    found: dict[str, Any] = {"units": units.draws}
    for name, values in scores.items():
        each = [values[:, list(runs)] for runs in conditions]
        more = [_difference(each[0], one, pairs) for one in each[1:]]
        found[name] = {
            "mean": [float(one[0].mean()) for one in each],
            "interval": [_interval([one], units.draws, level, (0.0, 1.0)) for one in each],
            "difference": [float(sum(part[0].mean() for part in parts)) for parts in more],
            "difference_interval": [_interval(parts, units.draws, level, (-1.0, 1.0)) for parts in more],
        }
    return found


def _difference(first: np.ndarray, second: np.ndarray, pairs: bool) -> list[np.ndarray]:
    """What is to be added up to a difference: of pairs of seeds theirs, else what each condition adds of its own."""
    return [second - first] if pairs else [second, -first]


def _interval(
    parts: Sequence[np.ndarray], draws: int, level: float, ends: tuple[float, float]
) -> tuple[float, float] | None:
    """The interval of a sum of means over seeds.

    Args:
        parts: float64 [1 + resamples, seeds] each, the first row of all clips; their seeds have nothing in common.
        draws: clips or subjects in a resample.
        level: share inside.
        ends: no score is beyond them.
    """
    means = np.sum([part.mean(1) for part in parts], axis=0)
    if all(part.shape[1] == 1 for part in parts):
        return percentiles(means[1:], draws, level)
    if draws < 2:
        return None
    # Variances with their degrees of freedom; a bootstrap over few units falls short by (units - 1) / units.
    short = draws / (draws - 1)
    found = [(float(means[1:].var()) * short, draws - 1)]
    for part in parts:
        seeds = part.shape[1]
        if seeds > 1:
            # What seeds and clips do together is in what resamples vary by already, and counts once.
            together = (part[1:] - part[1:].mean(1, keepdims=True)).var(0).sum() / (seeds - 1) * short
            found.append((max(0.0, float(part[0].var(ddof=1) - together) / seeds), seeds - 1))
    whole = sum(variance for variance, _ in found)
    shares = sum(variance**2 / freedom for variance, freedom in found)
    freedom = max(1, int(whole**2 / shares)) if shares else draws - 1
    half = student((1 + level) / 2, freedom) * math.sqrt(whole)
    return max(ends[0], float(means[0]) - half), min(ends[1], float(means[0]) + half)
