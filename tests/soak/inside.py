"""What is put into a run's process before it starts: a record of every step, and the faults that are planned for it.

Nothing of it changes what the run computes, but for losses that are planned to be no numbers. A step is written down
when it has ended, by one call of the system, so that a kill leaves all that were finished and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maedfer.data.dataset import ClipDataset
from maedfer.data.sampler import SampleKey
from maedfer.train.tasks import FinetuneTask, PretrainTask
from maedfer.train.trainer import Trainer
from tests.soak.faults import Fault
from tests.soak.harm import Harm
from tests.soak.machine import held


@dataclass(frozen=True)
class Plan:
    """What is to happen in an attempt to carry a run on.

    Args:
        task: of the run.
        settings: of the run, as on the command line.
        data: folder of the clips that faults may damage.
        faults: what goes wrong.
        poisoned: steps whose "loss" or "gradient" is no number, and in which process: {step: [rank, which]}.
        replayed: the clips that each process learns from in place of those whose turn it is: [{step: [clip, ...]}].
        sampled: after how many steps memory and handles are looked at; 0 = never.
        leak: what is lost on purpose: "bytes" in each step, a file or a thread every so many steps.
    """

    task: str
    settings: list[str]
    data: str
    faults: list[Fault] = field(default_factory=list)
    poisoned: dict[int, tuple[int, str]] = field(default_factory=dict)
    replayed: list[dict[int, list[int]]] = field(default_factory=list)
    sampled: int = 0
    leak: dict[str, int] = field(default_factory=dict)

    @staticmethod
    def read(path: Path) -> Plan:
        """The plan that `asdict` has written as JSON."""
        values = json.loads(path.read_text())
        values["faults"] = [Fault(**fault) for fault in values["faults"]]
        values["poisoned"] = _by_step(values["poisoned"])
        values["replayed"] = [_by_step(clips) for clips in values["replayed"]]
        return Plan(**values)


def _by_step(values: dict[str, Any]) -> dict[int, Any]:
    # JSON knows keys of text alone.
    return {int(step): value for step, value in values.items()}


def digest(tensors: dict[str, Tensor]) -> str:
    """Of the bits of tensors, in the order of their names."""
    found = hashlib.blake2b(digest_size=8)
    for name in sorted(tensors):
        value = tensors[name]
        # Of sharded weights each process has a part; all of them are here at the same time.
        whole = value.full_tensor() if hasattr(value, "full_tensor") else value
        found.update(whole.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def install(plan: Plan, folder: Path, rank: int) -> None:
    """Let this process keep a record in the folder, and let the faults of the plan happen to it."""
    _Inside(plan, folder, rank)


class _Inside:
    def __init__(self, plan: Plan, folder: Path, rank: int) -> None:
        self.plan, self.rank = plan, rank
        self.step = -1
        self.queue: list[int] = []
        self.lost: list[Any] = []
        self.trace = os.open(folder / f"rank_{rank}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        (folder / f"pid_{rank}").write_text(str(os.getpid()))
        output = next(line for line in plan.settings if line.startswith("output=")).partition("=")[2]
        # What torchrun has started again is to succeed.
        again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
        faults = [] if again else plan.faults
        self.stepping = False
        self.harm = Harm(faults, rank, output, Path(plan.data), folder, self._fired)
        self._record()
        if plan.replayed:
            self._replay()
        if plan.poisoned:
            for task in (FinetuneTask, PretrainTask):
                self._poison(task)

    def note(self, **values: Any) -> None:
        """Write a line that is there whatever happens next."""
        os.write(self.trace, json.dumps(values).encode() + b"\n")

    def _fired(self, kind: str, of: int) -> None:
        self.note(fired=kind, of=of, stepping=self.stepping)

    def _record(self) -> None:
        step = Trainer._step

        def recorded(trainer: Trainer, batches: Iterator[dict[str, Tensor]]) -> None:
            self.step = number = trainer.position.step
            self.queue = list(self.plan.replayed[self.rank].get(number, ())) if self.plan.replayed else []
            self.harm.due(number)
            clips: list[int] = []
            self.stepping = True
            step(trainer, self._seen(batches, clips, trainer.cfg.data.repeats))
            self.stepping = False
            self.note(step=number, clips=clips, weights=digest(trainer.model.state_dict()))
            self._lose(number)
            if self.plan.sampled and number % self.plan.sampled == 0:
                # A save that goes on beside the steps has memory, threads and files of its own.
                for thread in threading.enumerate():
                    if thread.name == "maedfer-checkpoint":
                        thread.join()
                self.note(at=number, **held())

        Trainer._step = recorded  # type: ignore[assignment, method-assign]

    @staticmethod
    def _seen(batches: Iterator[dict[str, Tensor]], clips: list[int], repeats: int) -> Iterator[dict[str, Tensor]]:
        for batch in batches:
            clips += batch["index"][::repeats].tolist()
            yield batch

    def _replay(self) -> None:
        load = ClipDataset.__getitem__

        def replayed(dataset: ClipDataset, key: SampleKey | int) -> dict[str, Any]:
            if dataset.mode != "views" and self.queue and isinstance(key, SampleKey):
                key = SampleKey(self.queue.pop(0), key.seed)
            return load(dataset, key)

        ClipDataset.__getitem__ = replayed  # type: ignore[method-assign]

    def _poison(self, task: type[FinetuneTask] | type[PretrainTask]) -> None:
        losses = task.losses

        def poisoned(model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
            found = losses(model, batch)
            rank, which = self.plan.poisoned.get(self.step, (-1, ""))
            if rank == self.rank and found["loss"].requires_grad:
                found["loss"] = found["loss"] * float("nan") if which == "loss" else _Poisoned.apply(found["loss"])
            return found

        task.losses = staticmethod(poisoned)  # type: ignore[assignment, method-assign]

    def _lose(self, number: int) -> None:
        for what, amount in self.plan.leak.items():
            if what == "bytes":
                self.lost.append(bytearray(b"x" * amount))
            elif number % amount == 0:
                self.lost.append(os.open(os.devnull, os.O_RDONLY) if what == "files" else _waiting())


class _Poisoned(torch.autograd.Function):
    """The loss as it is, whose gradient is no number."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor) -> Tensor:
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * float("nan")


def _waiting() -> threading.Thread:
    thread = threading.Thread(target=threading.Event().wait, daemon=True)
    thread.start()
    return thread
