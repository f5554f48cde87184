"""What compiled code says of itself: instructions, loops, barriers, and how wide each tensor is read and written.

Instructions and barriers are counted in the machine code, each once, however often a loop runs it. Which tensor an
access belongs to is gone from there, so that widths by tensor come from PTX, where an address is followed back to the
pointers that it was made of; the assembler keeps its widths.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import triton

_INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z]\w*(?:\.\w+)*)\s*([^;]*);")
_MATRIX = re.compile(r"[A-Z]*MMA$")
_GLOBAL = {"LDG", "STG", "LDGSTS", "RED", "ATOM", "ATOMG", "UBLKCP", "UBLKRED", "UTMALDG", "UTMASTG", "UTMAREDG"}
_WIDTHS = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16, "256": 32}

# A width in bytes for accesses of whole blocks, which the hardware cuts up by itself.
BULK = 1 << 10


@dataclass(frozen=True)
class Instruction:
    """One instruction: where it is, its name with all suffixes, and where it jumps to."""

    address: int
    name: str
    target: int | None

    @property
    def base(self) -> str:
        """The name without suffixes."""
        return self.name.split(".")[0]


def disassemble(cubin: bytes) -> str:
    """The listing of a compiled kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "-sass", file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def instructions(listing: str) -> list[Instruction]:
    """The instructions of a listing in their order, without the padding that follows the last one."""
    found = []
    for address, name, operands in _INSTRUCTION.findall(listing):
        jumps = re.findall(r"0x[0-9a-f]+", operands) if name.split(".")[0] == "BRA" else []
        found.append(Instruction(int(address, 16), name, int(jumps[-1], 16) if jumps else None))
    while found and (found[-1].base == "NOP" or found[-1].target == found[-1].address):
        found.pop()
    return found


def loops(code: Sequence[Instruction]) -> list[tuple[int, int]]:
    """First and last address of every loop: a jump back, and what is between."""
    return [(one.target, one.address) for one in code if one.target is not None and one.target < one.address]


def in_loops(code: Sequence[Instruction]) -> list[Instruction]:
    """Instructions that a loop repeats."""
    ranges = loops(code)
    return [one for one in code if any(first <= one.address <= last for first, last in ranges)]


def barriers(code: Iterable[Instruction]) -> int:
    """Instructions at which all warps of a program, or some of them, wait for each other."""
    return sum(one.name.startswith(("BAR.SYNC", "BAR.RED")) for one in code)


def matrix_instructions(code: Iterable[Instruction]) -> dict[str, int]:
    """Instructions of the matrix unit by name."""
    return dict(sorted(Counter(one.base for one in code if _MATRIX.fullmatch(one.base)).items()))


def widths(code: Iterable[Instruction]) -> dict[str, int]:
    """Instructions on device memory by name and bytes of a thread, as LDG.16; whole blocks have no number."""
    found: Counter[str] = Counter()
    for one in code:
        if one.base in _GLOBAL:
            sizes = [_WIDTHS[part] for part in one.name.split(".")[1:] if part in _WIDTHS]
            blocks = one.base.startswith("U")
            found[one.base if blocks else f"{one.base}.{sizes[0] if sizes else 4}"] += 1
    return dict(sorted(found.items()))


@dataclass(frozen=True)
class Access:
    """One access to device memory in PTX.

    Args:
        pointer: number of the parameter that the address comes from.
        stores: writes, else reads.
        width: bytes of a thread, `BULK` for whole blocks.
        repeated: inside of how many loops.
        loop: where in the text the innermost of them begins; None without one.
    """

    pointer: int
    stores: bool
    width: int
    repeated: int
    loop: int | None = field(default=None, compare=False)


_PARAMETER = re.compile(r"(?:ld\.param|mov)\.[bu]64\s+(%rd\d+),\s*\[?\w+_param_(\d+)")
_PLAIN = re.compile(r"\b(ld|st|red|atom)\.(?:\w+\.)*?global((?:\.\w+(?:::\w+)*)*)\s[^;\[]*\[\s*(%rd\d+)")
_ASYNC = re.compile(r"cp\.async\.c[ag]\.shared\.global\S*\s*\[[^\]]*\],\s*\[\s*(%rd\d+)[^\]]*\],\s*(0x[0-9a-f]+|\d+)")
_BLOCK = re.compile(r"cp\.(?:reduce\.)?async\.bulk\.\S*\s[^;]*")
_ADDRESS = re.compile(r"(?:add|sub|mad|mov|cvta|selp|max|min|shl|or|and)\.\S+\s+(%rd\d+),\s*([^;]*)")
_LABEL = re.compile(r"^\s*(\$L\w+):")
_JUMP = re.compile(r"\bbra(?:\.uni)?\s+(\$L\w+)")


def accesses(ptx: str) -> list[Access]:
    """Every access to device memory in PTX, by the pointers that its address may come from."""
    lines = ptx.splitlines()
    origins = _origins(lines)
    labels = {one[1]: number for number, line in enumerate(lines) if (one := _LABEL.match(line))}
    jumps = ((labels.get(one[1], len(lines)), at) for at, line in enumerate(lines) if (one := _JUMP.search(line)))
    ranges = [(first, last) for first, last in jumps if first < last]
    found: list[Access] = []
    for number, line in enumerate(lines):
        around = [first for first, last in ranges if first <= number <= last]
        for register, stores, width in _touched(line):
            found += [
                Access(pointer, stores, width, len(around), max(around, default=None))
                for pointer in sorted(origins.get(register, ()))
            ]
    return found


def _touched(line: str) -> list[tuple[str, bool, int]]:
    """Address register, whether it is written there, and the width of what a line does with device memory."""
    if one := _ASYNC.search(line):
        return [(one[1], False, int(one[2], 0))]
    if one := _BLOCK.search(line):
        into_shared = re.search(r"\.shared::c\w+\.global", one[0]) is not None
        return [(register, not into_shared, BULK) for register in re.findall(r"\[\s*(%rd\d+)", one[0])]
    if one := _PLAIN.search(line):
        kind, suffix, register = one[1], one[2], one[3]
        count = re.search(r"\.v(\d)", suffix)
        bits = re.search(r"\.[a-z]+(\d+)(?:x\d)?$", suffix)
        width = (int(bits[1]) if bits else 32) // 8 * (int(count[1]) if count else 1)
        return [(register, kind != "ld", width)]
    return []


def _origins(lines: Sequence[str]) -> dict[str, set[int]]:
    """The pointer parameters that each 64-bit register was made of."""
    origins: dict[str, set[int]] = {}
    made: list[tuple[str, list[str]]] = []
    for line in lines:
        if parameter := _PARAMETER.search(line):
            origins.setdefault(parameter[1], set()).add(int(parameter[2]))
        elif address := _ADDRESS.search(line):
            made.append((address[1], re.findall(r"%rd\d+", address[2])))
    changed = True
    while changed:
        changed = False
        for register, parts in made:
            before = origins.get(register, set())
            after = before.union(*(origins.get(part, set()) for part in parts))
            if after != before:
                origins[register], changed = after, True
    return origins
