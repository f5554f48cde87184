"""Areas of an examination that go wrong in the process that looks at them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from maedfer.doctor.finding import Finding, Options, ok
from maedfer.errors import InputError


def look(options: Options) -> Iterator[Finding]:
    """Do what the name of the data says, after one finding."""
    yield ok(options.data, "at first")
    if options.data == "crashes":
        print("the last words", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
    if options.data == "hangs":
        # With a process that holds on to all that is open.
        subprocess.Popen(["sleep", "60"], close_fds=False)
        (Path(options.folder) / "process").write_text(str(os.getpid()))
        time.sleep(60)
    if options.data == "leaves":
        os._exit(3)
    if options.data == "raises":
        raise KeyError("a key")
    if options.data == "refuses":
        raise InputError("it is not to be had: take another")
    if options.data == "prints":
        print("what is not for the page")
