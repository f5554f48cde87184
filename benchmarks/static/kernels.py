"""What a compiled launch takes of a GPU: registers, programs at once, instructions, barriers, bytes by tensor.

A tile has the rows that the launch's constants name. Where programs times these are fewer than the rows there are, a
program goes over several tiles, and the barriers of a tile are those inside of the loops of the machine code: what a
program does once is left out. Else they are all of them. A loop inside of a tile counts once. Where nothing waits, rows
are not asked for.

A tensor's bytes are its own elements, each once. What a program asks for is known where no loop surrounds an access, or
where one loop does: it is taken to run until every tensor is done that it touches. All threads count, also those that a
mask switches off; caches serve what is asked for more than once. Of blocks that move by descriptors it is not known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from benchmarks.ahead_of_time import Resources, jit_compile, resources
from benchmarks.shipped import Case
from benchmarks.static.counter import kernel_name, once
from benchmarks.static.machine_code import (
    BULK,
    Access,
    accesses,
    barriers,
    disassemble,
    in_loops,
    instructions,
    matrix_instructions,
    widths,
)
from benchmarks.static.pretend import PROCESSORS
from maedfer.kernels._launch import Launch

Row = dict[str, Any]

# What tile constants call the rows of a tile.
_ROWS = ("ROWS", "BLOCK_R", "BLOCK_M", "BLOCK_Q", "BLOCK")


@dataclass
class Touched:
    """A tensor and what a launch does with it.

    Args:
        name: of the kernel's argument.
        tensor: itself.
        loads, stores: accesses in PTX.
    """

    name: str
    tensor: Tensor
    loads: list[Access] = field(default_factory=list)
    stores: list[Access] = field(default_factory=list)

    @property
    def is_rows(self) -> bool:
        """Whether it holds rows of 16-bit numbers."""
        x = self.tensor
        return x.element_size() == 2 and x.dim() > 1 and x.shape[-1] % 8 == 0 and x.stride(-1) == 1


def case_rows(case: Case, arch: int) -> list[Row]:
    """A row for each launch of a case."""
    return [{"case": str(case), **launch_row(launch, arch)} for launch in case.launches(arch)]


def launch_row(launch: Launch, arch: int) -> Row:
    """What one launch takes, compiled for an architecture."""
    kernel = jit_compile(launch, arch)
    taken: Resources = resources(kernel)
    code = instructions(disassemble(kernel.asm["cubin"]))
    touched = _touched(launch, kernel)
    resident, grid = taken.resident(arch), math.prod(launch.grid)
    rows = _tile_rows(launch) if barriers(code) else None
    several = rows is not None and _rows(touched) > rows * grid
    tile_barriers = barriers(in_loops(code) or code) if several else barriers(code)
    threads = 32 * taken.warps * grid
    return {
        "kernel": _name(launch),
        "registers": taken.registers,
        "warps": taken.warps,
        "shared": taken.shared,
        "spills": taken.spills,
        "programs": resident,
        "grid": grid,
        "waves": round(grid / (resident * PROCESSORS[arch]), 2),
        "instructions": len(code),
        "matrix": matrix_instructions(code),
        "widths": widths(code),
        "barriers": barriers(code),
        "tile_barriers": tile_barriers,
        "tile_rows": rows,
        "row_barriers": None if rows is None else round(tile_barriers / rows, 2),
        "narrowest_load": _narrowest(one.loads for one in touched if one.is_rows),
        "narrowest_store": _narrowest(one.stores for one in touched if one.is_rows),
        "bytes": sum(once(one.tensor) * (bool(one.loads) + bool(one.stores)) for one in touched),
        "tensors": {one.name: _tensor_row(one, threads, _passes(touched, threads)) for one in touched},
    }


def _name(launch: Launch) -> str:
    part = launch.constants.get("PART", 0)
    return kernel_name(launch) + (f"-part{part}" if part else "")


def _tile_rows(launch: Launch) -> int | None:
    named = [launch.constants[name] for name in _ROWS if name in launch.constants]
    return named[0] if named else None


def _rows(touched: Sequence[Touched]) -> int:
    """Rows of the tensor that has most."""
    return max((one.tensor.numel() // max(1, one.tensor.shape[-1]) for one in touched if one.tensor.dim()), default=0)


def _touched(launch: Launch, kernel: Any) -> list[Touched]:
    """The tensors that a launch reads or writes, in the order of its arguments."""
    given = dict(zip(launch.kernel.arg_names, launch.args, strict=False))
    names: list[str] = []
    for name, kind in kernel.src.signature.items():
        # Constants are no parameters of the machine code; descriptors are followed by their sizes and strides.
        following = 2 * (kind.count(",") + 1) if kind.startswith("tensordesc") else 0
        names += [] if kind == "constexpr" else [name, *[""] * following]
    tensors = {name: getattr(given.get(name), "base", given.get(name)) for name in names}
    found = {name: Touched(name, x) for name, x in tensors.items() if isinstance(x, Tensor)}
    for access in accesses(kernel.asm["ptx"]):
        name = names[access.pointer] if access.pointer < len(names) else ""
        if name in found:
            (found[name].stores if access.stores else found[name].loads).append(access)
    return [one for one in found.values() if one.loads or one.stores]


def _narrowest(several: Any) -> int | None:
    return min((access.width for some in several for access in some), default=None)


def _passes(touched: Sequence[Touched], threads: int) -> int | None:
    """How often the only loop of a kernel runs, where there is one: until the last of its tensors is done."""
    every = [(one, some) for one in touched for some in (one.loads, one.stores) if not _in_blocks(some)]
    loops = {access.loop for _, some in every for access in some if access.repeated}
    if len(loops) > 1 or any(access.repeated > 1 for _, some in every for access in some):
        return None
    needed = [
        (once(one.tensor) - _width(some, repeated=False) * threads) / (_width(some, repeated=True) * threads)
        for one, some in every
        if _width(some, repeated=True)
    ]
    return math.ceil(max(needed)) if needed else None


def _in_blocks(some: Sequence[Access]) -> bool:
    return any(access.width == BULK for access in some)


def _width(some: Sequence[Access], repeated: bool) -> int:
    return sum(access.width for access in some if bool(access.repeated) == repeated)


def _tensor_row(one: Touched, threads: int, passes: int | None) -> Row:
    return {
        "once": once(one.tensor),
        "asked_for": _asked(one.loads, threads, passes),
        "written": _asked(one.stores, threads, passes),
        "load_widths": sorted({access.width for access in one.loads}),
        "store_widths": sorted({access.width for access in one.stores}),
    }


def _asked(some: Sequence[Access], threads: int, passes: int | None) -> int | None:
    """Bytes of all accesses together, None where that does not follow."""
    inside = _width(some, repeated=True)
    if _in_blocks(some) or (inside and passes is None):
        return None
    return threads * (_width(some, repeated=False) + inside * (passes or 0))
