"""Processes that work for another one, and end with it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from multiprocessing.process import BaseProcess


def serve_parent() -> None:
    """Make this process a worker: Ctrl-C is for its parent, and when that ends, however it does, so does this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A handler that was forked along would be the parent's.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)
