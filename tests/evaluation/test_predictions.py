import numpy as np
import pytest

from maedfer.errors import InputError
from maedfer.evaluation.predictions import Predictions, pool, read_predictions, write_predictions


def make_predictions(n=20, classes=("a", "b", "c"), seed=0, prefix="clip"):
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(np.ones(len(classes)), n).astype(np.float32)
    labels = generator.integers(0, len(classes), n)
    return Predictions([f"{prefix} {i}, 'x'.mp4" for i in range(n)], labels, probabilities, tuple(classes))


def test_metrics_hold_the_loss_of_the_mean_probability():
    predictions = make_predictions()
    chosen = predictions.probabilities[np.arange(20), predictions.labels]
    assert predictions.metrics()["loss"] == pytest.approx(-np.log(chosen).mean())


def test_predictions_survive_a_file(tmp_path):
    predictions = make_predictions(classes=("happy, very", "sad"))
    write_predictions(tmp_path / "pred.csv", predictions)
    again = read_predictions(tmp_path / "pred.csv")
    assert again.names == predictions.names
    assert again.classes == predictions.classes
    assert (again.labels == predictions.labels).all()
    assert np.allclose(again.probabilities, predictions.probabilities, rtol=1e-6)
    assert (again.predicted == predictions.predicted).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n", "is not a pred.csv"),
        ("", "is not a pred.csv"),
        ("name,label,prediction,p_a,p_b\nx,0,0,0.5\n", "line 2"),
        ("name,label,prediction,p_a,p_b\nx,0,0,0.5,0.5\nx,7,0,0.5,0.5\n", "line 3"),
        ("name,label,prediction,p_a,p_b\nx,0,0,half,0.5\n", "line 2"),
    ],
)
def test_broken_prediction_files_are_named(tmp_path, text, message):
    (tmp_path / "pred.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_predictions(tmp_path / "pred.csv")
    with pytest.raises(InputError, match="cannot read"):
        read_predictions(tmp_path / "absent.csv")


def test_folds_are_pooled_before_scoring():
    # Scored fold by fold and averaged, UAR would be (1 + 0.75) / 2; a class of the second fold weighs by its clips.
    first = Predictions(["a"] * 3, np.array([0, 0, 1]), np.eye(2, dtype=np.float32)[[0, 0, 1]], ("x", "y"))
    second = Predictions(["b"] * 3, np.array([0, 1, 1]), np.eye(2, dtype=np.float32)[[0, 0, 1]], ("x", "y"))
    pooled, notes = pool([first, second])
    assert pooled.metrics()["confusion"] == [[3, 0], [1, 2]]
    assert pooled.metrics()["uar"] == pytest.approx((1 + 2 / 3) / 2)
    assert notes == ["4 clip names occur more than once: the folds may overlap"]


def test_folds_with_other_classes_are_refused():
    with pytest.raises(InputError, match="differ in their classes"):
        pool([make_predictions(), make_predictions(classes=("a", "b", "d"))])
    with pytest.raises(InputError, match="no predictions"):
        pool([])
