"""What a recipe asks for: clips, steps, operations, bytes."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from maedfer.data.protocols import PROTOCOLS
from maedfer.errors import InputError, unknown
from maedfer.models import LGIFormer, LGIFormerConfig, MAEDFERConfig, ModelProfile, build_model, profile
from maedfer.planning.measured import (
    CLIP_FRAMES,
    CLIP_MS,
    CLIP_SIDE,
    DECODING_MS,
    GPU,
    KERNELS,
    LOADING,
    PASSES,
    PICTURE_BYTES,
    SCORING_FLOPS,
    SCORING_LAUNCHES,
    SCORING_MS,
    VIT_MEMORY,
    MeasuredPass,
    Source,
    launch_seconds,
)
from maedfer.train.config import RunConfig, check_config, find_recipe, list_recipes, load_config, read_tree
from maedfer.train.optim import Schedule
from maedfer.train.sources import learned_clips, read_clips
from maedfer.train.tune import Tune, flops_per_clip

# The development part, as the paper and the data set count it; 283 of the files are broken.
VOXCELEB2_CLIPS = 1_092_009
_FP32 = 4
# What of a block's input is kept where blocks are recomputed: float32.
_KEPT = 4
SOURCES: tuple[Source, ...] = ("shards", "raw", "videos", "frames")


@dataclass(frozen=True)
class ClipCost:
    """What it takes to load a clip.

    Args:
        core_ms: milliseconds of a core.
        read_bytes: from disk or network.
        how: where the two are from.
    """

    core_ms: float
    read_bytes: float
    how: str


@dataclass(frozen=True)
class TrainingJob:
    """A run as its settings have it, however many GPUs it gets.

    Args:
        recipe: its name or file.
        task: "pretrain" or "finetune".
        model: name of the model.
        schedule: steps and learning rates.
        recipe_batch: clips of a step as the recipe has it, without overrides.
        repeats: samples of a clip in a step.
        clips: to learn from, and `clips_source` in words where that number is from.
        scored: views that are scored each time, and `scorings` how often.
        parameters, trained: numbers of the model, and those of them (LoRA's too) that are trained.
        ema: whether a moving average of the weights is kept.
        sharded: several processes share weights, gradients and optimiser (`train.sharding=full`).
        saved_in_parts: each process writes its part of a checkpoint (`train.checkpoint=sharded`); `saved_aside`: while
            the run goes on (`train.save_async`).
        clip_seconds: for a sample of a step, beside `pass_seconds`; of an H100 where `on_h100`, else of the GPU itself.
        pass_seconds: of a pass however few clips it has; `host_seconds` where its kernels are launched one by one.
        score_seconds: of an H100 for a view.
        activation_bytes: kept for the backward pass of a sample.
        replayed: passes are CUDA graphs where no gradients are added up.
        mixes: clips of a pass are mixed with each other.
        loading: what a clip costs by where it is read from; `picture_bytes` of a frame in shards.
        clip_frames: frames of a clip.
        save_steps: steps between checkpoints inside of an epoch, 0 = none; `more_saves` of them come at the ends of
            epochs beside the last one: before an epoch is scored, and to be kept.
        notes: what else a reader must know.
    """

    recipe: str
    task: str
    model: str
    schedule: Schedule
    recipe_batch: int
    repeats: int
    clips: int
    clips_source: str
    scored: int
    scorings: int
    parameters: int
    trained: int
    ema: bool
    sharded: bool
    saved_in_parts: bool
    saved_aside: bool
    clip_seconds: float
    on_h100: bool
    pass_seconds: float
    host_seconds: float
    score_seconds: float
    activation_bytes: float
    replayed: bool
    mixes: bool
    loading: dict[Source, ClipCost]
    picture_bytes: float
    clip_frames: int
    save_steps: int
    more_saves: int
    notes: tuple[str, ...]

    @property
    def state_bytes(self) -> int:
        """Of a checkpoint: weights, AdamW's two averages of what is trained, and the moving average."""
        return _FP32 * (self.parameters * (2 if self.ema else 1) + 2 * self.trained)

    @property
    def gradient_bytes(self) -> int:
        """Of all gradients, in float32 as the weights are."""
        return _FP32 * self.trained


def training_job(
    recipe: str | Path,
    overrides: list[str] | None = None,
    clips: int | None = None,
    scored: int | None = None,
    clips_per_s: float | None = None,
) -> TrainingJob:
    """Find out what a recipe asks for.

    Args:
        recipe: name or file.
        overrides: `key=value`, over the recipe.
        clips: to learn from; None = those of `data.train`, or of the recipe's data set.
        scored: clips that are scored after an epoch; None = likewise.
        clips_per_s: of one GPU that trains with the recipe's batch, where it was measured.

    Raises:
        InputError: no such recipe, settings that cannot be run, or numbers that nobody knows here.
    """
    cfg, base = _settings(recipe, overrides or []), _settings(recipe, [])
    count, source = _clips(cfg, recipe, clips)
    with torch.device("meta"):
        model = build_model(cfg.model)
    tune = Tune.of_run(cfg)
    if isinstance(model, LGIFormer):
        tune.prepare(model)
    costs = profile(cfg.model)
    batch = _batch(cfg)
    if count < batch:
        raise InputError(f"{count} training clips do not fill one step of {batch}: lower train.batch_size")
    schedule = Schedule(cfg.optim, batch, count // batch, cfg.train.max_steps)
    whole = PASSES[cfg.task]
    flops = flops_per_clip(model, costs, cfg.clip_model.depth)
    share = _blocks(cfg.model) / _BLOCKS[cfg.task]
    alone = launch_seconds() * whole.launches * share
    clip_seconds = flops * _seconds_per_flop(whole) * (4 / 3 if _recomputes(cfg) else 1)
    if clips_per_s is not None:
        clip_seconds = max(0.0, _batch(base) / clips_per_s - alone) / (_batch(base) * cfg.data.repeats)
    elif cfg.train.precision == "fp32" or cfg.clip_model.impl not in ("auto", "triton"):
        key = "train.precision" if cfg.train.precision == "fp32" else "model.impl"
        raise InputError(
            f"{key} is {cfg.train.precision if key == 'train.precision' else cfg.clip_model.impl!r}, and nothing was "
            "measured of that: give what one GPU does by --clips-per-s"
        )
    every, epochs = cfg.eval.every, schedule.total / schedule.steps_per_epoch
    views = _scored(cfg, recipe, scored) * cfg.eval.views
    scorings = max(1, int(epochs / every)) if views and every else min(views, 1)
    return TrainingJob(
        recipe=str(recipe),
        task=cfg.task,
        model=cfg.model_name,
        schedule=schedule,
        recipe_batch=_batch(base),
        repeats=cfg.data.repeats,
        clips=count,
        clips_source=source,
        scored=views,
        scorings=scorings,
        parameters=costs.parameters,
        trained=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        ema=cfg.train.ema > 0,
        sharded=cfg.train.sharding == "full",
        saved_in_parts=cfg.train.checkpoint == "sharded",
        saved_aside=cfg.train.save_async,
        clip_seconds=clip_seconds,
        on_h100=clips_per_s is None,
        pass_seconds=alone,
        # What was given has all of it in.
        host_seconds=alone if clips_per_s else whole.eager_ms / 1000 * share,
        score_seconds=sum(costs.macs_executed.values()) * 2 * _scoring_seconds_per_flop(),
        activation_bytes=_activations(cfg, costs),
        replayed=cfg.train.compile != "false" and cfg.train.cuda_graphs != "false",
        mixes=cfg.task == "finetune" and bool(cfg.augment.mixup or cfg.augment.cutmix),
        loading=_loading(cfg),
        picture_bytes=PICTURE_BYTES * _pixels(cfg) / CLIP_SIDE**2,
        clip_frames=cfg.clip_model.clip_size[0],
        save_steps=cfg.train.save_steps,
        more_saves=_more_saves(cfg, int(epochs), scorings > 0),
        notes=_notes(cfg, count, clips_per_s),
    )


def with_core_rate(job: TrainingJob, source: Source, clips_per_s: float) -> TrainingJob:
    """The same job where a core loads so many clips a second from a source."""
    cost = dataclasses.replace(job.loading[source], core_ms=1000 / clips_per_s, how="a core's rate was given")
    return dataclasses.replace(job, loading={**job.loading, source: cost})


def _settings(recipe: str | Path, overrides: list[str]) -> RunConfig:
    task = str(read_tree(find_recipe(recipe)).get("task", ""))
    if not task:
        raise InputError(f"recipe {str(recipe)!r} does not say what is run: write task: pretrain, or task: finetune")
    if task not in ("pretrain", "finetune"):
        raise unknown(f"task in {str(recipe)!r}:", task, ("pretrain", "finetune"))
    cfg = load_config(task, recipe, overrides, check=False)
    # A list need not be there yet.
    check_config(dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, train=cfg.data.train or "list")))
    return cfg


def _batch(cfg: RunConfig) -> int:
    """Clips of a step, as one process runs the settings."""
    return cfg.train.global_batch or cfg.train.batch_size * cfg.train.accumulate


def _shipped(recipe: str | Path) -> str:
    """The name of a recipe that comes with the package, "" of another one."""
    return str(recipe) if str(recipe) in list_recipes() and find_recipe(recipe).stem == str(recipe) else ""


def _clips(cfg: RunConfig, recipe: str | Path, given: int | None) -> tuple[int, str]:
    name = _shipped(recipe)
    if given is not None:
        return given, "given (--clips)"
    if cfg.data.train:
        clips: Any = learned_clips(cfg)
        if cfg.data.labels_epoch == "whole" and hasattr(clips, "again_and_again"):
            clips = clips.again_and_again()
        return len(clips), f"those of {cfg.data.train}"
    if cfg.data.labels != "all":
        raise InputError(f"data.labels is {cfg.data.labels!r}: give data.train, or the number of clips by --clips")
    if name == "voxceleb2_pretrain":
        return VOXCELEB2_CLIPS, "the development part of VoxCeleb2"
    if name in PROTOCOLS:
        protocol = PROTOCOLS[name]
        return protocol.clips - protocol.test_clips, f"{protocol.title}, all but the {protocol.test_clips} of fold 1"
    raise InputError(
        f"recipe {str(recipe)!r} does not say how many clips there are: give --clips N, or data.train=LIST"
    )


def _scored(cfg: RunConfig, recipe: str | Path, given: int | None) -> int:
    """Clips that are scored after an epoch."""
    if cfg.task == "pretrain":
        if given:
            raise InputError("--scored counts clips that are scored, and pre-training scores none: leave it out")
        return 0
    file = cfg.data.val or cfg.data.test
    if given is not None:
        return given
    if file:
        return len(read_clips(cfg, file))
    name = _shipped(recipe)
    return PROTOCOLS[name].test_clips if name in PROTOCOLS else 0


def _more_saves(cfg: RunConfig, epochs: int, scored: bool) -> int:
    """Checkpoints beside one after each epoch: before it is scored or kept, and those that are kept."""
    every, keep = cfg.eval.every, cfg.train.save_every
    kept = epochs // keep if keep else 0
    if not scored or not every:
        return 2 * kept
    both = epochs // math.lcm(every, keep) if keep else 0
    return kept + epochs // every + kept - both


# Blocks of the base models, decoder among them, which the launches of a pass are shared out to.
_BLOCKS = {"pretrain": 20, "finetune": 16}


def _blocks(config: LGIFormerConfig | MAEDFERConfig) -> int:
    return config.encoder.depth + config.decoder_depth if isinstance(config, MAEDFERConfig) else config.depth


def _seconds_per_flop(whole: MeasuredPass) -> float:
    return (whole.kernels_ms / 1000 - launch_seconds() * whole.launches) / whole.flops


def _scoring_seconds_per_flop() -> float:
    (many, ms), *_ = SCORING_MS.items()
    return (ms / 1000 - launch_seconds() * SCORING_LAUNCHES) / many / SCORING_FLOPS


def _stream(costs: ModelProfile, config: LGIFormerConfig | MAEDFERConfig) -> tuple[int, int]:
    """Numbers of the residual stream, those of all blocks together, and of the widest block."""
    encoder = config.encoder if isinstance(config, MAEDFERConfig) else config
    rows = costs.visible_tokens + (costs.regions if encoder.architecture == "lgi" else 0)
    one = rows * encoder.embed_dim
    if not isinstance(config, MAEDFERConfig):
        return one * encoder.depth, one
    hidden = costs.tokens - costs.visible_tokens
    decoded = (costs.visible_tokens + max(1, int(config.decoder_keep * hidden))) * config.decoder_dim
    return one * encoder.depth + decoded * config.decoder_depth, max(one, decoded)


def _recomputes(cfg: RunConfig) -> bool:
    return cfg.train.recompute or cfg.clip_model.checkpoint_blocks


def _activations(cfg: RunConfig, costs: ModelProfile) -> float:
    """Bytes kept for a sample, as many for a number of the residual stream as the base model of the task keeps."""
    numbers, widest = _stream(costs, cfg.model)
    vit = isinstance(cfg.model, LGIFormerConfig) and cfg.model.architecture == "vit"
    whole = VIT_MEMORY if vit else PASSES[cfg.task]
    kept = (whole.memory_bytes - _FP32 * whole.parameters) / whole.clips / _STREAMS["vit" if vit else cfg.task]
    if _recomputes(cfg):
        return _KEPT * numbers + kept * widest
    return kept * numbers


# Numbers of the residual stream of a clip in all blocks of the base models: 808 rows of 512 in 16 blocks; 88 of these,
# and 800 rows of 384 in 4 blocks of the decoder; 800 rows of 768 in 12 blocks.
_STREAMS = {
    "finetune": 808 * 512 * 16,
    "pretrain": 88 * 512 * 16 + 800 * 384 * 4,
    "vit": 800 * 768 * 12,
}


def _pixels(cfg: RunConfig) -> int:
    _, height, width = cfg.clip_model.clip_size
    return height * width


def _loading(cfg: RunConfig) -> dict[Source, ClipCost]:
    """What a clip costs; one of another size in proportion to its pixels."""
    on_gpu = cfg.augment.device != "cpu"
    frames = cfg.clip_model.clip_size[0]
    share = frames * _pixels(cfg) / (CLIP_FRAMES * CLIP_SIDE**2)
    scaled = "" if share == 1 else ", in proportion to pixels"
    found: dict[Source, ClipCost] = {}
    for source in SOURCES:
        # Nobody has measured folders of pictures in pre-training, nor videos in fine-tuning.
        other = "finetune" if source == "frames" else "pretrain"
        measured: Source = "shards" if source == "raw" else source
        task = cfg.task if (cfg.task, measured) in CLIP_MS else other
        gpu_ms, loader_ms, read = CLIP_MS[task, measured]
        how = LOADING + (f", of {task}" if task != cfg.task else "") + scaled
        ms = gpu_ms if on_gpu else loader_ms
        if source == "raw":
            ms, read = ms - DECODING_MS, 3 * CLIP_FRAMES * CLIP_SIDE**2
            how = f"shards without the {DECODING_MS} ms of decoding; not measured{scaled}"
        found[source] = ClipCost(ms * share, read * share, how)
    return found


def _notes(cfg: RunConfig, clips: int, clips_per_s: float | None) -> tuple[str, ...]:
    notes = []
    if clips_per_s is not None:
        notes.append(f"Compute: {clips_per_s:g} clips/s of one GPU with the recipe's batch, given (--clips-per-s).")
    else:
        base = "mae_dfer_base" if cfg.task == "pretrain" else "lgi_former_base"
        whole = PASSES[cfg.task]
        notes.append(
            f"Compute: the kernels of {whole.clips} clips take {whole.kernels_ms:.1f} ms ({base}; {KERNELS}). That a "
            "compiled and replayed step takes no longer is assumed, as replayed scoring did not; it was not measured. "
            f"Run eagerly the step took {whole.eager_ms:.0f} ms ({GPU.partition('benchmarks')[0].strip(', ')}): "
            "train.compile=false plans with that, and so do passes that are compiled and not replayed. --clips-per-s "
            "takes your own."
        )
        if cfg.model_name != base or cfg.clip_model.clip_size != (16, 160, 160):
            notes.append("Another model or clip: as many operations a second as that one; not measured.")
    notes.append(
        f"A pass takes {launch_seconds() * 1e6:.1f} us for each of its kernels however few clips it has "
        f"(a line through scoring 1 and 64 clips; {GPU}). Copies to the GPU and changing clips there are not in it."
    )
    notes.append(f"Memory: as the base model's eager pass ({GPU}), in proportion to the residual stream.")
    if cfg.train.precision == "fp16":
        notes.append("train.precision=fp16 is taken as bf16.")
    return tuple(notes)
