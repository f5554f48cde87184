"""`make gpu` with stand-ins for the tests and the benchmarks."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import gpu
from benchmarks.run import WORKLOADS
from tests.benchmarks.rows import row

GOOD = "tests/a.py::test_good[1-2] PASSED [100%]\n"
BAD = """\
collected 5 items
tests/a.py::test_good PASSED                 [ 20%]
tests/a.py::test_bad[a b] FAILED             [ 40%]
tests/a.py::test_broken ERROR                [ 60%]
tests/a.py::test_absent SKIPPED (no reason)  [ 80%]
"""
CUT = BAD + "tests/a.py::test_crash "
SHARED = """\
tests/a.py::test_good[a b]
tests/a.py::test_bad
[gw0] [ 16%] PASSED tests/a.py::test_good[a b]
tests/a.py::test_slow
[gw11] [ 50%] FAILED tests/a.py::test_bad
tests/a.py::test_crash
[gw0] node down: Not properly terminated
[gw0] [100%] FAILED tests/a.py::test_crash

FAILED tests/a.py::test_bad - assert 0
"""
FLOORS = {"copy_bytes_per_s": 1e12, "product_flops_per_s": 1e15}


class Stub:
    """Takes the place of subprocess.run.

    Args:
        said: what pytest prints.
        code: what pytest ends with; None when it does not end.
        dies_at: the workload that takes the process with it.
    """

    def __init__(self, said: str = GOOD, code: int | None = 0, dies_at: str | None = None) -> None:
        self.said, self.code, self.dies_at = said, code, dies_at
        self.commands: list[list[str]] = []

    def __call__(self, command: list[str], timeout: float, **options: Any) -> subprocess.CompletedProcess:
        self.commands.append(command)
        if "pytest" in command:
            options["stdout"].write(self.said)
            if self.code is None:
                raise subprocess.TimeoutExpired(command, timeout)
            return subprocess.CompletedProcess(command, self.code)
        names = command[command.index("--op") + 1 : command.index("--device")]
        provider = "ours" if command[command.index("--compile") + 1] == "without" else "reference_compiled"
        code = 0
        if self.dies_at in names:
            names, code = names[: names.index(self.dies_at)], -11
        rows = [row(name, "B=1", provider, "both", 1.0, of_floor=0.5) for name in names]
        results = {"machine": {"device": "a GPU"}, "floors": FLOORS, "rows": rows}
        Path(command[command.index("--out") + 1]).write_text(json.dumps(results))
        return subprocess.CompletedProcess(command, code)


@pytest.fixture
def has_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    memory = SimpleNamespace(total_memory=80 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: memory)


def run(monkeypatch: pytest.MonkeyPatch, stub: Stub, out: Path, *options: str) -> tuple[int, dict[str, Any]]:
    monkeypatch.setattr(subprocess, "run", stub)
    code = gpu.main(["--out", str(out), *options])
    return code, json.loads(out.read_text())


def test_without_a_gpu_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert gpu.main(["--out", str(tmp_path / "gpu.json")]) == 2
    assert capsys.readouterr().err == "benchmarks: error: PyTorch finds no CUDA device here\n"
    assert list(tmp_path.iterdir()) == []


def test_tests_of_several_processes_are_counted() -> None:
    found = gpu.count(SHARED)
    assert [found[kind] for kind in ("passed", "failed", "errors", "skipped")] == [1, 2, 0, 0]
    assert found["names"] == ["tests/a.py::test_bad", "tests/a.py::test_crash"]
    assert found["unfinished"] == "tests/a.py::test_slow"


@pytest.mark.usefixtures("has_gpu")
def test_one_file_has_tests_and_measurements(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stub = Stub()
    code, results = run(monkeypatch, stub, tmp_path / "gpu.json", "tests/kernels")
    assert code == 0 and results["tests"]["ok"] and results["tests"]["passed"] == 1
    assert stub.commands[0][-1] == "tests/kernels"
    assert {one["workload"] for one in results["rows"]} == {workload.name for workload in WORKLOADS}
    assert {one["provider"] for one in results["rows"]} == {"ours", "reference_compiled"}
    assert results["machine"] == {"device": "a GPU"} and results["problems"] == [] and results["goals"]


@pytest.mark.usefixtures("has_gpu")
def test_failed_tests_are_named_and_benchmarks_run_all_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, results = run(monkeypatch, Stub(BAD, code=1), tmp_path / "gpu.json")
    assert code == 1 and results["tests"]["names"] == ["tests/a.py::test_bad[a b]", "tests/a.py::test_broken"]
    assert [results["tests"][kind] for kind in ("passed", "failed", "errors", "skipped")] == [1, 1, 1, 1]
    assert len(results["rows"]) >= len(WORKLOADS)
    assert "tests/a.py::test_broken" in capsys.readouterr().out


@pytest.mark.usefixtures("has_gpu")
@pytest.mark.parametrize(
    ("code", "problem"), [(None, "pytest was not done after 240 s"), (-11, "pytest ended with exit code -11")]
)
def test_tests_that_hang_or_crash_keep_what_was_done(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int | None, problem: str
) -> None:
    exit_code, results = run(monkeypatch, Stub(CUT, code), tmp_path / "gpu.json")
    assert exit_code == 1 and results["tests"]["problem"] == f"{problem}, in tests/a.py::test_crash"
    assert results["tests"]["passed"] == 1 and len(results["rows"]) >= len(WORKLOADS)


@pytest.mark.usefixtures("has_gpu")
def test_a_benchmark_that_dies_takes_only_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stub = Stub(dies_at="layer_norm")
    _, results = run(monkeypatch, stub, tmp_path / "gpu.json")
    assert set(results["problems"]) == {"benchmarks ended with exit code -11"}
    ours = [one["workload"] for one in results["rows"] if one["provider"] == "ours"]
    assert sorted([*ours, "layer_norm"]) == sorted(workload.name for workload in WORKLOADS)
    failed = [(one["workload"], one["provider"]) for one in results["rows"] if "failed" in one]
    assert failed == [("layer_norm", "all"), ("layer_norm", "all_compiled")]


@pytest.mark.usefixtures("has_gpu")
def test_no_time_left_is_recorded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    results: dict[str, Any] = {"rows": []}
    gpu.measure(results, tmp_path / "gpu.json", deadline=time.monotonic())
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert {one["skipped"] for one in rows} == {"out of time"}
    assert {one["provider"] for one in rows} == {"all", "all_compiled"}
