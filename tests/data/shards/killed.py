"""Writing shards in a process that kills itself before a given step."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from maedfer.data.annotations import read_annotations
from maedfer.data.shards.options import ShardOptions
from maedfer.data.shards.write import write_shards
from tests.forks import forking

_STEPS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate")


def write_until(step: int, source: Path, out: Path, options: ShardOptions) -> int | None:
    """Write the shards of a list in another process, which kills itself before its so manieth change of a file.

    Returns:
        The status of the process: 0 where it was done before, -9 where it was killed.
    """
    process = forking().Process(target=_write, args=(step, source, out, options))
    process.start()
    process.join()
    return process.exitcode


def _write(step: int, source: Path, out: Path, options: ShardOptions) -> None:
    left = step

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event not in _STEPS or not str(arguments[0]).startswith(str(out)):
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    write_shards(read_annotations(source), out, options)
