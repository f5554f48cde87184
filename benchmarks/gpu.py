"""All GPU tests, then all benchmarks, into one file that says what passed and what was measured (`make gpu`).

    python -m benchmarks.gpu                    # benchmarks/results/gpu.json, within 10 minutes on an H100
    python -m benchmarks.gpu tests/kernels      # only these tests

Tests and benchmarks run in processes of their own, each with a time limit, so that neither takes the other down. Tests
share the GPU where pytest-xdist is installed, as most of their time goes into compiling kernels. A benchmark that loses
the GPU is started again for what it had not come to. But for training steps, what torch.compile makes is measured last,
because making it takes longer than all the rest.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import goals
from benchmarks.compare import read
from benchmarks.model_steps import MODELS
from benchmarks.plots import draw
from benchmarks.results_file import make_place, write
from benchmarks.run import WORKLOADS
from benchmarks.workload import COMPILED
from maedfer.errors import InputError, MissingDependencyError

RESULTS = Path(__file__).with_name("results") / "gpu.json"
_REPOSITORY = Path(__file__).resolve().parent.parent

# Of the whole, and of it the tests at most. What is left ends in time by itself; the limit is for what hangs.
_SECONDS, _TEST_SECONDS, _GRACE = 480.0, 240.0, 30.0


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code: 1 when a test failed or nothing was measured."""
    # What is not ours is for pytest, whole or abbreviated.
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("--out", type=Path, default=RESULTS, help="results file")
    parser.add_argument("--seconds", type=float, default=_SECONDS, help="for everything")
    args, test_args = parser.parse_known_args(argv)
    if not torch.cuda.is_available():
        print("benchmarks: error: PyTorch finds no CUDA device here", file=sys.stderr)
        return 2
    try:
        make_place(args.out)
    except InputError as error:
        print(f"benchmarks: error: {error}", file=sys.stderr)
        return 2
    deadline = time.monotonic() + args.seconds
    results: dict[str, Any] = {"tests": run_tests(test_args, min(_TEST_SECONDS, 0.6 * args.seconds)), "rows": []}
    print(summary(results["tests"]), flush=True)
    write(args.out, results)
    measure(results, args.out, deadline)
    print("\n".join(["", "goals", *goals.lines(results.get("goals", []))]))
    print(summary(results["tests"]))
    print(f"wrote {args.out}")
    try:
        draw(results, args.out)
    except MissingDependencyError as error:
        print(f"no plots: {error}", file=sys.stderr)
    return 0 if results["tests"]["ok"] and any(row.get("ms") for row in results["rows"]) else 1


def run_tests(arguments: list[str], limit: float) -> dict[str, Any]:
    """Run the tests marked gpu; prints what pytest said unless all is well.

    Args:
        arguments: for pytest.
        limit: seconds.

    Returns:
        "ok", counts of "passed", "failed", "errors" and "skipped", names of those that failed, and "problem", what
        kept pytest from ending as it should.
    """
    command = [sys.executable, "-m", "pytest", "-v", "-m", "gpu", "--color=no", *_processes(), *arguments]
    print("running all tests that need a GPU", flush=True)
    problem = None
    with tempfile.TemporaryFile("w+") as log:
        try:
            code = subprocess.run(
                command, cwd=_REPOSITORY, timeout=limit, stdout=log, stderr=subprocess.STDOUT
            ).returncode
            # 1 is a test that failed, 5 no test at all; a signal is negative.
            if code not in (0, 1):
                problem = f"pytest ended with exit code {code}"
        except subprocess.TimeoutExpired:
            problem = f"pytest was not done after {limit:.0f} s"
        log.seek(0)
        said = log.read()
    found = count(said)
    if problem and found["unfinished"]:
        problem += f", in {found['unfinished']}"
    found.pop("unfinished")
    ok = problem is None and not found["failed"] and not found["errors"] and found["passed"] > 0
    if not ok:
        print(said)
    return {"ok": ok, **found, "problem": problem}


# GPU memory that a process of tests may come to need.
_TEST_MEMORY = 5 * 2**30


def _processes() -> list[str]:
    """How many processes share the tests, as options of pytest."""
    if importlib.util.find_spec("xdist") is None:
        return []
    memory = torch.cuda.get_device_properties(0).total_memory
    return ["-n", str(max(1, min(16, os.cpu_count() or 1, memory // _TEST_MEMORY))), "--dist", "worksteal"]


_OUTCOMES = {"PASSED": "passed", "FAILED": "failed", "ERROR": "errors", "SKIPPED": "skipped", "XFAIL": "skipped"}
_LINE = re.compile(
    r"^(?:\[gw\d+\] \[ *\d+%\] (?P<first>PASSED|FAILED|ERROR|SKIPPED|XFAIL) )?"
    r"(?P<name>\S+\.py::.+?)(?: (?P<last>PASSED|FAILED|ERROR|SKIPPED|XFAIL)\b.*)? *$",
    re.MULTILINE,
)


def count(said: str) -> dict[str, Any]:
    """Counts and names from what pytest -v prints: a line when a test begins, on which its outcome follows; with
    several processes the outcome has a line of its own.

    A report file would be written at the end only, and a test that takes the process with it leaves no end.
    """
    found: dict[str, Any] = {**dict.fromkeys(_OUTCOMES.values(), 0), "names": []}
    running: dict[str, None] = {}
    for match in _LINE.finditer(said):
        name, outcome = match["name"].strip(), match["first"] or match["last"]
        running[name] = None
        if outcome:
            found[_OUTCOMES[outcome]] += 1
            running.pop(name)
        if outcome in ("FAILED", "ERROR"):
            found["names"].append(name)
    return {**found, "unfinished": " and ".join(running) or None}


def summary(tests: dict[str, Any]) -> str:
    """The tests in one sentence, with the names of those that failed."""
    text = ", ".join(f"{tests[kind]} {kind}" for kind in ("passed", "failed", "errors", "skipped"))
    problem = f"; {tests['problem']}" if tests["problem"] else ""
    return "\n  ".join([f"tests: {text}{problem}", *tests["names"]])


def measure(results: dict[str, Any], out: Path, deadline: float) -> None:
    """Run all benchmarks; fills and writes `results`.

    Args:
        results: gets "rows", "problems" and whatever else a results file has.
        out: written after every process.
        deadline: on time.monotonic().
    """
    results["problems"] = []
    for compiled, names in _turns():
        left = list(names)
        while left and deadline - time.monotonic() > _GRACE:
            found, problem = _run_benchmarks(left, compiled, deadline - time.monotonic() - _GRACE)
            found_rows = found.pop("rows", [])
            results["rows"] += found_rows
            # The machine and its floors are those of the first process, which measured what is ours.
            for key, value in found.items():
                results.setdefault(key, value)
            results["goals"] = goals.goals(results["rows"], results.get("floors", {}))
            if problem is None:
                left = []
            else:
                results["problems"].append(problem)
                done = {row["workload"] for row in found_rows}
                rest = [name for name in left if name not in done]
                if len(rest) == len(left):
                    # It ended before its first workload had a row, and would do so again.
                    results["rows"].append(_row(rest.pop(0), compiled, failed=problem))
                left = rest
            write(out, results)
        results["rows"] += [_row(name, compiled, skipped="out of time") for name in left]
    write(out, results)


def _turns() -> list[tuple[str, list[str]]]:
    """What is measured one after the other: with or without what torch.compile makes, and which workloads.

    Training steps come compiled before single operations do, as the goals judge them so.
    """
    models = [workload.name for workload in MODELS]
    steps = [name for name in models if name.endswith("_step")]
    others = [workload.name for workload in WORKLOADS if workload.name not in models]
    compiled = [workload.name for workload in WORKLOADS if not workload.in_sweep and workload.name not in steps]
    return [("without", models), ("only", steps), ("without", others), ("only", compiled)]


def _row(name: str, compiled: str, **outcome: str) -> dict[str, Any]:
    provider = f"all{COMPILED}" if compiled == "only" else "all"
    return {"workload": name, "size": "all", "sizes": {}, "provider": provider, "mode": None, **outcome}


def _run_benchmarks(names: list[str], compiled: str, budget: float) -> tuple[dict[str, Any], str | None]:
    """What was measured, and what went wrong."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "part.json"
        options = ["--device", "cuda", "--dtype", "bfloat16", "--seconds", "0.2", "--compile", compiled]
        options += ["--budget", f"{budget:.0f}", "--out", str(out)]
        command = [sys.executable, "-m", "benchmarks", "run", "--op", *names, *options]
        problem = None
        try:
            # What has been begun is finished: beyond the budget, but not for ever.
            code = subprocess.run(command, cwd=_REPOSITORY, timeout=budget + _GRACE).returncode
            problem = f"benchmarks ended with exit code {code}" if code else None
        except (subprocess.TimeoutExpired, OSError) as error:
            problem = f"benchmarks: {error}"
        try:
            return read(out), problem
        except InputError as error:
            return {}, problem or str(error)


if __name__ == "__main__":
    sys.exit(main())
