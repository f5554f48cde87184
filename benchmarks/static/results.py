"""Results of `python -m benchmarks static`: making, keeping and printing them."""

from __future__ import annotations

import json
import multiprocessing
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import machine
from benchmarks.shipped import cases
from benchmarks.static import steps
from benchmarks.static.counter import KINDS
from benchmarks.static.kernels import case_rows
from benchmarks.static.pretend import PROCESSORS
from maedfer.errors import InputError, unknown

Results = dict[str, Any]

# So many cases are compiled by one process alone.
_FEW = 4
_PROCESSES = 2
# Bytes of a tensor from which on it is said how often it is asked for.
_LARGE = 1_000_000


def static(
    arch: int,
    dtype: torch.dtype,
    names: Sequence[str] = ("",),
    say: Callable[[str], Any] = print,
    strict: bool = True,
) -> Results:
    """Count everything.

    Args:
        arch: what is compiled for.
        dtype: of the products.
        names: what names of cases and traces begin with.
        say: is told a line of each that is done.
        strict: whether there must be a case of each name.

    Raises:
        InputError: no such case, or no such architecture.
    """
    if arch not in PROCESSORS:
        raise unknown("architecture", arch, PROCESSORS)
    kernels = [str(case) for case in cases((dtype,))]
    every = [*kernels, *steps.TRACES]
    for name in names:
        if strict and not any(one.startswith(name) for one in every):
            raise unknown("case", name, every)
    chosen = [one for one in every if one.startswith(tuple(names))]
    # What takes longest begins first.
    order = sorted(chosen, key=lambda one: one not in steps.TRACES)
    found: dict[str, Any] = {}
    arguments = [(one, arch, dtype) for one in order]
    if len(chosen) <= _FEW:
        parts = map(_one, arguments)
        found = {name: _told(part, say) for name, part in parts}
    else:
        with ProcessPoolExecutor(_PROCESSES, multiprocessing.get_context("spawn")) as pool:
            found = {name: _told(part, say) for name, part in pool.map(_one, arguments)}
    about = {name: value for name, value in machine().items() if name not in ("device", "cpu_capability")}
    return {
        "machine": about,
        "arch": arch,
        "processors": PROCESSORS[arch],
        "dtype": str(dtype).removeprefix("torch."),
        "kernels": [row for name in kernels if name in found for row in found[name]],
        "traces": {name: found[name] for name in steps.TRACES if name in found},
    }


def _one(arguments: tuple[str, int, torch.dtype]) -> tuple[str, Any]:
    name, arch, dtype = arguments
    torch.set_num_threads(1)
    try:
        if name in steps.TRACES:
            return name, {"name": name, "clips": steps.CLIPS[name], **steps.trace(name, arch, dtype)}
        return name, case_rows(next(case for case in cases((dtype,)) if str(case) == name), arch)
    except InputError:
        raise
    except Exception:
        # Not every error can be handed on by a process.
        raise RuntimeError(f"{name}: {traceback.format_exc()}") from None


def _told(part: Any, say: Callable[[str], Any]) -> Any:
    for line in trace_lines(part) if isinstance(part, dict) else map(kernel_line, part):
        say(line)
    return part


def of_kinds(stage: dict[str, dict[str, int]]) -> dict[str, int]:
    """Launches, those that are tiny, and bytes of one stage of a trace."""
    launches, moved = (sum(kind[what] for kind in stage.values()) for what in ("launches", "bytes"))
    return {"launches": launches, "tiny": stage["tiny"]["launches"], "bytes": moved}


def kernel_line(row: dict[str, Any]) -> str:
    """A compiled launch for people."""
    matrix = ", ".join(f"{count} {name}" for name, count in row["matrix"].items()) or "no matrix instructions"
    widths = " ".join(f"{name}x{count}" for name, count in row["widths"].items())
    rows = "" if row["tile_rows"] is None else f" for {row['tile_rows']} rows"
    narrow = " ".join(
        f"{what} {row[f'narrowest_{what}']}" for what in ("load", "store") if row[f"narrowest_{what}"] is not None
    )
    again = [
        f"{name} {tensor['asked_for'] / tensor['once']:.1f}x"
        for name, tensor in row["tensors"].items()
        if tensor["once"] >= _LARGE and (tensor["asked_for"] or 0) > 1.5 * tensor["once"]
    ]
    return (
        f"{row['case']} {row['kernel']}: {row['registers']} registers of {row['warps']} warps, "
        f"{row['shared']} bytes shared, {row['spills']} spilled, {row['programs']} programs at once, "
        f"grid {row['grid']}, {row['waves']} waves; {row['instructions']} instructions, {matrix}, {widths}, "
        f"{row['tile_barriers']} barriers a tile{rows}"
        + (f"; narrowest on rows: {narrow} bytes" if narrow else "")
        + f"; {row['bytes'] / 1e6:.1f} MB"
        + (f", asked for again: {', '.join(again)}" if again else "")
    )


def trace_lines(trace: dict[str, Any]) -> list[str]:
    """A block or a step for people: launches and bytes of each stage, by kind."""
    lines = []
    for stage, kinds in trace["stages"].items():
        total = of_kinds(kinds)
        parts = ", ".join(f"{kinds[kind]['launches']} {kind} {kinds[kind]['bytes'] / 1e6:.0f} MB" for kind in KINDS)
        moved = f"{total['bytes'] / 1e6:.0f} MB, {total['bytes'] / 1e6 / trace['clips']:.1f} a clip"
        lines.append(f"{trace['name']} {stage}: {total['launches']} launches, {moved} ({parts})")
    return lines


def write(results: Results, path: Path) -> None:
    """Write a results file, a line for each row of it."""
    rows = ",\n".join(f"  {json.dumps(row)}" for row in results["kernels"])
    traces = ",\n".join(f"  {json.dumps(name)}: {_trace_text(trace)}" for name, trace in results["traces"].items())
    head = "".join(
        f" {json.dumps(name)}: {json.dumps(value)},\n"
        for name, value in results.items()
        if name not in ("kernels", "traces")
    )
    text = f'{{\n{head} "kernels": [\n{rows}\n ],\n "traces": {{\n{traces}\n }}\n}}\n'
    path.write_text(text, encoding="utf-8")


def _trace_text(trace: dict[str, Any]) -> str:
    callers = ",\n".join(f"    {json.dumps(caller)}" for caller in trace["callers"])
    head = json.dumps({name: value for name, value in trace.items() if name != "callers"})
    return f'{head[:-1]}, "callers": [\n{callers}\n  ]}}'


def read(path: Path) -> Results:
    """Read a results file.

    Raises:
        InputError: it cannot be read or is none.
    """
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    if not isinstance(results, dict) or not {"kernels", "traces"} <= results.keys():
        raise InputError(f'{path} has no "kernels" and "traces": it is no results file of python -m benchmarks static')
    return results
