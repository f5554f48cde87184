"""Published weights beside the published table, on data sets in miniature with weights of our own."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from maedfer.cli import main
from maedfer.data.protocols import find_protocol
from maedfer.errors import InputError
from maedfer.evaluation.predictions import read_predictions
from maedfer.models import create_model
from maedfer.models.published.checkpoints import published_file
from maedfer.preparation import PrepareOptions
from maedfer.studies.pooled import MEAN, POOLED
from maedfer.studies.reproduce import (
    PUBLISHED,
    Reproduction,
    folds_of_weights,
    plan_reproduction,
    reproduce,
    split_weights,
)
from tests.preparation import trees
from tests.studies.latex import read_table

SMALL = {
    "clip_size": (2, 16, 16),
    "patch_size": (2, 8, 8),
    "region_size": (1, 1, 2),
    "embed_dim": 16,
    "depth": 1,
    "num_heads": 2,
}


def weights(file: Path, classes: int = 7, says: int | None = None) -> Path:
    """Published weights of a model that is not trained; `says` is the class that it gives whatever it sees."""
    torch.manual_seed(0)
    model = create_model("lgi_former_tiny", **SMALL, num_classes=classes, init_scale=1.0)
    if says is not None:
        with torch.no_grad():
            model.get_parameter("head.bias")[says] = 50.0
    file.parent.mkdir(parents=True, exist_ok=True)
    # As the published files are: the weights, and the arguments of the script.
    content = published_file(model)
    torch.save({key: content[key] for key in ("model", "args")} if "args" in content else content, file)
    return file


def test_the_published_totals_are_the_means_of_the_published_folds() -> None:
    for name, published in PUBLISHED.items():
        assert len(published.folds) == find_protocol(name).folds
        assert np.mean(published.folds, axis=0) == pytest.approx(published.total, abs=0.005)


@pytest.mark.parametrize("name", ["mafw", "ferv39k"])
def test_other_data_sets(name: str, tmp_path: Path) -> None:
    tree = {"mafw": trees.mafw, "ferv39k": trees.ferv39k}[name]
    tree(tmp_path / "root")
    classes = find_protocol(name).classes
    file = weights(tmp_path / "w/fold_1.pth", classes=len(classes), says=0)
    out = tmp_path / "out"
    command = ["reproduce", name, "--root", tmp_path / "root", "--weights", file, "data.workers=0", "--out", out]
    assert main([str(word) for word in command]) == 0
    rows = list(csv.DictReader((out / "table.csv").open()))
    published = PUBLISHED[name].folds[0]
    assert [100 * float(rows[0][f"{metric} published"]) for metric in ("UAR", "WAR")] == pytest.approx(published)
    said = read_predictions(out / "fold_1" / "pred.csv")
    assert said.classes == tuple(classes) and set(said.predicted.tolist()) == {0}
    assert float(rows[0]["WAR here"]) == pytest.approx((said.labels == 0).mean())


def test_every_fold_beside_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = tmp_path / "DFEW", tmp_path / "out"
    trees.dfew(root)
    # Fold k tests clip k, whose label is k: those of folds 1 and 2 are recognised.
    files = [weights(tmp_path / f"w/dfew_fold_{fold}.pth", says=fold - 1) for fold in (1, 2)]
    files.append(Path(shutil.copy(files[1], tmp_path / "w/dfew_fold_3.pth")))
    command = ["reproduce", "dfew", "--root", root, "--weights", *files, "data.workers=0", "--out", out]
    assert main([str(word) for word in command]) == 0
    said = capsys.readouterr().out
    rows = list(csv.DictReader((out / "table.csv").open()))
    assert [row["fold"] for row in rows] == [
        *(f"fold_{fold}" for fold in range(1, 6)),
        f"total: {MEAN}",
        "folds 1, 2 and 3 pooled",
    ]
    assert [row["WAR here"] for row in rows] == ["1", "1", "0", "", "", "", "0.6666666667"]
    assert float(rows[0]["UAR published"]) == 0.6259 and float(rows[5]["WAR published"]) == 0.7443
    assert float(rows[2]["WAR difference"]) == pytest.approx(-0.7491)
    assert rows[5]["UAR difference"] == rows[6]["UAR published"] == ""
    caption, shown, notes = read_table((out / "table.tex").read_text())
    assert caption.startswith("DFEW: the published fold table") and shown[4][-3:] == ["74.91", "0.00", "−74.91"]
    assert shown[0] == ["", "", "UAR (%)", "", "", "WAR (%)", "", ""]
    assert shown[1] == ["fold", "clips", *["published", "here", "difference"] * 2]
    assert notes[-1] == "No weights were given of folds 4 and 5: no total is compared."
    # In words, for the terminal, the page and its numbers.
    for words in (
        "Fold 1 differs from the published scores by +37.41 points of UAR and +25.12 points of WAR, which is 0 clips "
        "of 1: far above.",
        "Fold 3 differs from the published scores by −64.00 points of UAR and −74.91 points of WAR, which is 1 clip of "
        "1: far below.",
        "Folds 4 and 5: no weights were given, and nothing is scored.",
        "Folds 2 and 3 have the same weights: those of one fold have been trained on what the others test.",
        "Frames of DFEW are 256 x 256, and most of these are 40 x 40",
        "Published are 11,697 clips, 2,341 of them in the test part of fold 1; found were 5 and 1.",
    ):
        assert words in said, words
    numbers = json.loads((out / "report.json").read_text())
    assert all(sentence in said for sentence in numbers["explanations"])
    assert numbers["weights"][1]["sha256"] == numbers["weights"][2]["sha256"] and numbers["pooled"]["n"] == 3
    assert "Differences, and what may explain them" in (out / "report.html").read_text()
    # As the published code scores: two views, float32, the class of the largest mean.
    assert json.loads((out / "fold_1/metrics.json").read_text())["precision"] == "fp32"
    assert json.loads((out / "fold_1/metrics.json").read_text())["views"] == 2
    assert read_predictions(out / "pooled/pred.csv").predicted.tolist() == [0, 1, 1]

    # What is done stays done, and a fold is added; all settings that change scores are told.
    scored = (out / "fold_1/pred.csv").stat().st_mtime_ns
    more = [weights(tmp_path / f"w/dfew_fold_{fold}.pth") for fold in (4, 5)]
    assert main([*map(str, command[:8]), *map(str, more), "data.workers=0", "--out", str(out), "--processes", "2"]) == 0
    said = capsys.readouterr().out
    assert "fold_1: done before" in said and (out / "fold_1/pred.csv").stat().st_mtime_ns == scored
    rows = list(csv.DictReader((out / "table.csv").open()))
    whole = np.mean([float(row["UAR here"]) for row in rows[:5]])
    assert float(rows[5]["UAR here"]) == pytest.approx(whole) and rows[6]["fold"] == POOLED
    assert float(rows[5]["UAR difference"]) == pytest.approx(whole - 0.6341)


def test_clips_that_are_missing_and_other_settings_are_told(tmp_path: Path) -> None:
    root, out = tmp_path / "FERV39k", tmp_path / "out"
    trees.ferv39k(root)
    (root / "4_setups/All_scenes/test_All.csv").write_text("Crime/Fear/0002 Fear\nCrime/Fear/0003 Fear\n")
    file = weights(tmp_path / "any_name.pth", says=6)
    plan = plan_reproduction("ferv39k", root, out, [str(file)], ["data.workers=0", "eval.views=1", "data.stride=3"])
    table, sentences, _ = reproduce(plan, PrepareOptions(digests=False), say=lambda line: None)
    assert len(table.rows) == 1 and table.rows[0][:2] == ("fold_1", 1)
    assert (
        "Fold 1: 1 of its 2 test clips are not scored, which alone can change WAR by up to 50.00 points." in sentences
    )
    assert (
        "Settings are not those of the published evaluation: data.stride is 3 here, 1 there; eval.views is 1 here, 2 "
        "there." in sentences
    )
    assert any(sentence.startswith("1 clip is not there and left out") for sentence in sentences)


def test_which_weights_are_of_which_fold(tmp_path: Path) -> None:
    names = ["a/fold_1.pth", "eval_split02_lr/checkpoint-best.pth", "set-3/fold3.pth", "x.pth", "fold_1_of_set_5.pth"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    one, two, three, bare, both = (str(tmp_path / name) for name in names)
    found = folds_of_weights([three, f"4={bare}", one, two], 5)
    assert {fold: str(path) for fold, path in found.items()} == {1: one, 2: two, 3: three, 4: bare}
    assert folds_of_weights([bare], 1) == {1: Path(bare)}
    for items, match in (
        ([], "no weights are given"),
        ([bare], "its name tells no fold .*give K="),
        ([both], "'fold_1_of_set_5' names several folds"),
        ([one, f"1={bare}"], "fold 1 has two weights"),
        ([f"6={bare}"], "there is no fold 6, but 5 folds"),
        ([f"1={bare}x"], "do not exist"),
    ):
        with pytest.raises(InputError, match=match):
            folds_of_weights(items, 5)
    assert split_weights([one, f"2={two}", "data.workers=0"]) == ([one, f"2={two}"], ["data.workers=0"])


def test_what_cannot_be_scored_is_told_before_the_data_is_looked_at(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    file = weights(tmp_path / "fold_1.pth")
    eleven = weights(tmp_path / "fold_2.pth", classes=11)
    for dataset, where, given, settings, match in (
        ("dfwe", root, [file], [], "unknown data set 'dfwe'.*did you mean 'dfew'"),
        ("dfew", tmp_path / "absent", [file], [], "no such folder"),
        ("dfew", root, [eleven], [], "names 7 classes but .*fold_2.pth' has 11"),
        ("dfew", root, [file], ["data.test=x"], "data.test is not for reproduce"),
        ("dfew", root, [file], ["eval.viws=1"], "did you mean 'views'"),
    ):
        with pytest.raises(InputError, match=match):
            plan_reproduction(dataset, where, tmp_path / "out", [str(item) for item in given], settings)
    plan = plan_reproduction("dfew", root, tmp_path / "out", [str(file)])
    assert isinstance(plan, Reproduction)
    with pytest.raises(InputError, match="no such split file"):
        reproduce(plan, PrepareOptions(digests=False))
    assert not (tmp_path / "out").exists()
