"""Processor, memory and the limits of a container, against what a run asks for."""

from __future__ import annotations

import os
import platform
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch

from maedfer.doctor.finding import Finding, Options, note, ok, wrong

_GROUPS = Path("/sys/fs/cgroup")
_GIB, _MIB = 1 << 30, 1 << 20
# Frames travel by other memory; what else a batch has, and JPEG files that a GPU is to decode, by /dev/shm.
_SHARED, _SHARED_OF_NVJPEG = 16 * _MIB, 512 * _MIB
_FILES = 1024


def look(options: Options) -> Iterator[Finding]:
    """System, cores, memory, shared memory, open files."""
    yield ok("system", f"{platform.platform()}")
    yield from _cores()
    yield _memory()
    yield shared_memory(Path("/dev/shm"))
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if 0 <= files < _FILES:
        yield note("open files", f"{files} at a time", f"ulimit -n {4 * _FILES}, where many shards or workers are read")
    else:
        yield ok("open files", f"{'any number' if files < 0 else files} at a time")


def usable_cores(groups: Path = _GROUPS) -> tuple[int, float | None]:
    """Processors that this process may run on, and how many of them a container lets it have; None = all."""
    return len(os.sched_getaffinity(0)), _quota(groups)


def _quota(groups: Path) -> float | None:
    words = _read(groups / "cpu.max").split()
    if not words:
        words = [_read(groups / "cpu" / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
    try:
        quota, period = (float(word) for word in words)
    except ValueError:
        # "max", or no such file.
        return None
    return quota / period if quota > 0 < period else None


def _cores() -> Iterator[Finding]:
    cores, quota = usable_cores()
    name = next(
        (line.partition(":")[2].strip() for line in _read(Path("/proc/cpuinfo")).splitlines() if "model name" in line),
        "",
    )
    said = f"{name + ', ' if name else ''}{os.cpu_count()} cores, {cores} for this process"
    yield ok("cores", said + ("" if quota is None else f", a container's limit of {quota:g}"))
    most, threads = min(cores, quota or cores), torch.get_num_threads()
    if threads > max(1, round(most)):
        yield note(
            "threads",
            f"PyTorch computes with {threads} threads on {most:g} cores, which slows all of them down",
            f"OMP_NUM_THREADS={max(1, round(most))}, or train.threads",
        )
    else:
        yield ok("threads", f"PyTorch computes with {threads}")


def _memory() -> Finding:
    facts = dict(line.split(":") for line in _read(Path("/proc/meminfo")).splitlines() if ":" in line)
    total, free = (int(facts.get(key, "0 kB").split()[0]) * 1024 for key in ("MemTotal", "MemAvailable"))
    limit = memory_limit()
    said = f"{total / _GIB:.1f} GiB, {free / _GIB:.1f} GiB free"
    if limit is not None and limit < total:
        said += f", a container's limit of {limit / _GIB:.1f} GiB"
        free = min(free, limit)
    if free < 2 * _GIB:
        return note("memory", said, "small models and few loader processes only")
    return ok("memory", said)


def memory_limit(groups: Path = _GROUPS) -> int | None:
    """Bytes that a container lets its processes have; None = no limit."""
    text = _read(groups / "memory.max") or _read(groups / "memory" / "memory.limit_in_bytes")
    # The first version says "no limit" by a number beyond all memory.
    return int(text) if text.isdigit() and int(text) < 1 << 60 else None


def shared_memory(place: Path) -> Finding:
    """Room in /dev/shm, by which loader processes send."""
    try:
        usage = shutil.disk_usage(place)
    except OSError as error:
        return wrong("shared memory", f"{place}: {error.strerror}", "mount it: loader processes send by it")
    said = f"{place} has {usage.free / _MIB:.0f} MiB free of {usage.total / _MIB:.0f}"
    if usage.free < _SHARED:
        return wrong("shared memory", said, "enlarge it (docker run --shm-size=8g), or set data.workers=0")
    if usage.free < _SHARED_OF_NVJPEG:
        return note("shared memory", said, "enough, but for data.decode=cuda: docker run --shm-size=8g")
    return ok("shared memory", said)


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
