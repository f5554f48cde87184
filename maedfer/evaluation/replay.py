"""Passes without gradients, replayed as CUDA graphs: one launch for each batch, whatever the model launches."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Outputs = tuple[Tensor | None, ...]

# Sizes of batches that have a graph each; others are run as they are.
_MOST = 4


class _Captured(NamedTuple):
    graph: torch.cuda.CUDAGraph
    frames: Tensor
    outputs: Outputs


class Passes:
    """Passes of a model over batches of clips on their way to a device.

    Where they are replayed, the first batch of a size is run as it is, which compiles and allocates what a capture may
    not; the second one is captured. So the odd batch at the end of a list is never captured. Graphs read weights where
    they are: a weight may change in place, and must stay where it is for as long as this object is used.

    Args:
        run: one pass: launches its work, waits for nothing, copies nothing from the CPU.
        device: of the model.
        replay: whether passes are replayed; on a CUDA device only.
    """

    def __init__(self, run: Callable[[Tensor], Outputs], device: torch.device | str, replay: bool = False) -> None:
        self.run, self.device, self.replay = run, device, replay
        self._seen: set[torch.Size] = set()
        self._captured: dict[torch.Size, _Captured] = {}
        # Graphs never run at the same time, and share what they need in between.
        self._pool = torch.cuda.graph_pool_handle() if replay else None

    def __call__(self, frames: Tensor) -> Outputs:
        """Run a batch of uint8 frames; the outputs are the caller's own."""
        size = frames.shape
        if size not in self._captured:
            if not self.replay or size not in self._seen or len(self._captured) == _MOST:
                self._seen.add(size)
                return self.run(frames.to(self.device, non_blocking=True))
            # A copy in any case: it is written over by the batches that follow.
            self._captured[size] = self._capture(frames.to(self.device, copy=True))
        graph, inputs, outputs = self._captured[size]
        inputs.copy_(frames, non_blocking=True)
        graph.replay()
        return tuple(None if one is None else one.clone() for one in outputs)

    def _capture(self, frames: Tensor) -> _Captured:
        graph = torch.cuda.CUDAGraph()
        # Another thread, that of the loader which pins memory, may go on meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            outputs = self.run(frames)
        return _Captured(graph, frames, outputs)
