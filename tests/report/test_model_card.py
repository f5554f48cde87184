"""Cards of models, read back by huggingface_hub where it is there."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import maedfer
from maedfer.errors import InputError
from maedfer.evaluation.bootstrap import interval_facts
from maedfer.evaluation.metrics import intervals
from maedfer.evaluation.predictions import Predictions, write_predictions
from maedfer.models import MAEDFER, ClipSettings, LGIFormer
from maedfer.models.card import CardFacts
from maedfer.models.serialization import write_clip_settings
from maedfer.report.model_card import model_card
from tests.helpers import ASSETS, small, small_mae

CLASSES = ("up", "do|wn", "still")
CONFUSION = [[8, 1, 1], [2, 5, 3], [0, 0, 20]]
# What must not be told.
SECRET = "/home/anna/secret study"


def write(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(values))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run that has ended, with everything in it that is nobody's business."""
    folder = tmp_path / "run"
    model = LGIFormer(small(num_classes=3))
    model.clip_settings = ClipSettings(classes=CLASSES, stride=2)
    model.save_pretrained(folder / "model")
    text = (ASSETS / "run_finetune" / "config.yaml").read_text()
    settings = {"train": f"{SECRET}/train list.csv", "test": f"{SECRET}/test.csv", "root": f"{SECRET}/clips"}
    for key, value in settings.items():
        text = re.sub(rf"^  {key}: .*$", f"  {key}: {value}", text, flags=re.MULTILINE)
    (folder / "config.yaml").write_text(
        re.sub(r"^  init: .*$", f"  init: {SECRET}/pretrained", text, flags=re.MULTILINE)
    )
    write(
        folder / "environment.json",
        versions={"maedfer": "0.1.0", "torch": "2.14", "decord": None},
        device="NVIDIA H100",
        precision="bf16",
        git_revision="0123abc-dirty",
        git_changes="fe" * 32,
        lists={
            "train": {"clips": "9 clips, 1a2b", "sha256": "cd" * 32},
            "test": {"clips": "7 clips, 3c", "sha256": None},
        },
        host="annas-laptop",
        command=["maedfer", SECRET],
        ended="2026-01-01T00:00:00+00:00",
        outcome="complete",
    )
    notes = [
        "all 7 clips of data.test are in data.train too (the first is 'Anna (1).mp4', in lines 1 and 1): so it is",
        f"it is not known: {SECRET}/test.csv does not exist: mend it",
        f"{SECRET} is no list",
    ]
    write(
        folder / "metrics.json",
        classes=CLASSES,
        confusion=CONFUSION,
        split="test",
        views=2,
        precision="bf16",
        notes=notes,
        epoch=3,
    )
    return folder


def sections(card: object) -> dict[str, str]:
    return dict(re.findall(r"^## (.*?)\n\n(.*?)(?=\n## |\Z)", str(card), flags=re.MULTILINE | re.DOTALL))


def metadata(card: object) -> dict[str, Any]:
    return yaml.safe_load(str(card).split("---\n")[1])


def test_a_card_tells_the_scores_and_whose_they_are(run: Path) -> None:
    card = model_card(run, "user/faces", CardFacts(license="cc-by-nc-4.0", data="Faces, fold 1"))
    parts = sections(card)
    uar, war = (0.8 + 0.5 + 1) / 3, 33 / 40
    limits = intervals(CONFUSION)
    for name, value, key in (("UAR (mean recall of the classes)", uar, "uar"), ("WAR (accuracy)", war, "war")):
        low, high = limits[key]
        assert f"| {name} | {100 * value:.2f} | {100 * low:.1f} to {100 * high:.1f} |" in parts["Scores"]
    assert "Over 40 test clips, 2 views of each, computed in bf16" in parts["Scores"]
    assert "| do\\|wn | 10 | 50.00 | 83.33 | 62.50 | 2 | 5 | 3 |" in parts["Scores"]
    notes = re.findall(r"^Note: (.*)$", parts["Scores"], re.MULTILINE)
    assert notes == [
        "all 7 clips of data.test are in data.train too: so it is.",
        "it is not known.",
        "one that names files is left out.",
    ]
    assert "up, do|wn, still" in parts["What it is"] and "one of every 2" in parts["What it is"]
    assert parts["Data"].startswith("Faces, fold 1, as its publisher names it. Lists of clips: train: train list.csv")
    assert "Training began from pretrained." in parts["Data"]
    assert "Uncalibrated" in parts["Calibration"] and "no measurement of what somebody feels" in parts["Intended use"]
    code = f"from revision 0123abc-dirty of the code with changes whose SHA-256 is {'fe' * 32}."
    assert f"torch 2.14; trained on NVIDIA H100 in bf16, {code}" in parts["Versions"]
    assert f"train list.csv (9 clips, 1a2b; SHA-256 {'cd' * 32}), test: test.csv (7 clips, 3c)" in parts["Data"]
    assert parts["Licence"].startswith("cc-by-nc-4.0")
    assert "  lr: " in parts["Settings"] and "init: pretrained" in parts["Settings"] and "workers" not in str(card)
    for secret in ("anna", "Anna", "secret", "laptop", "/home"):
        assert secret not in str(card)
    found = metadata(card)
    assert found["license"] == "cc-by-nc-4.0" and found["pipeline_tag"] == "video-classification"
    (result,) = found["model-index"][0]["results"]
    assert result["dataset"] == {"name": "Faces, fold 1", "type": "faces-fold-1", "split": "test"}
    assert {entry["type"]: entry["value"] for entry in result["metrics"]} == {
        "recall": round(uar, 6),
        "accuracy": round(war, 6),
        "f1": round((16 / 20 + 10 / 16 + 40 / 44) / 3, 6),
    }


def test_predictions_give_intervals_over_people_and_calibration_errors(run: Path) -> None:
    labels, predicted = zip(*((i, j) for i in range(3) for j in range(3) for _ in range(CONFUSION[i][j])), strict=True)
    probabilities = np.full((40, 3), 0.1)
    probabilities[np.arange(40), predicted] = 0.8
    names = [f"Anna {index % 8}/{index}.mp4" for index in range(40)]
    subjects = tuple(f"Anna {index % 8}" for index in range(40))
    found = Predictions(names, np.array(labels), probabilities, CLASSES, subjects=subjects)
    write_predictions(run / "pred.csv", found)
    parts = sections(model_card(run, "user/faces"))
    assert "| score | value | 95 % interval over clips (bootstrap) | over 8 people (bootstrap) |" in parts["Scores"]
    facts = interval_facts(found.labels, found.predicted, CLASSES, subjects)
    spans = [" to ".join(f"{100 * limit:.1f}" for limit in facts[key]["war"]) for key in ("by_clip", "by_subject")]
    assert f"| WAR (accuracy) | 82.50 | {spans[0]} | {spans[1]} |" in parts["Scores"]
    assert "It is not known who is in the clips" not in parts["Scores"]
    # Of 40 clips, all with confidence 0.8, 33 are right.
    right, wrong = 0.2**2 + 2 * 0.1**2, 0.8**2 + 0.9**2 + 0.1**2
    brier = (33 * right + 7 * wrong) / 40
    assert f"ECE 2.50 %, Brier score {brier:.4f}." in parts["Calibration"]
    assert "Anna" not in str(parts)


def test_the_hub_reads_the_metadata(run: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    card = hub.ModelCard(str(model_card(run, "user/faces", CardFacts(license="mit", data="Faces"))))
    assert card.data.license == "mit" and card.data.library_name == "maedfer"
    assert {result.metric_type for result in card.data.eval_results} == {"recall", "accuracy", "f1"}
    assert {result.dataset_name for result in card.data.eval_results} == {"Faces"}
    # Without a name there is nothing that scores could be of.
    assert hub.ModelCard(str(model_card(run, "user/faces"))).data.eval_results is None


def test_how_to_use_it_is_code_that_runs(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    class Opened:
        def predict(self, video: str) -> Opened:
            opened.append(video)
            return self

        save = predict

    monkeypatch.setattr(maedfer, "open_predictor", Opened().predict)
    monkeypatch.setattr(maedfer, "load", opened.append)
    MAEDFER(small_mae()).save_pretrained(tmp_path / "mae")
    for source in (run, tmp_path / "mae"):
        (code,) = re.findall(
            r"```python\n(.*?)```", sections(model_card(source, "user/faces"))["How to use it"], re.DOTALL
        )
        assert len(code.strip().splitlines()) <= 4
        exec(code, {})
    assert opened == ["hf://user/faces", "interview.mp4", "results", "hf://user/faces"]


def test_a_temperature_is_told_with_what_it_changes(run: Path) -> None:
    write_clip_settings(run / "model", ClipSettings(classes=CLASSES, stride=2, temperature=1.25))
    parts = sections(model_card(run, "user/faces"))
    assert "temperature 1.25" in parts["Calibration"] and "ECE" not in parts["Calibration"]
    errors = {"ece": 0.2, "nll": 0.9, "brier": 0.5}
    facts = {split: {"n": 9, "before": errors, "after": {**errors, "ece": 0.05}} for split in ("validation", "test")}
    shutil.copytree(run, run / "evaluation", ignore=shutil.ignore_patterns("model", "evaluation"))
    known = json.loads((run / "metrics.json").read_text())
    for temperature, there in ((1.5, False), (1.25, True)):
        write(run / "evaluation" / "metrics.json", **known, calibration={"temperature": temperature, **facts})
        parts = sections(model_card(run, "user/faces"))
        assert ("| ECE | 0.2000 | 0.0500 | 0.2000 | 0.0500 |" in parts["Calibration"]) is there


def test_a_saved_model_has_no_scores_unless_they_are_given(run: Path, tmp_path: Path) -> None:
    card = model_card(run / "model", "user/faces")
    parts = sections(card)
    assert (
        parts["Scores"].strip() == "None are known of these weights."
        and "Settings" not in parts
        and "Data" not in parts
    )
    assert parts["Licence"].startswith("None is stated here") and "license" not in metadata(card)
    assert "82.50" in sections(model_card(run / "model", "user/faces", scores=run))["Scores"]
    other = json.loads((run / "metrics.json").read_text())
    write(run / "metrics.json", **{**other, "classes": ["a", "b", "c"]})
    with pytest.raises(InputError, match="has scores of a, b, c, and the model's classes are up, do"):
        model_card(run / "model", "user/faces", scores=run)
    (run / "metrics.json").unlink()
    with pytest.raises(InputError, match="has no scores: give the folder of an evaluation"):
        model_card(run / "model", "user/faces", scores=run)
    MAEDFER(small_mae()).save_pretrained(tmp_path / "mae")
    card = model_card(tmp_path / "mae", "user/mae")
    assert "It names no expressions by itself" in str(card) and "Calibration" not in sections(card)
    assert "pipeline_tag" not in metadata(card)


def test_what_a_publisher_says_is_checked() -> None:
    facts = CardFacts(license="other", license_name="Terms of the lab", license_link="https://lab.example/terms")
    assert set(facts.metadata) == {"license", "license_name", "license_link"}
    wrong: dict[str, dict[str, str]] = {
        "license 'MIT' is no identifier": {"license": "MIT"},
        "a license_name belongs to license other": {"license": "other"},
        "and that needs one": {"license": "mit", "license_name": "Mine"},
        "a license_link belongs to license other": {"license": "mit", "license_link": "https://x.example"},
    }
    for sentence, values in wrong.items():
        with pytest.raises(InputError, match=sentence):
            CardFacts(**values)
