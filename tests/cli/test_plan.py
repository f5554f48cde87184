from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from maedfer.cli import main
from maedfer.cli.plan import _OPTIONS
from maedfer.planning import SHEETS, Machine
from tests.cli.helpers import Call


def test_table_for_people(call: Call) -> None:
    done = call("plan", "voxceleb2_pretrain", "--gpus", "1,8, 64")
    assert done.status == 0, done.err
    rows = {line[:36].strip(): line[36:].split() for line in done.out.splitlines() if len(line) > 36}
    assert rows["GPUs"] == ["1", "8", "64"] and rows["machines"] == ["1", "1", "8"]
    assert rows["train.batch_size x train.accumulate"] == ["128", "x", "1", "16", "x", "1", "2", "x", "1"]
    assert rows["steps"] == ["426,550"] * 3 and rows["peak learning rate"] == ["0.00015"] * 3
    # 35.3 ms for 128 clips, as was measured.
    assert rows["a step, ms"][0] == "35.3" and rows["hours"][0] == "4.22"
    for option in (*(f"--{field.replace('_', '-')}" for field in _OPTIONS), "--source"):
        assert f"\n  {option} " in done.out
    assert "benchmarks/results/gpu_kernels.json" in done.out and "not measured" in done.out
    brief = call("plan", "voxceleb2_pretrain", "--gpus", "1,8,64", "--brief").out
    assert done.out.startswith(brief.rstrip()) and "Assumed" not in brief


def test_options_are_the_fields_of_a_machine(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plan", "--help"])
    assert f"{', '.join(SHEETS)} (default: h100)" in " ".join(capsys.readouterr().out.split())
    fields = [option.removeprefix("--").replace("-", "_") for option, _ in Machine.of_gpu("h100").assumptions()]
    assert fields == list(_OPTIONS)


def test_files(call: Call, tmp_path: Path) -> None:
    files = ["--csv", tmp_path / "plan.csv", "--json", tmp_path / "plan.json"]
    done = call("plan", "dfew", "--gpus", "1,4", "--price", "1.5", "--cpu-clips-per-s-core", "10", "--cores", 8, *files)
    assert done.status == 0, done.err
    with open(tmp_path / "plan.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    facts = json.loads((tmp_path / "plan.json").read_text())
    assert [row["gpus"] for row in rows] == ["1", "4"]
    for row, plan in zip(rows, facts["plans"], strict=True):
        assert float(row["hours"]) == plan["hours"] and float(row["share_cores"]) == plan["parts"]["cores"] > 0.5
        assert plan["price"] == pytest.approx(1.5 * plan["gpus"] * plan["hours"])
        assert plan["clips_per_s"] == pytest.approx(10 * plan["gpus"])
    assert facts["assumptions"]["--price"]["value"] == 1.5 and facts["assumptions"]["--price"]["source"] == "given"
    assert facts["assumptions"]["--disk"]["source"] == "assumed"
    assert "waiting for the loader takes" in facts["sentences"][0] and facts["sentences"][0] in " ".join(
        done.out.split()
    )


def test_what_is_refused_writes_nothing(call: Call, tmp_path: Path) -> None:
    done = call("plan", "dfew", "--gpus", "1,64", "--csv", tmp_path / "plan.csv")
    assert done.status == 2 and "64 GPUs cannot share a step of 96 clips evenly: give 48 or 96 GPUs" in done.err
    assert not list(tmp_path.iterdir()) and not done.out
