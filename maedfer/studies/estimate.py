"""How long runs will take, by a step of each kind on this machine."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

import torch

from maedfer.models import MAEDFERConfig, profile
from maedfer.train.augmenting import settled
from maedfer.train.config import RunConfig
from maedfer.train.loader import MaskDraw
from maedfer.train.processes import start
from maedfer.train.sources import learned_clips, read_clips
from maedfer.train.tasks import FinetuneTask, ForwardPass, PretrainTask

# At most so many clips are in the steps that are timed, of which the fastest counts: another process may have the CPU.
_CLIPS, _STEPS = 16, 4
# To start a process, and to write what a run came to.
_AROUND = 5.0
# A forward pass is about a third of a step.
_FORWARD = 1 / 3


def estimate(configs: Sequence[RunConfig]) -> float:
    """Seconds that runs would take one after another, by what they compute; the time to read clips is not in it.

    A step of the first run of each task is timed, and the others are held against it by their multiply-adds.

    Args:
        configs: of the runs.
    """
    total = 0.0
    paces: dict[str, float] = {}
    counts: dict[tuple[str, ...], int] = {}
    for cfg in configs:
        flops = profile(cfg.model).flops_per_train_clip
        if cfg.task not in paces:
            paces[cfg.task] = seconds_per_clip(cfg) / flops
        key = (cfg.task, cfg.data.train, cfg.data.test, cfg.data.val, cfg.data.labels, str(cfg.seed))
        if key not in counts:
            counts[key] = _clips(cfg)
        total += counts[key] * flops * paces[cfg.task] + _AROUND
    return total


def seconds_per_clip(cfg: RunConfig) -> float:
    """Seconds of a step of training for each of its clips, of frames that are noise."""
    few = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, workers=0))
    with start(few) as runtime:
        few = settled(few, runtime.device)
        task = (PretrainTask if cfg.task == "pretrain" else FinetuneTask)(few, runtime)
        model, _ = task.build(initial=False)
        generator = torch.Generator().manual_seed(0)
        count = min(cfg.train.batch_size, _CLIPS)
        shape = (count, 3, *cfg.clip_model.clip_size)
        batch = {
            "frames": torch.randint(256, shape, generator=generator, dtype=torch.uint8),
            "label": torch.zeros(count, dtype=torch.int64),
        }
        if isinstance(few.model, MAEDFERConfig):
            draw = MaskDraw(few.model)
            batch["mask"] = torch.stack([draw(generator) for _ in range(count)])
        step = ForwardPass(task, model.train())
        seconds = []
        for _ in range(_STEPS):
            began = time.perf_counter()
            with runtime.autocast():
                loss = step(task.send(dict(batch)))["loss"]
            loss.backward()
            float(loss.detach())
            seconds.append(time.perf_counter() - began)
    # The first one prepares what later ones have.
    return min(seconds[1:]) / count


def _clips(cfg: RunConfig) -> int:
    """Clips that a run goes through, those that are scored as the part of a step that they take."""
    learned = len(learned_clips(cfg))
    whole = len(read_clips(cfg, cfg.data.train, labelled=False)) if cfg.data.labels_epoch == "whole" else learned
    train, trained = cfg.train, cfg.optim.epochs * whole
    if cfg.train.max_steps:
        trained = min(trained, cfg.train.max_steps * (train.global_batch or train.batch_size * train.accumulate))
    if cfg.task == "pretrain":
        return trained
    file = cfg.data.val or cfg.data.test
    times = 1 + (cfg.optim.epochs // cfg.eval.every if cfg.eval.every else 0)
    scored = len(read_clips(cfg, file)) if file else 0
    return trained + int(times * scored * cfg.eval.views * _FORWARD)
