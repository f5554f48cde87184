"""Compile recorded launches for a GPU that is not there, and read what the machine code takes.

A launch goes through Triton's own JIT, under a driver that names a target and nothing else, so that types,
specialisation and options are those of the real launch. Tensors on the meta device do: their addresses are their
storage offsets, and real storage is aligned better than specialisation asks for.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from benchmarks.shipped import Case
from maedfer.errors import InputError, unknown
from maedfer.kernels._configs import SHARED_LIMIT
from maedfer.kernels._dispatch import interpreting
from maedfer.kernels._launch import Launch

# What the kernels are compiled for and checked on.
ARCHITECTURES = (80, 90, 100)

# The matrix instructions of each generation, by their names in PTX. An architecture has those of sm_80 and its own.
MATRIX_INSTRUCTIONS = {80: "mma.sync", 90: "wgmma.mma_async", 100: "tcgen05.mma"}

# Of a multiprocessor: registers, threads (fewer on desktop GPUs) and columns of tensor memory.
_REGISTERS, _THREADS, _COLUMNS = 64 * 1024, {86: 1536}, 512

# Registers that one thread can have, how they are dealt out, and what the system keeps of a program's shared memory.
_MOST_REGISTERS, _GRAIN, _RESERVED = 255, 8, 1024


@dataclass(frozen=True)
class Resources:
    """What one compiled kernel takes.

    Args:
        registers: of a thread.
        spills: bytes of a thread outside of registers (local memory and stack; the kernels have no arrays there).
        shared: bytes of shared memory of a program.
        columns: columns of tensor memory of a program.
        warps: of a program.
        matrix: which matrix instructions it has.
    """

    registers: int
    spills: int
    shared: int
    columns: int
    warps: int
    matrix: frozenset[str]

    def fits(self, arch: int) -> bool:
        """Whether a program can be launched at all."""
        return self.shared <= SHARED_LIMIT[arch] and self.columns <= _COLUMNS

    def __str__(self) -> str:
        return f"{self.registers} registers of {self.warps} warps, {self.shared} bytes shared, {self.spills} spilled"

    def resident(self, arch: int) -> int:
        """How many programs a multiprocessor holds at once."""
        threads = 32 * self.warps
        return min(
            _REGISTERS // (-(-max(1, self.registers) // _GRAIN) * _GRAIN * threads),
            (SHARED_LIMIT[arch] + _RESERVED) // (self.shared + _RESERVED),
            _COLUMNS // max(1, self.columns),
            _THREADS.get(arch, 2048) // threads,
            32,
        )


def compile_case(case: Case, arch: int) -> dict[str, tuple[Launch, Resources]]:
    """What a case launches, and what that takes, by kernel."""
    return {launch.kernel.__name__: (launch, compile_launch(launch, arch)) for launch in case.launches(arch)}


def has_room(launch: Launch, arch: int, resources: Resources, registers: int) -> bool:
    """Whether a launch would not spill, either, if its threads could have so many registers fewer."""
    most = min(_MOST_REGISTERS, _REGISTERS // (32 * resources.warps)) - registers
    return not (resources.spills if resources.registers <= most else compile_launch(launch, arch, most).spills)


def compile_launch(launch: Launch, arch: int, most_registers: int | None = None) -> Resources:
    """Compile one launch as the JIT would on a GPU of this architecture, and read its resources.

    Args:
        launch: from `recording`; tensors may be on the meta device.
        arch: one that has a table of configurations, 90 for compute capability 9.0.
        most_registers: that a thread may have, if fewer than it could.

    Raises:
        InputError: the process runs Triton's interpreter, or there is no such architecture.
    """
    return resources(jit_compile(launch, arch, most_registers))


def resources(kernel: Any) -> Resources:
    """What a kernel of `jit_compile` takes."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    sizes = {name: int(size) for name, size in re.findall(r"\b(REG|STACK|SHARED|LOCAL):(\d+)", usage)}
    return Resources(
        registers=sizes["REG"],
        spills=sizes["LOCAL"] + sizes["STACK"],
        shared=sizes["SHARED"] + kernel.metadata.shared,
        columns=getattr(kernel.metadata, "tmem_size", None) or 0,
        warps=kernel.metadata.num_warps,
        matrix=frozenset(name for name in MATRIX_INSTRUCTIONS.values() if re.search(rf"\s{name}\b", kernel.asm["ptx"])),
    )


def jit_compile(launch: Launch, arch: int, most_registers: int | None = None) -> Any:
    """Triton's compiled kernel of one launch; its `src` has signature, constants and attributes.

    Raises:
        InputError: see `compile_launch`.
    """
    if interpreting():
        raise InputError("nothing can be compiled under TRITON_INTERPRET=1: start the process without it")
    if arch not in SHARED_LIMIT:
        raise unknown("architecture", arch, SHARED_LIMIT)
    with _target(arch):
        return launch.kernel.warmup(
            *launch.args,
            grid=launch.grid,
            # Its default, and the environment variable for that, differ between versions of Triton.
            **{"enable_fp_fusion": True, **launch.constants},
            num_warps=launch.config.num_warps,
            num_stages=launch.config.num_stages,
            maxnreg=most_registers,
        )


class _Target:
    """As much of a Triton driver as compiling asks for."""

    def __init__(self, arch: int) -> None:
        self._arch = arch

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self._arch, 32)

    def get_current_device(self) -> str:
        # Each kernel keeps what it compiled by device: one for each target, and no number of a real one.
        return f"sm_{self._arch}"

    def get_current_stream(self, device: str) -> int:
        return 0


@contextlib.contextmanager
def _target(arch: int) -> Iterator[None]:
    driver.set_active(_Target(arch))
    try:
        yield
    finally:
        # The real driver is found again when something asks for it; where there is no GPU, nothing does.
        driver.set_active(None)
