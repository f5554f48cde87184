"""All folds of a protocol: killed and gone on with, spread over processes, pooled as the paper does."""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest

from maedfer.cli import main
from maedfer.errors import InputError
from maedfer.evaluation.predictions import Predictions, read_predictions, write_predictions
from maedfer.studies import crossval as module
from maedfer.studies import grid
from maedfer.studies.crossval import CrossValidation, crossval, plan_crossval, result_table, to_do
from maedfer.studies.folds import FoldLists, folds_in, look_into
from maedfer.studies.pooled import MEAN, POOLED, pool_runs
from maedfer.train.config import load_config, save_config
from tests.studies.latex import read_table
from tests.train.runs import overrides, write_clips

CLASSES = ("up", "down", "still")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighteen clips of six people, in a list that says so."""
    folder = write_clips(tmp_path_factory.mktemp("clips"), 18)
    lines = [line.split() for line in (folder / "train.csv").read_text().splitlines()]
    rows = [f"{name},{label},p{number // 3}" for number, (name, label) in enumerate(lines)]
    (folder / "people.csv").write_text("\n".join(["path,label,subject", *rows]) + "\n")
    (folder / "nobody.csv").write_text("\n".join(f"{name} {label}" for name, label in lines) + "\n")
    return folder


def settings(clips: Path, *changes: str) -> list[str]:
    own = ("output=", "seed=", "data.train=", "data.test=")
    return [*(line for line in overrides("finetune", clips, Path("x")) if not line.startswith(own)), *changes]


def written(out: Path) -> dict[str, str]:
    """What a study says: its tables, and what it predicts."""
    files = [*out.glob("table.*"), *out.glob("seed_*/pooled/pred.csv")]
    return {str(file.relative_to(out)): file.read_text() for file in files}


def test_killed_and_spread_it_comes_to_the_same(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = settings(clips, f"data.train={clips}/people.csv", "train.save_steps=1")
    monkeypatch.setattr(grid, "_LOOK", 0.01)
    killed: list[int] = []

    def kill(share: float) -> None:
        # In the middle of the second fold.
        for process in multiprocessing.active_children():
            if share > 0.6 and process.name == "fold_2" and not killed:
                killed.append(process.pid or 0)
                process.kill()

    plan = plan_crossval(None, tmp_path / "killed", words, folds=2, seeds=[3])
    with pytest.raises(InputError, match="1 of 2 runs failed, the others are done: fold_2; .*ended by signal 9"):
        crossval(plan, say=lambda line: None, progress=kill)
    assert killed and not (tmp_path / "killed/table.csv").exists()
    assert [done for _, done in to_do(plan)] == [True, False]
    crossval(plan, say=lambda line: None)
    assert (tmp_path / "killed/seed_3/fold_2.log").read_text().startswith("going on from ")

    # Left alone, both folds at the same time.
    options = ["--folds", "2", "--first-seed", "3", "--devices", "cpu,cpu", "--out", str(tmp_path / "whole")]
    assert main(["crossval", *words, *options]) == 0
    said = capsys.readouterr().out
    assert f"  {POOLED}  " in said and "18 clips of 6 people were divided by who is in them" in said
    plan = plan_crossval(None, tmp_path / "whole", words, folds=2, seeds=[3])
    assert [done for _, done in to_do(plan)] == [True, True]
    page = tmp_path / "whole/report.html"
    assert written(tmp_path / "killed") == written(tmp_path / "whole") and len(written(page.parent)) == 3

    # The pooled predictions are those of the folds, and each clip is tested once.
    pooled = read_predictions(plan.pooled(3) / "pred.csv")
    parts = [read_predictions(job.output / "pred.csv") for job in plan.jobs]
    assert pooled.names == [name for part in parts for name in part.names] and len(set(pooled.names)) == 18
    assert set(pooled.subjects) == {f"p{number}" for number in range(6)}
    right = np.concatenate([part.predicted == part.labels for part in parts])
    numbers = json.loads((tmp_path / "whole/report.json").read_text())
    assert numbers["table"]["rows"][-2]["WAR"]["value"] == pytest.approx(right.mean())
    assert numbers["pooled"]["n"] == 18
    html = page.read_text()
    assert "in brackets the 95 % interval over the 6 subjects, as for other people." in html
    assert POOLED in html and MEAN in html and "18 clips of 6 people" in html
    assert read_table((tmp_path / "whole/table.tex").read_text())[1][0] == ["fold", "UAR (%)", "WAR (%)", "clips"]

    # What is done is compared as any run is.
    out = tmp_path / "compared"
    runs = [f"{name}={tmp_path / name}/seed_3/pooled" for name in ("killed", "whole")]
    assert main(["compare", *runs, "--out", str(out)]) == 0
    assert '"killed" and "whole"' in capsys.readouterr().out.replace('"whole" and "killed"', '"killed" and "whole"')

    # Other folds are not mixed with those that are there.
    with pytest.raises(InputError, match="lists holds other folds"):
        plan_crossval(None, tmp_path / "whole", words, folds=3, seeds=[3])


def scored(out: Path, clips: dict[str, tuple[int, int]]) -> None:
    """Fill a run folder with predictions, (true, predicted) by name."""
    out.mkdir(parents=True)
    probabilities = np.eye(3, dtype=np.float32)[[said for _, said in clips.values()]]
    labels = np.array([true for true, _ in clips.values()])
    predictions = Predictions(list(clips), labels, probabilities, CLASSES)
    write_predictions(out / "pred.csv", predictions)
    (out / "metrics.json").write_text(json.dumps({**predictions.metrics(), "precision": "fp32"}))
    save_config(
        load_config("finetune", None, [f"data.classes=[{','.join(CLASSES)}]", "data.train=x"]), out / "config.yaml"
    )


def pool(plan: CrossValidation, seed: int) -> None:
    pool_runs([plan.job(seed, fold).output for fold in plan.folds], plan.pooled(seed))


def test_pooled_is_another_number_than_the_mean_of_the_folds(tmp_path: Path) -> None:
    """Folds of unlike size, and a class that only one of them tests."""
    folds = [FoldLists(number, Path("a"), Path("b")) for number in (1, 2)]
    plan = CrossValidation(None, tmp_path, folds)
    scored(plan.jobs[0].output, {"a": (0, 0), "b": (1, 0)})
    scored(plan.jobs[1].output, {f"c{number}": (0, 0) for number in range(6)} | {"d": (1, 1), "e": (2, 0)})
    pool(plan, 0)
    table = result_table(plan)
    found = {row["fold"]: row for row in csv.DictReader(io.StringIO(table.csv()))}
    # Recalls: 7/7 of the first class, 1/2 of the second, 0/1 of the third; 8 of 10 clips are right.
    assert float(found[POOLED]["UAR"]) == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert float(found[POOLED]["WAR"]) == pytest.approx(8 / 10)
    # Fold 1 has no clip of the third class: UAR (1 + 0) / 2; fold 2 has (1 + 1 + 0) / 3.
    assert float(found[MEAN]["UAR"]) == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert float(found[MEAN]["WAR"]) == pytest.approx((1 / 2 + 7 / 8) / 2)
    assert float(found[MEAN]["WAR sd"]) == pytest.approx(np.std([1 / 2, 7 / 8], ddof=1))
    assert float(found[POOLED]["WAR low"]) < 0.8 < float(found[POOLED]["WAR high"]) and not found[MEAN]["WAR low"]
    assert found["fold_1"]["clips"] == "2" and found[POOLED]["clips"] == "10"
    # Nothing is told but in the table.
    assert "as the MAE-DFER paper does; in brackets" in table.notes[0]


def test_several_seeds_have_a_spread_of_their_own(tmp_path: Path) -> None:
    folds = [FoldLists(number, Path("a"), Path("b")) for number in (1, 2)]
    plan = CrossValidation(None, tmp_path, folds, seeds=(0, 1))
    for seed in plan.seeds:
        for fold in folds:
            said = 0 if seed == 0 or fold.number == 1 else 1
            scored(plan.job(seed, fold).output, {f"x{fold.number}": (0, said), f"y{fold.number}": (0, 0)})
        pool(plan, seed)
    table = result_table(plan)
    shown = {
        str(row[0]): [column.shown(cell) for column, cell in zip(table.columns, row, strict=True)]
        for row in table.rows
        if row
    }
    assert shown["fold_1"][2] == "100.00 ± 0.00" and shown["fold_2"][2] == "75.00 ± 35.36"
    assert shown[POOLED][2].startswith("87.50 ± 17.68 [") and shown[MEAN][2] == "87.50 ± 17.68"
    assert "over seeds 0, 1; in brackets the 95 % interval over clips and seeds." in table.notes[0]
    page = module._write_page(plan, table)
    assert "of the pooled predictions of seed 0" in page.read_text()


def lists(folder: Path, *folds: tuple[list[str], list[str]], end: str = "") -> Path:
    for number, parts in enumerate(folds, 1):
        for name, rows in zip(("train", "test"), parts, strict=True):
            file = folder / f"fold_{number}" / f"{name}.csv"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("\n".join(["path,label,subject", *rows]) + "\n")
    return folder


def test_people_in_both_parts_are_refused_by_name(clips: Path, tmp_path: Path) -> None:
    good = [f"{clips}/clip_{number},{number % 3},p{number}" for number in range(6)]
    mixed = [good[0], f"{clips}/clip_7,1,p1", f"{clips}/clip_8,2,p2"]
    folder = lists(tmp_path / "lists", (good[:3], good[3:]), (good[:3], mixed))
    (folder / "classes.txt").write_text("up\ndown\nstill\n")
    with pytest.raises(InputError) as caught:
        plan_crossval(None, tmp_path / "out", settings(clips), lists=folder)
    text = str(caught.value)
    assert text.startswith("3 people are in both parts of fold_2, the first p0 (training: ") and "then p1, p2" in text
    assert "--shared-subjects" in text and not (tmp_path / "out").exists()
    plan = plan_crossval(None, tmp_path / "out", settings(clips), lists=folder, shared_subjects=True)
    assert plan.origin == f"2 folds of {folder}"
    assert plan.warnings[0].startswith("3 people are in both parts of fold_2")
    # A clip that is in both parts is told too, and so is one that is tested twice.
    assert any("1 of 3 clips of test of fold_2 are in training of fold_2 too" in note for note in plan.warnings)


def test_what_cannot_be_crossed_is_told(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    people = f"data.train={clips}/people.csv"

    def refused(match: str, *changes: str, **options: object) -> None:
        with pytest.raises(InputError, match=match):
            plan_crossval(None, out, settings(clips, *changes), **options)  # type: ignore[arg-type]
        assert not out.exists()

    refused("which folds are meant is not said")
    refused("data.train is not set", folds=2)
    refused("one of the two", people, folds=2, lists=clips)
    refused("folds must be at least 2, got 1", people, folds=1)
    away = lists(tmp_path / "away", (["clip_0,0,a"], ["clip_1,1,b"]), (["clip_1,1,b"], ["clip_0,0,a"]))
    refused("1 of 1 clips do not exist: .*check the paths, or the folder they start from .data.root.", lists=away)
    refused("6 subjects cannot be divided into 7 parts", people, folds=7)
    refused("seeds must differ", people, folds=2, seeds=[1, 1])
    refused("output is not for crossval: give the folder of the study by --out", "output=x", people, folds=2)
    refused("seed is not for crossval: give --seeds", "seed=1", people, folds=2)
    refused("data.train is not for crossval", people, lists=clips)
    refused("optim.lr", people, "optim.lr=-1", folds=2)
    refused("eval.select is 'val' but data.val is not set", people, "eval.select=val", folds=2)
    refused(r"data.subject 'q\[0-9\]' is not found", people, "data.subject=q[0-9]", folds=2)
    refused("holds no folds", lists=clips)
    refused("cannot be looked for in .*absent", lists=tmp_path / "absent")
    some = lists(tmp_path / "some", ([f"{clips}/clip_0,0,a"], [f"{clips}/clip_1,1,b"]))
    refused("holds one fold", lists=some)
    (some / "fold_2").mkdir()
    refused("fold_2/train.csv is not there", lists=some)
    two = [f"{clips}/clip_0,0,a"], [f"{clips}/clip_1,1,b"]
    other = lists(tmp_path / "other", two, two)
    (other / "classes.txt").write_text("down\nup\nstill\n")
    refused("data.classes has them in another order: up, down, still: give data.classes=.down,up,still.", lists=other)
    assert [fold.name for fold in folds_in(other, ("down", "up", "still"))] == ["fold_1", "fold_2"]
    partly = tmp_path / "partly.csv"
    partly.write_text(f"path,label,subject\n{clips}/clip_0,0,a\n{clips}/clip_1,1,\n")
    refused("partly.csv:3: nobody is named as its subject", f"data.train={partly}", folds=2)


def test_clips_of_nobody_are_divided_one_by_one_and_that_is_told(clips: Path, tmp_path: Path) -> None:
    words = settings(clips, f"data.train={clips}/nobody.csv", "eval.select=test")
    plan = plan_crossval(None, tmp_path / "out", words, folds=3, split_seed=4)
    assert plan.origin.startswith("18 clips were divided one by one: where a person is in several")
    assert plan.origin.endswith("by seed 4")
    assert "the epoch of every fold is chosen on its test clips" in plan.warnings[0]
    # Lists stay as they are, so that what is done on them stays done; what a kill has kept from being written is.
    first, second = (tmp_path / f"out/lists/fold_{number}/test.csv" for number in (1, 2))
    os.utime(first, (1, 1))
    plan_crossval(None, tmp_path / "out", words, folds=3, split_seed=4)
    assert first.stat().st_mtime == 1
    text = second.read_text()
    second.unlink()
    assert plan_crossval(None, tmp_path / "out", words, folds=3, split_seed=4).folds == plan.folds
    assert second.read_text() == text


def test_lists_that_are_made_count_classes_from_nought_and_say_who_is_who(clips: Path, tmp_path: Path) -> None:
    lines = [line.split() for line in (clips / "nobody.csv").read_text().splitlines()]
    (tmp_path / "from_one.csv").write_text("".join(f"{name} {int(label) + 1}\n" for name, label in lines))
    words = [f"data.train={tmp_path}/from_one.csv", f"data.root={clips}", "data.label_offset=1", "data.subject=clip_1?"]
    plan = plan_crossval(None, tmp_path / "out", settings(clips, *words), folds=2)
    cfg = plan.jobs[0].settings()
    read = look_into(cfg, plan.folds[0])
    assert {(clip.name, clip.label) for part in (read.train, read.test) for clip in part} == {
        (name, int(label)) for name, label in lines
    }
    assert {clip.subject for clip in read.train} in ({"clip_"}, {"clip_1"}) and not read.shared
    assert Path(cfg.data.root) == clips


def test_folds_of_a_public_data_set_are_found_in_its_folder(tmp_path: Path) -> None:
    for actor in (1001, 1020, 1040, 1060, 1080):
        for code in ("ANG", "SAD"):
            file = tmp_path / f"root/VideoFlash/{actor}_DFA_{code}_XX.flv"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    plan = plan_crossval("crema_d", tmp_path / "out", [f"data.root={tmp_path}/root"])
    assert len(plan.folds) == 5 and plan.origin == "5 folds of crema_d, as its authors have divided it"
    assert not plan.warnings and len(plan.jobs) == 5
    # Actors are known by the clips' names.
    assert "subject" in plan.folds[0].train.read_text().splitlines()[0]
