"""Compare two results files row by row, or measure two revisions and compare those.

A median that moved by more than the threshold and out of both spreads (the 20th to the 80th percentile of each side do
not overlap) counts as slower or faster; anything less is noise.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from maedfer._native import MODULES
from maedfer.errors import InputError

THRESHOLD = 0.05
_ROUNDS = 2
_REPOSITORY = Path(__file__).resolve().parent.parent

Row = dict[str, Any]
Results = dict[str, Any]
_Key = tuple[str, str, str, str]


def read(path: Path) -> Results:
    """Read a results file.

    Raises:
        InputError: it cannot be read or is no results file.
    """
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    if not isinstance(results, dict) or "rows" not in results:
        raise InputError(f'{path} has no "rows": it is no results file of python -m benchmarks run')
    return results


def verdict(before: Row, after: Row, threshold: float = THRESHOLD) -> str:
    """ "slower", "faster" or "" for a change within the noise."""
    if after["ms"] > before["ms"] * (1 + threshold) and after["p20"] > before["p80"]:
        return "slower"
    if before["ms"] > after["ms"] * (1 + threshold) and before["p20"] > after["p80"]:
        return "faster"
    return ""


def regressions(before: Results, after: Results, threshold: float = THRESHOLD) -> list[str]:
    """What got slower, by name."""
    old, new = _timed(before), _timed(after)
    return [_name(key) for key in old if key in new and verdict(old[key], new[key], threshold) == "slower"]


def table(before: Results, after: Results, threshold: float = THRESHOLD) -> list[str]:
    """Lines for people: every row that both have with its ratio, then what only one of them has."""
    old, new = _timed(before), _timed(after)
    lines = [
        f"{side}: {results.get('machine', {}).get('device')}, commit {results.get('machine', {}).get('commit')}"
        for side, results in (("before", before), ("after", after))
    ]
    lines.append(f"{'':78} {'before ms':>11} {'after ms':>11} {'ratio':>7}")
    for key, row in old.items():
        if key in new:
            ratio = new[key]["ms"] / row["ms"]
            mark = verdict(row, new[key], threshold)
            lines.append(f"{_name(key):78} {row['ms']:11.4f} {new[key]['ms']:11.4f} {ratio:7.3f} {mark}".rstrip())
    for side, one, other in (("before", old, new), ("after", new, old)):
        lines += [f"{_name(key)}: only {side}" for key in one if key not in other]
    return lines


def merge(several: Sequence[Results]) -> Results:
    """One of several measurements of the same: for every row the one with the least median."""
    best: dict[_Key, Row] = {}
    for results in several:
        for key, row in _timed(results).items():
            if key not in best or row["ms"] < best[key]["ms"]:
                best[key] = row
    return {**several[0], "rows": list(best.values())}


def compare_revisions(revision: str, options: Sequence[str]) -> tuple[Results, Results]:
    """Measure another revision and this checkout in turns, each in processes of its own.

    Args:
        revision: what git knows it by; it is checked out in a temporary folder.
        options: of `run`.

    Returns:
        Both results, the revision's first.

    Raises:
        InputError: no such revision, or it cannot be measured.
    """
    with tempfile.TemporaryDirectory() as name, checked_out(revision, Path(name) / "base") as base:
        if not (base / "benchmarks" / "__main__.py").exists():
            raise InputError(f"revision {revision} has no benchmarks to run: choose a later one")
        _compile(base)
        measured: dict[Path, list[Results]] = {base: [], _REPOSITORY: []}
        for number in range(_ROUNDS):
            for tree, several in measured.items():
                several.append(_measure(tree, options, Path(name) / f"{number}.json"))
        return merge(measured[base]), merge(measured[_REPOSITORY])


@contextmanager
def checked_out(revision: str, folder: Path) -> Iterator[Path]:
    """A revision's files in a folder, for the time of a `with` block."""
    _git("worktree", "add", "--detach", str(folder), revision)
    try:
        yield folder
    finally:
        _git("worktree", "remove", "--force", str(folder))


def _git(*arguments: str) -> None:
    done = subprocess.run(["git", *arguments], cwd=_REPOSITORY, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["no message"]
        raise InputError(f"git {' '.join(arguments)}: {said[-1]}")


def _compile(tree: Path) -> None:
    """Compile those parts of a revision's csrc that this checkout has, so that like is compared with like."""
    parts = [part for part, module in MODULES.items() if module is not None]
    if not parts or not (tree / "csrc").is_dir():
        return
    print(f"compiling csrc ({', '.join(parts)}) of {tree}", flush=True)
    switches = {f"MAEDFER_BUILD_{part.upper()}": "1" if part in parts else "0" for part in MODULES}
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    done = subprocess.run(command, cwd=tree, env={**os.environ, **switches}, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["no message"]
        raise InputError(f"csrc of {tree} cannot be compiled: {said[-1]}")


def _measure(tree: Path, options: Sequence[str], out: Path) -> Results:
    print(f"measuring {tree}", flush=True)
    command = [sys.executable, "-m", "benchmarks", "run", *options, "--out", str(out)]
    done = subprocess.run(command, cwd=tree, env={**os.environ, "PYTHONPATH": str(tree)})
    if done.returncode:
        raise InputError(f"measuring {tree} ended with exit code {done.returncode}")
    return read(out)


def _timed(results: Results) -> dict[_Key, Row]:
    return {
        (row["workload"], row["size"], row["provider"], row["mode"]): row
        for row in results["rows"]
        if row.get("ms") is not None
    }


def _name(key: _Key) -> str:
    return "  ".join(key)
