"""From annotation files to batches: training clips epoch by epoch, and the views of clips to be scored."""

from __future__ import annotations

import contextlib
import math
import multiprocessing.queues
import os
import sys
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from maedfer._progress import Patience, ProgressLine, duration
from maedfer._workers import leave_signals_to_parent, signals_blocked
from maedfer.data.annotations import Clip
from maedfer.data.augment.transforms import EvalTransform, PretrainAugment, TrainAugment
from maedfer.data.augment.travel import Travelling
from maedfer.data.dataset import ClipDataset, Join, collate
from maedfer.data.few_labels import SomeClips
from maedfer.data.sampler import EpochSampler, SampleKey
from maedfer.errors import InputError
from maedfer.models import MAEDFERConfig, running_cell_mask, tube_mask
from maedfer.models.encoder import region_order
from maedfer.train.agreement import until_stopped
from maedfer.train.config import RunConfig
from maedfer.train.failures import CANNOT_SEND, cannot_start, late_batch, lost_while_sending
from maedfer.train.live_loader import LiveLoader
from maedfer.train.processes import Runtime
from maedfer.train.same_clips import identity
from maedfer.train.slots import InSlot, Slots
from maedfer.train.sources import box_to_cut, learned_clips, look_for, read_clips

Collate = Callable[[Sequence[dict[str, Any]], Join], dict[str, Any]]

# Batches that each loader process prepares ahead.
_PREFETCH = 2
# Clips that are named of a batch that does not come.
_NAMED = 4
# Seconds that a loader has to say what it is late with, before the process ends.
_GRACE = 15.0


class TrainBatches:
    """The training clips of a run in batches; what they hold depends on the seed, the epoch and the place alone.

    Args:
        cfg: the run.
        runtime: which part of every global batch is this process's.
    """

    def __init__(self, cfg: RunConfig, runtime: Runtime) -> None:
        self.cfg, self._cached = cfg, cfg.data.cache
        entries = learned_clips(cfg)
        if cfg.data.on_error == "raise":
            runtime.on_main(lambda: look_for(entries, cfg.data.train), "looks for the clips", long=True)
        if isinstance(entries, SomeClips) and cfg.data.labels_epoch == "whole":
            entries = entries.again_and_again()
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
            block=cfg.data.block,
            window=cfg.data.window,
        )
        collate_fn = self.dataset.collate
        self._loader = Loader(cfg, runtime, self.dataset, self.sampler, keep_workers=True, collate_fn=collate_fn)

    def __len__(self) -> int:
        """Batches of this process in an epoch."""
        return self.sampler.batches

    def epoch(self, number: int, start: int = 0) -> Generator[dict[str, Tensor], None, None]:
        """The batches of an epoch, counted from 0, from batch `start` on."""
        self.sampler.set_epoch(number)
        self.sampler.start_batch = start
        return self._loader.batches(self.dataset if self._cached else None)

    def close(self) -> None:
        """End the loader's processes."""
        self._loader.close()


def train_dataset(cfg: RunConfig, clips: Sequence[Clip]) -> ClipDataset:
    """The data set that a run trains on: frames changed at random, and masks when pre-training."""
    augment, (frames, *size) = cfg.augment, cfg.clip_model.clip_size
    transform: Any
    if cfg.task == "pretrain":
        transform = PretrainAugment(size, scales=augment.multiscale, crop=box_to_cut(cfg, clips))
    else:
        transform = TrainAugment(
            size,
            randaugment=augment.randaugment,
            scale=augment.scale,
            ratio=augment.ratio,
            flip=augment.flip,
            erase=augment.erase,
            fit=cfg.data.fit,
            interpolation=augment.interpolation,
        )
    return ClipDataset(
        clips,
        mode="pretrain" if cfg.task == "pretrain" else "train",
        frames=frames,
        stride=cfg.data.stride,
        transform=Travelling(transform, cfg.data.decode == "cuda") if augment.device == "cuda" else transform,
        repeats=cfg.data.repeats,
        backend=cfg.data.backend,
        cache=cfg.data.cache,
        mask_fn=MaskDraw(cfg.model) if isinstance(cfg.model, MAEDFERConfig) else None,
        block=cfg.data.block,
        on_error=cfg.data.on_error,
    )


class ViewBatches:
    """The temporal views of clips to be scored, every clip once over all processes.

    Where `eval.on_error` is "skip", a batch lacks the clips that cannot be read; "broken" says of each what is wrong.

    Args:
        cfg: the run.
        runtime: which part is this process's.
        file: annotation file.
        labelled: whether every clip must have a label.
        entries: the clips of that file, where they were read, and looked for, before.
    """

    def __init__(
        self, cfg: RunConfig, runtime: Runtime, file: str, labelled: bool = True, entries: Sequence[Clip] | None = None
    ) -> None:
        if entries is None:
            entries = clips = read_clips(cfg, file, labelled)
            if cfg.eval.on_error == "raise":
                runtime.on_main(lambda: look_for(clips, file), "looks for the clips", long=True)
        self.views = cfg.eval.views
        self._runtime, self._world = runtime, runtime.world
        self._cached = cfg.data.cache
        frames, *size = cfg.clip_model.clip_size
        self.dataset = ClipDataset(
            entries,
            mode="views",
            frames=frames,
            stride=cfg.data.stride,
            transform=EvalTransform(size, fit=cfg.data.fit),
            views=self.views,
            backend=cfg.data.backend,
            cache=cfg.data.cache,
            on_error="raise",
        )
        self.entries = self.dataset.clips
        self.labels: list[int] = self.entries.labels.tolist()
        self._sampler = EpochSampler(
            len(self.entries),
            seed=cfg.seed,
            shuffle=False,
            rank=runtime.rank,
            world=runtime.world,
            batch_size=cfg.eval.batch_size or cfg.train.batch_size,
            drop_last=False,
        )
        scored = ScoredClips(self.dataset, cfg.eval.on_error == "skip")
        self._loader = Loader(cfg, runtime, scored, self._sampler, collate_fn=collate_scored)

    def leave_out(self, clips: int) -> int:
        """Leave out the first clips, as far as they fill batches; gives how many are left out."""
        self._sampler.start_batch = clips // (self._sampler.batch_size * self._world)
        return self._sampler.start_batch * self._sampler.batch_size * self._world

    def share(self, done: int) -> float:
        """How much of the list is done when this process has done so many clips."""
        return min(1.0, done * self._world / len(self.entries))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        batches = self._loader.batches(self.dataset if self._cached else None)
        if self._runtime.world == 1 or not self._runtime.signals.active:
            return batches
        return until_stopped(batches, self._sampler.batches - self._sampler.start_batch, self._runtime)


class ScoredClips(Dataset[dict[str, Any]]):
    """Clips to be scored, none of which may stand in for another one.

    Args:
        dataset: the clips.
        skip: whether a clip that cannot be read gives a sample without frames, which says under "broken" what is
            wrong, instead of an error.
    """

    def __init__(self, dataset: ClipDataset, skip: bool) -> None:
        self.dataset, self.skip = dataset, skip

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        try:
            return self.dataset[key]
        except InputError as error:
            if not self.skip:
                raise
            return {"index": key.index, "broken": str(error)}


def collate_scored(samples: Sequence[dict[str, Any]], join: Join = torch.cat) -> dict[str, Any]:
    """`collate` of the samples that could be read, with "broken": what is wrong with the others, by number."""
    read = [sample for sample in samples if "broken" not in sample]
    broken = {sample["index"]: sample["broken"] for sample in samples if "broken" in sample}
    return {**(collate(read, join) if read else {}), "broken": broken}


class MaskDraw:
    """Draws the mask of a sample, in the loader, so that it does not depend on how samples are spread over processes.

    Args:
        config: of the masked autoencoder.
    """

    def __init__(self, config: MAEDFERConfig) -> None:
        self.config, self.order = config, region_order(config.encoder)

    def __call__(self, generator: torch.Generator) -> Tensor:
        """[K] bool, True = hidden; with `decoder_keep` below 1 [2, K], hidden and to be reconstructed."""
        config = self.config
        mask = tube_mask(config.encoder, config.mask_ratio, generator, self.order)
        if config.decoder_keep == 1.0:
            return mask
        return torch.stack([mask, running_cell_mask(mask, config.encoder, config.decoder_keep, generator)])


class Loader:
    """Batches of a data set in the order of a sampler, made by `data.workers` processes.

    Args:
        cfg: the run.
        runtime: this process.
        dataset, sampler: what is loaded, and in which order.
        keep_workers: whether the processes stay between epochs, as those of training do.
        collate_fn: makes a batch of samples.

    Raises:
        InputError: the system does not give the memory for batches, or does not start the processes.
    """

    def __init__(
        self,
        cfg: RunConfig,
        runtime: Runtime,
        dataset: Dataset[dict[str, Any]],
        sampler: EpochSampler,
        *,
        keep_workers: bool = False,
        collate_fn: Collate = collate,
    ) -> None:
        self.cfg, self.runtime = cfg, runtime
        self.dataset, self.sampler = dataset, sampler
        self.training = keep_workers
        self.started = False
        workers = cfg.data.workers
        samples = min(sampler.batch_size, sampler.n) * (cfg.data.repeats if self.training else cfg.eval.views)
        length, *size = cfg.clip_model.clip_size
        self._batch_bytes = 3 * length * math.prod(travelling_size(dataset) or size) * samples if workers else 0
        self._collating = _Collating(collate_fn)
        self.loader = LiveLoader(
            dataset,
            batch_size=sampler.batch_size,
            sampler=sampler,
            num_workers=workers,
            collate_fn=self._collating,
            worker_init_fn=_end_rather_than_lose_a_batch,
            # Also where Python would start a server to fork from: workers share the cache, and end with this process.
            multiprocessing_context="fork" if workers else None,
            pin_memory=runtime.device.type == "cuda",
            timeout=cfg.data.timeout if workers else 0,
            drop_last=False,
            persistent_workers=keep_workers and workers > 0,
            prefetch_factor=_PREFETCH if workers else None,
            # Without a generator of its own, starting the loader would draw from torch's global one, and a run resumed
            # inside an epoch would go on with other numbers.
            generator=torch.Generator(),
        )

    def batches(self, cached: ClipDataset | None = None) -> Generator[dict[str, Any], None, None]:
        """Once through the sampler; who waits long for a batch is told so.

        Args:
            cached: a data set whose cache is to be filled before.
        """
        if cached is not None:
            # Before workers start, so that they share the memory.
            line = ProgressLine("reading clips into memory")
            cached.fill_cache(line if self.runtime.main else None)
            if self.runtime.main:
                line.clear()
            # Some take longer than others, who would not wait that long for the first gradients.
            self.runtime.alarm.meet(main=False)
        what = "to learn from" if self.training else "to score"
        who = f"process {self.runtime.rank}: " if self.runtime.world > 1 else ""

        def tell(seconds: float) -> None:
            why = "the storage or the loader's processes are slow, or hang; the run goes on when it comes"
            print(f"{who}no batch of clips {what} has come for {duration(seconds)}: {why}", flush=True)

        patience, waiting = Patience(tell), f"is waiting for a batch of clips {what}"
        limit, number = float(self.cfg.data.timeout), self.sampler.start_batch
        if limit and self.cfg.data.workers:
            # The loader says it first, and the run ends in good order.
            limit += _GRACE
        try:
            iterator = self._start(patience)
            # Kept while its processes are: another time through the sampler may have other ones.
            slots = self._collating.slots  # noqa: F841
            while True:
                with patience, self.runtime.about.at(waiting, limit, "data.timeout"):
                    batch = self._next(iterator, number)
                if batch is None:
                    return
                number += 1
                if isinstance(frames := batch.get("frames"), InSlot):
                    batch["frames"] = frames.take()
                yield batch
        finally:
            patience.close()

    def _next(self, iterator: Iterator[dict[str, Any]], number: int) -> dict[str, Any] | None:
        try:
            return next(iterator, None)
        except (EOFError, ConnectionError, FileNotFoundError) as error:
            # Tensors of a batch are fetched by a socket of the process that made it. What a clip's reader raised comes
            # with that process's trace.
            if not self.cfg.data.workers or str(error).startswith("Caught "):
                raise
            raise lost_while_sending(self.cfg) from error
        except RuntimeError as error:
            if not str(error).startswith("DataLoader timed out"):
                raise
            dataset = self.dataset.dataset if isinstance(self.dataset, ScoredClips) else self.dataset
            assert isinstance(dataset, ClipDataset)
            names = [repr(dataset.clips[key.index].name) for key in self.sampler.batch(number)]
            shown = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
            raise late_batch(shown, self.cfg) from error

    def close(self) -> None:
        """End the processes that stay between epochs; another epoch would start new ones."""
        iterator: Any = self.loader._iterator
        self.loader._iterator = None
        if hasattr(iterator, "_shutdown_workers"):
            iterator._shutdown_workers()
        self.started = False

    def _start(self, patience: Patience) -> Iterator[dict[str, Any]]:
        # Processes that stay are waited for; new ones are forked before there is another thread.
        waits = patience if self.started else contextlib.nullcontext()
        try:
            if self.cfg.data.workers and not self.started:
                # Of a process's batches, those that are prepared, and the one that is taken.
                self._collating.slots = Slots(self.cfg.data.workers, _PREFETCH + 1, self._batch_bytes)
                if isinstance(self.dataset, ClipDataset):
                    self.dataset.room = self._collating.slots.room
            with waits, signals_blocked():
                iterator = iter(self.loader)
        except OSError as error:
            _forget_half_made(error)
            raise cannot_start(error, self.cfg) from error
        self.started = self.loader.persistent_workers
        return iterator


def travelling_size(dataset: Dataset[dict[str, Any]]) -> tuple[int, int] | None:
    """Height and width of the frames that travel to the device, judged by the first clip; None where none do."""
    if not isinstance(dataset, ClipDataset) or not isinstance(dataset.transform, Travelling):
        return None
    # A clip that cannot be read is reported, or skipped, when its turn comes.
    with contextlib.suppress(InputError), dataset.clips.open(0, dataset.backend) as reader:
        return dataset.transform.size_of(reader.size)
    return None


def _forget_half_made(error: OSError) -> None:
    """Keep the loader's iterator from complaining, as it is thrown away, of what it did not come to set."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        iterator: Any = frame.f_locals.get("self")
        if hasattr(iterator, "_shutdown_workers") and not hasattr(iterator, "_shutdown"):
            iterator._shutdown = True


class _Collating:
    """Makes a batch of samples; in a loader process, frames go into slots and the rest into shared memory."""

    def __init__(self, collate_fn: Collate) -> None:
        self.collate_fn = collate_fn
        # Set before processes are forked.
        self.slots: Slots | None = None

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        if self.slots is None:
            return self.collate_fn(samples, torch.cat)
        # A thread would put tensors into shared memory on the way out, and lose the batch with a message that nobody
        # reads where that fails. Here it is an error like any other.
        batch = self.collate_fn(samples, self.slots.join)
        for value in batch.values():
            if isinstance(value, Tensor):
                value.share_memory_()
        return batch


def _end_rather_than_lose_a_batch(worker: int) -> None:
    """Let a loader process that cannot send a batch end, which is noticed, in place of going on without it.

    Of a batch that its parent does not take any more there is nothing to tell. Signals that are for the whole run are
    for its parent.
    """
    leave_signals_to_parent()

    def end(error: BaseException, batch: object) -> None:
        print(f"maedfer: a loader process cannot send a batch: {error}", file=sys.stderr, flush=True)
        os._exit(CANNOT_SEND)

    def tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        # A run that is stopped while it takes a batch leaves a thread of Python's behind, for which that is an error.
        if not isinstance(error, (ConnectionError, EOFError)):
            sys.__excepthook__(kind, error, trace)

    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(end)  # type: ignore[attr-defined]
    sys.excepthook = tell
