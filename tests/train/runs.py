"""Tiny clips, tiny models, and runs of them in this process or in others."""

from __future__ import annotations

import json
import math
import os
import socket
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maedfer.train import RunConfig, RunResult, load_config
from maedfer.train.tasks import FinetuneTask, PretrainTask, Task
from maedfer.train.trainer import Trainer
from tests.forks import forking

# Seconds after which a process that takes a few is taken for one that hangs.
_HANGS = 300
_ENCODER = {
    "clip_size": "[4, 16, 16]",
    "patch_size": "[2, 4, 4]",
    "region_size": "[1, 2, 4]",
    "embed_dim": "16",
    "depth": "2",
    "num_heads": "2",
}
_COMMON = """seed=5 data.stride=1 data.workers=0 data.classes=[up,down,still] train.batch_size=4 train.log_every=1
optim.lr_batch=0 optim.lr=1e-2 optim.min_lr=1e-4 optim.epochs=3 optim.warmup_epochs=1 train.threads=1 train.device=cpu
train.tensorboard=false report=false""".split()


def write_clips(folder: Path, count: int = 14) -> Path:
    """Frame folders of a bar that moves up, down or not at all; train.csv has all clips, test.csv seven."""
    generator = np.random.default_rng(0)
    rows = []
    for number in range(count):
        label, clip = number % 3, folder / f"clip_{number}"
        clip.mkdir(parents=True)
        background = generator.integers(0, 60, (20, 20, 3))
        for time in range(6):
            frame = background.copy()
            row = {0: 14 - 2 * time, 1: 2 + 2 * time, 2: 8}[label]
            frame[row : row + 4] = (250, 220, 40 + number * 10)
            Image.fromarray(frame.astype(np.uint8)).save(clip / f"{time}.png")
        rows.append(f"{clip.name} {label}")
    (folder / "train.csv").write_text("\n".join(rows) + "\n")
    (folder / "test.csv").write_text("\n".join(rows[:7]) + "\n")
    return folder


def overrides(task: str, data: Path, output: Path) -> list[str]:
    """Settings of a run that takes a second."""
    lines = [*_COMMON, f"output={output}", f"data.train={data / 'train.csv'}"]
    if task == "pretrain":
        lines += ["model.name=mae_dfer_tiny", "model.decoder_dim=16", "model.decoder_depth=1", "model.decoder_heads=2"]
        lines += ["model.mask_ratio=0.5"]
        return [*lines, *(f"model.encoder.{key}={value}" for key, value in _ENCODER.items())]
    lines += ["model.name=lgi_former_tiny", "model.init_scale=1.0", f"data.test={data / 'test.csv'}"]
    return [*lines, *(f"model.{key}={value}" for key, value in _ENCODER.items())]


def tiny(task: str, data: Path, output: Path, *changes: str) -> RunConfig:
    """The settings of a tiny run, changed."""
    return load_config(task, None, [*overrides(task, data, output), *changes])


def records(output: Path, kind: str) -> list[dict[str, Any]]:
    """The records of one kind in a run's log."""
    lines = (output / "log.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


@dataclass(frozen=True)
class Done:
    """How processes ended, and what they wrote: stdout and stderr of all of them."""

    codes: list[int]
    text: str

    @property
    def ok(self) -> bool:
        """Whether all ended well."""
        return not any(self.codes)


def in_process(task: str, settings: list[str], before: str = "", processes: int = 1) -> Done:
    """Run a task in one process of its own, or in several that work together, after the statements `before`.

    The processes are forked from a server that has imported the package, so that each costs little.
    """
    context = forking()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        workers = []
        for rank in range(processes):
            environment = {"OMP_NUM_THREADS": "1"}
            if processes > 1:
                environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
                environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            arguments = (task, settings, before, environment, f"{folder}/{rank}")
            workers.append(context.Process(target=_child, args=arguments))
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(_HANGS)
            if worker.is_alive():
                worker.kill()
                worker.join()
        text = "".join(Path(f"{folder}/{rank}").read_text() for rank in range(processes))
    return Done([worker.exitcode or 0 for worker in workers], text)


def scores(result: RunResult) -> dict[str, Any]:
    """What metrics.json of a run holds."""
    assert result.metrics is not None
    return result.metrics


def _child(task: str, settings: list[str], before: str, environment: dict[str, str], output: str) -> None:
    os.environ.update(environment)
    with open(output, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    exec(before, {})
    from maedfer import train

    getattr(train, f"run_{task}")(load_config(task, None, settings))


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


def spoil_losses(
    steps: Mapping[int, float],
    clips: Mapping[str, float] | None = None,
    rank: int = 0,
    patch: Callable[[Any, str, Any], None] = setattr,
) -> None:
    """Multiply losses by numbers such as NaN or 100 from now on, so that training meets a bad batch.

    For a run in this process, `patch` is `monkeypatch.setattr`. In processes of their own it is among the statements
    `before` of `in_process`: "from tests.train.runs import spoil_losses; spoil_losses({4: float('nan')})".

    Args:
        steps: by number of the step, from 1, in the process `rank`.
        clips: by name of a clip, in every pass that has it.
        rank: of that process.
        patch: sets an attribute.
    """
    factor = [1.0]
    trainers: list[Trainer] = []
    step, send = Trainer._step, Task.send

    def stepping(self: Trainer, batches: Any) -> None:
        trainers[:] = [self]
        step(self, batches)

    def sending(self: Task, batch: Any) -> Any:
        for trainer in trainers:
            names = {trainer.batches.dataset.clips[index].name for index in batch["index"].tolist()}
            mine = steps.get(trainer.position.step + 1, 1.0) if self.runtime.rank == rank else 1.0
            factor[0] = math.prod([mine, *(number for name, number in (clips or {}).items() if name in names)])
        return send(self, batch)

    patch(Trainer, "_step", stepping)
    patch(Task, "send", sending)
    for task in (PretrainTask, FinetuneTask):

        def spoiled(model: Any, batch: Any, losses: Any = task.losses) -> Any:
            return {name: value * factor[0] for name, value in losses(model, batch).items()}

        patch(task, "losses", staticmethod(spoiled))


def kill_before(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Let the next run end before optimiser step `step`, once."""
    original = Trainer._step

    def killed(self: Trainer, batches: Any) -> None:
        if self.position.step == step:
            monkeypatch.setattr(Trainer, "_step", original)
            raise Killed
        original(self, batches)

    monkeypatch.setattr(Trainer, "_step", killed)
