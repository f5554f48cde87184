import json

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    brier_score_loss,
    f1_score,
    precision_score,
    roc_auc_score,
)

from maedfer.errors import InputError
from maedfer.evaluation.metrics import (
    auc_scores,
    calibration_scores,
    confusion_matrix,
    intervals,
    reliability,
    scores,
)
from maedfer.evaluation.predictions import Predictions


def test_published_dfew_fold_1():
    # Class accuracies in the published log of DFEW fold 1, happy to fear, and the number of clips of each class.
    accuracy = np.array([92.84, 77.04, 75.47, 77.24, 65.99, 10.34, 39.23]) / 100
    count = np.array([489, 379, 534, 435, 294, 29, 181])
    hits = np.round(accuracy * count).astype(int)
    assert np.allclose(hits / count, accuracy, atol=5.1e-5)
    confusion = np.diag(hits)
    confusion[np.arange(7), (np.arange(7) + 1) % 7] += count - hits
    result = scores(confusion)
    assert result["uar"] * 100 == pytest.approx(62.59, abs=0.01)
    assert result["war"] * 100 == pytest.approx(74.88, abs=0.01)
    assert result["n"] == 2341


def test_scores_agree_with_scikit_learn():
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 5, 200)
    predicted = np.where(generator.random(200) < 0.6, labels, generator.integers(0, 5, 200))
    confusion = confusion_matrix(labels, predicted, 5)
    result = scores(confusion)
    assert confusion[2, 3] == ((labels == 2) & (predicted == 3)).sum()
    assert result["war"] == pytest.approx(accuracy_score(labels, predicted))
    assert result["uar"] == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert result["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert result["weighted_f1"] == pytest.approx(f1_score(labels, predicted, average="weighted"))
    assert result["f1"] == pytest.approx(f1_score(labels, predicted, average=None))


def test_class_without_clips_is_left_out_of_uar_and_told():
    labels, predicted = [0, 0, 1, 1], [0, 1, 1, 1]
    result = scores(confusion_matrix(labels, predicted, 4))
    assert result["recall"] == [0.5, 1.0, None, None]
    assert result["uar"] == 0.75
    assert result["absent"] == [2, 3]
    probabilities = np.eye(4, dtype=np.float32)[predicted]
    metrics = Predictions(list("wxyz"), np.array(labels), probabilities, ("a", "b", "c", "d")).metrics()
    assert metrics["notes"] == ["no clips of c, d: left out of UAR"]


def test_no_clips_have_no_scores():
    result = scores(np.zeros((3, 3)))
    assert result["uar"] is result["war"] is result["macro_f1"] is result["weighted_f1"] is None


def test_confusion_matrix_refuses_what_does_not_fit():
    with pytest.raises(InputError, match="3 labels but 2 predictions"):
        confusion_matrix([0, 1, 1], [0, 1], 2)
    with pytest.raises(InputError, match="label out of range"):
        confusion_matrix([0, 2], [0, 1], 2)
    with pytest.raises(InputError, match="prediction out of range"):
        confusion_matrix([0, 1], [0, -1], 2)


def test_interval_of_a_share_holds_what_is_not_rejected():
    # Wilson's limits are the shares p at which the observed share is 1.96 standard errors away.
    for hits, clips in ((0, 4), (1, 4), (4, 4), (7, 50), (499, 500), (0, 1)):
        low, high = intervals([[hits, clips - hits], [0, 0]])["war"]
        assert intervals([[hits, clips - hits], [0, 0]])["uar"] == pytest.approx((low, high))
        assert 0 <= low <= hits / clips <= high <= 1 and low < high
        for limit in {low, high} - {0.0, 1.0}:
            assert abs(hits / clips - limit) == pytest.approx(1.959964 * (limit * (1 - limit) / clips) ** 0.5)


def test_interval_of_a_mean_of_shares():
    # Limits of each class by Wilson's formula: 3 of 4, 0 of 4, 30 of 40.
    limits = np.array([intervals([[hits, n - hits], [0, 0]])["war"] for hits, n in ((3, 4), (0, 4), (30, 40))])
    recall = np.array([0.75, 0, 0.75])
    low, high = intervals([[3, 1, 0], [4, 0, 0], [10, 0, 30]])["uar"]
    assert low == pytest.approx(0.5 - ((recall - limits[:, 0]) ** 2).sum() ** 0.5 / 3)
    assert high == pytest.approx(0.5 + ((recall - limits[:, 1]) ** 2).sum() ** 0.5 / 3)
    # It covers the truth about as often as it says, with few clips and shares near 1.
    generator = np.random.default_rng(3)
    truth, clips = np.array([0.97, 0.6, 0.3]), np.array([12, 20, 9])
    inside = 0
    for hits in generator.binomial(clips, truth, (2000, 3)):
        low, high = intervals(np.diag(hits) + np.roll(np.diag(clips - hits), 1, axis=1))["uar"]
        inside += low <= truth.mean() <= high
    assert 0.93 < inside / 2000 < 0.985
    # Many clips agree with the normal approximation.
    low, high = intervals([[5000, 5000], [0, 10000]])["uar"]
    assert (high - low) / 2 == pytest.approx(1.96 * (0.25 / 10000) ** 0.5 / 2, rel=0.01)


def test_precision_agrees_with_scikit_learn_and_is_none_where_nothing_is_predicted():
    labels, predicted = [0, 0, 1, 1, 2, 3], [0, 1, 1, 1, 0, 0]
    result = scores(confusion_matrix(labels, predicted, 5))
    wanted = precision_score(labels, predicted, average=None, labels=range(5), zero_division=np.nan)
    assert result["class_precision"] == [None if np.isnan(value) else pytest.approx(value) for value in wanted]
    # Class 4 is neither there nor predicted: no F1. Classes 2 and 3 are there and never predicted: 0.
    assert result["f1"][2:] == [0.0, 0.0, None]
    assert result["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))


def test_areas_under_roc_curves_agree_with_scikit_learn():
    generator = np.random.default_rng(4)
    labels = generator.integers(0, 4, 150)
    for digits in (17, 1):
        # Rounded, most of them are ties.
        values = np.round(generator.dirichlet(np.ones(5), 150) + 0.4 * np.eye(5)[labels], digits)
        found = auc_scores(values, labels)
        for index in range(4):
            assert found[index] == pytest.approx(roc_auc_score(labels == index, values[:, index]))
        assert found[4] is None
    assert auc_scores([[0.5, 0.5]] * 4, np.array([0, 1, 1, 0])) == [0.5, 0.5]
    # Pairs, one by one: 0.3 against 0.2, 0.3 and 0.6.
    assert auc_scores([[0.3], [0.2], [0.3], [0.6]], np.array([0, 1, 1, 1])) == [pytest.approx((1 + 0.5 + 0) / 3)]


def test_one_clip_and_one_class_have_no_area():
    assert auc_scores([[0.3, 0.7]], np.array([1])) == [None, None]
    one = Predictions(["a"], np.array([1]), np.array([[0.25, 0.75]], np.float32), ("x", "y")).metrics()
    assert one["auc"] == [None, None] and one["macro_auc"] is None
    assert one["ece"] == pytest.approx(0.25) and one["brier"] == pytest.approx(2 * 0.25**2)
    assert one["class_precision"] == [None, 1.0] and one["uar"] == one["war"] == 1.0
    none = Predictions([], np.zeros(0, np.int64), np.zeros((0, 2), np.float32), ("x", "y")).metrics()
    assert none["ece"] is none["auc"] is none["reliability"] is none["war"] is None
    json.dumps([one, none], allow_nan=False)


def test_reliability_counts_clips_by_confidence():
    # Confidences 0.55, 0.55, 0.6 (an edge: its upper bin is the next), 1; two of three bins in between are empty.
    values = np.array([[0.55, 0.45], [0.45, 0.55], [0.4, 0.6], [0.0, 1.0]])
    labels = np.array([0, 0, 1, 0])
    curve = reliability(values, labels, bins=10)
    assert curve["clips"] == [0, 0, 0, 0, 0, 3, 0, 0, 0, 1]
    assert curve["confidence"][5] == pytest.approx((0.55 + 0.55 + 0.6) / 3) and curve["right"][5] == pytest.approx(
        2 / 3
    )
    assert curve["confidence"][9] == 1 and curve["right"][9] == 0 and curve["right"][0] is None
    gaps = 3 * abs(2 / 3 - curve["confidence"][5]) + 1
    assert calibration_scores(values, labels, bins=10)["ece"] == pytest.approx(gaps / 4)


def test_ece_and_brier_by_their_formulas():
    generator = np.random.default_rng(2)
    values, labels = generator.dirichlet(np.ones(3), 200), generator.integers(0, 3, 200)
    found = calibration_scores(values, labels)
    confidence, right = values.max(1), values.argmax(1) == labels
    ece = 0.0
    for number in range(15):
        inside = (confidence > number / 15) & (confidence <= (number + 1) / 15)
        if inside.any():
            ece += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert found["ece"] == pytest.approx(ece)
    brier = sum(brier_score_loss(labels == index, values[:, index]) for index in range(3))
    assert found["brier"] == pytest.approx(brier)
