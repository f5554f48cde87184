"""The settings of a run: one tree of frozen dataclasses. Defaults are those of fine-tuning in the paper."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from maedfer.models import LGIFormerConfig, MAEDFERConfig

Task = Literal["pretrain", "finetune", "evaluate"]


@dataclass(frozen=True)
class DataConfig:
    """Where the clips are and how they are read; frames and size of a clip come from `model.clip_size`.

    Args:
        train: annotation file of the clips to learn from.
        val: annotation file of the clips to choose the epoch on (optional).
        test: annotation file of the clips to score in the end (optional while training).
        root: folder that relative clip paths start from; empty = the annotation file's own folder.
        classes: names in the order of the labels; sets `model.num_classes` unless that is given.
        label_offset: label of the first class in the files (DFEW counts from 1).
        stride: distance between sampled frames.
        backend: video reader.
        workers: loader processes for each training process.
        repeats: samples drawn from a clip each time it is decoded (repeated sampling).
        cache: keep decoded clips in memory (small sets only).
        on_error: what to do with a clip that cannot be read while training; evaluation always stops.
        fit: how a frame is brought to the model's size: stretched, or its short side fitted and the centre cut out
            (pre-training crops instead, see `AugmentConfig`).
    """

    train: str = ""
    val: str = ""
    test: str = ""
    root: str = ""
    classes: tuple[str, ...] = ()
    label_offset: int = 0
    stride: int = 4
    backend: Literal["auto", "decord", "pyav", "frames"] = "auto"
    workers: int = 8
    repeats: int = 1
    cache: bool = False
    on_error: Literal["raise", "skip"] = "raise"
    fit: Literal["stretch", "crop"] = "stretch"


@dataclass(frozen=True)
class AugmentConfig:
    """Changes made to training clips, the same for all frames of a clip.

    Args:
        randaugment: RandAugment in timm's notation; empty = off.
        scale: share of the frame's area that the random resized crop keeps, from and to.
        ratio: width / height of that crop, from and to.
        flip: probability of a mirror image.
        erase: probability of erasing a box.
        mixup: alpha of the Beta distribution of mixup; 0 = off.
        cutmix: the same for cutmix; 0 = off.
        mixup_prob: share of batches that are mixed at all.
        mixup_switch_prob: share of mixed batches that use cutmix where both are on.
        smoothing: label smoothing.
        multiscale: pre-training: sides of the crop, as shares of the short side.
        crop: pre-training: top, left, height, width of a box cut out of every frame first.
    """

    randaugment: str = "rand-m7-n4-mstd0.5-inc1"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    erase: float = 0.25
    mixup: float = 0.8
    cutmix: float = 1.0
    mixup_prob: float = 1.0
    mixup_switch_prob: float = 0.5
    smoothing: float = 0.1
    multiscale: tuple[float, ...] = (1.0, 0.875, 0.75, 0.66)
    crop: tuple[int, int, int, int] | None = None


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with a linear warm-up and a cosine schedule, both per step.

    Args:
        lr: peak learning rate for a global batch of `lr_batch` clips, scaled linearly to the actual one
            (batch_size * processes * accumulate; repeats do not count).
        lr_batch: that batch; 0 = `lr` and `min_lr` are meant as they are.
        min_lr: learning rate at the end, scaled alike.
        betas: AdamW's moving averages.
        eps: AdamW's epsilon.
        weight_decay: for weight matrices; biases, 1-D parameters, tokens and position tables have none.
        layer_decay: factor on the learning rate from one block to the one below it; 1 = off.
        clip_grad: largest gradient norm; null = no clipping.
        warmup_epochs: epochs in which the learning rate rises from 0.
        epochs: passes over the training clips.
    """

    lr: float = 1e-3
    lr_batch: int = 256
    min_lr: float = 1e-6
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.05
    layer_decay: float = 0.75
    clip_grad: float | None = None
    warmup_epochs: float = 5.0
    epochs: int = 100


@dataclass(frozen=True)
class TrainConfig:
    """How the loop runs.

    Args:
        batch_size: clips of one process in one forward pass, before `data.repeats`.
        accumulate: forward passes for one optimiser step.
        ema: decay of the moving average of the weights, which is then evaluated and saved; 0 = off.
        precision: arithmetic of the forward pass; auto = bf16 where the GPU has it, else fp16; fp32 on a CPU.
        compile: use torch.compile; the losses are the same to rounding.
        cuda_graphs: replay what is compiled as CUDA graphs (torch.compile's mode "reduce-overhead"): for small models
            and batches, where launches take longer than kernels. Needs `compile` and a GPU.
        device: auto, cpu, cuda or cuda:N.
        resume: auto = go on from the run folder's last checkpoint if there is one, none = insist on an empty
            run folder, or the path of a checkpoint of the same settings.
        save_every: keep a checkpoint every so many epochs; 0 = none. The last one is always there.
        save_steps: also renew the last checkpoint every so many steps.
        log_every: steps between two lines of the log.
        max_steps: length of the run in optimiser steps, its schedule included, where that is below
            `optim.epochs`; 0 = by epochs.
        init: weights to start from: a folder of save_pretrained, a run folder, or a published .pth file.
        freeze_blocks: fine-tuning: blocks, from the embedding on, that keep their weights.
        deterministic: refuse operations that do not repeat bit for bit.
        threads: CPU threads of each process; 0 = as torch decides.
        tensorboard: also write event files where tensorboard is installed.
    """

    batch_size: int = 96
    accumulate: int = 1
    ema: float = 0.0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    compile: bool = False
    cuda_graphs: bool = False
    device: str = "auto"
    resume: str = "auto"
    save_every: int = 0
    save_steps: int = 0
    log_every: int = 10
    max_steps: int = 0
    init: str = ""
    freeze_blocks: int = 0
    deterministic: bool = False
    threads: int = 0
    tensorboard: bool = True


@dataclass(frozen=True)
class EvalConfig:
    """How clips are scored, and which epoch's weights are the result.

    Args:
        views: temporal views of a clip, their softmax averaged.
        every: epochs between two evaluations while training; 0 = only in the end.
        batch_size: clips of one process in one forward pass; 0 = `train.batch_size`.
        select: the weights that are saved and scored: the last ones, those best on `data.val`, or those best on
            `data.test` (what the published code does; the log and metrics.json say so).
        metric: what "best" means.
        save_features: write features.npz beside pred.csv.
        checkpoint: evaluate: a run folder, one of its checkpoints, a folder of save_pretrained or a published .pth.
        runs: evaluate: run folders whose pred.csv are put together and scored once (the folds of a protocol).
    """

    views: int = 2
    every: int = 1
    batch_size: int = 0
    select: Literal["last", "val", "test"] = "last"
    metric: Literal["uar", "war"] = "war"
    save_features: bool = False
    checkpoint: str = ""
    runs: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunConfig:
    """Everything that defines a run.

    Args:
        task: what is run.
        output: the run folder.
        seed: of weights, order, augmentation, masks and everything else that is drawn.
        model_name: the named model that `model` started from.
        model: the architecture (`MAEDFERConfig` to pre-train, else `LGIFormerConfig`).
        report: write report.html in the end.
    """

    task: Task
    output: str
    model_name: str
    model: LGIFormerConfig | MAEDFERConfig
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    report: bool = True

    @property
    def clip_model(self) -> LGIFormerConfig:
        """The configuration that holds the clip's size: the encoder's when pre-training."""
        return self.model.encoder if isinstance(self.model, MAEDFERConfig) else self.model

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; their numbers where `data.classes` is empty."""
        return self.data.classes or tuple(str(index) for index in range(self.clip_model.num_classes))
