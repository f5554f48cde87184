"""Intervals, scores of classes, confidence and tests on the same clips, in pages of runs that are made up."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maedfer.errors import InputError
from maedfer.evaluation.bootstrap import interval_facts
from maedfer.evaluation.calibration import calibration_facts
from maedfer.evaluation.paired import mcnemar
from maedfer.evaluation.predictions import Predictions, write_predictions
from maedfer.report import sections, write_comparison, write_report
from maedfer.report.evidence import Evidence
from maedfer.report.reliability_figure import reliability_diagram
from maedfer.report.run_data import read_run
from maedfer.report.same_clips import same_clips

CLASSES = ("happy", "sad", "fear & more")


def drawn(seed: int = 0, skill: float = 0.6, clips: int = 120, people: int = 12, draw: int = 0) -> Predictions:
    """Predictions of the same clips, whatever the seed; only two of three classes have clips."""
    generator = np.random.default_rng(draw)
    labels, easy = generator.integers(0, 2, clips), generator.random(clips)
    said = np.where(easy < skill, labels, np.random.default_rng(seed).integers(0, 3, clips))
    probabilities = np.full((clips, 3), 0.05, np.float32)
    probabilities[np.arange(clips), said] = 0.9
    who = tuple(f"s{number % people}" for number in range(clips)) if people else ()
    return Predictions([f"{number}.mp4" for number in range(clips)], labels, probabilities, CLASSES, subjects=who)


def made(folder: Path, predictions: Predictions | None, seed: int = 0, **more: Any) -> Path:
    folder.mkdir(parents=True)
    scored = drawn() if predictions is None else predictions
    (folder / "metrics.json").write_text(json.dumps({**scored.metrics(), "split": "test", **more}))
    (folder / "config.yaml").write_text(f"task: finetune\nseed: {seed}\n")
    if predictions is not None:
        write_predictions(folder / "pred.csv", predictions)
    return folder


def report(folder: Path) -> tuple[str, dict[str, Any]]:
    write_report(folder)
    return (folder / "report.html").read_text(), json.loads((folder / "report.json").read_text())


def test_scores_of_each_class_and_their_intervals(tmp_path: Path) -> None:
    predictions = drawn()
    page, numbers = report(made(tmp_path / "run", predictions))
    facts = interval_facts(predictions.labels, predictions.predicted, CLASSES, predictions.subjects)
    assert numbers["intervals"] == json.loads(json.dumps(facts))
    low, high = facts["by_subject"]["uar"]
    assert f"<small>{100 * low:.1f} to {100 * high:.1f}, 95 % over subjects</small>" in page
    assert f"{100 * low:.2f} to {100 * high:.2f}" in page and "bootstrap, over 12 subjects" in page
    low, high = facts["by_formula"]["war"]
    assert f"{100 * low:.2f} to {100 * high:.2f}" in page
    metrics = predictions.metrics()
    # The class without clips has neither a recall nor an area, and no precision as all that was said is wrong.
    row = page[page.index("<td>fear &amp; more</td>") :].split("</tr>")[0]
    assert row.count("\N{EN DASH}") == 2 and ">0.00<" in row and metrics["class_precision"][2] == 0
    assert f">{100 * metrics['auc'][0]:.2f}<" in page and f"{100 * metrics['class_precision'][1]:.2f}<small>" in page


def evidence(folder: Path, predictions: Predictions | None, **more: Any) -> Evidence:
    return Evidence(read_run(made(folder, predictions, **more)))


def test_what_is_not_known_is_said(tmp_path: Path) -> None:
    text, numbers = evidence(tmp_path / "nobody", drawn(people=0)).of_scores()
    assert numbers["by_subject"] is None and "It is not known who is in the clips." in text
    some = dataclasses.replace(drawn(), subjects=("", *drawn().subjects[1:]))
    text, _ = evidence(tmp_path / "some", some).of_scores()
    assert "Who is in 1 of 120 clips is not known: no interval over subjects." in text
    rare = dataclasses.replace(drawn(people=0), labels=np.r_[2, drawn().labels[1:]])
    text, _ = evidence(tmp_path / "rare", rare).of_scores()
    assert "some resamples have none of them: fear &amp; more (3" in text
    nothing = evidence(tmp_path / "none", None)
    assert nothing.of_scores() == nothing.of_confidence() == ("", {}) and nothing.of_classes() == ""


def test_how_sure_a_model_is_before_and_after_a_temperature(tmp_path: Path) -> None:
    predictions = drawn()
    logits = np.log(predictions.probabilities)[:, None]
    calibration: dict[str, Any] = {"temperature": 2.5, "test": calibration_facts(logits, predictions.labels, 2.5)}
    text, found = evidence(tmp_path / "run", predictions, calibration=calibration).of_confidence()
    assert found["ece"] == pytest.approx(predictions.metrics()["ece"])
    sure: Any = found["with_temperature"]
    assert sure["ece"] == pytest.approx(calibration["test"]["after"]["ece"])
    assert text.count("with temperature 2.5") == 2
    # What metrics.json has of it may be anything.
    odd = {"temperature": 1.5, "test": {"after": {"reliability": {"clips": [1]}}}}
    text, _ = evidence(tmp_path / "odd", predictions, calibration=odd).of_confidence()
    assert text.count("with temperature 1.5") == 1
    for number, none in enumerate(({"test": 3}, 5)):
        run = evidence(tmp_path / str(number), predictions, calibration=none, class_map=[1])
        assert "with temperature" not in run.of_confidence()[0] and run.of_class_map() == ("", {})


def test_reliability_diagram_draws_filled_bins_alone() -> None:
    curve: dict[str, list[Any]] = {
        "clips": [0, 3, 0, 5],
        "confidence": [None, 0.4, None, 0.9],
        "right": [None, 1 / 3, None, 0.8],
    }
    figure = reliability_diagram({"as it is": curve, "with temperature 2": curve})
    axes: Any = figure.axes
    above, below = axes
    np.testing.assert_allclose(above.lines[1].get_xydata(), [[40.0, 100 / 3], [90.0, 80.0]])
    assert [bar.get_height() for bar in below.patches[:4]] == pytest.approx([0, 37.5, 0, 62.5])
    with pytest.raises(InputError, match="needs at least one curve"):
        reliability_diagram({"empty": {"clips": [0, 0], "confidence": [], "right": []}})


def test_a_class_map_is_shown(tmp_path: Path) -> None:
    facts = {
        "map": {"happy": "joy <3", "angry": "negative"},
        "model_classes_left_out": ["fear"],
        "dataset_classes_left_out": {"contempt": 1200},
    }
    text, numbers = evidence(tmp_path / "run", drawn(), class_map=facts).of_class_map()
    assert numbers == facts and "<td>joy &lt;3</td>" in text
    assert "contempt, left out (1,200 clips)" in text and "<td>fear</td>" in text


def test_mean_of_folds_stands_beside_all_clips_together(tmp_path: Path) -> None:
    folds = [{"run": "one", "uar": 0.5, "war": 0.25, "n": 10}, {"run": "two", "uar": 0.75, "war": 0.5, "n": 30}]
    text, _ = sections.folds(read_run(made(tmp_path / "run", drawn(), folds=folds)))
    assert "<td>mean of the runs</td>" in text and ">62.50<" in text and ">37.50<" in text
    assert "<td>all clips together</td>" in text


def test_two_runs_on_the_same_clips(tmp_path: Path) -> None:
    first, second = drawn(1, 0.4), drawn(2, 0.75)
    runs = {label: [made(tmp_path / label, item)] for label, item in (("plain", first), ("tuned", second))}
    write_comparison(tmp_path / "out", runs, "title")
    page, numbers = ((tmp_path / "out" / f"report.{end}").read_text() for end in ("html", "json"))
    found = json.loads(numbers)["same_clips"]
    (item,) = found["differences"]
    test = mcnemar(first.predicted == first.labels, second.predicted == second.labels)
    assert item["mcnemar"] == [{"base_alone": test[0], "alone": test[1], "p": test.p, "mid_p": test.mid_p}]
    assert item["war"]["difference"] == [pytest.approx(second.metrics()["war"] - first.metrics()["war"])]
    assert item["over"] == "subjects" and item["units"] == 12 and item["war"]["difference_interval"][0][0] > 0
    uar, war = found["sentences"]
    assert (
        uar.startswith('UAR of "tuned" is ') and "(120 clips of 12 subjects; bootstrap over subjects), more than" in uar
    )
    assert f"({test.second_alone} clips right in the former alone, {test.first_alone} in the latter)" in war
    assert war.endswith("One run of each: nothing is said of other seeds.")
    assert "On the same clips" in page


def test_seeds_are_pooled_and_those_that_cannot_be_are_named() -> None:
    other = dataclasses.replace(drawn(5), names=[f"other {name}" for name in drawn().names])
    conditions: dict[str, list[tuple[str, Predictions | None]]] = {
        "a": [("a_0", drawn(1, people=0)), ("a_1", drawn(2, people=0))],
        "b": [("b_0", drawn(3, 0.62, people=0)), ("b_1", drawn(4, 0.62, people=0))],
        "c": [("c_0", other), ("c_1", other)],
        "d": [("d_0", drawn(6)), ("d_1", None)],
    }
    text, found = same_clips(conditions, pairs=True)
    (item,) = found["differences"]
    assert (item["condition"], item["seeds"], item["over"], len(item["mcnemar"])) == ("b", [2, 2], "clips", 2)
    words = "(means of 2 seeds, 120 clips; bootstrap over seeds and clips), which may be chance."
    assert words in found["sentences"][0]
    assert set(found["means"]) == {"a", "b", "c"} and len(found["means"]["a"]["uar"]["interval"]) == 1
    lacking, elsewhere = found["notes"]
    assert lacking == '"d": d_1 has no pred.csv with clips' and "Not compared: &quot;d&quot;" in text
    assert elsewhere.startswith('"c" and "a": the runs were not scored on the same clips: 120 of 120 clips of a_0 are ')
    # Nor is one clip enough for two seeds.
    one = [(name, drawn(1, clips=1)) for name in ("e_0", "e_1")]
    found = same_clips({"e": one, "f": one}, pairs=True)[1]
    assert found["differences"] == [] and found["notes"] == ['"f" and "e": one clip is too few for an interval']
    # Without pairs of seeds no run is tested against another one.
    (item,) = same_clips({"a": conditions["a"], "b": conditions["b"][:1]}, pairs=False)[1]["differences"]
    assert item["mcnemar"] == [] and "(means of 1 and 2 seeds, " in item["sentences"][1]
