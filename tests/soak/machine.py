"""What a process has of the machine, and what is done to the files of clips."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
from pathlib import Path


def held() -> dict[str, int]:
    """What this process has of the machine.

    Returns:
        memory: bytes in use.
        loader: those of the processes it has started.
        files, threads, children: how many it has.
        shared: files of shared memory.
    """
    mine, shared = children(os.getpid()), f"torch_{os.getpid()}_"
    return {
        "memory": _memory("self"),
        "loader": sum(_memory(str(process)) for process in mine),
        "files": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "children": len(mine),
        "shared": sum(name.startswith(shared) for name in os.listdir("/dev/shm")),
    }


def _memory(process: str) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * resource.getpagesize()
    return 0


def children(process: int) -> list[int]:
    """The processes that a process has started and that are still there."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The name of the program is in brackets and may hold any character.
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
            if int(parent) == process and state != "Z":
                found.append(int(path.parent.name))
    return found


def damage_clip(clip: Path, how: int) -> None:
    """Break a clip of frames as storage does: files cut short (0), garbage (1), or gone (2)."""
    for picture in sorted(clip.glob("*.png")):
        if how % 3 == 0:
            picture.write_bytes(picture.read_bytes()[:40])
        elif how % 3 == 1:
            picture.write_bytes(b"\xa5" * 200)
    if how % 3 == 2:
        shutil.rmtree(clip)
