"""Which runs are seeds of one condition."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from maedfer.errors import InputError
from maedfer.report import group_runs
from maedfer.train.config import load_config, save_config


def make(folder: Path, *overrides: str) -> Path:
    folder.mkdir(parents=True)
    given = ["data.train=x.csv", f"output={folder}", "model.name=lgi_former_tiny", *overrides]
    save_config(load_config("finetune", None, given), folder / "config.yaml")
    return folder


def test_runs_that_differ_in_the_seed_alone_are_one_condition(tmp_path: Path) -> None:
    a = [make(tmp_path / f"slow_{seed}", f"seed={seed}", "optim.lr=1e-4") for seed in (0, 1)]
    b = [make(tmp_path / f"fast_{seed}", f"seed={seed}", "optim.lr=1e-3") for seed in (0, 1)]
    c = make(tmp_path / "more_clips_0", "optim.lr=1e-3", "data.train=y.csv")
    found = group_runs([a[0], b[0], b[1], a[1], c])
    assert found == {"slow": a, "fast": b, "more_clips_0": [c]}
    assert list(found) == ["slow", "fast", "more_clips_0"]


def test_names_of_folders_tell_conditions_apart(tmp_path: Path) -> None:
    def pair(first: str, second: str, *overrides: str) -> list[Path]:
        names = (first, second)
        return [make(tmp_path / name, f"seed={seed}", *overrides) for seed, name in enumerate(names)]

    a, b = pair("a/seed0", "a/seed1"), pair("b/seed0", "b/seed1", "optim.lr=1")
    assert list(group_runs([*a, *b])) == ["a/seed", "b/seed"]
    a, b = pair("x0", "x2"), pair("x1", "x3", "optim.lr=1")
    assert list(group_runs([*a, *b])) == ["x0, x2", "x1, x3"]
    assert list(group_runs(pair("this", "that", "optim.lr=2"))) == ["th"]
    assert list(group_runs(pair("left", "right"))) == ["left, right"]


def test_runs_without_settings_stand_alone(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "log.jsonl").touch()
    assert group_runs([tmp_path / "a", tmp_path / "b"]) == {"a": [tmp_path / "a"], "b": [tmp_path / "b"]}


def test_what_cannot_be_grouped_is_refused(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    with pytest.raises(InputError, match="no runs to compare: give two or more"):
        group_runs([])
    with pytest.raises(InputError, match="1 run to compare: give two or more"):
        group_runs([run])
    with pytest.raises(InputError, match="is given twice"):
        group_runs([run, tmp_path / "." / "run"])
    with pytest.raises(InputError, match="does not exist"):
        group_runs([run, tmp_path / "absent"])
    with pytest.raises(InputError, match="is not a run folder"):
        group_runs([run, tmp_path])


def test_who_computed_does_not_part_the_seeds_of_a_condition(tmp_path: Path) -> None:
    changes = ("report=false", "data.workers=0", "train.device=cpu", "model.impl=reference", "eval.batch_size=3")
    runs = [make(tmp_path / "a_0", "seed=0"), make(tmp_path / "a_1", "seed=1", *changes)]
    assert group_runs(runs) == {"a": runs}


@pytest.mark.parametrize(
    "change",
    ["data.train=y.csv", "data.val=y.csv", "data.test=y.csv", "train.init=weights", "train.batch_size=8"],
)
def test_clips_weights_and_batches_make_a_condition(change: str, tmp_path: Path) -> None:
    assert len(group_runs([make(tmp_path / "a"), make(tmp_path / "b", change)])) == 2


def test_a_former_name_does_not_part_runs(tmp_path: Path) -> None:
    runs = [make(tmp_path / f"vit_{seed}", f"seed={seed}", "model.architecture=vit") for seed in (0, 1)]
    text = (runs[0] / "config.yaml").read_text(encoding="utf-8")
    (runs[0] / "config.yaml").write_text(text.replace("architecture: vit", "encoder: vit"), encoding="utf-8")
    assert group_runs(runs) == {"vit": runs}


def test_what_auto_came_to_parts_runs(tmp_path: Path) -> None:
    runs = [make(tmp_path / f"{name}_{seed}", f"seed={seed}") for name in ("fast", "exact") for seed in (0, 1)]
    for run, precision in zip(runs, ("bf16", "bf16", "fp32", "fp32"), strict=True):
        (run / "environment.json").write_text(json.dumps({"precision": precision}))
    assert group_runs(runs) == {"fast": runs[:2], "exact": runs[2:]}
    said = make(tmp_path / "fast_2", "seed=2", "train.precision=bf16")
    assert group_runs([*runs[:2], said]) == {"fast": [*runs[:2], said]}
