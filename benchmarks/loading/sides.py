"""Who loads: ours and the published way, from each form of the clips, as endless streams of batches."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal

import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.loading.corpus import CROP, SIDE, Corpus
from benchmarks.loading.published import PublishedFinetuning, PublishedPretraining
from maedfer.data.sampler import EpochSampler
from maedfer.train.config import RunConfig, load_config
from maedfer.train.loader import TrainBatches
from maedfer.train.processes import Runtime

Task = Literal["pretrain", "finetune"]
Batches = Generator[dict[str, Any], None, None]

BATCH = 16
PUBLISHED, OURS = "published", "ours"
TASKS: dict[Task, str] = {"pretrain": "voxceleb2_pretrain", "finetune": "dfew"}
# The form of clips that published code loads.
FORMS: dict[Task, str] = {"pretrain": "videos", "finetune": "pictures"}


@dataclass(frozen=True)
class Side:
    """A way to load clips.

    Args:
        corpus: the clips.
        task: whose samples.
        loader: `PUBLISHED` or `OURS`.
        source: "videos" or "pictures", as `FORMS` has it, or "shards" of them.
        changes: whether the loader changes frames at random; ours leaves that to a device otherwise, with what it drew.
    """

    corpus: Corpus
    task: Task
    loader: str
    source: str
    changes: bool

    @property
    def name(self) -> str:
        """For tables."""
        return f"{self.loader}, {self.source}, {'changed' if self.changes else 'as read'}"

    def dataset(self) -> Dataset[dict[str, Any]]:
        """The samples, by `SampleKey`."""
        if self.loader == PUBLISHED:
            return published(self.task, self.corpus, self.changes)
        return self._batches(0).dataset

    def start(self, workers: int) -> Batches:
        """The batches of one epoch after the other, made by so many processes."""
        if self.loader == PUBLISHED:
            sampler = EpochSampler(self.corpus.clips, batch_size=BATCH)
            loader: DataLoader[Any] = DataLoader(
                self.dataset(), BATCH, sampler=sampler, num_workers=workers, persistent_workers=workers > 0
            )
            for epoch in count():
                sampler.set_epoch(epoch)
                yield from loader
        batches = self._batches(workers)
        for epoch in count():
            yield from batches.epoch(epoch)

    def config(self, workers: int = 0) -> RunConfig:
        """The settings of a run that loads so: its recipe's, but for the batch."""
        form = FORMS[self.task]
        clips = self.corpus.shards_of(form) if self.source == "shards" else self.corpus.list_of(form)
        given = [f"data.train={clips}", f"data.workers={workers}", f"train.batch_size={BATCH}"]
        given.append(f"augment.device={'cpu' if self.changes else 'cuda'}")
        return load_config(self.task, TASKS[self.task], given, check=False)

    def _batches(self, workers: int) -> TrainBatches:
        return TrainBatches(self.config(workers), Runtime(torch.device("cpu")))


def sides(task: Task, corpus: Corpus) -> list[Side]:
    """Every way to load samples of a task, the published one first."""
    form = FORMS[task]
    return [
        *(Side(corpus, task, PUBLISHED, form, changes) for changes in (True, False)),
        *(Side(corpus, task, OURS, source, changes) for source in (form, "shards") for changes in (True, False)),
    ]


def published(task: Task, corpus: Corpus, changes: bool = True) -> PublishedPretraining | PublishedFinetuning:
    """The samples of a task, the published way."""
    if task == "pretrain":
        return PublishedPretraining(corpus.videos, SIDE, CROP, changes)
    return PublishedFinetuning(corpus.folders, SIDE, changes)
