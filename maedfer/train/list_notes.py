"""What is to be said of the lists of a run: clips that are scored and were trained on, clips that are listed twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from maedfer.data.annotations import Clip
from maedfer.data.few_labels import SomeClips
from maedfer.data.leaks import leaks, shared_people
from maedfer.errors import InputError, MissingDependencyError
from maedfer.train.config import RunConfig, read_config, run_folder_of
from maedfer.train.sources import learned_clips

_TRAIN, _TRAINED = "data.train", "the list that the model was trained on"
_BEFORE = "the list that the weights of train.init were fine-tuned on"


def list_notes(cfg: RunConfig, lists: Mapping[str, Sequence[Clip]]) -> list[str]:
    """Sentences on the lists of a run; an evaluation is held against what its model was trained on.

    So is fine-tuning against what the weights of `train.init` were fine-tuned on: labels once learned stay learned.

    Args:
        cfg: the run.
        lists: their clips, by "train", "val" and "test".
    """
    # What is learned from comes first; clips that come again and again are no leak.
    once = {split: clips.chosen if isinstance(clips, SomeClips) else clips for split, clips in lists.items()}
    named = {f"data.{split}": once[split] for split in sorted(once, key=lambda split: split != "train")}
    notes = []
    if isinstance(learned := named.get("data.train"), SomeClips):
        counts = np.bincount(learned.labels, minlength=len(cfg.classes)).tolist()
        each = ", ".join(f"{name} {count:,}" for name, count in zip(cfg.classes, counts, strict=True))
        again = "again and again " if cfg.data.labels_epoch == "whole" else ""
        notes.append(
            f"{len(learned):,} of {len(learned.source):,} clips of data.train are learned from {again}(data.labels="
            f"{cfg.data.labels}, drawn by seed {learned.seed}: {each})"
        )
    if cfg.task == "evaluate":
        try:
            trained = trained_on(cfg)
        except (InputError, MissingDependencyError) as error:
            trained = ()
            notes.append(f"whether the model was trained on clips of data.test is not known: {error}")
        if trained:
            named = {_TRAINED: trained, **named}
    (name, learned_from), *others = named.items()
    if name in (_TRAIN, _TRAINED):
        for other, clips in others:
            notes += shared_people(name, learned_from, other, clips)
    notes += leaks(named)
    if cfg.task == "finetune" and cfg.train.init:
        notes += _learned_before(cfg, named)
    # Both look whether clips of one list are there twice.
    return list(dict.fromkeys(notes))


def _learned_before(cfg: RunConfig, named: Mapping[str, Sequence[Clip]]) -> list[str]:
    scored = {name: clips for name, clips in named.items() if name != _TRAIN}
    try:
        before = _fine_tuned_on(cfg.train.init)
    except (InputError, MissingDependencyError) as error:
        return [f"whether the weights of train.init were fine-tuned on clips that are scored is not known: {error}"]
    if not before:
        return []
    notes = []
    if isinstance(named.get(_TRAIN), SomeClips):
        notes.append(
            f"the weights of train.init were fine-tuned on {len(before):,} labelled clips: what is learned is not of "
            f"data.labels={cfg.data.labels} alone"
        )
    for name, clips in scored.items():
        notes += shared_people(_BEFORE, before, name, clips)
    return notes + leaks({_BEFORE: before, **scored})


def trained_on(cfg: RunConfig) -> Sequence[Clip]:
    """The training clips of the run whose model is scored; none where there is no such run, as with a saved model.

    Raises:
        InputError: the run's settings or its list cannot be read.
    """
    return _fine_tuned_on(cfg.eval.checkpoint)


def _fine_tuned_on(model: str) -> Sequence[Clip]:
    # A run keeps its result in `<run>/model`.
    folder = run_folder_of(model) or run_folder_of(str(Path(model).parent))
    if folder is None:
        return ()
    run = read_config(folder / "config.yaml")
    return learned_clips(run) if run.task == "finetune" else ()
