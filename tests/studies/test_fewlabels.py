"""The curve over the number of labels: what is run, what is said of it, and what is refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from maedfer.cli import main
from maedfer.errors import InputError
from maedfer.evaluation.bootstrap import student
from maedfer.studies.fewlabels import LabelStudy, fewlabels, plan_fewlabels, read_scores, result_table, sentences
from maedfer.studies.seeds import about_seeds, over_seeds
from maedfer.train.finetune import run_finetune
from tests.studies.latex import read_table
from tests.train.runs import overrides, tiny, write_clips


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"), 18)


def settings(data: Path, *changes: str) -> list[str]:
    """Of runs that take a second, but for what the study decides."""
    lines = overrides("finetune", data, Path("x"))
    kept = [line for line in lines if line.partition("=")[0] not in ("output", "seed")]
    return [*kept, "optim.epochs=1", "optim.warmup_epochs=0", *changes]


def invented(plan: LabelStudy, right: dict[tuple[str, str, int], int]) -> None:
    """Fill the folders of a study with scores: of ten clips of each of three classes, so many are right."""
    for name in plan.conditions:
        for few in plan.labels:
            for seed in plan.seeds:
                folder = plan.job(name, few, seed).output
                folder.mkdir(parents=True)
                count = right[name, str(few), seed]
                confusion = [[count if a == b else (10 - count if b == (a + 1) % 3 else 0) for b in range(3)]
                             for a in range(3)]  # fmt: skip
                metrics = {"classes": ["up", "down", "still"], "confusion": confusion}
                (folder / "metrics.json").write_text(json.dumps(metrics))


def test_parts_are_run_once_and_drawn(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "a study"
    said: list[str] = []
    plan = plan_fewlabels(None, out, settings(data), labels=["all", "2"], seeds=[4], scratch=True)
    assert [str(few) for few in plan.labels] == ["2 per class", "all"] and plan.clips == (6, 18)
    page = fewlabels(plan, 2, say=said.append)
    few, whole = (out / "from_scratch" / name / "seed_4" for name in ("2_per_class", "all"))
    assert json.loads((few / "metrics.json").read_text())["labels"]["clips"] == 6
    # As many steps as with all labels.
    assert [json.loads((run / "metrics.json").read_text())["step"] for run in (few, whole)] == [4, 4]
    assert not (whole / "labels.csv").exists()
    assert (out / "curve.png").read_bytes().startswith(b"\x89PNG")
    rows = list(csv.reader((out / "table.csv").open(newline="")))
    assert rows[0] == ["labels", "clips", "start", "UAR", "WAR"] and [row[:3] for row in rows[1:]] == [
        ["2 per class", "6", "from scratch"],
        ["all", "18", "from scratch"],
    ]
    assert read_table((out / "table.tex").read_text())[1][1][0] == "2 per class"
    text = page.read_text()
    assert "as many steps as one with all labels" in text and "from scratch, all" not in said
    found = json.loads((out / "report.json").read_text())
    assert found["clips"] == [6, 18] and float(rows[1][3]) == pytest.approx(
        found["scores"]["uar"]["from scratch"][0][0]
    )
    said.clear()
    fewlabels(plan, 2, say=said.append)
    assert [line.rpartition(": ")[2] for line in said] == ["done before", "done before"]


def test_what_a_curve_says(data: Path, tmp_path: Path) -> None:
    run_finetune(tiny("finetune", data, tmp_path / "init", "optim.epochs=1", "optim.warmup_epochs=0"))
    weights = {"pre-trained": str(tmp_path / "init")}
    plan = plan_fewlabels(None, tmp_path / "out", settings(data), labels=["1", "3", "all"], seeds=[0, 1], inits=weights,
                          scratch=True, scratch_with=["optim.lr=1e-3"], epoch="once")  # fmt: skip
    cfg = plan.job("from scratch", plan.labels[0], 1).settings()
    assert (cfg.train.init, cfg.optim.layer_decay, cfg.optim.lr, cfg.seed, cfg.data.labels) == ("", 1, 1e-3, 1, "1")
    assert plan.job("pre-trained", plan.labels[2], 0).settings().train.init == str(tmp_path / "init")
    scores = {
        ("pre-trained", "1 per class"): (5, 6),
        ("pre-trained", "3 per class"): (8, 8),
        ("pre-trained", "all"): (9, 8),
        ("from scratch", "1 per class"): (3, 3),
        ("from scratch", "3 per class"): (9, 5),
        ("from scratch", "all"): (8, 7),
    }
    invented(plan, {(*key, seed): pair[seed] for key, pair in scores.items() for seed in (0, 1)})
    found = read_scores(plan)
    assert found["uar"]["pre-trained"].ravel() == pytest.approx([0.5, 0.6, 0.8, 0.8, 0.9, 0.8])
    said = sentences(plan, found)
    assert said[0].startswith('1 per class: UAR: "pre-trained" is better than "from scratch" (mean difference +25.00')
    assert "but not clearly so" in said[1]
    # 80 % with three labels of each class, where scratch has 75 % with all 18.
    assert said[3] == (
        '"pre-trained" has a mean UAR of 80.00 with 3 per class (9 clips), "from scratch" 75.00 with all (18 clips).'
    )
    # Nobody needs labels to reach what guessing has.
    found["uar"]["from scratch"][-1] = [0.36, 0.3]
    assert not any("has a mean UAR of" in sentence for sentence in sentences(plan, found))
    table = result_table(plan, found)
    assert [row[0] for row in table.rows if row] == ["1 per class"] * 2 + ["3 per class"] * 2 + ["all"] * 2
    assert "those with fewer labels fewer steps" in " ".join(table.notes)


def test_interval_of_a_mean_is_students() -> None:
    values = [0.5, 0.62, 0.55, 0.6]
    found = over_seeds(values)
    half = 3.182446 * np.std(values, ddof=1) / 2
    assert found.value == pytest.approx(np.mean(values)) and found.low is not None and found.high is not None
    assert (found.low, found.high) == pytest.approx((np.mean(values) - half, np.mean(values) + half), abs=1e-6)
    assert student(0.975, 3) == pytest.approx(3.182446, abs=1e-5)
    wide = over_seeds([0.02, 0.98, 0.5])
    assert (wide.low, wide.high) == (0, 1)
    two = over_seeds([0.02, 0.98])
    assert two.spread is not None and two.low is two.high is None
    assert over_seeds([0.4]).low is None
    assert "interval that says anything" in about_seeds([0, 1]) and "in brackets" in about_seeds([0, 1, 2])


def test_the_command_tells_what_there_is_to_run(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["fewlabels", *settings(data), "--labels", "1,all", "--seeds", "2", "--out", str(tmp_path / "out")]
    assert main([*words, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "4 runs: as set; labels 1 per class (3 clips), all (18 clips); seeds 0, 1" in printed
    assert printed.count("to be run") == 4 and "what is left takes about" in printed and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"overrides": ["data.labels=1"]}, "data.labels is not for fewlabels: give --labels"),
        ({"overrides": ["output=x"]}, "output is not for fewlabels"),
        ({"labels": ["7"]}, "7 per class are too many labels for class"),
        ({"labels": ["1%"]}, "is less than one"),
        ({"labels": ["half"]}, "--labels must be all"),
        ({"labels": []}, "names no part"),
        ({"seeds": [1, 1]}, "seeds must differ"),
        ({"scratch_with": ["optim.lr=1"]}, "give --scratch too"),
        ({"inits": {"a": "absent"}}, "condition 'a': the weights absent do not exist"),
        ({"inits": {"a b": "x", "a_b": "y"}}, "would have one folder"),
        ({"scratch": True, "overrides": ["train.init=x"]}, "train.init is given as a setting and by"),
        ({"overrides": ["data.test="]}, "set data.test"),
    ],
)
def test_what_makes_no_study_is_refused(change: dict, message: str, data: Path, tmp_path: Path) -> None:
    given = {"labels": ["1", "all"], "seeds": [0], **change}
    given["overrides"] = settings(data, *change.get("overrides", ()))
    with pytest.raises(InputError) as error:
        plan_fewlabels(None, tmp_path / "out", **given)
    assert message in str(error.value) and not (tmp_path / "out").exists()
