"""Probes of models on clips, with the features on disk."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maedfer.errors import InputError
from maedfer.evaluation.features import feature_extractor
from maedfer.evaluation.predictions import read_predictions
from maedfer.evaluation.probes import attentive, fit, fit_linear, fit_probe
from maedfer.models import MAEDFER, LGIFormer, load
from maedfer.report import group_runs, write_comparison
from maedfer.studies import ProbeOptions, probe, run_probe
from maedfer.studies.feature_store import FeatureSet
from maedfer.train.features import features_config, run_features
from tests.helpers import randomize, small, small_mae


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """How well an attentive probe learns is tested with it."""
    monkeypatch.setattr(attentive, "LEAST_STEPS", 1)
    monkeypatch.setitem(
        fit._GRIDS, "attentive", ({"lr": 1e-3, "weight_decay": 0.01}, {"lr": 1e-2, "weight_decay": 0.1})
    )


QUICK = ProbeOptions(kinds=("knn", "linear"), seeds=2)
# Two subjects a class, of three clips each, and four clips of others to test on.
WHO = [("calm", "ann"), ("calm", "bob"), ("moved", "ann"), ("moved", "eve")]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of six frames, half of which move, with lists, and an autoencoder of random weights."""
    root = tmp_path_factory.mktemp("probes")
    draw = np.random.default_rng(0)
    lines: dict[str, list[str]] = {"train": [], "test": []}
    for part, people in (("train", 3), ("test", 2)):
        for number in range(people):
            for label, who in WHO:
                name = f"{part}_{who}_{label}_{number}"
                (root / name).mkdir()
                picture = draw.integers(0, 255, (32, 32, 3), np.uint8)
                for frame in range(6):
                    moved = np.roll(picture, 3 * frame * (label == "moved"), axis=1)
                    Image.fromarray(moved).save(root / name / f"{frame:03d}.png")
                lines[part].append(f"{name},{int(label == 'moved')},{who if part == 'train' else who + '2'}\n")
    for part, rows in lines.items():
        (root / f"{part}.csv").write_text("path,label,subject\n" + "".join(rows))
    model = MAEDFER(small_mae(encoder=small(num_classes=0)))
    randomize(model, 1)
    model.save_pretrained(root / "model")
    return root


def settings(world: Path, *others: str) -> list[str]:
    lists = [f"data.{part}={world}/{part}.csv" for part in ("train", "test")]
    return [*lists, "data.stride=1", "data.workers=0", "eval.batch_size=5", *others]


def rows(out: Path) -> list[dict[str, str]]:
    with open(out / "probe.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_scores_are_those_of_features_that_another_command_writes(world: Path, tmp_path: Path) -> None:
    said: list[str] = []
    result = run_probe(world / "model", settings(world), tmp_path / "out", QUICK, say=said.append)
    made = {
        part: run_features(features_config(world / "model", settings(world, f"data.test={world}/{part}.csv")))
        for part in ("train", "test")
    }
    probes = json.loads((tmp_path / "out" / "probe.json").read_text())["probes"]
    for one in probes:
        if one["probe"] == "linear":
            mine = fit_linear(made["train"].vectors, made["train"].labels, 2, c=one["chosen"]["c"])
            found = read_predictions(tmp_path / "out" / one["run"] / "pred.csv")
            np.testing.assert_allclose(found.probabilities, mine.probabilities(made["test"].vectors), atol=1e-4)
            assert found.names == made["test"].names and found.subjects[0] == "ann2"
    # Nobody is on both sides of the choice: 6 of 12 clips, or fewer, of one person for each class.
    assert {one["validation_clips"] for one in probes} <= {3, 6, 9}
    assert [one["probe"] for one in probes] == ["knn", "knn", "linear", "linear"]
    group = result.groups[1]
    scores = [float(row["uar"]) for row in rows(tmp_path / "out") if row["probe"] == "linear"]
    assert group.kind == "linear" and group.uar.value == pytest.approx(np.mean(scores))
    assert group.uar.low is not None and group.uar.low <= group.uar.value <= (group.uar.high or 0)
    assert any("linear (layer 2): UAR" in line for line in said)
    # Another probe reads what is there.
    said.clear()
    run_probe(
        world / "model", settings(world), tmp_path / "out", ProbeOptions(kinds=("knn",), seeds=1), say=said.append
    )
    assert [line for line in said if "features of" in line] == [
        f"features of data.{part}: read from {tmp_path}/out/features" for part in ("train", "test")
    ]
    assert len(rows(tmp_path / "out")) == 1 and len([*(tmp_path / "out" / "runs").iterdir()]) == 1


def test_all_layers_and_random_weights_in_one_call(world: Path, tmp_path: Path) -> None:
    options = ProbeOptions(kinds=("linear", "attentive"), layers="all", seeds=1, baseline="random", max_tokens=10)
    out = tmp_path / "out"
    run_probe(world / "model", settings(world), out, options, say=lambda text: None)
    found = json.loads((out / "probe.json").read_text())
    assert found["tokens"] == {
        "0": "means of local tokens, 4 x 4 x 4 to 2 x 2 x 2",
        "1": "8 representative tokens",
        "2": "8 representative tokens",
    }
    assert 0 < found["float16_rounding"] < 2**-11 and found["chosen_by"] == "subject"
    assert len(rows(out)) == 2 * 3 * 2 and {row["features"] for row in rows(out)} == {"model", "random"}
    assert len(found["differences"]) == 6 and (out / "depth.png").read_bytes()[:4] == b"\x89PNG"
    for difference in found["differences"]:
        key = difference["probe"], difference["layer"]
        both = {row["features"]: float(row["uar"]) for row in rows(out) if (row["probe"], int(row["layer"])) == key}
        assert difference["uar"]["value"] == pytest.approx(both["model"] - both["random"])
    page = (out / "report.html").read_text()
    assert "Score over depth" in page and "V-JEPA" in page and "random weights" in page
    assert "difference" in (out / "random.csv").read_text() and "toprule" in (out / "table.tex").read_text()
    # The folders of probes are runs: seeds of one kind and layer are a condition.
    groups = group_runs(sorted((out / "runs").iterdir()))
    assert len(groups) == 12
    write_comparison(
        tmp_path / "compared", {"a": [out / "runs/linear_layer1_seed0"], "b": [out / "runs/linear_layer2_seed0"]}, "t"
    )


def test_killed_and_gone_on_with_gives_the_same(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ProbeOptions(kinds=("knn", "attentive"), seeds=1, layers="0,2", max_tokens=8)
    run_probe(world / "model", settings(world), tmp_path / "whole", options, say=lambda text: None)
    append, count = FeatureSet.append, 0

    def dying(self: FeatureSet, *args: object, **others: object) -> None:
        nonlocal count
        count += 1
        if count in (2, 4):
            # As a kill may leave it: rows without the line that makes them count.
            with open(self._path("pooled-2"), "ab") as file:
                file.write(b"12345")
            raise KeyboardInterrupt
        append(self, *args, **others)  # type: ignore[arg-type]

    fitted: list[str] = []

    def fit(kind: str, *args: Any, **others: Any) -> Any:
        fitted.append(kind)
        if len(fitted) == 3:
            raise KeyboardInterrupt
        return fit_probe(kind, *args, **others)

    monkeypatch.setattr(FeatureSet, "append", dying)
    monkeypatch.setattr(probe, "fit_probe", fit)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            run_probe(world / "model", settings(world), tmp_path / "out", options, say=lambda text: None)
    assert fitted == ["knn", "attentive", "knn"]
    # As a kill may leave a file, and as a disk may.
    kept = sorted((tmp_path / "out" / "fits").iterdir())
    assert [path.name.rpartition("-")[0] for path in kept] == ["attentive_layer0_seed0", "knn_layer0_seed0"]
    (tmp_path / "out" / "fits" / ".knn_layer0_seed0-0.npz.abcd1234.tmp").write_bytes(b"")
    said: list[str] = []
    run_probe(world / "model", settings(world), tmp_path / "out", options, say=said.append)
    assert f"probes: 2 of 4 are fitted already, and are read from {tmp_path}/out/fits" in said
    assert fitted == ["knn", "attentive", "knn", "knn", "attentive"]
    assert len([*(tmp_path / "out" / "fits").iterdir()]) == 4
    for name in ("probe.csv", "table.csv", "runs/attentive_layer0_seed0/pred.csv"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    # All of them are read, but for one that is damaged.
    kept[0].write_bytes(kept[0].read_bytes()[:-40])
    said.clear()
    run_probe(world / "model", settings(world), tmp_path / "out", options, say=said.append)
    assert any("attentive_layer0" in line and "this probe is fitted anew" in line for line in said)
    assert fitted[5:] == ["attentive"] and any("probes: 3 of 4 are fitted already" in line for line in said)
    assert (tmp_path / "out" / "probe.csv").read_bytes() == (tmp_path / "whole" / "probe.csv").read_bytes()


def test_a_finished_probe_counts_for_what_it_was_fitted_on_alone(world: Path, tmp_path: Path) -> None:
    """A metric, a share, a split, a label, a subject, another clip of the test part, other features: all are fitted."""
    label = (world / "train.csv").read_text().replace("train_ann_moved_0,1", "train_ann_moved_0,0")
    lists = {
        "label": label,
        "subject": label.replace("train_eve_moved_0,1,eve", "train_eve_moved_0,1,bob"),
        "fewer": (world / "test.csv").read_text().replace("test_ann_calm_0,0,ann2\n", ""),
    }
    for name, lines in lists.items():
        (tmp_path / f"{name}.csv").write_text(lines)
    given = settings(world, f"data.root={world}")
    options: dict[str, Any] = {"kinds": ("knn",), "seeds": 1}

    def taken() -> list[str]:
        said: list[str] = []
        run_probe(world / "model", given, tmp_path / "out", ProbeOptions(**options), say=said.append)
        return [line.partition(",")[0] for line in said if "are fitted already" in line]

    assert taken() == [] and taken() == ["probes: 1 of 1 are fitted already"]
    options["kinds"] = ("linear", "knn")
    assert taken() == ["probes: 1 of 2 are fitted already"]
    options["kinds"] = ("knn",)
    # Each comes on top of those before.
    for change in ("data.train={}/label.csv", "data.train={}/subject.csv", "data.test={}/fewer.csv", "data.stride=2"):
        given.append(change.format(tmp_path))
        assert taken() == [], change
    for key, value in {"metric": "war", "share": 0.5, "layers": "1"}.items():
        options[key] = value
        assert taken() == [], key
    given.append("seed=1")
    assert taken() == []
    # One of each that can be asked for again, and none of what was.
    assert sorted(path.name.rpartition("-")[0] for path in (tmp_path / "out" / "fits").iterdir()) == [
        "knn_layer1_seed0",
        "knn_layer1_seed1",
        "knn_layer2_seed0",
        "linear_layer2_seed0",
    ]


def test_other_weights_and_clips_begin_anew(world: Path, tmp_path: Path) -> None:
    one = ProbeOptions(kinds=("knn",), seeds=1)
    shutil.copytree(world / "model", tmp_path / "model")
    run_probe(tmp_path / "model", settings(world), tmp_path / "out", one, say=lambda text: None)
    other = load(world / "model")
    randomize(other, 7)
    other.save_pretrained(tmp_path / "model")
    said: list[str] = []
    run_probe(tmp_path / "model", settings(world, "eval.views=1"), tmp_path / "out", one, say=said.append)
    assert (
        sum("were made otherwise (the weights, eval.views changed): they are computed anew" in line for line in said)
        == 2
    )
    assert len([*(tmp_path / "out" / "features").iterdir()]) == 2


def test_a_fine_tuned_vit_with_classes_of_ones_own(world: Path, tmp_path: Path) -> None:
    model = LGIFormer(small(architecture="vit", num_classes=7))
    randomize(model, 2)
    model.save_pretrained(tmp_path / "vit")
    given = settings(world, "data.classes=[still, moving]", f"data.val={world}/test.csv", "eval.on_error=skip")
    (tmp_path / "train.csv").write_text((world / "train.csv").read_text() + "absent,1,ann\n")
    given += [f"data.train={tmp_path}/train.csv", f"data.root={world}"]
    options = ProbeOptions(kinds=("attentive",), seeds=1, layers="1", max_tokens=8)
    result = run_probe(tmp_path / "vit", given, tmp_path / "out", options, say=lambda text: None)
    assert result.groups[0].probes[0].predictions.classes == ("still", "moving")
    assert result.groups[0].probes[0].fitted.validation == 8
    assert any("1 of 13 clips of data.train could not be read" in note for note in result.notes)
    assert feature_extractor(model).config.num_classes == 7


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ("data.train=", {}, "data.train is not set"),
        ("data.test={here}/strange.csv", {}, "has clips of class '2' and data.train .* has none"),
        ("data.train={here}/few.csv", {}, r"class '1' has 1 training clip: two are needed at least"),
        ("data.train={here}/alone.csv", {}, "class '1' is shown by 1 subject of the training part"),
        ("data.train={here}/same.csv", {}, "are of one class: a probe tells two or more apart"),
        ("data.train={here}/none.csv", {}, "none.csv:1: the line has no label"),
        ("data.classes=[a]", {}, r"out of range.*\(data.classes is \[a\] here"),
        ("data.val={here}/strange.csv", {}, "data.val .* has clips of class '2'"),
        ("data.test={here}/lost.csv", {}, "1 of 1 clips do not exist"),
        ("seed=0", {"layers": "3"}, r"layer '3' does not exist: layers are 0 \(before the first block\) to 2"),
        ("seed=0", {"kinds": ("svm",)}, "unknown kind of probe 'svm'"),
        ("seed=0", {"kinds": ()}, "no kind of probe is asked for"),
        ("seed=0", {"baseline": "other"}, "unknown baseline 'other'"),
        ("seed=0", {"metric": "f1"}, "unknown metric 'f1'"),
        ("seed=0", {"seeds": 0}, "the number of seeds must be between 1 and 1000"),
        ("seed=0", {"share": 1.5}, "must be between 0 and 1"),
        ("seed=0", {"kinds": ("attentive",), "max_tokens": 0}, "must be at least 1"),
        ("eval.views=0", {}, "eval.views must be between"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    change: str, options: dict[str, object], message: str, world: Path, tmp_path: Path
) -> None:
    text = (world / "train.csv").read_text().splitlines()[1:]
    train, moved = text, [line for line in text if "moved" in line]
    lists = {
        "strange": ["train_ann_calm_0,2,x"],
        "few": [*train[:2], moved[0]],
        "alone": [line for line in train if "calm" in line or "ann" in line],
        "same": moved,
        "lost": ["lost,0,x"],
    }
    for name, lines in lists.items():
        (tmp_path / f"{name}.csv").write_text("path,label,subject\n" + "".join(f"{line}\n" for line in lines))
    (tmp_path / "none.csv").write_text("train_ann_calm_0\n")
    given = settings(world, f"data.root={world}", change.format(here=tmp_path))
    with pytest.raises(InputError, match=message):
        asked = ProbeOptions(**{"kinds": ("knn",), "seeds": 1, **options})  # type: ignore[arg-type]
        run_probe(world / "model", given, tmp_path / "out", asked, say=lambda text: None)
    # Nothing is computed before.
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_stays(world: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("mine")
    with pytest.raises(InputError, match="holds other files: give a new folder, or that of an earlier probe"):
        run_probe(world / "model", settings(world), tmp_path, QUICK)
    with pytest.raises(InputError, match="is a file: give a folder"):
        run_probe(world / "model", settings(world), tmp_path / "config.yaml", QUICK)
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
