import dataclasses

import numpy as np
import pytest

from maedfer.errors import InputError
from maedfer.evaluation.predictions import Predictions, Skipped, pool, read_predictions, write_predictions


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


ODD_NAMES = [
    "a, b.mp4",
    'the "best"',
    "two\nlines\r\n",
    "caf\udce9.mp4",
    "=SUM(A1)",
    " blank ",
    "",
    "\u2603 #1",
    "a;b\tc",
]


def test_any_name_survives_a_file(tmp_path):
    found = make_predictions(len(ODD_NAMES), classes=("p_x", 'say "b", c', "d\nd"))
    skipped = tuple(Skipped(name, number, f"{name} is broken") for number, name in enumerate(ODD_NAMES, -1))
    write_predictions(tmp_path / "pred.csv", dataclasses.replace(found, names=ODD_NAMES, skipped=skipped))
    again = read_predictions(tmp_path / "pred.csv")
    assert again.names == ODD_NAMES and again.classes == found.classes and again.skipped == skipped
    # A spreadsheet writes a mark of the encoding before the first line, and may leave empty ones at the end.
    (tmp_path / "pred.csv").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "pred.csv").read_bytes() + b"\r\n\r\n")
    assert read_predictions(tmp_path / "pred.csv").names == ODD_NAMES
    write_predictions(tmp_path / "pred.csv", found)
    assert read_predictions(tmp_path / "pred.csv").skipped == () and not (tmp_path / "skipped.csv").exists()
    for text, message in (("a,b\n", "is not a skipped.csv"), ("name,label,reason\nx,1\n", "line 2")):
        (tmp_path / "skipped.csv").write_text(text)
        with pytest.raises(InputError, match=message):
            read_predictions(tmp_path / "pred.csv")


def test_skipped_clips_are_counted_and_kept_when_folds_are_pooled():
    parts = [
        dataclasses.replace(make_predictions(3, prefix=name), skipped=(Skipped(name, 0, "torn"),)) for name in "ab"
    ]
    metrics = parts[0].metrics()
    assert (metrics["n"], metrics["skipped"]) == (3, 1)
    assert "1 of 4 clips could not be read and are not scored, skipped.csv names them" in metrics["notes"]
    pooled, _ = pool(parts)
    assert [clip.name for clip in pooled.skipped] == ["a", "b"] and pooled.metrics()["skipped"] == 2
    assert make_predictions().metrics()["skipped"] == 0


def test_what_is_not_finite_is_not_scored():
    found = make_predictions()
    found.probabilities[7, 1] = np.nan
    with pytest.raises(InputError, match="probabilities of clip .*clip 7.* are not finite"):
        found.metrics()


def test_few_clips_are_scored_plainly():
    one = Predictions(["x"], np.array([0]), np.ones((1, 1), np.float32), ("only",)).metrics()
    assert (one["uar"], one["war"], one["macro_f1"], one["n"]) == (1.0, 1.0, 1.0, 1)
    # Of equal probabilities the first class counts.
    tie = Predictions(["x", "y"], np.array([0, 1]), np.full((2, 2), 0.5, np.float32), ("a", "b")).metrics()
    assert tie["confusion"] == [[1, 0], [1, 0]]
    with pytest.raises(InputError, match="label out of range"):
        Predictions(["x"], np.array([-1]), np.ones((1, 1), np.float32), ("only",)).metrics()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n", "is not a pred.csv"),
        ("", "is not a pred.csv"),
        ("name,label,prediction,p_a,p_b\nx,0,0,0.5\n", "line 2"),
        ("name,label,prediction,p_a,p_b\nx,0,0,0.5,0.5\nx,7,0,0.5,0.5\n", "line 3"),
        ("name,label,prediction,p_a,p_b\nx,0,0,half,0.5\n", "line 2"),
        ('name,label,prediction,p_a,p_b\n"x\ny",0,0,1,0\nz,0,0,nan,nan\n', "line 4: nan is no probability"),
        ("name,label,prediction,p_a,p_b\nx,0,0,inf,0\n", "inf is no probability"),
        ("name,label,prediction,p_a,p_b\nx,0,0,2.5,-1.5\n", "2.5 is no probability"),
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
    with pytest.raises(InputError, match="in another order: only runs with the same classes in the same order"):
        pool([make_predictions(), make_predictions(classes=("b", "a", "c"))])
    with pytest.raises(InputError, match="no predictions"):
        pool([])


def test_who_is_in_clips_survives_a_file_and_pooling(tmp_path):
    known = dataclasses.replace(make_predictions(4), subjects=("p_1", "", 'a "b", c', "caf\udce9"))
    write_predictions(tmp_path / "pred.csv", known)
    again = read_predictions(tmp_path / "pred.csv")
    assert again.subjects == known.subjects and np.allclose(again.probabilities, known.probabilities, rtol=1e-6)
    unknown = make_predictions(2, prefix="other")
    assert pool([unknown, again])[0].subjects == ("", "", *known.subjects)
    assert pool([unknown, unknown])[0].subjects == ()
    write_predictions(tmp_path / "pred.csv", unknown)
    assert (tmp_path / "pred.csv").read_text().splitlines()[0] == "name,label,prediction,p_a,p_b,p_c"
    assert read_predictions(tmp_path / "pred.csv").subjects == ()
