"""The processes, device, arithmetic and random seeds of a run."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from maedfer.errors import InputError, Stopped
from maedfer.kernels import choose
from maedfer.models.fixed_weights import packed_weights
from maedfer.models.low_precision import low_precision_weights
from maedfer.train.alarm import Alarm
from maedfer.train.augmenting import settled
from maedfer.train.compiling import Compiling
from maedfer.train.config import RunConfig, for_processes
from maedfer.train.failures import explain
from maedfer.train.peers import Place, join, place
from maedfer.train.precision import precision_of
from maedfer.train.repeatable import repeatable
from maedfer.train.signals import Signals
from maedfer.train.whereabouts import Whereabouts

T = TypeVar("T")


@dataclass(frozen=True)
class Runtime:
    """Where a process runs and with whom.

    Args:
        device: of the model.
        rank, world: this process and the number of processes.
        precision: "fp32", "bf16" or "fp16".
        compiling: what is done to passes.
        precision_why: what there is to say of the precision, for people; "" where it is what everybody expects.
        alarm: its signs of life, and those of the others.
        signals: that ask it to stop.
    """

    device: torch.device
    rank: int = 0
    world: int = 1
    precision: str = "fp32"
    compiling: Compiling = field(default_factory=Compiling)
    precision_why: str = ""
    alarm: Alarm = field(default_factory=lambda: Alarm(Place()))
    signals: Signals = field(default_factory=Signals)

    @property
    def main(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The arithmetic of a forward pass."""
        dtype = self.low_dtype
        return contextlib.nullcontext() if dtype is None else torch.autocast(self.device.type, dtype)

    def low_weights(self, model: nn.Module) -> contextlib.AbstractContextManager[Any]:
        """A block, to be entered again and again, in which products find the weights as they take them.

        On a GPU that is in the run's arithmetic, on a CPU in csrc's order. Weights must not change inside of it.
        """
        if self.device.type == "cpu":
            return packed_weights(model)
        dtype = self.low_dtype
        return contextlib.nullcontext() if dtype is None else low_precision_weights(model, dtype)

    @property
    def low_dtype(self) -> torch.dtype | None:
        """The dtype of products under autocast, None without."""
        return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision)

    @property
    def about(self) -> Whereabouts:
        """Where this process notes what it is doing, for those who wait for it."""
        return self.alarm.about

    def waiting(self) -> contextlib.AbstractContextManager[None]:
        """A block that waits for the other processes, which ends the run when it takes too long."""
        if self.world == 1:
            return contextlib.nullcontext()
        return self.about.at("waits for the other processes", self.alarm.patience, "train.timeout", waits=True)

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """The mean of a tensor over all processes, on every one of them."""
        if self.world > 1:
            values = values.to(self.device)
            with self.waiting():
                dist.all_reduce(values)
            values = values / self.world
        return values

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes in the order of their ranks, on every one of them.

        Raises:
            InputError: the others do not get on, or have gone.
        """
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        self.alarm.meet(main=False)
        with self.waiting():
            dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait for all processes, for as long as they get on.

        Raises:
            InputError: they do not get on, or have gone.
        """
        if self.world > 1:
            self.alarm.meet(main=False)
            with self.waiting():
                dist.barrier()

    def on_main(self, function: Callable[[], T], doing: str = "", long: bool = False) -> T:
        """Call `function` in the main process and give its result to all of them.

        Args:
            function: what is called.
            doing: what that is, as in "is writing last.pt", for those who wait for it.
            long: whether it may take any time; `train.timeout` else.

        Raises:
            InputError: it raised one, and every process then does; or the main process does not get on, or has gone.
        """
        if self.world == 1:
            return function()
        box: list[Any] = [None, None]
        error: Exception | None = None
        if self.main:
            try:
                limit = 0.0 if long else self.alarm.timeout
                with self.about.at(doing or "does what one process does for all", limit, "train.timeout"):
                    box[0] = function()
            except Exception as caught:
                error, box[1] = caught, str(caught)
        self.alarm.meet(main=True)
        with self.waiting():
            dist.broadcast_object_list(box, src=0, device=self.device if self.device.type == "cuda" else None)
        if error is not None:
            raise error
        if box[1] is not None:
            raise InputError(box[1])
        return box[0]


@contextlib.contextmanager
def start(cfg: RunConfig, signals: Signals | None = None) -> Iterator[Runtime]:
    """Join the process group that torchrun started (if any), seed everything, and clean up in the end.

    Args:
        cfg: the run.
        signals: that ask it to stop, where it listens to any.

    Raises:
        InputError: the device is not there, or cannot do the precision, or not what model.impl asks for, or is no GPU
            and clips are to be changed on one; the environment does not say who the processes are; and for what the
            machine does to the run, see `explain`.
    """
    where = place()
    device = _device(cfg.train.device, where)
    choose(cfg.clip_model.impl, device)
    compiling = Compiling.of_run(for_processes(cfg, where.world), device, where.world)
    settled(cfg, device)
    if cfg.train.threads:
        torch.set_num_threads(cfg.train.threads)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    joining = where.world > 1 and not dist.is_initialized()
    if joining:
        join(where, device, cfg.train.timeout)
    seed_all(cfg.seed)
    alarm = Alarm(Place())
    try:
        if joining:
            alarm = Alarm(where, cfg.train.lost_after, cfg.train.timeout, device)
        precision = precision_of(cfg, device)
        heard = signals or Signals()
        try:
            with repeatable(cfg.train.deterministic):
                yield Runtime(device, where.rank, where.world, precision.name, compiling, precision.why, alarm, heard)
        finally:
            if _ends_alike(sys.exc_info()[1]):
                alarm.stop()
                if joining:
                    # Not after an error: leaving would wait for processes that may never come.
                    dist.destroy_process_group()
    except BaseException as error:
        if _ends_alike(error):
            raise
        told = explain(error, cfg, where.world, alarm.late)
        alarm.raise_it(told or error)
        if told is None:
            raise
        raise told from error


def _ends_alike(error: BaseException | None) -> bool:
    """Whether all processes end as this one does."""
    return error is None or (isinstance(error, Stopped) and error.together)


def is_main() -> bool:
    """Whether this is the process that writes files, also where no run is going on."""
    return place().rank == 0


def seed_all(seed: int) -> None:
    """Seed Python's, numpy's and torch's generators (CPU and GPU)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def process_seed(rank: int) -> int:
    """What to add to a seed so that processes draw different numbers."""
    return 1_000_003 * rank


def _device(name: str, where: Place) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"train.device must be auto, cpu, cuda or cuda:N, got {name!r}") from None
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"train.device must be auto, cpu, cuda or cuda:N, got {name!r}")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise InputError(f"train.device is {name!r} but torch finds no CUDA device: use train.device=cpu")
        if device.index is None:
            device = torch.device("cuda", where.local_rank)
            if where.local_rank >= torch.cuda.device_count():
                raise InputError(
                    f"LOCAL_RANK is {where.local_rank} but torch finds {torch.cuda.device_count()} CUDA devices here: "
                    "start at most one process for each of them"
                )
        if device.index >= torch.cuda.device_count():
            raise InputError(f"there is no device {str(device)!r}: torch finds {torch.cuda.device_count()} of them")
    return device
