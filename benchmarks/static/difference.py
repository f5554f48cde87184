"""Two results of `python -m benchmarks static` beside each other: what changed, and what of it is worse."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.compare import checked_out
from benchmarks.static.results import Results, of_kinds, read
from maedfer.errors import InputError

# What is compared of a launch, and whether less of it is better.
_LESS_IS_BETTER = {
    "registers": None,
    "shared": None,
    "spills": True,
    "programs": False,
    "waves": None,
    "instructions": None,
    "tile_barriers": None,
    "row_barriers": True,
    "narrowest_load": False,
    "narrowest_store": False,
    "bytes": True,
}
# Narrower than this is worse than wider, and wider no better.
_WIDE = 16
# Bytes that grow by less are those of small tensors.
_SLACK = 1.001

_Launches = dict[tuple[str, str], dict[str, Any]]

_HERE = Path(__file__).resolve().parent
# What another revision is counted by: this folder and what it needs.
_OURS = (_HERE, _HERE.parent / "ahead_of_time.py", _HERE.parent / "results_file.py")


def table(before: Results, after: Results) -> list[str]:
    """Lines for people: of every launch, case and trace what changed."""
    lines = [f"{side}: commit {one['machine'].get('commit')}, torch {one['machine']['torch']}, "
             f"Triton {one['machine']['triton']}, sm_{one['arch']}, {one['dtype']}"
             for side, one in (("before", before), ("after", after))]  # fmt: skip
    for name, (old, new) in _both(before["traces"], after["traces"]).items():
        lines += [
            f"{name} {stage}: " + ", ".join(_change(what, a[what], b[what]) for what in a)
            for stage, (a, b) in _both(_stages(old), _stages(new)).items()
        ]
    for name, (a, b) in _both(_cases(before), _cases(after)).items():
        if changed := _changes(a, b, a):
            lines.append(f"{name}: {changed}")
    old_launches, new_launches = _launches(before), _launches(after)
    for key, (a, b) in _both(old_launches, new_launches).items():
        if changed := _changes(a, b, _LESS_IS_BETTER):
            lines.append(f"{' '.join(key)}: {changed}")
    for side, one, other in (("before", old_launches, new_launches), ("after", new_launches, old_launches)):
        lines += [f"{' '.join(key)}: only {side}" for key in one if key not in other]
    return lines


def worse(before: Results, after: Results, compiled: bool = True) -> list[str]:
    """What got worse, a line each.

    Args:
        before, after: results.
        compiled: also what depends on the compiler, else only launches and bytes.
    """
    found = []
    for name, (old, new) in _both(before["traces"], after["traces"]).items():
        for stage, (a, b) in _both(_stages(old), _stages(new)).items():
            found += [
                f"{name} {stage}: {_change(what, a[what], b[what])}" for what in a if _is_worse(what, a[what], b[what])
            ]
    for name, (a, b) in _both(_cases(before), _cases(after)).items():
        found += [f"{name}: {_change(what, a[what], b[what])}" for what in a if _is_worse(what, a[what], b[what])]
    for key, (a, b) in _both(_launches(before), _launches(after)).items() if compiled else ():
        for what, less in _LESS_IS_BETTER.items():
            if less is not None and _is_worse(what, a[what], b[what], less):
                found.append(f"{' '.join(key)}: {_change(what, a[what], b[what])}")
    return found


def _is_worse(what: str, before: Any, after: Any, less: bool = True) -> bool:
    if before is None or after is None:
        return False
    if what.startswith("narrowest"):
        return after < min(before, _WIDE)
    if what == "bytes":
        return after > before * _SLACK
    return after > before if less else after < before


def _both(before: dict[Any, Any], after: dict[Any, Any]) -> dict[Any, tuple[Any, Any]]:
    return {key: (value, after[key]) for key, value in before.items() if key in after}


def _stages(trace: dict[str, Any]) -> dict[str, dict[str, int]]:
    return {stage: of_kinds(kinds) for stage, kinds in trace["stages"].items()}


def _cases(results: Results) -> dict[str, dict[str, int]]:
    """Launches and bytes of each case, however many kernels share its work."""
    found: dict[str, dict[str, int]] = {}
    for row in results["kernels"]:
        case = found.setdefault(row["case"], {"launches": 0, "bytes": 0})
        case["launches"] += 1
        case["bytes"] += row["bytes"]
    return found


def _launches(results: Results) -> _Launches:
    return {(row["case"], row["kernel"]): row for row in results["kernels"]}


def _changes(before: dict[str, Any], after: dict[str, Any], names: Iterable[str]) -> str:
    return ", ".join(line for name in names if " -> " in (line := _change(name, before[name], after[name])))


def _change(what: str, before: Any, after: Any) -> str:
    if what == "bytes":
        before, after = (f"{value / 1e6:.1f}" for value in (before, after))
        what = "MB"
    return f"{what} {before}" if before == after else f"{what} {before} -> {after}"


def count_revision(revision: str, options: Sequence[str]) -> Results:
    """Count another revision's package and shipped launches by the code of this one.

    Args:
        revision: what git knows it by; it is checked out in a temporary folder.
        options: of `python -m benchmarks static`.

    Raises:
        InputError: no such revision, or it cannot be counted.
    """
    with tempfile.TemporaryDirectory() as name, checked_out(revision, Path(name) / "base") as base:
        for source in _OURS:
            target = base / source.relative_to(_HERE.parent.parent)
            if source.is_dir():
                shutil.copytree(source, target, dirs_exist_ok=True)
            else:
                shutil.copy(source, target)
        out = Path(name) / "static.json"
        command = [sys.executable, "-m", "benchmarks.static", *options, "--out", str(out)]
        done = subprocess.run(command, cwd=base, env={**os.environ, "PYTHONPATH": str(base)}, stderr=subprocess.PIPE)
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
            raise InputError(f"revision {revision} cannot be counted: {said[-1]}")
        results = read(out)
    # The files that were copied make any revision a changed one.
    results["machine"]["commit"] = str(results["machine"]["commit"]).removesuffix("-dirty")
    return results
