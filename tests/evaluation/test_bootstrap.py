from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from maedfer.errors import InputError
from maedfer.evaluation.bootstrap import Units, bootstrap_intervals, interval_facts, interval_sentence, percentiles
from maedfer.evaluation.bootstrap import student as quantile_of_t
from maedfer.evaluation.metrics import confusion_matrix, intervals, scores


def drawn(n: int = 60, classes: int = 3, subjects: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, n)
    predicted = np.where(generator.random(n) < 0.6, labels, generator.integers(0, classes, n))
    return labels, predicted, [f"s{person}" for person in generator.integers(0, subjects, n)]


def by_hand(labels: np.ndarray, predicted: np.ndarray, units: list[np.ndarray], count: int = 1500) -> dict[str, list]:
    """Scores of resamples, drawn and scored one by one."""
    generator = np.random.default_rng(9)
    found: dict[str, list] = {"uar": [], "war": [], "macro_f1": [], "weighted_f1": []}
    for _ in range(count):
        chosen = np.concatenate([units[unit] for unit in generator.integers(0, len(units), len(units))])
        of = scores(confusion_matrix(labels[chosen], predicted[chosen], 3))
        for name, values in found.items():
            values.append(of[name])
    return found


@pytest.mark.parametrize("by_subject", [False, True])
def test_intervals_are_those_of_resamples_that_are_scored_one_by_one(by_subject: bool) -> None:
    labels, predicted, people = drawn()
    names = sorted(set(people))
    units = [np.flatnonzero(np.array(people) == name) for name in names] if by_subject else list(np.arange(60)[:, None])
    found = bootstrap_intervals(labels, predicted, 3, people if by_subject else None, resamples=4000)
    assert found["units"] == len(units) and found["absent"] == {}
    for name, values in by_hand(labels, predicted, units).items():
        # Both are drawn: the ends of the interval are known to some hundredths.
        wanted = percentiles(np.array(values), len(units))
        assert wanted is not None
        np.testing.assert_allclose(found[name], wanted, atol=0.035)
    again = bootstrap_intervals(labels, predicted, 3, people if by_subject else None, resamples=4000)
    assert again == found
    assert bootstrap_intervals(labels, predicted, 3, people if by_subject else None, seed=1)["uar"] != found["uar"]


def test_units_are_drawn_as_often_as_there_are_units() -> None:
    # Few kinds of many units, and many kinds of few.
    for counts in ([30, 0, 70], [1, 0, 2, 0, 0, 0, 0, 0]):
        sums = Units(np.array(counts), np.eye(len(counts))).resampled(3000, 0)
        assert (sums.sum(1) == sum(counts)).all() and (sums[:, np.array(counts) == 0] == 0).all()
        np.testing.assert_allclose(sums.mean(0), counts, atol=0.03 * sum(counts) ** 0.5 + 0.06)
        share = counts[0] / sum(counts)
        assert sums[:, 0].var() == pytest.approx(sum(counts) * share * (1 - share), rel=0.12)


def test_quantile_of_t() -> None:
    for freedom in (1, 2, 3, 7, 8, 23, 400, 9999, 20_000):
        assert quantile_of_t(0.975, freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-4)


def test_percentiles_of_few_units_are_moved_outwards() -> None:
    values = np.random.default_rng(0).normal(size=200_000)
    # The plain bootstrap's standard error of a mean of five is sqrt(4 / 5) of what it should be.
    low, high = percentiles(values * np.sqrt(4 / 5), 5) or (0, 0)
    assert (-low, high) == pytest.approx((stats.t.ppf(0.975, 4),) * 2, rel=0.05)
    assert percentiles(values, 10**9) == pytest.approx((-1.96, 1.96), abs=0.02)
    assert percentiles(values, 10**9, level=0.5) == pytest.approx((-0.6745, 0.6745), abs=0.02)
    assert percentiles(np.array([np.nan, np.nan]), 5) is None


def test_a_class_that_is_not_drawn_is_left_out_and_told() -> None:
    labels = np.array([0] * 20 + [1])
    predicted = np.array([0] * 15 + [1] * 5 + [1])
    found = bootstrap_intervals(labels, predicted, 3)
    # Not drawn in 21 draws of 21, and never there.
    assert found["absent"] == {1: pytest.approx((20 / 21) ** 21, abs=0.03)}
    assert found["recall"][1] == (1.0, 1.0) and found["recall"][2] is None and found["precision"][2] is None
    # Where it is not there, UAR is the recall of the other class.
    assert found["uar"][0] < 0.75 and found["uar"][1] <= 1


def test_one_clip_and_one_class() -> None:
    one = bootstrap_intervals([1], [1], 2)
    assert one["uar"] == one["war"] == one["macro_f1"] == (1.0, 1.0) and one["units"] == 1 and one["absent"] == {}
    wrong = bootstrap_intervals([0, 0, 0], [1, 1, 1], 2)
    assert wrong["uar"] == wrong["war"] == (0.0, 0.0) and wrong["recall"][0] == (0.0, 0.0)
    alone = bootstrap_intervals([0, 0, 0, 0], [0, 0, 1, 0], 1 + 1)
    assert alone["uar"] == alone["war"]


def test_subjects_that_are_not_known_have_no_interval() -> None:
    with pytest.raises(InputError, match="who is in 1 of 2 clips is not known"):
        bootstrap_intervals([0, 1], [0, 1], 2, ["a", ""])
    with pytest.raises(InputError, match="all clips are of one subject, 'a'"):
        bootstrap_intervals([0, 1], [0, 1], 2, ["a", "a"])
    labels, predicted, people = drawn()
    facts = interval_facts(labels, predicted, "xyz", people)
    assert facts["by_subject"]["units"] == 8 and facts["note"].startswith("an interval over only 8")
    assert facts["by_clip"]["war"] == pytest.approx(facts["by_formula"]["war"], abs=0.02)
    assert " over clips (by formula); UAR " in interval_sentence(facts)
    note = "an interval over only 8 subjects may be too narrow"
    assert interval_sentence(facts).endswith(f" over 8 subjects (by bootstrap); {note}")
    for who, note in (([], ""), ([""] * 60, ""), ([*people[1:], ""], "who is in 1 of 60 clips is not known")):
        facts = interval_facts(labels, predicted, "xyz", who)
        assert facts["by_subject"] is None and facts["note"].startswith(note) and bool(facts["note"]) == bool(note)


def simulate(
    times: int, people: int, each: int, spread: float, resamples: int = 400, seed: int = 0
) -> dict[str, float]:
    """How often intervals hold the true UAR of clips whose subjects differ in how well they are recognised.

    Args:
        times: of the experiment.
        people: subjects of each.
        each: clips of a subject.
        spread: standard deviation of a subject's recall, about 0.6 and 0.8 in the two classes.
        resamples, seed: of the bootstrap, and of what is drawn here.
    """
    generator = np.random.default_rng(seed)
    inside = {"by_formula": 0, "by_clip": 0, "by_subject": 0}
    names = [str(person) for person in np.repeat(np.arange(people), each)]
    for _ in range(times):
        shift = np.repeat(generator.choice([-spread, spread], people), each)
        labels = generator.integers(0, 2, people * each)
        right = generator.random(people * each) < np.where(labels == 0, 0.6, 0.8) + shift
        predicted = np.where(right, labels, 1 - labels)
        found = {"by_formula": intervals(confusion_matrix(labels, predicted, 2))}
        for key, who in (("by_clip", None), ("by_subject", names)):
            found[key] = bootstrap_intervals(labels, predicted, 2, who, resamples=resamples)
        for key, of in found.items():
            inside[key] += of["uar"][0] <= 0.7 <= of["uar"][1]
    return {key: count / times for key, count in inside.items()}


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    # Clips that have nothing in common: all of them do. 400 experiments tell a share to some two points.
    alike = simulate(400, people=40, each=10, spread=0)
    assert all(0.925 <= share <= 0.975 for share in alike.values()), alike
    # Subjects who are recognised better or worse than others: clips are not what is drawn.
    unlike = simulate(400, people=40, each=10, spread=0.18)
    assert 0.925 <= unlike["by_subject"] <= 0.975, unlike
    assert unlike["by_clip"] < 0.9 and unlike["by_formula"] < 0.9, unlike
