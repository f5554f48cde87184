"""From annotation files to batches: training clips epoch by epoch, and the views of clips to be scored."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from maedfer.data.annotations import Clip, check_exists, read_annotations
from maedfer.data.augment.transforms import EvalTransform, PretrainAugment, TrainAugment
from maedfer.data.dataset import ClipDataset, collate
from maedfer.data.sampler import EpochSampler
from maedfer.errors import InputError
from maedfer.models import MAEDFERConfig, running_cell_mask, tube_mask
from maedfer.train.config import RunConfig
from maedfer.train.processes import Runtime


class TrainBatches:
    """The training clips of a run in batches; what they hold depends on the seed, the epoch and the place alone.

    Args:
        cfg: the run.
        runtime: which part of every global batch is this process's.
    """

    def __init__(self, cfg: RunConfig, runtime: Runtime) -> None:
        pretraining = cfg.task == "pretrain"
        self._cached = cfg.data.cache
        entries = read_clips(cfg, cfg.data.train, labelled=not pretraining)
        if cfg.data.on_error == "raise":
            runtime.on_main(lambda: check_exists(entries))
        self.clips = len(entries)
        self.identity = identity(entries)
        self.dataset = train_dataset(cfg, entries)
        self.sampler = EpochSampler(
            self.clips,
            seed=cfg.seed,
            shuffle=True,
            rank=runtime.rank,
            world=runtime.world,
            batch_size=cfg.train.batch_size,
            drop_last=True,
        )
        self._loader = make_loader(cfg, runtime, self.dataset, self.sampler, cfg.train.batch_size, keep_workers=True)

    def __len__(self) -> int:
        """Batches of this process in an epoch."""
        return self.sampler.batches

    def epoch(self, number: int, start: int = 0) -> Iterator[dict[str, Tensor]]:
        """The batches of an epoch, counted from 0, from batch `start` on."""
        self.sampler.set_epoch(number)
        self.sampler.start_batch = start
        return _batches(self._loader, self.dataset if self._cached else None)


def read_clips(cfg: RunConfig, file: str, labelled: bool = True) -> list[Clip]:
    """Read an annotation file under the settings of the run."""
    return read_annotations(
        file,
        root=cfg.data.root or None,
        num_classes=cfg.clip_model.num_classes if labelled else None,
        labelled=labelled,
        label_offset=cfg.data.label_offset,
    )


def train_dataset(cfg: RunConfig, clips: list[Clip]) -> ClipDataset:
    """The data set that a run trains on: frames changed at random, and masks when pre-training."""
    augment, (frames, *size) = cfg.augment, cfg.clip_model.clip_size
    transform: Any
    if cfg.task == "pretrain":
        transform = PretrainAugment(size, scales=augment.multiscale, crop=augment.crop)
    else:
        transform = TrainAugment(
            size,
            randaugment=augment.randaugment,
            scale=augment.scale,
            ratio=augment.ratio,
            flip=augment.flip,
            erase=augment.erase,
            fit=cfg.data.fit,
        )
    return ClipDataset(
        clips,
        mode="pretrain" if cfg.task == "pretrain" else "train",
        frames=frames,
        stride=cfg.data.stride,
        transform=transform,
        repeats=cfg.data.repeats,
        backend=cfg.data.backend,
        cache=cfg.data.cache,
        mask_fn=MaskDraw(cfg.model) if isinstance(cfg.model, MAEDFERConfig) else None,
        on_error=cfg.data.on_error,
    )


class ViewBatches:
    """The temporal views of clips to be scored, every clip once over all processes.

    Args:
        cfg: the run.
        runtime: which part is this process's.
        file: annotation file.
    """

    def __init__(self, cfg: RunConfig, runtime: Runtime, file: str) -> None:
        self.entries = read_clips(cfg, file)
        runtime.on_main(lambda: check_exists(self.entries))
        self.labels = [-1 if clip.label is None else clip.label for clip in self.entries]
        self.views = cfg.eval.views
        self._cached = cfg.data.cache
        frames, *size = cfg.clip_model.clip_size
        self.dataset = ClipDataset(
            self.entries,
            mode="views",
            frames=frames,
            stride=cfg.data.stride,
            transform=EvalTransform(size, fit=cfg.data.fit),
            views=self.views,
            backend=cfg.data.backend,
            cache=cfg.data.cache,
            on_error="raise",
        )
        batch_size = cfg.eval.batch_size or cfg.train.batch_size
        sampler = EpochSampler(
            len(self.entries),
            seed=cfg.seed,
            shuffle=False,
            rank=runtime.rank,
            world=runtime.world,
            batch_size=batch_size,
            drop_last=False,
        )
        self._loader = make_loader(cfg, runtime, self.dataset, sampler, batch_size)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return _batches(self._loader, self.dataset if self._cached else None)


class MaskDraw:
    """Draws the mask of a sample, in the loader, so that it does not depend on how samples are spread over processes.

    Args:
        config: of the masked autoencoder.
    """

    def __init__(self, config: MAEDFERConfig) -> None:
        self.config = config

    def __call__(self, generator: torch.Generator) -> Tensor:
        """[K] bool, True = hidden; with `decoder_keep` below 1 [2, K], hidden and to be reconstructed."""
        config = self.config
        mask = tube_mask(config.encoder, config.mask_ratio, generator)
        if config.decoder_keep == 1.0:
            return mask
        return torch.stack([mask, running_cell_mask(mask, config.encoder, config.decoder_keep, generator)])


def make_loader(
    cfg: RunConfig,
    runtime: Runtime,
    dataset: ClipDataset,
    sampler: EpochSampler,
    batch_size: int,
    keep_workers: bool = False,
) -> DataLoader[Any]:
    """A loader of `dataset` in the order of `sampler`, whose workers stay between epochs if they are to be kept."""
    workers = cfg.data.workers
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=runtime.device.type == "cuda",
        drop_last=False,
        persistent_workers=keep_workers and workers > 0,
        # Without a generator of its own, starting the loader would draw from torch's global one, and a run resumed
        # inside an epoch would go on with other numbers.
        generator=torch.Generator(),
    )


def _batches(loader: DataLoader[Any], cached: ClipDataset | None) -> Iterator[dict[str, Tensor]]:
    if cached is not None:
        # Before workers start, so that they share the memory.
        cached.fill_cache()
    try:
        yield from loader
    except InputError as error:
        # The loader's own trace is a reference cycle, in which its workers are freed in an order that takes 5 seconds.
        raise error.with_traceback(None) from None


def identity(clips: list[Clip]) -> str:
    """What tells these clips from others: their number, and a digest of names and labels."""
    digest = hashlib.sha256()
    for clip in clips:
        digest.update(f"{clip.name} {clip.label}\n".encode())
    return f"{len(clips)} clips, {digest.hexdigest()[:16]}"
