"""Tile shapes and warps of the kernels: a fixed table by architecture, and rules for what it does not hold.

Nothing is tuned while a user waits. `configs.json` is written by `python -m benchmarks.tune`, and every row says what
it rests on: "compiled" (chosen by registers, spills and shared memory ahead of time) or the GPU it was timed on.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.resources
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch


@dataclass(frozen=True)
class Config:
    """How one kernel is launched: its tile constants, warps, and software-pipelining stages."""

    tiles: dict[str, int] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int = 1

    def with_tiles(self, **tiles: int) -> Config:
        """The same with further tile constants."""
        return replace(self, tiles={**self.tiles, **tiles})


# (kernel, shape key) -> Config for one architecture.
_Table = dict[tuple[str, tuple[int, ...]], Config]

_forced: list[tuple[str, Config]] = []
_architecture: int | None = None


def architecture(device: torch.device) -> int:
    """Compute capability as one number, 90 for 9.0; that of `targeting` where it is in force."""
    if _architecture is not None:
        return _architecture
    if device.type == "cuda":
        major, minor = capability(device.index)
        return 10 * major + minor
    return 90


@functools.cache
def capability(index: int) -> tuple[int, int]:
    """Compute capability of a GPU, asked for once."""
    return torch.cuda.get_device_capability(index)


def config(kernel: str, key: tuple[int, ...], default: Config, device: torch.device) -> Config:
    """The configuration of a kernel.

    Args:
        kernel: its name in the table.
        key: the sizes that its configuration depends on, the last one the element size in bytes.
        default: what is used when the table has no row.
        device: where it runs.
    """
    for name, forced in reversed(_forced):
        if name == kernel:
            return forced
    return _tables().get(_table_of(architecture(device)), {}).get((kernel, key), default)


def shared_limit(device: torch.device) -> int:
    """Bytes of shared memory that one program may have."""
    return SHARED_LIMIT[_table_of(architecture(device))]


# By architecture that has a table.
SHARED_LIMIT = {80: 163 * 1024, 86: 99 * 1024, 90: 227 * 1024, 100: 227 * 1024}


@functools.cache
def _table_of(arch: int) -> int:
    """The architecture whose table serves another: those of desktop GPUs have the least shared memory."""
    if arch in (86, 88, 89) or arch >= 120:
        return 86
    return max(known for known in SHARED_LIMIT if known != 86 and known <= max(arch, 80))


@contextlib.contextmanager
def force(kernel: str, forced: Config) -> Iterator[None]:
    """Launch a kernel with this configuration inside a `with` block (for tuning and tests)."""
    _forced.append((kernel, forced))
    try:
        yield
    finally:
        _forced.pop()


@contextlib.contextmanager
def targeting(arch: int) -> Iterator[None]:
    """Choose configurations for this architecture inside a `with` block (for compiling ahead of time)."""
    global _architecture
    before, _architecture = _architecture, arch
    try:
        yield
    finally:
        _architecture = before


@functools.cache
def _tables() -> dict[int, _Table]:
    rows = json.loads(importlib.resources.files(__package__).joinpath("configs.json").read_text())["rows"]
    tables: dict[int, _Table] = {}
    for row in rows:
        table = tables.setdefault(row["arch"], {})
        table[row["kernel"], tuple(row["key"])] = Config(row["tiles"], row["num_warps"], row["num_stages"])
    return tables
