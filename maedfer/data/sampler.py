"""The order of clips in an epoch, and the seed of everything that is random about each of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Sampler

from maedfer.errors import InputError


@dataclass(frozen=True, slots=True)
class SampleKey:
    """What a data set is asked for: which clip, and the seed of its random changes."""

    index: int
    seed: int = 0


class EpochSampler(Sampler[SampleKey]):
    """Deals the clips of an epoch out to processes, batch by batch.

    The order of all clips, and each one's seed, depend on (seed, epoch, place in the order) alone. Global batch j is
    the places j * world * batch_size up to the next one's, and process `rank` gets its rank-th part of them: one
    process with batch 2b and two with batch b see the same clips, changed alike, in the same global batches.

    Args:
        n: number of clips.
        seed: seed of the run.
        shuffle: whether to go through the clips in a random order.
        rank, world: this process and the number of processes.
        batch_size: clips of a batch in one process.
        drop_last: leave out the last, incomplete global batch. If not, it is shared out evenly: every clip comes
            exactly once, and processes may differ by one clip and one batch.
        block: neighbouring clips that stay near each other in the random order, so that storage that is slow to find
            a place reads long pieces; block i is that of the clips from i * block on. 0 = none, every order of the
            clips is as likely.
        window: blocks whose clips are mixed with each other.

    Attributes:
        start_batch: batches to skip at the beginning of the epoch, for going on inside it; `set_epoch` clears it.
    """

    def __init__(
        self,
        n: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world: int = 1,
        batch_size: int = 1,
        drop_last: bool = True,
        block: int = 0,
        window: int = 1,
    ) -> None:
        if block < 0 or window < 1:
            raise InputError(f"block {block}, window {window}: blocks have 0 clips (none) or more, windows a block")
        if batch_size < 1 or not 0 <= rank < world:
            raise InputError(f"batch size {batch_size}, rank {rank} of {world}: batch sizes start at 1, ranks at 0")
        if drop_last and n < batch_size * world:
            are = "1 clip is" if n == 1 else f"{n} clips are"
            raise InputError(
                f"{are} fewer than one batch of {batch_size * world} ({world} x {batch_size}): lower train.batch_size"
            )
        self.n, self.seed, self.shuffle = n, seed, shuffle
        self.rank, self.world = rank, world
        self.batch_size, self.drop_last = batch_size, drop_last
        self.block, self.window = block, window
        self.epoch = 0
        self.start_batch = 0

    @property
    def batches(self) -> int:
        """Global batches in an epoch."""
        whole, rest = divmod(self.n, self.batch_size * self.world)
        return whole + (rest > 0 and not self.drop_last)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, and begin at its first batch."""
        self.epoch = epoch
        self.start_batch = 0

    def __len__(self) -> int:
        return sum(len(self._places(batch)) for batch in range(self.start_batch, self.batches))

    def __iter__(self) -> Iterator[SampleKey]:
        epoch, start = self.epoch, self.start_batch
        order = self._order(epoch)
        for batch in range(start, self.batches):
            for place in self._places(batch):
                index = place if order is None else int(order[place])
                yield SampleKey(index, _mix(self.seed, epoch, place))

    def batch(self, number: int) -> list[SampleKey]:
        """What this process takes of one global batch of the epoch; none where there is no such batch."""
        before, self.start_batch = self.start_batch, number
        try:
            return list(itertools.islice(self, len(self._places(number)) if number < self.batches else 0))
        finally:
            self.start_batch = before

    def _places(self, batch: int) -> range:
        """Places in the order that this process takes of a global batch."""
        first = batch * self.batch_size * self.world
        last = min(first + self.batch_size * self.world, self.n)
        # Whole batches split evenly; in an incomplete one, the first processes take one more.
        share, more = divmod(last - first, self.world)
        begin = first + self.rank * share + min(self.rank, more)
        return range(begin, begin + share + (self.rank < more))

    def _order(self, epoch: int) -> torch.Tensor | None:
        if not self.shuffle:
            return None
        generator = torch.Generator().manual_seed(_mix(self.seed, epoch))
        if self.block == 0:
            return torch.randperm(self.n, generator=generator)
        block = torch.arange(self.n) // self.block
        window = torch.randperm(int(block[-1]) + 1, generator=generator)[block] // self.window
        return torch.argsort(window * self.n + torch.randperm(self.n, generator=generator))


def _mix(*numbers: int) -> int:
    """Turn a few numbers into one seed below 2**63 that shares nothing with those of other numbers."""
    low, high = np.random.SeedSequence(numbers).generate_state(2, np.uint32).tolist()
    return (high << 32 | low) >> 1
