"""The run: everything small on the CPU, and what happens when something is wrong. Nothing is asserted of times."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import __main__ as cli
from benchmarks.operations import OPERATIONS
from benchmarks.run import WORKLOADS, run, select
from benchmarks.workload import Settings, Workload
from maedfer.errors import InputError

SMALL = Settings(small=True, seconds=0.0, compiled="without")
REGION_ATTENTION = next(operation for operation in OPERATIONS if operation.name == "region_attention")


def by_provider(results: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in results["rows"]:
        found.setdefault(row["provider"], []).append(row)
    return found


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("results") / "micro.json"
    options = ["--small", "--sweep", "--device", "cpu", "--seconds", "0", "--compile", "without"]
    assert cli.main(["run", *options, "--out", str(out)]) == 0
    return out


def test_every_workload_is_measured_and_nothing_fails(everything: Path) -> None:
    results = json.loads(everything.read_text())
    assert {row["workload"] for row in results["rows"]} == {workload.name for workload in WORKLOADS}
    assert [row for row in results["rows"] if "failed" in row] == []
    timed = [row for row in results["rows"] if "ms" in row]
    for row in timed:
        assert row["p20"] <= row["ms"] <= row["p80"] and row["calls"] >= 3
        assert row["clips_per_s"] == pytest.approx(1e3 * row["sizes"]["B"] / row["ms"])
        assert row["of_floor"] == pytest.approx(row["floor_ms"] / row["ms"])
        assert row["error_of_budget"] <= 1 and row["bytes"] > 0 and row["memory_bytes"] is None
    assert {row["mode"] for row in timed} == {"forward", "backward", "both", "step"}
    assert all("ours" in {row["provider"] for row in timed if row["workload"] == w.name} for w in WORKLOADS)


def test_the_file_says_where_it_was_made(everything: Path) -> None:
    results = json.loads(everything.read_text())
    keys = ("device", "torch", "triton", "python", "commit", "date", "TRITON_DEFAULT_FP_FUSION")
    assert set(keys) <= set(results["machine"])
    assert results["settings"]["dtype"] == "float32" and results["settings"]["small"] is True
    assert set(results["floors"]) == {"copy_bytes_per_s", "product_flops_per_s"}
    # They are for GPUs.
    assert results["goals"] == []


def test_losses_of_one_family_agree(everything: Path) -> None:
    rows = [row for row in json.loads(everything.read_text())["rows"] if row["workload"] == "pretrain_step"]
    ours, reference = (next(row["losses"] for row in rows if row["provider"] == name) for name in ("ours", "reference"))
    assert len(ours) == 3 and ours == pytest.approx(reference, rel=1e-4)


def test_what_cannot_run_says_why(everything: Path) -> None:
    skipped = {
        row["provider"]: row["skipped"] for row in json.loads(everything.read_text())["rows"] if "skipped" in row
    }
    assert set(skipped) - {"torch"} == {"flex_attention", "xformers", "ours_graph", "native", "pass"}
    assert skipped["ours_graph"] == "CUDA graphs need a GPU"


def test_plots_lie_beside_the_file(everything: Path) -> None:
    names = {path.name for path in everything.parent.iterdir()}
    assert names == {"micro.json", "micro_growth.png", "micro_floor.png"}


def test_a_provider_that_is_wrong_is_not_timed() -> None:
    calls: list[int] = []

    def wrong(settings: Settings, sizes: dict[str, Any]) -> Any:
        def attend(qkv: Tensor) -> Tensor:
            calls.append(1)
            out = REGION_ATTENTION.call(sizes, "reference", qkv)
            assert isinstance(out, Tensor)
            return out * 1.01

        return attend

    operation = replace(REGION_ATTENTION, rows=(101,), others={"wrong": wrong})
    found = by_provider(run([operation.workload()], SMALL))
    assert len(found["wrong"]) == 1 and "output 0 is wrong by" in found["wrong"][0]["failed"]
    assert "ms" not in found["wrong"][0] and len(calls) == 1
    assert len(found["ours"]) == 3


def test_an_exception_is_a_row_and_the_run_goes_on(tmp_path: Path) -> None:
    def broken(settings: Settings, sizes: dict[str, Any]) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory\nTried to allocate")

    def fragile(settings: Settings, sizes: dict[str, Any]) -> Any:
        raise RuntimeError

    bad = Workload("bad", lambda settings: {"only": {"B": 1}}, broken)
    operation = replace(REGION_ATTENTION, rows=(101,), others={"fragile": fragile})
    out = tmp_path / "results.json"
    run([bad, operation.workload()], SMALL, out)
    found = by_provider(json.loads(out.read_text()))
    assert found["all"][0]["failed"] == "OutOfMemoryError: CUDA out of memory"
    assert found["fragile"][0]["failed"] == "RuntimeError: no message"
    assert len(found["ours"]) == 3


def test_a_run_that_is_cut_off_leaves_what_it_had(tmp_path: Path) -> None:
    def interrupted(settings: Settings, sizes: dict[str, Any]) -> Any:
        raise KeyboardInterrupt

    operation = replace(REGION_ATTENTION, rows=(101,), others={})
    out = tmp_path / "results.json"
    with pytest.raises(KeyboardInterrupt):
        run([operation.workload(), Workload("cut", lambda settings: {"": {"B": 1}}, interrupted)], SMALL, out)
    assert len(json.loads(out.read_text())["rows"]) == 6


def test_what_is_left_when_time_is_up_is_recorded() -> None:
    results = run([REGION_ATTENTION.workload()], SMALL, budget=0.0)
    assert [(row["size"], row["skipped"]) for row in results["rows"]] == [
        ("S=5", "out of time"),
        ("S=9", "out of time"),
    ]


def test_providers_can_be_chosen() -> None:
    results = run([REGION_ATTENTION.workload()], replace(SMALL, providers=("ours",)))
    assert {row["provider"] for row in results["rows"]} == {"ours"}
    assert [settings.wants("reference_compiled") for settings in (SMALL, replace(SMALL, compiled="only"))] == [
        False,
        True,
    ]


def test_names_and_their_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "--list"]) == 0
    assert "sweep_step (with --sweep)" in capsys.readouterr().out
    assert not any(workload.in_sweep for workload in select([], sweep=False))
    with pytest.raises(InputError, match="did you mean 'region_attention'"):
        select(["region_atention"], sweep=False)
    assert cli.main(["run", "--op", "nothing", "--device", "cpu"]) == 2
    assert capsys.readouterr().err.startswith("benchmarks: error: unknown operation 'nothing'")
    assert cli.main(["run", "--batch", "0", "--device", "cpu"]) == 2
