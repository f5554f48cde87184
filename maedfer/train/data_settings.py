"""The settings of a run's clips: where they are, how they are read, and what is changed in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from maedfer._programs import Interpolation
from maedfer.setting import documented, setting


@documented
@dataclass(frozen=True)
class DataConfig:
    """Where the clips are and how they are read; frames and size of a clip come from `model.clip_size`."""

    train: str = setting(
        "",
        path=True,
        belongs_to="machine",
        doc="annotation file of the clips to learn from, or folder or address of shards",
    )
    val: str = setting(
        "",
        path=True,
        belongs_to="machine",
        doc="annotation file or shards of the clips to choose the epoch on (optional)",
    )
    test: str = setting(
        "",
        path=True,
        belongs_to="machine",
        doc="annotation file or shards of the clips to score in the end (optional while training)",
    )
    root: str = setting(
        "",
        path=True,
        belongs_to="machine",
        doc="folder that relative clip paths start from; empty = the annotation file's own folder",
    )
    classes: tuple[str, ...] = setting(
        (),
        doc="names in the order of the labels; sets `model.num_classes` unless that is given",
    )
    class_map: str = setting(
        "",
        path=True,
        doc="evaluate: YAML file with a line `class of the model: class of the data set` for each class of the model "
        "that has one there, to score it on clips of other classes; `data.classes` then names those of the data set",
    )
    label_offset: int = setting(
        0, low=0, high=1_000_000, doc="label of the first class in annotation files (DFEW counts from 1)"
    )
    subject: str = setting(
        "",
        belongs_to="machine",
        doc="who is in a clip: a regular expression of which the first group (or all of it) is found in the name of "
        "every clip; empty = what a column `subject` of the lists says, if there is one. Intervals are by subject too "
        "where it is known",
    )
    labels: str = setting(
        "all",
        doc="fine-tuning: the labels of `data.train` that are used: all, a share of every class (5%), or so many clips "
        "of every class (5). They hang on the names of clips and on `labels_seed`, and fewer are among more",
    )
    labels_seed: int | None = setting(
        None,
        low=0,
        high=2**63 - 1,
        doc="of the choice of `labels`; null = the seed of the run: several seeds, several choices",
    )
    labels_epoch: Literal["once", "whole"] = setting(
        "once",
        doc="an epoch of few labels: the chosen clips once, or as many steps as the whole list takes, through the "
        "chosen clips again and again; all schedules are then those of all labels",
    )
    stride: int = setting(4, low=1, high=10_000, doc="distance between sampled frames")
    backend: Literal["auto", "decord", "pyav", "frames"] = setting(
        "auto",
        belongs_to="machine",
        doc="video reader; auto = PyAV for files, pictures for folders, and what shards have; decord only where it is "
        "asked for",
    )
    decode: Literal["cpu", "cuda"] = setting(
        "cpu",
        belongs_to="machine",
        doc="where JPEG pictures of shards and folders are decoded while training: by the loader's processes, or in "
        "batches by the GPU that trains (nvJPEG, by torchcodec), to which the files go as they are; values may differ "
        "by a few grey levels. cuda needs `augment.device` to be cuda, and pictures of one size",
    )
    workers: int = setting(8, low=0, high=1024, belongs_to="machine", doc="loader processes for each training process")
    timeout: int = setting(
        600,
        low=0,
        high=31_536_000,
        belongs_to="machine",
        doc="seconds without a batch of clips after which the run ends, when the storage hangs; 0 = never. One process "
        "that loads its clips itself (`workers` 0) is not ended",
    )
    repeats: int = setting(
        1, low=1, high=1024, doc="samples drawn from a clip each time it is decoded (repeated sampling)"
    )
    block: int = setting(
        0,
        low=0,
        high=1_000_000_000,
        doc="neighbouring clips that stay near each other in the random order of an epoch, so that a spinning disk or "
        "an object store reads long pieces; 0 = every order is as likely",
    )
    window: int = setting(
        16, low=1, high=1_000_000, doc="blocks of `data.block` clips that are mixed with each other, clip by clip"
    )
    cache: bool = setting(False, belongs_to="machine", doc="keep decoded clips in memory (small sets only)")
    on_error: Literal["raise", "skip"] = setting(
        "raise",
        belongs_to="machine",
        doc="what to do with a clip that cannot be read while training: stop, or take another one instead; for clips "
        "that are scored see `eval.on_error`",
    )
    max_broken: float = setting(
        0.05,
        low=0,
        high=1,
        belongs_to="machine",
        doc="share of the clips of `data.train` that may turn out to be unreadable where `on_error` is skip; with more "
        "the run stops, as a storage or a decoder is missing rather than a clip broken; 1 = however many",
    )
    fit: Literal["stretch", "crop"] = setting(
        "stretch",
        doc="how a frame is brought to the model's size: stretched, or its short side fitted and the centre cut out "
        "(pre-training crops instead: `augment.crop`, `augment.multiscale`)",
    )


@documented
@dataclass(frozen=True)
class AugmentConfig:
    """Changes made to training clips, the same for all frames of a clip."""

    device: Literal["auto", "cpu", "cuda"] = setting(
        "auto",
        belongs_to="machine",
        doc="where clips are changed: by the loader's processes (cpu), or in batches by the GPU that trains, to which "
        "frames go as they were decoded (cuda). What is drawn is the same; values may differ by one grey level after "
        "each operation. auto = cuda where Triton's kernels compute; the run's config.yaml has what it came to",
    )
    randaugment: str = setting("rand-m7-n4-mstd0.5-inc1", doc="RandAugment in timm's notation; empty = off")
    interpolation: Interpolation = setting(
        "bicubic",
        doc="how RandAugment samples pixels where it turns, shears or shifts: bicubic as published, or bilinear, which "
        "shifts by whole pixels and costs less",
    )
    scale: tuple[float, float] = setting(
        (0.08, 1.0),
        above=0,
        high=1,
        doc="share of the frame's area that the random resized crop keeps, from and to",
    )
    ratio: tuple[float, float] = setting(
        (3 / 4, 4 / 3), low=0.01, high=100, doc="width / height of the random resized crop, from and to"
    )
    flip: float = setting(0.5, low=0, high=1, doc="probability of a mirror image")
    erase: float = setting(0.25, low=0, high=1, doc="probability of erasing a box")
    mixup: float = setting(0.8, low=0, high=1000, doc="alpha of the Beta distribution of mixup; 0 = off")
    cutmix: float = setting(1.0, low=0, high=1000, doc="alpha of the Beta distribution of cutmix; 0 = off")
    mixup_prob: float = setting(1.0, low=0, high=1, doc="share of batches that are mixed at all")
    mixup_switch_prob: float = setting(
        0.5,
        low=0,
        high=1,
        doc="share of mixed batches that use cutmix where both are on",
    )
    smoothing: float = setting(0.1, low=0, below=1, doc="label smoothing")
    multiscale: tuple[float, ...] = setting(
        (1.0, 0.875, 0.75, 0.66),
        above=0,
        high=1,
        doc="pre-training: sides of the crop, as shares of the short side",
    )
    crop: tuple[int, int, int, int] | None = setting(
        None,
        low=0,
        high=65_536,
        doc="pre-training: top, left, height, width of a box cut out of every frame first",
    )
