"""The table of configurations and the script that writes it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import triton
from triton.runtime.errors import OutOfResources

from benchmarks.ahead_of_time import Resources
from benchmarks.shipped import Case, cases
from benchmarks.tune import TABLE, estimate, questions, rank, row, tune, update
from maedfer.errors import InputError
from maedfer.kernels import _configs
from maedfer.kernels._configs import Config
from maedfer.kernels._dispatch import interpreting
from maedfer.kernels._launch import Launch, recording

KEY = (64, 64, 64, 2)


def test_rows_are_sorted_and_measurements_outrank_compilation(tmp_path: Path) -> None:
    table = tmp_path / "configs.json"
    table.write_text('{"rows": []}')
    slow, fast, later = Config({"BLOCK_Q": 16}, 4, 1), Config({"BLOCK_Q": 64}, 4, 2), Config({"BLOCK_Q": 64}, 8, 1)
    update(table, [row(90, "b", KEY, slow, "compiled"), row(90, "a", KEY, slow, "compiled")])
    update(table, [row(80, "b", KEY, slow, "compiled"), row(90, "b", KEY, fast, "a GPU")])
    update(table, [row(90, "b", KEY, slow, "compiled"), row(90, "a", KEY, fast, "compiled")])
    rows = json.loads(table.read_text())["rows"]
    assert [(row["arch"], row["kernel"], row["source"]) for row in rows] == [
        (80, "b", "compiled"),
        (90, "a", "compiled"),
        (90, "b", "a GPU"),
    ]
    assert rows[1]["num_stages"] == rows[2]["num_stages"] == 2
    update(table, [row(90, "b", KEY, later, "a GPU")])
    assert json.loads(table.read_text())["rows"][2]["num_warps"] == 8
    assert sum('"kernel"' in line for line in table.read_text().splitlines()) == 3


def test_the_table_holds_what_the_shipped_cases_ask() -> None:
    asked = questions(cases())
    rows = json.loads(TABLE.read_text())["rows"]
    places = {(row["arch"], row["kernel"], tuple(row["key"])) for row in rows}
    assert len(places) == len(rows)
    for arch, kernel, key in places:
        assert arch in _configs.SHARED_LIMIT
        default, _ = asked[kernel, key]
        tiles = _configs._tables()[arch][kernel, key].tiles
        assert tiles.keys() == default.tiles.keys()


def test_candidates_are_ranked_by_spills_before_anything_else() -> None:
    old, new = frozenset({"mma.sync"}), frozenset({"wgmma.mma_async"})
    good, candidate = Resources(128, 0, 40 * 1024, 0, 4, new), Config({"BLOCK_Q": 64}, 4, 1)
    spilling = Resources(64, 8, 1024, 0, 4, new)
    older = Resources(128, 0, 40 * 1024, 0, 4, old)
    edge = Resources(96, 0, 40 * 1024, 0, 4, new)
    ranked = sorted([spilling, edge, older, good], key=lambda one: rank(one, 90, candidate, room=one is not edge))
    assert ranked == [good, older, edge, spilling]
    assert estimate(good, 90, candidate) > estimate(good, 90, Config({"BLOCK_Q": 16}, 4, 1))


@pytest.mark.skipif(interpreting(), reason="nothing can be compiled under TRITON_INTERPRET=1")
def test_choosing_by_compiling(tmp_path: Path) -> None:
    table = tmp_path / "configs.json"
    table.write_text('{"rows": []}')
    tune(table, True, [90], ["reconstruction_loss_bwd"])
    rows = json.loads(table.read_text())["rows"]
    assert [(row["key"], row["source"]) for row in rows] == [([2], "compiled"), ([4], "compiled")]


def test_choosing_by_timing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "configs.json"
    table.write_text('{"rows": []}')
    prepare = Case.prepare

    def on_meta(case: Case, device: torch.device) -> Callable[[], list[Launch]]:
        call = prepare(case, torch.device("meta"))

        def launches() -> list[Launch]:
            with recording() as recorded:
                call()
            return recorded

        return launches

    def do_bench(call: Callable[[], list[Launch]], warmup: int, rep: int, return_mode: str) -> float:
        (launch,) = call()
        if launch.config.tiles["BLOCK"] == 1024:
            raise OutOfResources(2, 1, "shared memory")
        return 1.0 / launch.config.num_warps + launch.config.tiles["BLOCK"] / 1e6

    monkeypatch.setattr(Case, "prepare", on_meta)
    monkeypatch.setattr(triton.testing, "do_bench", do_bench)
    compiled: list[str] = []
    monkeypatch.setattr("benchmarks.tune._launch_all", lambda wanted: compiled.extend(kernel for kernel, *_ in wanted))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr("maedfer.kernels._configs.capability", lambda index: (8, 9))
    tune(table, False, None, ["reconstruction_loss_bwd"])
    assert compiled == 2 * ["reconstruction_loss_bwd"]
    rows = json.loads(table.read_text())["rows"]
    assert [row["key"] for row in rows] == [[2], [4]]
    for found in rows:
        assert (found["arch"], found["tiles"], found["num_warps"], found["source"]) == (86, {"BLOCK": 2048}, 8, "a GPU")


def test_what_cannot_be_tuned_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "configs.json"
    with pytest.raises(InputError, match="unknown kernel 'attention': did you mean"):
        tune(table, True, None, ["attention"])
    with pytest.raises(InputError, match="unknown case 'reconstruction': did you mean"):
        tune(table, True, None, None, names=["reconstruction"])
    with pytest.raises(InputError, match="unknown architecture '75'"):
        tune(table, True, [75], None)
    with pytest.raises(InputError, match="--arch goes with --ahead-of-time"):
        tune(table, False, [90], None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="add --ahead-of-time"):
        tune(table, False, None, None)
