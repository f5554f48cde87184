"""Memory in which loader processes put frames, batch after batch.

The system hands fresh memory out page by page, which takes a processor longer than filling it does, and longer than
decoding the pictures of a shard costs in part. Here a few batches' room is made once, and gone through in turn.
"""

from __future__ import annotations

import itertools
import math
import mmap
import sys
import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

# Nothing is set aside for what is not written to; Python names the number from 3.11 on.
_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)


class Slots:
    """Room for some batches of each loader process, which those have that are forked after it was made.

    It takes memory as it is first written to, and none of /dev/shm.

    Args:
        workers: loader processes.
        count: batches of each that are on the way at a time, the one that is just taken among them.
        size: bytes of a batch's frames, as far as they are known; larger ones are sent as other tensors are.

    Raises:
        OSError: the system does not give that much.
    """

    def __init__(self, workers: int, count: int, size: int) -> None:
        self.count, self.size = count, size
        self.key = next(_keys)
        memory = mmap.mmap(-1, workers * count * size, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | _NORESERVE)
        self._memory = torch.frombuffer(memory, dtype=torch.uint8)
        # Of this process: the slot that is next, and how much of it was given away.
        self._turn = self._given = 0
        # Memory of batches that were taken, and to which no tensor refers any more.
        self._free: list[np.ndarray] = []
        _known[self.key] = self

    def room(self, shape: tuple[int, ...]) -> np.ndarray:
        """Give memory for uint8 frames where `join` will put them, if all frames of a batch are given theirs in order.

        Args:
            shape: of the frames.

        Returns:
            An array of that shape, not set. It is fresh where the slot has no more room.
        """
        worker, size = get_worker_info(), math.prod(shape)
        if worker is None or self._given + size > self.size:
            return np.empty(shape, np.uint8)
        start = self._number(worker.id) * self.size + self._given
        self._given += size
        return self._memory[start : start + size].view(shape).numpy()

    def join(self, frames: Sequence[Tensor]) -> Tensor | InSlot:
        """Put uint8 tensors [R, ...] one after the other into the next slot of this process.

        Returns:
            What is sent in place of the batch; a batch that is too large, or of no loader process, as it is.
        """
        worker = get_worker_info()
        given, self._given = self._given, 0
        shape = (sum(map(len, frames)), *frames[0].shape[1:])
        if worker is None or math.prod(shape) > self.size:
            return torch.cat(list(frames))
        place = InSlot(self.key, self._number(worker.id), shape)
        self._turn = (self._turn + 1) % self.count
        taken = self.look(place)
        if given and _follow_each_other(frames, taken.data_ptr()):
            return place
        if given:
            # Some may lie in the slot, at other places.
            taken.copy_(torch.cat(list(frames)))
        else:
            torch.cat(list(frames), out=taken)
        return place

    def _number(self, worker: int) -> int:
        """The slot whose turn it is."""
        return worker * self.count + self._turn

    def take(self, place: InSlot) -> Tensor:
        """Copy frames out of a slot."""
        memory = self._free.pop() if self._free else np.empty(self.size, np.uint8)
        part = memory[: math.prod(place.shape)]
        # A tensor, and whatever is a view of it, holds on to the array that it was made of.
        weakref.finalize(part, self._free.append, memory).atexit = False
        return torch.from_numpy(part).view(place.shape).copy_(self.look(place))

    def look(self, place: InSlot) -> Tensor:
        """What is in a slot, where it lies."""
        start = place.number * self.size
        return self._memory[start : start + math.prod(place.shape)].view(place.shape)


def _follow_each_other(frames: Sequence[Tensor], place: int) -> bool:
    """Whether contiguous tensors lie in memory one after the other, from an address on."""
    for tensor in frames:
        if tensor.data_ptr() != place or not tensor.is_contiguous():
            return False
        place += tensor.numel()
    return True


@dataclass(frozen=True)
class InSlot:
    """Where a batch's frames are.

    Args:
        key: of the `Slots`.
        number: of the slot.
        shape: of the frames.
    """

    key: int
    number: int
    shape: tuple[int, ...]

    def take(self) -> Tensor:
        """Copy the frames out, before the process that put them there has gone round its slots."""
        return _known[self.key].take(self)

    def pin_memory(self) -> Tensor:
        """The same into pinned memory, as PyTorch's loader asks for it."""
        return _known[self.key].look(self).pin_memory()


_keys = itertools.count()
_known: weakref.WeakValueDictionary[int, Slots] = weakref.WeakValueDictionary()
