from __future__ import annotations

import numpy as np
import pytest

from maedfer.errors import InputError
from maedfer.evaluation.probes import validation_split


def test_a_share_of_each_class_chooses() -> None:
    labels = np.repeat([0, 1, 2, 4], [100, 37, 2, 5])
    inside = validation_split(labels, share=0.2, seed=1)
    assert np.bincount(labels[inside], minlength=5).tolist() == [20, 7, 1, 0, 1]
    np.testing.assert_array_equal(inside, validation_split(labels, share=0.2, seed=1))
    assert (inside != validation_split(labels, share=0.2, seed=2)).any()
    # However large the share, something is left to learn from.
    assert np.bincount(labels[~validation_split(labels, share=0.99)], minlength=5).tolist() == [1, 1, 1, 0, 1]


@pytest.mark.parametrize("seed", range(5))
def test_nobody_is_on_both_sides(seed: int) -> None:
    draw = np.random.default_rng(seed)
    people = draw.integers(0, 30, 600)
    # People differ in what they show, and one class is rare.
    labels = np.where(draw.random(600) < 0.04, 3, (people + draw.integers(0, 2, 600)) % 3)
    inside = validation_split(labels, [f"person {one}" for one in people], share=0.2, seed=seed)
    assert not {*people[inside]} & {*people[~inside]}
    shares = np.bincount(labels[inside], minlength=4) / np.bincount(labels)
    assert (shares > 0.05).all() and (shares < 0.45).all() and 0.12 < inside.mean() < 0.28


def test_every_class_is_on_both_sides_where_that_can_be() -> None:
    # Class 1 is shown by two people, who show all of it between them.
    labels, people = np.array([0, 0, 1, 0, 1, 1, 0, 0]), list("aabbcccd")
    for seed in range(20):
        inside = validation_split(labels, people, share=0.3, seed=seed)
        assert {*labels[inside]} == {*labels[~inside]} == {0, 1}
    # Of three people each two share a class: whoever is taken, a class is gone or not there.
    with pytest.raises(InputError, match="the 3 subjects of the training part cannot be shared out"):
        validation_split(np.array([0, 2, 0, 1, 1, 2]), list("aabbcc"), share=0.3)
