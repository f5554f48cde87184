"""What the machine code of each shipped kernel may take, for the compilers that are known and for those to come.

    python -m benchmarks ahead-of-time      # all cases, with the Triton that is installed

The configurations of the kernels were chosen with the versions of Triton in `CHOSEN_WITH`. With these, no kernel of a
shipped case spills, nor would any if its threads had `ROOM` registers fewer. Another compiler deals registers out
differently. It may also spill on purpose, to fit one more program on a multiprocessor: up to 40 bytes of a thread among
the configurations that were tried. Either costs little, and `SPILLS_OF_OTHERS` allows it. Configurations that do not
suit their kernel spilled 100 to 7,500 bytes and are found by any compiler.
"""

from __future__ import annotations

import re

import torch
import triton

from benchmarks.ahead_of_time import ARCHITECTURES, MATRIX_INSTRUCTIONS, Resources, compile_case, has_room
from benchmarks.shipped import Case, cases
from maedfer.errors import unknown

CHOSEN_WITH = ("3.6", "3.8")

# Registers.
ROOM = 8

# Bytes of a thread.
SPILLS_OF_OTHERS = 64

# Programs that a multiprocessor holds at once, at least, by the case: the first pattern that is found in it. Of
# those that keep tiles of many rows one is enough; others hide loads by company.
_LEAST_RESIDENT = {
    "attention_bwd-.*float32|attention_(fwd|bwd)-201": 1,
    "interaction|linear|attention_fwd|bwd": 2,
    "fwd": 4,
}

# Cases that are built around matrix products, which must be on matrix units in bfloat16.
_MATRIX_CASES = ("self_attention", "cross_attention", "interaction", "linear")

# Kernels of theirs that only add up what the others leave.
_SUMMING = ("fold_sums_kernel",)


def complaints(case: Case, kernel: str, resources: Resources, arch: int, version: str) -> list[str]:
    """What of a compiled kernel is beyond its budget; empty when all is well.

    Args:
        case: what launches it.
        kernel: its name.
        resources: what it takes.
        arch: the architecture it is compiled for.
        version: of Triton.
    """
    found = []
    if not resources.fits(arch):
        found.append("does not fit")
    most = 0 if known(version) else SPILLS_OF_OTHERS
    if resources.spills > most:
        found.append(f"spills more than {most} bytes of a thread")
    least = next(count for pattern, count in _LEAST_RESIDENT.items() if re.search(pattern, str(case)))
    if resources.resident(arch) < least:
        found.append(f"runs fewer than {least} programs at once")
    # Blocks of few rows have only the older instructions.
    oldest = MATRIX_INSTRUCTIONS[80]
    right = bool(resources.matrix) and resources.matrix <= {oldest, MATRIX_INSTRUCTIONS.get(arch, oldest)}
    multiplies = case.name.startswith(_MATRIX_CASES) and kernel not in _SUMMING
    if case.dtype == torch.bfloat16 and multiplies and not right:
        found.append(f"has the matrix instructions {sorted(resources.matrix)}")
    return [f"{case} on sm_{arch}: {kernel} {complaint} ({resources})" for complaint in found]


def known(version: str) -> bool:
    """Whether the configurations were chosen with this version of Triton."""
    return ".".join(version.split(".")[:2]) in CHOSEN_WITH


def sweep(names: list[str], archs: list[int] | None = None) -> list[str]:
    """Compile shipped cases, print what their kernels take, and return all complaints.

    Args:
        names: what the names of cases begin with; "" for all.
        archs: architectures to compile for; None for all that are checked.

    Raises:
        InputError: no such case, or no such architecture.
    """
    chosen = [case for case in cases() if str(case).startswith(tuple(names))]
    for name in names:
        if not any(str(case).startswith(name) for case in chosen):
            raise unknown("case", name, map(str, cases()))
    version, found = triton.__version__, []
    print(f"Triton {version}; configurations were chosen with {', '.join(CHOSEN_WITH)}")
    for arch in archs or ARCHITECTURES:
        for case in chosen:
            for kernel, (launch, resources) in compile_case(case, arch).items():
                print(f"sm_{arch} {case} {kernel}: {resources}, {resources.resident(arch)} at once", flush=True)
                found += complaints(case, kernel, resources, arch, version)
                if known(version) and not resources.spills and not has_room(launch, arch, resources, ROOM):
                    found.append(f"{case} on sm_{arch}: {kernel} spills with {ROOM} registers fewer ({resources})")
    print("\n".join(found or ["all within their budgets"]))
    return found
