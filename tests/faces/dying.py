"""Work for processes, light enough that they start at once."""

from __future__ import annotations

import os
import signal


def square_or_die(number: int) -> int:
    """The square of a number; 2 is the end of the process."""
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number
