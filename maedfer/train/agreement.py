"""What all processes of a run decide alike, at the same step: to skip it, or to stop after it.

    agreement = Agreement(runtime, ("skip", "stop"))
    agreement.say("stop", signum)                    # of this process, at any time, also in a signal's handler
    agreed = agreement.send(step, skip=not_finite)   # once a step, in every process
    for step, flags in agreement.read():             # {"skip": 0.0, "stop": 15.0}: the largest that any process said
        ...
    if agreement.seen["stop"]:                       # and what was said at any step that has been read
        ...

One small all-reduce a step carries all of it. On a CPU a step is read as soon as it was sent. On a GPU the numbers are
copied without waiting, and read a few steps later, the same number of steps in all processes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from maedfer.train.processes import Runtime

# Steps after which a GPU is sure to have been through one, so that nobody waits for it.
_LAG = 4


class Agreed(NamedTuple):
    """What the processes said at a step: of each flag the largest value that any of them gave."""

    step: int
    flags: dict[str, float]


class Agreement:
    """Flags that all processes of a run see alike.

    Args:
        runtime: the processes.
        names: of the flags.
        lag: steps between sending and reading; None = none on a CPU, a few on a GPU.

    Attributes:
        seen: the largest value of each flag in the steps that were read, alike in all processes; 0 = never said.
    """

    def __init__(self, runtime: Runtime, names: tuple[str, ...], lag: int | None = None) -> None:
        self.runtime, self.names = runtime, names
        self._on_gpu = runtime.device.type == "cuda"
        self.lag = lag if lag is not None else _LAG if self._on_gpu else 0
        self.seen = dict.fromkeys(names, 0.0)
        self._said = dict.fromkeys(names, 0.0)
        self._sent: deque[tuple[int, Tensor, torch.cuda.Event | None]] = deque()

    def say(self, name: str, value: float = 1.0) -> None:
        """Let this process say `value`, which is not negative, with every step from the next one on; 0 takes it back.

        Raises:
            KeyError: there is no such flag.
        """
        if name not in self._said:
            raise KeyError(name)
        self._said[name] = value

    def send(self, step: int, **flags: Tensor) -> Tensor:
        """Tell the others of a step; every process does so once a step, in the same order.

        Args:
            step: number of the step, the same in all processes.
            flags: of this step alone: scalars, on the device, that are no NaN (a comparison's result).

        Returns:
            What is agreed upon, float32 [names] on the device, for what the device decides by itself.
        """
        device = self.runtime.device
        said = torch.tensor(list(self._said.values()), dtype=torch.float32, pin_memory=self._on_gpu)
        row = said.to(device, non_blocking=True) if self._on_gpu else said
        for name, flag in flags.items():
            row[self.names.index(name)] = flag
        if self.runtime.world > 1:
            with self.runtime.waiting():
                dist.all_reduce(row, op=dist.ReduceOp.MAX)
        if not self._on_gpu:
            self._sent.append((step, row.clone(), None))
            return row
        copied = torch.empty(len(self.names), dtype=torch.float32, pin_memory=True)
        copied.copy_(row, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._sent.append((step, copied, event))
        return row

    def read(self, everything: bool = False) -> list[Agreed]:
        """The steps that have become readable, each once, in their order, in all processes the same ones.

        Args:
            everything: also those of the last few steps, for which a GPU is waited for: before a checkpoint.
        """
        found = []
        while len(self._sent) > (0 if everything else self.lag):
            step, row, event = self._sent.popleft()
            if event is not None:
                with self.runtime.waiting():
                    event.synchronize()
            flags = dict(zip(self.names, row.tolist(), strict=True))
            self.seen = {name: max(value, flags[name]) for name, value in self.seen.items()}
            found.append(Agreed(step, flags))
        return found


def until_stopped(batches: Iterable[Any], count: int, runtime: Runtime) -> Iterator[Any]:
    """Batches of which several processes have one each at a time, until one of them was asked to stop.

    Args:
        batches: of this process.
        count: how many it has; another one may have more.
        runtime: the processes.

    Raises:
        Stopped: one was, and all of them know.
    """
    agreement = Agreement(runtime, ("stop",))
    iterator = iter(batches)
    for number in range(max(runtime.gather(count))):
        # Not `yield from`: those who have fewer batches take part to the end.
        if (batch := next(iterator, None)) is not None:
            yield batch
        agreement.say("stop", float(runtime.signals.asked))
        agreement.send(number)
        agreement.read()
        if asked := int(agreement.seen["stop"]):
            runtime.signals.asked = asked
            raise runtime.signals.stopped()
