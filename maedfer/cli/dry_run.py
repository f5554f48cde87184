"""`--dry-run`: everything about a run that can be checked without training, and without writing anything."""

from __future__ import annotations

import dataclasses
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from maedfer.data.annotations import Clip, check_exists
from maedfer.data.dataset import SampleKey, collate
from maedfer.data.video.readers import open_video
from maedfer.errors import InputError
from maedfer.evaluation.predictions import read_predictions
from maedfer.models import MAEDFER, LGIFormer, build_model, load
from maedfer.train.config import RunConfig
from maedfer.train.environment import memory_mb
from maedfer.train.loader import TrainBatches, ViewBatches, read_clips
from maedfer.train.optim import Schedule
from maedfer.train.processes import Runtime, start
from maedfer.train.weights import initialise

# Clips of each list that are opened, evenly spread.
_SAMPLE = 16
# Above this number of clips, the files of the sample alone are looked for.
_LOOK_FOR_ALL = 100_000
# Clips in the batch on a CPU, where a whole batch of the base model takes minutes.
_CPU_BATCH = 2

Say = Callable[[str], None]


def dry_run(cfg: RunConfig) -> int:
    """Check a run and tell what it would do.

    Raises:
        InputError: naming the first thing that would stop it.
    """
    # Loader processes cost more to start than they save for one batch.
    cfg = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, workers=0))
    with start(cfg) as runtime:

        def say(line: str) -> None:
            if runtime.main:
                print(line, flush=True)

        _check_output(cfg, say)
        if cfg.task == "evaluate" and cfg.eval.runs:
            _check_pooled(cfg, say)
        else:
            splits = {"pretrain": ["train"], "finetune": ["train", "val", "test"], "evaluate": ["test"]}[cfg.task]
            for split in splits:
                if getattr(cfg.data, split):
                    _check_list(cfg, split, say)
            (_check_evaluation if cfg.task == "evaluate" else _check_training)(cfg, runtime, say)
    say("dry run complete: nothing was written")
    return 0


def _check_output(cfg: RunConfig, say: Say) -> None:
    output = Path(cfg.output)
    if output.exists() and not output.is_dir():
        raise InputError(f"output {cfg.output!r} is a file: give a folder")
    existing = next(folder for folder in (output, *output.absolute().parents) if folder.exists())
    if not os.access(existing, os.W_OK):
        raise InputError(f"output {cfg.output!r} cannot be written: no permission for {str(existing)!r}")
    held = "holds a run already, which would be resumed" if (output / "checkpoints" / "last.pt").exists() else "new"
    say(f"output       {output} ({held})")


def _check_pooled(cfg: RunConfig, say: Say) -> None:
    for folder in cfg.eval.runs:
        path = Path(folder) / "pred.csv"
        if not path.is_file():
            raise InputError(f"eval.runs: {folder!r} has no pred.csv: give folders of runs that have ended")
        say(f"eval.runs    {folder}: {len(read_predictions(path).names)} clips")


def _check_list(cfg: RunConfig, split: str, say: Say) -> None:
    file = getattr(cfg.data, split)
    clips = read_clips(cfg, file, labelled=cfg.task != "pretrain")
    tolerant = split == "train" and cfg.data.on_error == "skip"
    sample = [clips[index] for index in _spread(len(clips), _SAMPLE)]
    if not tolerant:
        check_exists(clips if len(clips) <= _LOOK_FOR_ALL else sample)
    problems, lengths = [], []
    for clip in sample:
        try:
            lengths.append(_frames(cfg, clip))
        except InputError as error:
            problems.append(f"{clip.where}: {error}")
    if problems and (not tolerant or not lengths):
        raise InputError(f"{len(problems)} of {len(sample)} sampled clips cannot be read: {problems[0]}")
    say(f"data.{split:<8}{file}: {len(clips)} clips{_class_counts(cfg, clips)}")
    say(f"             {len(lengths)} of {len(sample)} sampled clips read, {min(lengths)} to {max(lengths)} frames")
    for problem in problems:
        say(f"             would be skipped: {problem}")


def _frames(cfg: RunConfig, clip: Clip) -> int:
    with open_video(clip.path, cfg.data.backend) as reader:
        reader.read([0, len(reader) - 1])
        return len(reader)


def _class_counts(cfg: RunConfig, clips: list[Clip]) -> str:
    if cfg.task == "pretrain":
        return ""
    counts = Counter(clip.label for clip in clips)
    return " (" + ", ".join(f"{name} {counts[label]}" for label, name in enumerate(cfg.classes)) + ")"


def _check_training(cfg: RunConfig, runtime: Runtime, say: Say) -> None:
    model = build_model(cfg.model)
    if cfg.train.init:
        report = initialise(model, cfg.train.init)
        say(f"train.init   {cfg.train.init}: {len(report.used)} keys used, {len(report.fresh)} left as initialised")
    model.to(runtime.device)
    if cfg.train.freeze_blocks and isinstance(model, LGIFormer):
        model.freeze(cfg.train.freeze_blocks)
    count = sum(parameter.numel() for parameter in model.parameters())
    say(f"model        {cfg.model_name}, {count / 1e6:.2f} M parameters, on {runtime.device} in {runtime.precision}")
    batches = TrainBatches(cfg, runtime)
    _tell_schedule(cfg, runtime, batches, say)
    size = min(batches.clips, _batch_size(cfg, runtime))
    batch = collate([batches.dataset[SampleKey(index, cfg.seed)] for index in _spread(batches.clips, size)])
    loss = _reconstruct if isinstance(model, MAEDFER) else _classify
    _forward(batch, runtime, lambda moved: loss(model, moved), say)  # type: ignore[arg-type]


def _tell_schedule(cfg: RunConfig, runtime: Runtime, batches: TrainBatches, say: Say) -> None:
    clips = cfg.train.batch_size * runtime.world * cfg.train.accumulate
    steps = len(batches) // cfg.train.accumulate
    if not steps:
        raise InputError(
            f"{batches.clips} training clips do not fill one batch of {clips} (train.batch_size x processes x "
            "train.accumulate): lower it, or give more clips"
        )
    schedule = Schedule(cfg.optim, clips, steps, cfg.train.max_steps)
    batch = f"batch {cfg.train.batch_size} x processes {runtime.world} x passes {cfg.train.accumulate}"
    say(f"schedule     {schedule.total} steps of {clips} clips ({batch}), {steps} an epoch")
    rates = f"learning rate to {schedule.peak:.4g} in {schedule.warmup} steps, then down to {schedule.floor:.4g}"
    say(f"             {rates}")


def _check_evaluation(cfg: RunConfig, runtime: Runtime, say: Say) -> None:
    model = load(cfg.eval.checkpoint)
    if not isinstance(model, LGIFormer):
        raise InputError(f"{cfg.eval.checkpoint!r} holds a masked autoencoder: only a classifier can be scored")
    count = sum(parameter.numel() for parameter in model.parameters())
    say(f"model        {cfg.eval.checkpoint}, {count / 1e6:.2f} M parameters, {model.config.num_classes} classes")
    small = dataclasses.replace(
        cfg, model=model.config, eval=dataclasses.replace(cfg.eval, batch_size=_batch_size(cfg, runtime))
    )
    batch = next(iter(ViewBatches(small, runtime, cfg.data.test)))
    _forward(batch, runtime, lambda moved: _classify(model.to(runtime.device), moved), say)


def _reconstruct(model: MAEDFER, batch: dict[str, Tensor]) -> Tensor:
    mask = batch["mask"]
    # [B, 2, K] when only a part of the hidden tokens is reconstructed.
    numbers = model.token_numbers(*((mask,) if mask.dim() == 2 else mask.unbind(1)))
    return model.training_loss(batch["frames"], *numbers)["loss"]


def _classify(model: LGIFormer, batch: dict[str, Tensor]) -> Tensor:
    logits = model(batch["frames"])
    return F.cross_entropy(logits.float(), batch["label"].repeat_interleave(len(logits) // len(batch["label"])))


@torch.inference_mode()
def _forward(batch: dict[str, Any], runtime: Runtime, loss: Callable[[dict[str, Tensor]], Tensor], say: Say) -> None:
    moved = {name: value.to(runtime.device) for name, value in batch.items()}
    began = time.perf_counter()
    with runtime.autocast():
        value = float(loss(moved))
    seconds = time.perf_counter() - began
    shape = " x ".join(map(str, moved["frames"].shape))
    say(f"forward      batch {shape}: loss {value:.4f} in {seconds:.2f} s, {memory_mb(runtime.device):.0f} MB")


def _batch_size(cfg: RunConfig, runtime: Runtime) -> int:
    size = (cfg.eval.batch_size if cfg.task == "evaluate" else 0) or cfg.train.batch_size
    return min(size, _CPU_BATCH) if runtime.device.type == "cpu" else size


def _spread(count: int, wanted: int) -> list[int]:
    """At most `wanted` different indices below `count`, evenly spread."""
    wanted = min(count, wanted)
    return [index * count // wanted for index in range(wanted)]
