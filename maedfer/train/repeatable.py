"""The same bits twice on one machine: what `train.deterministic` switches on, and off again after the run.

Kernels of this package add nothing atomically and choose their tiles by a table, so that nothing is switched in them.
On a CPU `torch.use_deterministic_algorithms` keeps products with csrc, where otherwise the fastest library makes them,
and torch.compile from choosing by measuring.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def repeatable(wanted: bool) -> Iterator[None]:
    """A block in which what is computed repeats bit for bit, or is refused by PyTorch with its name.

    Args:
        wanted: False changes nothing.
    """
    if not wanted:
        yield
        return
    # cuBLAS reads this when it first starts; without it deterministic mode refuses matrix products.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    enabled, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    measures = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warns)
        torch.backends.cudnn.benchmark = measures
