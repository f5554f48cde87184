"""The runs that are soaked: tiny models on tiny clips, with everything on that draws numbers or remembers something."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from maedfer.data.sampler import EpochSampler
from tests.soak.machine import damage_clip
from tests.train.runs import overrides, write_clips

CLIPS = 24
# Those that are scored are left whole.
SCORED = 7
SEED = 5
# Weights that lie in parts, and checkpoints that are folders, written while the run goes on.
SHARDED = ("train.sharding=full", "train.checkpoint=sharded", "train.save_async=true")
_OF_TASK = {
    "finetune": ["model.drop_path=0.2", "eval.every=4"],
    "pretrain": ["model.encoder.drop_path=0.2", "model.decoder_keep=0.5"],
}


@dataclass(frozen=True)
class Job:
    """A run to be carried through.

    Args:
        task: of the run.
        epochs: how long it is.
        world: number of processes.
        workers: loader processes of each.
        interval: steps between two checkpoints.
        accumulate: passes of a step.
        more: further settings.
    """

    task: str
    epochs: int
    world: int = 1
    workers: int = 0
    interval: int = 5
    accumulate: int = 1
    more: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        parts = [self.task, "1 process" if self.world == 1 else f"{self.world} processes"]
        parts += [f"{self.workers} loader"] if self.workers else []
        return ", ".join([*parts, *self.more])

    @property
    def in_folders(self) -> bool:
        """Whether its checkpoints are folders."""
        return "train.checkpoint=sharded" in self.more

    @property
    def saves_later(self) -> bool:
        """Whether a checkpoint is in its place only when the next one is begun, at the latest."""
        return "train.save_async=true" in self.more

    @property
    def batch(self) -> int:
        """Clips of a pass in one process."""
        return 4 // self.world

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of an epoch."""
        return CLIPS // (self.batch * self.world) // self.accumulate

    @property
    def steps(self) -> int:
        """Optimiser steps of the run."""
        return self.epochs * self.steps_per_epoch

    def settings(self, data: Path, output: Path, workers: int | None = None) -> list[str]:
        """The run's settings on the command line."""
        lines = [*overrides(self.task, data, output), f"seed={SEED}", "optim.clip_grad=1.0", "train.ema=0.9"]
        lines += [
            f"optim.epochs={self.epochs}",
            f"train.save_steps={self.interval}",
            "data.on_error=skip",
            "data.max_broken=0.5",
        ]
        lines += [f"train.batch_size={self.batch}", f"train.accumulate={self.accumulate}"]
        return [
            *lines,
            f"data.workers={self.workers if workers is None else workers}",
            *_OF_TASK[self.task],
            *self.more,
        ]

    def asked(self, step: int, rank: int) -> list[int]:
        """The clips whose turn a step is, by the order of the epoch."""
        sampler = EpochSampler(CLIPS, seed=SEED, rank=rank, world=self.world, batch_size=self.batch)
        epoch, place = divmod(step, self.steps_per_epoch)
        sampler.set_epoch(epoch)
        keys = [key.index for key in sampler]
        clips = self.batch * self.accumulate
        return keys[place * clips : (place + 1) * clips]

    def passed(self, step: int, rank: int, learned: Sequence[int]) -> set[int]:
        """The clips that were passed over in a step that learned from others in their place: each for the next one."""
        pairs = zip(self.asked(step, rank), learned, strict=True)
        return {(one + more) % CLIPS for one, other in pairs for more in range((other - one) % CLIPS)}


def write_data(folder: Path, broken: Iterable[int]) -> Path:
    """Clips, some of which are broken from the beginning, each in another way."""
    data = write_clips(folder, CLIPS)
    for how, clip in enumerate(broken):
        damage_clip(data / f"clip_{clip}", how)
    return data


def copy_data(data: Path, folder: Path) -> Path:
    """The same clips elsewhere, to stay as they are now."""
    shutil.copytree(data, folder)
    return folder
