"""Dividing clips: nobody in two parts, classes in like shares, the same for the same seed."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from maedfer.errors import InputError
from maedfer.preparation.split import split_clips

ROWS = [(f"{name}{number:03d}", label) for label, name in enumerate("abc") for number in range((40, 25, 10)[label])]


def check(folds, rows, parts: int) -> None:
    """Every clip is in one part of every fold, and tested once where there are several."""
    assert len(folds) == parts
    for fold in folds:
        assert sorted([*fold.train, *fold.test]) == sorted(rows)
        assert fold.train == sorted(fold.train) and fold.test == sorted(fold.test)
    if parts > 1:
        assert sorted(row for fold in folds for row in fold.test) == sorted(rows)


@pytest.mark.parametrize("test", [0.2, 0.4])
def test_one_split_has_the_share_of_every_class(test: float) -> None:
    folds = split_clips(ROWS, test=test)
    check(folds, ROWS, 1)
    counts = Counter(label for _, label in folds[0].test)
    assert counts == {0: round(40 * test), 1: round(25 * test), 2: round(10 * test)}


def test_folds_have_like_shares_of_every_class() -> None:
    folds = split_clips(ROWS, folds=5)
    check(folds, ROWS, 5)
    assert all(Counter(label for _, label in fold.test) == {0: 8, 1: 5, 2: 2} for fold in folds)


def test_the_same_clips_and_seed_give_the_same_folds_in_whatever_order() -> None:
    shuffled = random.Random(1).sample(ROWS, len(ROWS))
    assert split_clips(ROWS, folds=3, seed=7) == split_clips(shuffled, folds=3, seed=7)
    assert split_clips(ROWS, folds=3, seed=7) != split_clips(ROWS, folds=3, seed=8)


@pytest.mark.parametrize("folds", [1, 4])
@pytest.mark.parametrize("seed", range(5))
def test_no_subject_is_in_two_parts(folds: int, seed: int) -> None:
    draw = random.Random(seed)
    rows = [(f"clip{number:03d}", draw.choice([0, 0, 1, 2])) for number in range(120)]
    who = [f"p{draw.randrange(12)}" for _ in rows]
    known = dict(zip((path for path, _ in rows), who, strict=True))
    found = split_clips(rows, who, folds=folds, test=0.25, seed=seed)
    check(found, rows, folds)
    for fold in found:
        assert not {known[path] for path, _ in fold.train} & {known[path] for path, _ in fold.test}
        # Groups of about ten clips cannot be divided more evenly than by one of them.
        assert abs(len(fold.test) - 30) <= 10
        for label, whole in Counter(label for _, label in rows).items():
            assert abs(sum(other == label for _, other in fold.test) / whole - 0.25) < 0.17


def test_the_largest_subject_does_not_leave_a_part_empty() -> None:
    rows = [(f"{number}", 0) for number in range(10)]
    folds = split_clips(rows, ["a"] * 9 + ["b"], test=0.5)
    assert sorted(len(part) for part in folds[0]) == [1, 9]


def test_too_few_to_divide() -> None:
    with pytest.raises(InputError, match="2 clips cannot be divided into 3 parts"):
        split_clips([("a", 0), ("b", 1)], folds=3)
    with pytest.raises(InputError, match="1 subjects cannot be divided into 2 parts"):
        split_clips([("a", 0), ("b", 1)], ["x", "x"])
