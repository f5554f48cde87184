"""Choose tile shapes, warps and stages of the kernels and write the table that the launchers read.

    python -m benchmarks.tune                                     # time candidates on this machine's GPU
    python -m benchmarks.tune --cases linear_gelu_fwd-training-bfloat16   # those that this case asks for
    python -m benchmarks.tune --ahead-of-time                     # compile them instead; needs no GPU
    python -m benchmarks.tune --ahead-of-time --kernels attention_fwd --arch 90

Every shipped case that asks for a (kernel, key) is launched with each candidate through its own launcher. Timing takes
the least sum of medians over those cases; before, as many processes as there are processors compile the candidates.
Compiling takes, of the candidates that fit and have room (see `benchmarks/budgets.py`), the one with the highest
estimate (see `estimate`) in its worst case; a table that is to serve several versions of Triton is made with one and
gone over with the others and --keep. Rows that rest on a measurement are replaced by other measurements only. Whether
the table keeps within the budgets: python -m benchmarks ahead-of-time.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from triton.errors import TritonError

import maedfer.kernels
from benchmarks.ahead_of_time import ARCHITECTURES, MATRIX_INSTRUCTIONS, Resources, compile_launch, has_room
from benchmarks.budgets import ROOM
from benchmarks.results_file import make_place
from benchmarks.shipped import Case, cases
from maedfer._files import atomic_path
from maedfer.errors import InputError, unknown
from maedfer.kernels import _configs
from maedfer.kernels._configs import SHARED_LIMIT, Config, force

TABLE = Path(maedfer.kernels.__file__).with_name("configs.json")

COMPILED = "compiled"

_Key = tuple[int, ...]
_Row = dict[str, Any]


def main() -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ahead-of-time", action="store_true", help="compile candidates instead of timing them")
    parser.add_argument(
        "--arch", type=int, nargs="+", help=f"tables to compile for ({' '.join(map(str, SHARED_LIMIT))})"
    )
    parser.add_argument("--kernels", nargs="+", help="names in the table (all)")
    parser.add_argument("--cases", nargs="+", help="only what these shipped cases ask for (all)")
    parser.add_argument("--keep", action="store_true", help="leave rows alone that fit and have room")
    parser.add_argument("--out", type=Path, default=TABLE, help="table to update")
    args = parser.parse_args()
    try:
        tune(args.out, args.ahead_of_time, args.arch, args.kernels, args.keep, args.cases)
    except InputError as error:
        print(f"tune: error: {error}", file=sys.stderr)
        return 2
    return 0


def tune(
    table: Path,
    ahead_of_time: bool,
    archs: list[int] | None,
    kernels: list[str] | None,
    keep: bool = False,
    names: list[str] | None = None,
) -> None:
    """Choose configurations and update the table.

    Args:
        table: file to read and write; made when it is not there.
        ahead_of_time: compile instead of timing.
        archs: architectures to compile for.
        kernels: names in the table; None for all.
        keep: leave rows alone that fit and have room.
        names: of shipped cases, to choose only for what they ask; None for all.

    Raises:
        InputError: there is no GPU to time on, no such architecture, kernel or case, or the table cannot be written.
    """
    if ahead_of_time:
        archs, source = archs or list(SHARED_LIMIT), COMPILED
    elif archs:
        raise InputError("--arch goes with --ahead-of-time: timing is for the GPU that is here")
    elif not torch.cuda.is_available():
        raise InputError("there is no GPU to time on: add --ahead-of-time to choose by compiling")
    else:
        archs, source = [_configs._table_of(_configs.architecture(torch.device("cuda")))], torch.cuda.get_device_name()
    shipped = cases()
    for name in names or []:
        if name not in map(str, shipped):
            raise unknown("case", name, map(str, shipped))
    wanted = questions([case for case in shipped if not names or str(case) in names])
    known = sorted({kernel for kernel, _ in wanted})
    for name in kernels or []:
        if name not in known:
            raise unknown("kernel", name, known)
    for arch in archs:
        if ahead_of_time and arch not in SHARED_LIMIT:
            raise unknown("architecture", arch, SHARED_LIMIT)
    if not make_place(table).exists():
        write_rows(table, [])
    for arch in archs:
        chosen_from = {
            (kernel, key): (_SPACES.get(kernel, _around)(key, default), asking)
            for (kernel, key), (default, asking) in wanted.items()
            if (not kernels or kernel in kernels) and not (keep and _holds(table, arch, kernel, key, asking))
        }
        if not ahead_of_time:
            _launch_all([(kernel, *found) for (kernel, _), found in chosen_from.items()])
        for (kernel, key), (candidates, asking) in chosen_from.items():
            choose = _compiled if ahead_of_time else _timed
            chosen = choose(arch, kernel, candidates, asking)
            print(f"sm_{arch} {kernel} {list(key)}: {chosen} of {len(candidates)}", flush=True)
            if chosen is not None:
                # Hours of timing must not hang on the last kernel.
                update(table, [row(arch, kernel, key, chosen, source)])


def questions(shipped: list[Case]) -> dict[tuple[str, _Key], tuple[Config, list[Case]]]:
    """What the launchers ask the table: for each (kernel, key), the default and the cases that ask."""
    asked: dict[tuple[str, _Key], tuple[Config, list[Case]]] = {}
    for case in shipped:
        listening = _Listening()
        with mock.patch.object(_configs, "_tables", return_value=dict.fromkeys(SHARED_LIMIT, listening)):
            case.launches(ARCHITECTURES[0])
        for question, default in listening.asked.items():
            asked.setdefault(question, (default, []))[1].append(case)
    return asked


def representatives(dtype: torch.dtype) -> list[Case]:
    """The last of the cases that share a configuration, for each: others differ in sizes within the same tiles."""
    shipped = cases((dtype,))
    last = [asking[-1] for _, asking in questions(shipped).values()]
    return [case for case in shipped if case in last]


class _Listening(dict):
    """A table without rows that remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: dict[tuple[str, _Key], Config] = {}

    def get(self, question: Any, default: Any = None) -> Any:
        self.asked[question] = default
        return default


def _attention(key: _Key, default: Config) -> list[Config]:
    """Blocks of 16 to 128 query rows; stages up to the number of passes over them."""
    tile, rows, width, size = key
    blocks = [block for block in (16, 32, 64, 128) if block <= rows]
    if size == 2:
        return [
            Config({"BLOCK_Q": block}, warps, stages)
            for block, warps in itertools.product(blocks, (4, 8))
            for stages in range(1, min(3, rows // block) + 1)
        ]
    # Products of float32 hold their operands in registers: more warps with fewer each, and none for further stages.
    return [
        Config({"BLOCK_Q": block}, warps, 1)
        for block, warps in itertools.product(blocks, (4, 8, 16, 32))
        if block * tile * width <= _MOST_PRODUCTS * 32 * warps
    ]


# Multiply-adds of a thread in one float32 product; with more, compiling takes minutes and spills kilobytes.
_MOST_PRODUCTS = 2048


def _around(key: _Key, default: Config) -> list[Config]:
    """The default, with each tile size and the warps halved and doubled, with and without pipelining."""
    sizes = [[size * by // 2 for by in (1, 2, 4)] for size in default.tiles.values()]
    warps = sorted({max(1, default.num_warps // 2), default.num_warps, min(16, 2 * default.num_warps)})
    return [
        Config(dict(zip(default.tiles, chosen, strict=True)), count, stages)
        for chosen in itertools.product(*(sorted({max(1, size) for size in some}) for some in sizes))
        for count, stages in itertools.product(warps, sorted({1, 2, default.num_stages}))
    ]


def _product(key: _Key, default: Config) -> list[Config]:
    """Tiles of which a thread holds 32 to 128 sums."""
    return [
        Config({"BLOCK_M": rows, "BLOCK_N": columns, "BLOCK_K": 64}, warps, stages)
        for rows, columns in itertools.product((64, 128, 256), repeat=2)
        for warps in (4, 8)
        if 32 <= rows * columns // (32 * warps) <= 128
        for stages in (2, 3, 4)
    ]


_SPACES: dict[str, Callable[[_Key, Config], list[Config]]] = {
    "attention_fwd": _attention,
    "attention_bwd": _attention,
    "linear_gelu_fwd": _product,
    "linear_gelu_bwd": _product,
    "linear_residual_fwd": _product,
}


def _launch_all(wanted: list[tuple[str, list[Config], list[Case]]]) -> None:
    """Launch every candidate once in processes of their own, so that Triton's cache has all of them."""
    todo = [(kernel, one, str(case)) for kernel, candidates, asking in wanted for case in asking for one in candidates]
    workers = min(_MOST_PROCESSES, os.cpu_count() or 1, len(todo))
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        # What does not compile is told when its turn comes to be timed.
        for done, _ in enumerate(pool.map(_launch_once, todo), 1):
            if done % 50 == 0 or done == len(todo):
                print(f"compiled {done} of {len(todo)}", flush=True)


# Each holds the inputs of a case on the GPU.
_MOST_PROCESSES = 16


def _launch_once(wanted: tuple[str, Config, str]) -> None:
    kernel, candidate, name = wanted
    case = next(case for case in cases() if str(case) == name)
    with force(kernel, candidate), contextlib.suppress(TritonError, RuntimeError):
        case.prepare(torch.device("cuda"))()
        torch.cuda.synchronize()


def _timed(arch: int, kernel: str, candidates: list[Config], asking: list[Case]) -> Config | None:
    totals = dict.fromkeys(range(len(candidates)), 0.0)
    for case in asking:
        call = case.prepare(torch.device("cuda"))
        for number in list(totals):
            with force(kernel, candidates[number]):
                try:
                    totals[number] += triton.testing.do_bench(call, warmup=10, rep=50, return_mode="median")
                except (TritonError, RuntimeError) as error:
                    print(f"  {case}, {candidates[number]}: {str(error).splitlines()[0]}", flush=True)
                    del totals[number]
    for number, total in sorted(totals.items(), key=lambda item: item[1]):
        print(f"  {total:.4f} ms {candidates[number]}", flush=True)
    return candidates[min(totals, key=lambda number: totals[number])] if totals else None


def _compiled(arch: int, kernel: str, candidates: list[Config], asking: list[Case]) -> Config | None:
    best: tuple[tuple[float, ...], Config] | None = None
    seen: set[tuple[Any, ...]] = set()
    for candidate in candidates:
        try:
            launches = list(_forced(arch, kernel, candidate, asking))
            found = [compile_launch(launch, arch) for launch in launches]
            room = all(has_room(launch, arch, one, ROOM) for launch, one in zip(launches, found, strict=True))
        except (TritonError, RuntimeError) as error:
            print(f"  {candidate}: {type(error).__name__}", flush=True)
            continue
        worst = max(rank(resources, arch, candidate, room) for resources in found)
        print(f"  {candidate}: {found[0]}", flush=True)
        # More stages without a loop to overlap give the same code again.
        same = tuple(candidate.tiles.items()), *found
        if same in seen or not all(resources.fits(arch) for resources in found):
            continue
        seen.add(same)
        if best is None or worst < best[0]:
            best = worst, candidate
    return None if best is None else best[1]


def _holds(table: Path, arch: int, kernel: str, key: _Key, asking: list[Case]) -> bool:
    """Whether the table has a row for this question that fits and has room."""
    for known in read(table):
        if (known["arch"], known["kernel"], known["key"]) == (arch, kernel, list(key)):
            candidate = Config(known["tiles"], known["num_warps"], known["num_stages"])
            found = ((launch, compile_launch(launch, arch)) for launch in _forced(arch, kernel, candidate, asking))
            return all(resources.fits(arch) and has_room(launch, arch, resources, ROOM) for launch, resources in found)
    return False


def _forced(arch: int, kernel: str, candidate: Config, asking: list[Case]) -> Iterator[Any]:
    """The launches that the candidate is for; an operator may have others."""
    for case in asking:
        with force(kernel, candidate):
            launches = case.launches(arch)
        yield from (launch for launch in launches if launch.config is candidate)


def rank(resources: Resources, arch: int, candidate: Config, room: bool) -> tuple[float, ...]:
    """Sorts the better one first.

    Spilled bytes of all threads, then having no room, so that another version of the compiler may spill; then the
    estimate, stages (which hide loads where they cost no residence), and registers.
    """
    threads = 32 * resources.warps
    return (
        resources.spills * threads,
        not room,
        -estimate(resources, arch, candidate),
        -candidate.num_stages,
        resources.registers * threads,
    )


def estimate(resources: Resources, arch: int, candidate: Config) -> float:
    """How much better than another, roughly.

    Programs that a multiprocessor holds at once cover each other's loads, up to four of them. A pass over R rows reads
    the other operand once for all of them: R / (R + 32). Matrix instructions of an older generation than the
    architecture's reach about 0.6 of its speed. Of products in tiles, R numbers of a result take one number of each
    operand, and two programs are enough: one finishes its tile beside the other's product.
    """
    tiles, most = candidate.tiles, 4
    rows: float = math.prod(tiles.values())
    if "BLOCK_K" in tiles:
        rows, most = 1 / (1 / tiles["BLOCK_M"] + 1 / tiles["BLOCK_N"]), 2
    older = bool(resources.matrix - {MATRIX_INSTRUCTIONS.get(arch, MATRIX_INSTRUCTIONS[80])})
    return min(most, resources.resident(arch)) * rows / (rows + 32) * (0.6 if older else 1.0)


def row(arch: int, kernel: str, key: _Key, chosen: Config, source: str) -> _Row:
    """One row of the table."""
    tiles, warps, stages = astuple(chosen)
    return {
        "arch": arch,
        "kernel": kernel,
        "key": list(key),
        "tiles": tiles,
        "num_warps": warps,
        "num_stages": stages,
        "source": source,
    }


def read(table: Path) -> list[_Row]:
    """The rows of a table."""
    return json.loads(table.read_text(encoding="utf-8"))["rows"]


def update(table: Path, rows: list[_Row]) -> None:
    """Put rows into the table; a compiled one never replaces a measured one."""
    merged = {str(_place(row)): row for row in read(table)}
    for new in rows:
        old = merged.get(str(_place(new)))
        if old is None or old["source"] == COMPILED or new["source"] != COMPILED:
            merged[str(_place(new))] = new
    write_rows(table, list(merged.values()))


def write_rows(table: Path, rows: list[_Row]) -> None:
    """Write a table, a row a line and in order."""
    lines = ",\n".join(f"  {json.dumps(row)}" for row in sorted(rows, key=_place))
    with atomic_path(table) as path:
        path.write_text('{\n "rows": [\n' + lines + "\n ]\n}\n", encoding="utf-8")


def _place(row: _Row) -> tuple[int, str, list[int]]:
    return row["arch"], row["kernel"], row["key"]


if __name__ == "__main__":
    sys.exit(main())
