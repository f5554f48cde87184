"""Ablations: tables as files, the models that rows come to, what is run, and the page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from maedfer.cli import main
from maedfer.errors import InputError
from maedfer.models import LGIFormerConfig, ModelProfile, profile
from maedfer.models.profile import giga
from maedfer.studies.ablate import ablate, plan_ablate
from maedfer.studies.ablation_page import read_paper, result_table, write_ablations
from maedfer.studies.ablation_tables import NAMES, Multiples, find_tables, scaled
from maedfer.studies.estimate import estimate
from maedfer.train.config import save_config
from tests.studies.latex import read_table
from tests.train.runs import tiny, write_clips

MINE = """
table: mine
title: Tokens, and what is reconstructed
rows:
  - name: as it is
  - name: local
    finetune: {model.token_type: local}
    paper: {parameters: 1.5, macs: 2}
"""


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Recipes of runs that take a second."""
    folder = tmp_path_factory.mktemp("recipes")
    data = write_clips(folder / "clips", 18)
    found = {}
    for task in ("pretrain", "finetune"):
        found[task] = folder / f"{task}.yaml"
        save_config(tiny(task, data, folder / "x", "optim.epochs=2", "optim.warmup_epochs=0"), found[task])
    return found


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    (tmp_path / "mine.yaml").write_text(MINE)
    return tmp_path / "mine.yaml"


def test_the_figures_of_the_paper_are_those_of_the_models() -> None:
    """Each row, scaled from the published base model, has the parameters and multiply-adds that the paper prints."""
    lists = ["data.train=a.csv", "data.test=b.csv"]
    tables = find_tables(["all"])
    plan = plan_ablate("out", tables, recipe="dfew", overrides=lists, pretrain_recipe="voxceleb2_pretrain",
                       pretrain_overrides=lists[:1], seeds=[0])  # fmt: skip
    assert [table.table for table in tables] == list(NAMES)
    known = 0
    # Rows that tables share are one run, and one model.
    profiles: dict[Path, ModelProfile] = {}
    for table in tables:
        for row in table.rows:
            job = plan.cells[table.table, row.name].runs[0]
            if job.output not in profiles:
                profiles[job.output] = profile(job.settings().model)
            model = profiles[job.output]
            if row.paper.parameters is not None:
                assert round(model.parameters / 1e6, 2) == row.paper.parameters, (table.table, row.name)
            if row.paper.macs is not None:
                assert abs(giga(model.macs_published) - row.paper.macs) <= 0.02, (table.table, row.name)
            known += row.paper.macs is not None
            # No score of the paper is known, so none is told.
            assert row.paper.uar is None and row.paper.war is None
    assert known == 17
    # One row of every table is the recipe as it is, and its runs are shared.
    same = {cell.runs[0].output for cell in plan.cells.values() if cell.same}
    assert same == {Path("out/finetune/recipe/seed_0")} and sum(cell.same for cell in plan.cells.values()) == len(NAMES)
    assert len(plan.pretraining) == 21 and len(plan.finetuning) == 23
    assert plan.cells["10", "local tokens"].pretrain.output == Path("out/pretrain/recipe")


def test_multiples_are_of_what_the_recipe_has() -> None:
    small = LGIFormerConfig((8, 64, 64), (2, 16, 16), region_size=(2, 2, 4), embed_dim=128, depth=4, num_heads=4)
    assert scaled(Multiples(width=0.5, depth=0.75), small, "") == [
        "model.embed_dim=64",
        "model.num_heads=2",
        "model.depth=3",
    ]
    assert scaled(Multiples(region=(2, 0.5, 1)), small, "") == ["model.region_size=[4, 1, 4]"]
    # The nearest divisor: half of 5 rows of a grid of 10 are 2.
    assert scaled(Multiples(region=(1, 0.5, 1)), LGIFormerConfig(), "") == ["model.region_size=[2, 2, 10]"]
    for scale, message in {
        Multiples(width=0.3): "here: 0.3 times embed_dim=128 is no whole number",
        Multiples(region=(1, 1)): "here: scale.region has 2 numbers, the grid has 3",
    }.items():
        with pytest.raises(InputError, match=message):
            scaled(scale, small, "here")


def test_rows_are_run_and_put_beside_the_paper(recipes: dict[str, Path], mine: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    plan = plan_ablate(out, find_tables([str(mine)]), recipe=str(recipes["finetune"]), seeds=[0],
                       pretrain_recipe=str(recipes["pretrain"]), quick=True)  # fmt: skip
    assert [job.output.name for job in plan.pretraining] == ["recipe"]
    assert [job.output.parent.name for job in plan.finetuning] == ["recipe", "recipe+token_type_local"]
    assert plan.finetuning[1].settings().optim.epochs == 1
    assert estimate([job.settings() for job in (*plan.pretraining, *plan.finetuning)]) > 15
    shares: list[float] = []
    ablate(plan, 2, say=lambda line: None, progress=shares.append)
    assert shares == sorted(shares) and shares[-1] == 1
    page = write_ablations(plan)
    run = json.loads((out / "finetune/recipe+token_type_local/seed_0/metrics.json").read_text())
    found = json.loads((out / "report.json").read_text())["tables"]["mine"]
    assert found["scores"]["local"]["uar"] == [pytest.approx(run["uar"])]
    assert "Short form" in page.read_text() and "another data set" in page.read_text()
    caption, rows, _ = read_table((out / "tables/mine.tex").read_text())
    assert caption == "mine: Tokens, and what is reconstructed" and [row[0] for row in rows[1:]] == [
        "as it is",
        "local",
    ]
    said: list[str] = []
    ablate(plan, 2, say=said.append)
    assert len(said) == 3 and all(line.endswith("done before") for line in said)


def test_scores_of_the_paper_stand_beside_those_of_its_data_sets(mine: Path, tmp_path: Path) -> None:
    paper = tmp_path / "paper.csv"
    paper.write_text("table,row,UAR,WAR\nmine,local,62.59,74.88\n3,all three,1,2\nmine,as it is,,\n")
    tables = read_paper(paper, find_tables([str(mine)]))
    lists = ["data.train=a.csv", "data.test=b.csv"]
    plan = plan_ablate(tmp_path, tables, recipe="dfew", overrides=lists, pretrain_recipe="voxceleb2_pretrain",
                       pretrain_overrides=lists[:1], seeds=[0])  # fmt: skip
    scores = {metric: {"as it is": [0.6], "local": [0.61]} for metric in ("uar", "war")}
    table = result_table(plan, tables[0], scores)
    assert [column.name for column in table.columns][5:] == [
        "paper: parameters (M)",
        "paper: multiply-adds (G)",
        "paper: UAR",
        "paper: WAR",
    ]
    assert table.rows[0][5:] == (None, None, None, None)
    assert table.rows[1][5:] == pytest.approx((1.5, 2.0, 0.6259, 0.7488))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n", "must name the columns table, row, UAR, WAR"),
        ("table,row,UAR,WAR\nmine,locals,1,2\n", "'locals'"),
        ("table,row,UAR,WAR\nmine,local,high,2\n", "paper.csv:2: 'high' is no score"),
        ("table,row,UAR,WAR\nmine,local,0.5,101\n", "paper.csv:2: '101' is no score"),
    ],
)
def test_scores_that_say_nothing_are_refused(text: str, message: str, mine: Path, tmp_path: Path) -> None:
    (tmp_path / "paper.csv").write_text(text)
    with pytest.raises(InputError) as error:
        read_paper(tmp_path / "paper.csv", find_tables([str(mine)]))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("table: x\ntitle: y\n", "rows must be a list"),
        ("table: x\nrows: [{name: a}]\n", "title is not set"),
        ("table: a b\ntitle: y\nrows: [{name: a}]\n", "'a b' is to name files"),
        ("table: x\ntitle: y\nrows: [{name: a}, {name: a}]\n", "two rows are called 'a'"),
        ("table: x\ntitle: y\nrows: [a]\n", "rows[0] must be a section"),
        ("table: x\ntitle: y\nrows: [{nme: a}]\n", "nme"),
        ("table: x\ntitle: y\nrows: [{name: ''}]\n", "rows[0].name is empty"),
        ("table: x\ntitle: y\nrows: [{name: a, model: 3}]\n", "rows[0].model must be a section"),
        ("table: x\ntitle: y\nrows: [{name: a, scale: {width: 0}}]\n", "scale.width"),
        ("table: x\ntitle: y\nsauce: z\nrows: [{name: a}]\n", "sauce"),
        ("table: 3\ntitle: y\nrows: [{name: a}]\n", "another table is called '3'"),
        ("table: x\ntitle: y\nrows: [{name: a, model: {depht: 3}}]\n", "table x, row 'a': unknown key 'depht'"),
        ("table: x\ntitle: y\nrows: [{name: a, finetune: {model.depth: 3}}]\n", "have different encoders: depth"),
    ],
)
def test_tables_that_cannot_be_run_are_refused(
    text: str, message: str, recipes: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(InputError) as error:
        tables = find_tables(["3", str(tmp_path / "own.yaml")])
        plan_ablate(tmp_path / "out", tables[1:], recipe=str(recipes["finetune"]), seeds=[0],
                    pretrain_recipe=str(recipes["pretrain"]))  # fmt: skip
    assert message in str(error.value) and not (tmp_path / "out").exists()


def test_the_command_tells_how_much_there_is_to_do(
    recipes: dict[str, Path], mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["ablate", str(recipes["finetune"]), "--pretrain", str(recipes["pretrain"]), "--table", str(mine)]
    assert main([*words, "--seeds", "2", "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "1 table with 2 rows: 1 run of pre-training, 4 of fine-tuning" in printed
    # Rows are called by the table, not by their settings.
    assert printed.count("fine-tuning, table ") == 4 and ", row " in printed
    assert "what is left takes about" in printed and not (tmp_path / "out").exists()
