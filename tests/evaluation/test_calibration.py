from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp, softmax

from maedfer.errors import InputError
from maedfer.evaluation.calibration import calibrated, calibration_facts, fit_temperature
from maedfer.evaluation.metrics import calibration_scores


def drawn(count: int, classes: int, views: int, seed: int, sharper: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels that are drawn from their own probabilities; the logits are then made sharper by a factor."""
    generator = np.random.default_rng(seed)
    base = generator.normal(0, 1.5, (count, 1, classes)) + generator.normal(0, 0.3, (count, views, classes))
    share = softmax(base, axis=2).mean(1)
    labels = (share.cumsum(1) < generator.random((count, 1))).sum(1).clip(0, classes - 1)
    return (base * sharper).astype(np.float32), labels


def by_scipy(logits: np.ndarray, labels: np.ndarray) -> float:
    def loss(inverse: float) -> float:
        chosen = np.take_along_axis(log_softmax(logits.astype(np.float64) * inverse, axis=2), labels[:, None, None], 2)
        return -(logsumexp(chosen[..., 0], axis=1) - np.log(logits.shape[1])).mean()

    return 1 / minimize_scalar(loss, bounds=(0.05, 5), method="bounded", options={"xatol": 1e-10}).x


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("sharper", [0.4, 1.0, 3.0])
def test_the_temperature_is_that_of_the_least_loss(views: int, sharper: float) -> None:
    logits, labels = drawn(4000, 7, views, 5, sharper)
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(by_scipy(logits, labels), rel=1e-5)
    # The truth, of which 4,000 clips tell this much.
    assert found == pytest.approx(sharper, rel=0.08)
    facts = calibration_facts(logits, labels, found)
    assert facts["n"] == 4000 and facts["after"]["nll"] <= facts["before"]["nll"]
    if sharper != 1:
        assert facts["after"]["ece"] < facts["before"]["ece"] / 3


def test_probabilities_at_a_temperature_are_the_mean_of_the_views() -> None:
    logits, _ = drawn(5, 4, 3, 1, 2.0)
    np.testing.assert_allclose(calibrated(logits, 1.7), softmax(logits.astype(np.float64) / 1.7, axis=2).mean(1))
    # Logits of any size have finite probabilities and a finite loss.
    huge = np.array([[[5e4, 0.0]]] * 20)
    assert calibrated(huge, 1.0).tolist() == [[1.0, 0.0]] * 20
    labels = np.array([0] * 15 + [1] * 5)
    with pytest.raises(InputError, match="no better than to guess"):
        # Right in three of four: the temperature would be 5e4 / log(3).
        fit_temperature(huge, labels)


def test_losses_before_and_after_are_those_that_are_fitted() -> None:
    """Where the true class has exp(-40), the loss before is 40, and not that of the least probability of a table."""
    logits = np.array([[[40.0, 0.0]]] * 4)
    labels = np.array([0, 0, 0, 1])
    facts = calibration_facts(logits, labels, 20.0)
    assert facts["before"]["nll"] == pytest.approx(10.0)
    assert facts["after"]["nll"] == pytest.approx(np.log1p(np.exp(-2)) + 0.5)


def test_the_temperature_of_two_classes_has_a_formula() -> None:
    """With logits (a, 0) everywhere and the first class right in a share s, sigmoid(a / T) = s."""
    logits = np.zeros((100, 1, 2))
    logits[:, 0, 0] = 4.0
    assert fit_temperature(logits, np.array([0] * 80 + [1] * 20)) == pytest.approx(4 / np.log(4), rel=1e-5)


@pytest.mark.parametrize(
    ("right", "count", "message"),
    [
        (10, 10, "right wherever it is sure"),
        (0, 10, "no better than to guess"),
        (5, 10, "no better than to guess"),
        (1, 1, "1 scored, and a temperature takes 10"),
        (5, 9, "9 scored, and a temperature takes 10"),
        (0, 0, "0 scored"),
    ],
)
def test_clips_that_give_no_temperature(right: int, count: int, message: str) -> None:
    logits = np.tile(np.array([[[2.0, 0.0]]]), (count, 2, 1))
    labels = np.array([0] * right + [1] * (count - right), np.int64)
    with pytest.raises(InputError, match=f"^val.csv: .*{message}") as error:
        fit_temperature(logits, labels, "val.csv")
    assert "\n" not in str(error.value)


def test_scores_of_probabilities_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1, 0.0], [0.8, 0.2, 0.0], [0.1, 0.6, 0.3], [0.2, 0.2, 0.6]])
    labels = np.array([0, 1, 1, 2])
    found = calibration_scores(probabilities, labels, bins=5)
    # Bins of the confidence: (0.8, 1] holds 0.9, right; (0.6, 0.8] holds 0.8, wrong; (0.4, 0.6] two of 0.6, both right.
    assert found["ece"] == pytest.approx((1 * abs(1 - 0.9) + 1 * abs(0 - 0.8) + 2 * abs(1 - 0.6)) / 4)
    assert found["nll"] == pytest.approx(-np.log([0.9, 0.2, 0.6, 0.6]).mean())
    rows = [0.1**2 + 0.1**2, 0.8**2 + 0.8**2, 0.1**2 + 0.4**2 + 0.3**2, 0.2**2 + 0.2**2 + 0.4**2]
    assert found["brier"] == pytest.approx(np.mean(rows))
    # Right and wrong clips of one bin cancel out, those of several do not.
    one = calibration_scores(np.array([[0.7, 0.3], [0.72, 0.28]]), np.array([0, 1]), bins=2)
    assert one["ece"] == pytest.approx(abs(0.5 - 0.71))
    assert calibration_scores(np.eye(3), np.arange(3)) == {"ece": 0.0, "nll": 0.0, "brier": 0.0}


def test_fifteen_bins_against_a_count_of_each() -> None:
    logits, labels = drawn(500, 5, 1, 3, 2.5)
    probabilities = softmax(logits[:, 0].astype(np.float64), axis=1)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    expected = 0.0
    for lower in np.arange(15) / 15:
        inside = (confidence > lower) & (confidence <= lower + 1 / 15)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert calibration_scores(probabilities, labels)["ece"] == pytest.approx(expected)
