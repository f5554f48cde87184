"""Whether an installation does what it should: what `maedfer doctor` prints, and what a bug report needs.

`examine` tries Python, packages, the machine, PyTorch, the GPU, kernels, readers, the detector, the disk and the
network, each in a process of its own, and gives a finding a line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from maedfer._lazy import lazy

if TYPE_CHECKING:
    from maedfer.doctor.examination import examine
    from maedfer.doctor.finding import Finding

__all__ = ["Finding", "examine"]

__getattr__, __dir__ = lazy(__name__, {"examination": ["examine"], "finding": ["Finding"]})
