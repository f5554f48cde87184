"""Probes against scikit-learn, and their choice of hyper-parameters against a choice by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from maedfer.errors import InputError
from maedfer.evaluation.probes import fit_knn, fit_linear, fit_probe, probe_grid, validation_split


def drawn(clips: int = 240, channels: int = 12, classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features whose spread is not the same everywhere, and labels that they tell in part."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, classes, clips)
    centres = np.random.default_rng(99).normal(size=(classes, channels))
    features = 0.6 * centres[labels] + draw.normal(size=(clips, channels))
    return (features * np.linspace(0.1, 9, channels) + 3).astype(np.float32), labels


@pytest.mark.parametrize("k", [1, 7, 20])
def test_votes_are_those_of_scikit_learn(k: int) -> None:
    (train, labels), (test, _) = drawn(), drawn(seed=1)
    theirs = KNeighborsClassifier(k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07))
    expected = theirs.fit(train.astype(np.float64), labels).predict_proba(test.astype(np.float64))
    np.testing.assert_allclose(fit_knn(train, labels, 4, k=k).probabilities(test), expected, atol=1e-4)


@pytest.mark.parametrize("classes", [2, 4])
def test_regression_is_that_of_scikit_learn(classes: int) -> None:
    (train, labels), (test, _) = drawn(classes=classes), drawn(seed=1)
    theirs = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, tol=1e-10, max_iter=10_000, solver="lbfgs"))
    expected = theirs.fit(train.astype(np.float64), labels).predict_proba(test.astype(np.float64))
    # Labels need not be the first numbers: class 1 has no clips.
    spread = np.where(labels, labels + 1, 0)
    found = fit_linear(train, spread, classes + 1, c=0.1).probabilities(test)
    assert not found[:, 1].any()
    np.testing.assert_allclose(np.delete(found, 1, 1), expected, atol=1e-3)


def test_regression_is_where_its_objective_is_flat() -> None:
    # d/dW of |W|^2 / 2 + C * sum of -log p is W + C * (p - y)^T x, by hand.
    train, labels = drawn()
    probe = fit_linear(train, labels, 4, c=0.3)
    x = (train - train.mean(0, dtype=np.float64)) / train.std(0, dtype=np.float64)
    surplus = probe.probabilities(train) - np.eye(4)[labels]
    assert np.abs(probe.weight + 0.3 * surplus.T @ x).max() < 2e-2 * np.abs(0.3 * np.eye(4)[labels].T @ x).max()
    assert np.abs(surplus.sum(0)).max() < 0.1


def test_features_that_say_nothing_do_no_harm() -> None:
    train, labels = drawn()
    same = np.concatenate([train, np.full((len(train), 2), 1e4, np.float32), np.zeros((len(train), 1), "f4")], 1)
    found = fit_linear(same, labels, 4, c=0.1).probabilities(same)
    np.testing.assert_allclose(found, fit_linear(train, labels, 4, c=0.1).probabilities(train), atol=1e-3)
    assert np.isfinite(fit_knn(np.zeros((5, 3)), np.arange(5) % 2, 2).probabilities(np.zeros((2, 3)))).all()


def test_choice_and_second_fit_are_those_of_a_grid_search() -> None:
    (train, labels), (test, _) = drawn(), drawn(seed=1)
    inside = validation_split(labels, seed=3)
    search = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(tol=1e-10, max_iter=10_000)),
        {"logisticregression__C": [one["c"] for one in probe_grid("linear", len(labels))]},
        cv=PredefinedSplit(np.where(inside, 0, -1)),
        scoring="balanced_accuracy",
    ).fit(train.astype(np.float64), labels)
    found = fit_probe("linear", train, labels, seed=3)
    np.testing.assert_allclose([trial.uar for trial in found.trials], search.cv_results_["mean_test_score"], atol=0.02)
    assert found.best is not None and found.best.uar == max(trial.uar for trial in found.trials)
    again = fit_linear(train, labels, 4, c=found.chosen["c"])
    np.testing.assert_array_equal(found.probabilities(test), again.probabilities(test))
    assert found.validation == inside.sum() and not found.at_the_end


def test_clips_of_ones_own_may_choose() -> None:
    (train, labels), (val, val_labels) = drawn(), drawn(seed=2)
    found = fit_probe("knn", train, labels, val=val, val_labels=val_labels, metric="war")
    for trial in found.trials:
        hits = fit_knn(train, labels, 4, k=int(trial.settings["k"])).probabilities(val).argmax(1) == val_labels
        assert trial.war == pytest.approx(hits.mean())
    assert found.best is not None and found.best.war == max(trial.war for trial in found.trials)
    # One setting is taken as it is, and all clips are learnt from.
    alone = fit_probe("knn", train, labels, grid=[{"k": 5}])
    assert (alone.chosen, alone.trials, alone.validation) == ({"k": 5}, (), 0)


def test_neighbours_are_fewer_than_clips() -> None:
    assert [one["k"] for one in probe_grid("knn", 15)] == [10, 5, 1]
    assert [one["k"] for one in probe_grid("knn", 1)] == [1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "svm"}, "unknown kind of probe 'svm'"),
        ({"train": np.zeros((6, 2, 3))}, r"takes features \[n, C\] and labels \[n\], got \(6, 2, 3\)"),
        ({"labels": [0, 1]}, r"got \(6, 3\) and \(2,\)"),
        ({"labels": np.ones(6) / 2}, "labels must be whole numbers from 0"),
        ({"labels": [0, 1, 0, 1, -1, 0]}, "labels must be whole numbers from 0, got int64 from -1"),
        ({"labels": [0] * 6}, "all training clips are of one class"),
        ({"labels": [0, 0, 0, 1, 1, 2], "names": ("a", "b", "c")}, "class 'c' has 1 training clip: two are needed"),
        ({"classes": 1}, "label 1 is out of range: there are 1 classes"),
        ({"groups": list("xxxyyz")}, "class 0 is shown by 1 subject of the training part"),
        ({"share": 1.0}, "must be between 0 and 1"),
        ({"metric": "f1"}, "unknown metric 'f1'"),
        ({"grid": []}, "the grid of settings is empty"),
        ({"val": np.zeros((2, 5)), "val_labels": [0, 1]}, r"validation clips have features \[5\]"),
        ({"val": np.zeros((2, 3)), "val_labels": [0, 7]}, "labels to 7"),
    ],
)
def test_what_cannot_be_is_one_sentence(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"kind": "knn", "train": np.zeros((6, 3)), "labels": [0, 0, 0, 1, 1, 1]}
    with pytest.raises(InputError, match=message):
        fit_probe(**{**given, **change})
