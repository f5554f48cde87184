from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import stats

from maedfer.errors import InputError
from maedfer.evaluation.bootstrap import percentiles
from maedfer.evaluation.metrics import confusion_matrix, scores
from maedfer.evaluation.paired import SameClips, match_clips, mcnemar, pooled_intervals
from maedfer.evaluation.predictions import Predictions


def said(labels: list[int], predicted: list[int], names: str = "abcdefgh", who: tuple[str, ...] = ()) -> Predictions:
    probabilities = np.full((len(labels), 3), 0.1, np.float32)
    probabilities[np.arange(len(labels)), predicted] = 0.8
    return Predictions(list(names[: len(labels)]), np.array(labels), probabilities, ("x", "y", "z"), subjects=who)


def test_mcnemar_is_a_binomial_test_of_the_clips_that_one_alone_has_right() -> None:
    generator = np.random.default_rng(0)
    for alone, other, both in ((0, 0, 5), (1, 0, 0), (3, 3, 2), (10, 2, 4), (2, 10, 0), (120, 80, 7), (6000, 5700, 9)):
        first = np.r_[np.ones(alone + both, bool), np.zeros(other + 3, bool)]
        second = np.r_[np.zeros(alone, bool), np.ones(both + other, bool), np.zeros(3, bool)]
        order = generator.permutation(len(first))
        found = mcnemar(first[order], second[order])
        assert (found.first_alone, found.second_alone) == (alone, other)
        wanted = stats.binomtest(alone, alone + other).pvalue if alone + other else 1.0
        assert found.p == pytest.approx(wanted, rel=1e-9)
        half = stats.binom.pmf(min(alone, other), alone + other, 0.5)
        mid = 2 * stats.binom.cdf(min(alone, other), alone + other, 0.5) - half if alone + other else 1.0
        assert found.mid_p == pytest.approx(mid, rel=1e-9)


def test_clips_are_matched_by_their_names() -> None:
    first = said([0, 1, 2], [0, 1, 1])
    second = Predictions(
        ["c", "a", "b"], np.array([2, 0, 1]), said([2, 0, 1], [2, 1, 0]).probabilities, ("x", "y", "z"),
        subjects=("Z", "X", "Y"),
    )  # fmt: skip
    both = match_clips([first, second], ["one", "two"])
    assert both.predicted.tolist() == [[0, 1, 1], [1, 0, 2]] and both.subjects == ("X", "Y", "Z")
    assert both.right.tolist() == [[True, True, False], [False, False, True]]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            said([0, 1], [0, 1], "ad"),
            r"not scored on the same clips: 2 of 3 clips of one are not in two \('b', 'c'\); 1 of 2 clips of two are "
            r"not in one \('d'\)",
        ),
        (said([0, 1, 1], [0, 1, 1]), "clip 'c' has another label in one than in two"),
        (said([0, 1, 2], [0, 1, 1], "aab"), "two: clip 'a' is there twice"),
        (
            dataclasses.replace(said([0, 1, 2], [0, 1, 1]), classes=("x", "z", "y")),
            "one and two differ in their classes",
        ),
        (said([0, 1, 2], [0, 1, 1], who=("A", "B", "B")), "clip 'c' has another subject"),
    ],
)
def test_runs_that_cannot_be_matched_are_refused(other: Predictions, message: str) -> None:
    with pytest.raises(InputError, match=message):
        match_clips([said([0, 1, 2], [0, 1, 1], who=("A", "B", "C")), other], ["one", "two"])


def test_names_of_many_lacking_clips_are_cut_short() -> None:
    with pytest.raises(InputError, match=r"7 of 8 clips of one are not in two \('b', 'c', 'd' and 4 more\)"):
        match_clips([said([0] * 8, [0] * 8), said([0], [0])], ["one", "two"])


def drawn(runs: int, n: int = 80, people: int = 10, seed: int = 0) -> SameClips:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, n)
    share = np.linspace(0.5, 0.8, runs)[:, None]
    predicted = np.where(generator.random((runs, n)) < share, labels, generator.integers(0, 3, (runs, n)))
    return SameClips(labels, predicted, ("x", "y", "z"), tuple(f"s{who}" for who in generator.integers(0, people, n)))


def score(clips: SameClips, run: int, chosen: np.ndarray) -> dict[str, float]:
    return scores(confusion_matrix(clips.labels[chosen], clips.predicted[run][chosen], 3))


@pytest.mark.parametrize("by_subject", [False, True])
def test_difference_of_two_runs_on_resamples_that_are_scored_one_by_one(by_subject: bool) -> None:
    clips = drawn(2)
    found = pooled_intervals(clips, [[0], [1]], by_subject, resamples=4000)
    people = np.array(clips.subjects)
    units = [np.flatnonzero(people == name) for name in set(people)] if by_subject else list(np.arange(80)[:, None])
    assert found["units"] == len(units)
    generator = np.random.default_rng(5)
    more: dict[str, list[float]] = {"uar": [], "war": []}
    for _ in range(1500):
        chosen = np.concatenate([units[unit] for unit in generator.integers(0, len(units), len(units))])
        left, right = (score(clips, run, chosen) for run in (0, 1))
        for name, values in more.items():
            values.append(right[name] - left[name])
    for name, values in more.items():
        whole = [score(clips, run, np.arange(80))[name] for run in (0, 1)]
        assert found[name]["mean"] == pytest.approx(whole)
        assert found[name]["difference"] == [pytest.approx(whole[1] - whole[0])]
        wanted = percentiles(np.array(values), len(units))
        assert wanted is not None
        np.testing.assert_allclose(found[name]["difference_interval"][0], wanted, atol=0.035)


def test_what_two_runs_share_cancels_out() -> None:
    # Two runs that differ in one clip alone: whatever else is drawn, it is the same for both.
    labels = np.tile([0, 1], 50)
    predicted = np.stack([labels, labels])
    predicted[:, :40] = 1 - labels[:40]
    predicted[1, 0] = labels[0]
    clips = SameClips(labels, predicted, ("x", "y"), ())
    found = pooled_intervals(clips, [[0], [1]])["war"]
    low, high = found["difference_interval"][0]
    assert 0 <= low <= found["difference"][0] == pytest.approx(0.01) and high <= 0.045
    apart = found["interval"][1]
    assert apart[1] - apart[0] > 0.15


def test_seeds_add_what_they_vary_by() -> None:
    """The interval of a mean of seeds has the width that clips and seeds give together, by formulas."""
    generator = np.random.default_rng(1)
    labels, seeds = np.zeros(4000, np.int64), 4
    rates = np.array([0.66, 0.69, 0.71, 0.74])
    predicted = (generator.random((seeds, 4000)) > rates[:, None]).astype(np.int64)
    clips = SameClips(labels, predicted, ("x", "y"), ())
    found = pooled_intervals(clips, [range(seeds)], resamples=4000)["war"]
    shares, right = clips.right.mean(1), clips.right.astype(float)
    over_clips = right.mean(0).var() / 4000
    together = (right - right.mean(0) - shares[:, None] + shares.mean()).var(1).sum() / (seeds - 1) / 4000
    over_seeds = (shares.var(ddof=1) - together) / seeds
    freedom = (over_clips + over_seeds) ** 2 / (over_clips**2 / 3999 + over_seeds**2 / (seeds - 1))
    wanted = stats.t.ppf(0.975, int(freedom)) * (over_clips + over_seeds) ** 0.5
    low, high = found["interval"][0]
    assert found["mean"] == [pytest.approx(shares.mean())] and over_seeds > over_clips
    assert (low + high) / 2 == pytest.approx(shares.mean()) and (high - low) / 2 == pytest.approx(wanted, rel=0.03)
    # One seed says nothing of others.
    low, high = pooled_intervals(clips, [[0]])["war"]["interval"][0]
    assert (high - low) / 2 == pytest.approx(1.96 * (shares[0] * (1 - shares[0]) / 4000) ** 0.5, rel=0.06)


def test_intervals_of_seeds_end_where_scores_end_and_need_clips() -> None:
    clips = SameClips(np.array([0, 0, 0, 1]), np.array([[0, 0, 0, 1], [0, 0, 1, 1]]), ("x", "y"), ())
    low, high = pooled_intervals(clips, [range(2)])["war"]["interval"][0]
    assert low < 0.5 and high == 1.0
    one = SameClips(np.array([0]), np.array([[0], [1], [0]]), ("x", "y"), ())
    found = pooled_intervals(one, [[0, 1], [2]])["uar"]
    assert found["interval"] == [None, (1.0, 1.0)] and found["difference_interval"] == [None]
    same = SameClips(np.array([0, 1] * 5), np.array([[0, 1] * 5] * 4), ("x", "y"), ())
    assert pooled_intervals(same, [[0, 1], [2, 3]], pairs=True)["war"]["difference_interval"] == [(0.0, 0.0)]


def test_pairs_of_seeds_are_drawn_as_pairs() -> None:
    # Seeds differ much, and the second condition is always three points better with the same seed.
    generator = np.random.default_rng(2)
    labels, draws = np.zeros(3000, np.int64), generator.random(3000)
    rates = np.array([0.5, 0.6, 0.7, 0.8])
    predicted = (draws > np.r_[rates, rates + 0.03][:, None]).astype(np.int64)
    clips = SameClips(labels, predicted, ("x", "y"), ())
    pairs, apart = (
        pooled_intervals(clips, [range(4), range(4, 8)], pairs=pairs)["war"]["difference_interval"][0]
        for pairs in (True, False)
    )
    assert 0.02 < pairs[0] < pairs[1] < 0.05 and apart[0] < -0.1


def test_intervals_of_few_seeds_hold_the_truth_as_often_as_they_say() -> None:
    """Three seeds of two conditions that differ by more than their clips tell, 150 times."""
    generator, inside, people = np.random.default_rng(3), 0, np.repeat(np.arange(20), 10)
    for _ in range(150):
        labels, shift = generator.integers(0, 2, 200), generator.choice([-0.1, 0.1], 20)[people]
        rates = np.repeat([0.65, 0.7], 3)[:, None] + generator.normal(0, 0.03, 6)[:, None] + shift
        predicted = np.where(generator.random((6, 200)) < rates, labels, 1 - labels)
        clips = SameClips(labels, predicted, ("x", "y"), tuple(map(str, people)))
        found = pooled_intervals(clips, [range(3), range(3, 6)], True, resamples=300)
        low, high = found["war"]["difference_interval"][0]
        inside += low <= 0.05 <= high
    assert 0.92 <= inside / 150 <= 0.99, inside


def test_the_interval_of_a_difference_holds_the_truth_as_often_as_it_says() -> None:
    """Two runs that are alike on most clips, 200 times; subjects differ in how far one is better than the other."""
    generator, inside = np.random.default_rng(7), {False: 0, True: 0}
    people = np.repeat(np.arange(30), 12)
    for _ in range(200):
        labels = generator.integers(0, 2, 360)
        alike = generator.random(360)
        better = generator.choice([-0.15, 0.25], 30)[people]
        predicted = np.stack([np.where(alike < share, labels, 1 - labels) for share in (0.6, 0.6 + better)])
        clips = SameClips(labels, predicted, ("x", "y"), tuple(map(str, people)))
        for by_subject in inside:
            found = pooled_intervals(clips, [[0], [1]], by_subject, resamples=400)
            low, high = found["uar"]["difference_interval"][0]
            inside[by_subject] += low <= 0.05 <= high
    assert 0.92 <= inside[True] / 200 <= 0.98 and inside[False] / 200 < 0.88, inside
