"""PyTorch's loader, which is asked whether its processes live, in place of being told.

PyTorch raises an error wherever the main thread is when a loader's process has died. In a save that would be taken for
an error of the disk, and where a checkpoint is read for damage to it, and the batch of the dead process would be waited
for until `data.timeout`. Here nobody is told, and who waits for a batch looks at the processes every second.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from torch.utils.data import DataLoader
from torch.utils.data._utils import signal_handling
from torch.utils.data.dataloader import _BaseDataLoaderIter, _MultiProcessingDataLoaderIter

# Seconds between two looks.
_LOOK = 1.0


class LiveLoader(DataLoader[Any]):
    """A `DataLoader` that says of its processes that one has died where a batch is waited for, and nowhere else.

    Raises:
        RuntimeError: in the words of PyTorch ("DataLoader worker (pid ...) is killed by signal: Killed.").
    """

    def _get_iterator(self) -> _BaseDataLoaderIter:
        if not self.num_workers:
            return super()._get_iterator()
        self.check_worker_number_rationality()
        return _LiveIterator(self)


class _LiveIterator(_MultiProcessingDataLoaderIter):
    def __init__(self, loader: LiveLoader) -> None:
        self._owner = os.getpid()
        super().__init__(loader)
        # The handler of PyTorch's, which other loaders may want, is to know nothing of these processes.
        signal_handling._remove_worker_pids(id(self))
        self._worker_pids_set = False

    def __del__(self) -> None:
        # Collected as part of a cycle, its queues may have been closed before it and bring no request to end to the
        # processes, for which PyTorch would wait 5 s. What a process forked from this one collects is a copy.
        if self._owner == os.getpid():
            for worker in getattr(self, "_workers", ()):
                worker.kill()
            super().__del__()

    def _try_get_data(self, timeout: float = _LOOK) -> tuple[bool, Any]:
        """Wait in parts: after each one that brings nothing, PyTorch looks at the processes."""
        end = time.monotonic() + timeout
        while True:
            left = max(0.0, end - time.monotonic())
            try:
                found: tuple[bool, Any] = super()._try_get_data(min(left, _LOOK))
            except RuntimeError as error:
                raise self._death() or error from None
            if found[0] or left <= _LOOK:
                return found

    def _death(self) -> RuntimeError | None:
        """How a process has died, if one has: of that, PyTorch's own look says nothing."""
        for worker in self._workers:
            if (code := worker.exitcode or 0) < 0:
                how = f"is killed by signal: {signal.strsignal(-code)}. "
            else:
                how = f"exited unexpectedly with exit code {code}."
            if code:
                return RuntimeError(f"DataLoader worker (pid {worker.pid}) {how}")
        return None
