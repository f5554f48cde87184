"""What the machine code of each shipped kernel may take, for the compilers that are known and for those to come.

    python -m benchmarks ahead-of-time      # all cases, with the Triton that is installed

The configurations of the kernels were chosen with the versions of Triton in `CHOSEN_WITH`. With these, no kernel of a
shipped case spills, nor would any if its threads had `ROOM` registers fewer. Another compiler deals registers out
differently, so that some kernel may come to spill a few, which costs little: `SPILLS_OF_OTHERS` is that much. A
configuration that does not suit its kernel spills hundreds of bytes, and is found by any compiler.
"""

from __future__ import annotations

import torch
import triton

from benchmarks.ahead_of_time import ARCHITECTURES, MATRIX_INSTRUCTIONS, Resources, compile_case, has_room
from benchmarks.shipped import cases
from maedfer.errors import unknown

CHOSEN_WITH = ("3.6", "3.7", "3.8", "3.9")

# Registers.
ROOM = 8

# Bytes of a thread.
SPILLS_OF_OTHERS = 64

# Programs that a multiprocessor holds at once, at least, by the beginning of the kernel's name; the first that fits.
_LEAST_RESIDENT = (
    ("_attention_fwd", 2),
    ("_attention_bwd", 1),
    ("_interaction", 1),
    ("", 2),
)

# Kernels that are built around matrix products, which must be on matrix units in bfloat16.
_MATRIX_KERNELS = ("_attention", "_interaction")


def complaints(kernel: str, resources: Resources, arch: int, dtype: torch.dtype, version: str) -> list[str]:
    """What of a compiled kernel is beyond its budget; empty when all is well.

    Args:
        kernel: its name.
        resources: what it takes.
        arch: the architecture it is compiled for.
        dtype: of its products.
        version: of Triton.
    """
    found = []
    if not resources.fits(arch):
        found.append(f"{kernel} does not fit sm_{arch}: {resources}")
    most = 0 if known(version) else SPILLS_OF_OTHERS
    if resources.spills > most:
        found.append(f"{kernel} spills {resources.spills} bytes of a thread (budget {most}): {resources}")
    least = least_resident(kernel)
    if resources.resident(arch) < least:
        found.append(f"{kernel}: {resources.resident(arch)} programs at once (budget {least}): {resources}")
    # Blocks of few rows have only the older instructions.
    right = bool(resources.matrix) and resources.matrix <= {MATRIX_INSTRUCTIONS[80], MATRIX_INSTRUCTIONS[arch]}
    if dtype == torch.bfloat16 and kernel.startswith(_MATRIX_KERNELS) and not right:
        found.append(f"{kernel} has the matrix instructions {sorted(resources.matrix)} on sm_{arch}")
    return found


def known(version: str) -> bool:
    """Whether the configurations were chosen with this version of Triton."""
    return ".".join(version.split(".")[:2]) in CHOSEN_WITH


def least_resident(kernel: str) -> int:
    """Programs of a kernel that a multiprocessor must hold at once."""
    return next(least for prefix, least in _LEAST_RESIDENT if kernel.startswith(prefix))


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
    print(f"Triton {version}, " + ("one of" if known(version) else "none of") + f" {', '.join(CHOSEN_WITH)}")
    for arch in archs or ARCHITECTURES:
        for case in chosen:
            for kernel, (launch, resources) in compile_case(case, arch).items():
                print(f"sm_{arch} {case} {kernel}: {resources}", flush=True)
                new = complaints(kernel, resources, arch, case.dtype, version)
                if known(version) and not has_room(launch, arch, resources, ROOM):
                    new.append(f"{kernel} spills with {ROOM} registers fewer: {resources}")
                found += [f"sm_{arch} {case}: {complaint}" for complaint in new]
    print("\n".join(found or ["all within their budgets"]))
    return found
