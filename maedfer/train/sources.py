"""The clips that settings name: those of a list, or of shards."""

from __future__ import annotations

import os
from collections.abc import Sequence

from maedfer._progress import Patience, duration
from maedfer.data.annotations import Clip, read_annotations
from maedfer.data.few_labels import SomeClips, choose_few, parse_labels
from maedfer.data.shards.clips import ShardClips, read_shards
from maedfer.data.shards.layout import INDEX_FILE, is_shards
from maedfer.data.source import as_source, check_clips
from maedfer.data.video.base import shown
from maedfer.errors import InputError
from maedfer.train.settings import RunConfig


def read_clips(cfg: RunConfig, file: str, labelled: bool = True, any_class: bool = False) -> Sequence[Clip]:
    """Read an annotation file, or the index of shards, under the settings of the run.

    Args:
        cfg: the run.
        file: the list.
        labelled: whether every clip must have a label.
        any_class: labels are those of `data.classes`, or any where there are none, whatever the model's head tells
            apart.
    """
    # Pre-training knows nothing of classes; features are made of any list.
    classes = () if cfg.task == "pretrain" else cfg.data.classes
    # With a map labels are those of the data set, and not the model's.
    known = len(classes) if cfg.data.class_map else cfg.clip_model.num_classes
    num_classes = known if labelled and not any_class else None
    if is_shards(file):
        clips = read_shards(file, num_classes, labelled, classes, cfg.data.subject)
        clips.check_backend(cfg.data.backend)
        return clips
    if os.path.isdir(file):
        raise InputError(
            f"{shown(file)}: is a folder without {INDEX_FILE}: give an annotation file, or a folder that `maedfer "
            "shard` has finished"
        )
    return read_annotations(
        file,
        root=cfg.data.root or None,
        num_classes=num_classes,
        labelled=labelled,
        label_offset=cfg.data.label_offset,
        classes=classes,
        subject=cfg.data.subject,
    )


def learned_clips(cfg: RunConfig) -> Sequence[Clip]:
    """The clips that a run learns from, each once: those of `data.train`, or those whose labels `data.labels` uses.

    Raises:
        InputError: they cannot be read, or are too few for the labels that are asked for.
    """
    clips = read_clips(cfg, cfg.data.train, labelled=cfg.task != "pretrain")
    few = parse_labels(cfg.data.labels)
    if cfg.task != "finetune" or few.all:
        return clips
    source = as_source(clips)
    seed = cfg.seed if cfg.data.labels_seed is None else cfg.data.labels_seed
    places = choose_few(source, few, seed, cfg.classes, shown(cfg.data.train))
    return SomeClips(source, places, few, seed)


def look_for(clips: Sequence[Clip], file: str) -> None:
    """Look for every clip of a list on disk; a file server may take minutes for many, and that is told.

    Raises:
        InputError: some are missing.
    """

    def tell(seconds: float) -> None:
        print(f"looking for the {len(clips)} clips of {file} for {duration(seconds)}", flush=True)

    patience = Patience(tell)
    try:
        with patience:
            check_clips(clips)
    finally:
        patience.close()


def box_to_cut(cfg: RunConfig, clips: Sequence[Clip]) -> tuple[int, int, int, int] | None:
    """The box of `augment.crop` that is still to be cut out of every frame; shards may have been made of it alone.

    Raises:
        InputError: shards have another box, or frames of another size than it is meant for.
    """
    box = cfg.augment.crop
    if box is None or not isinstance(clips, ShardClips):
        return box
    if clips.cut is None and clips.resized:
        raise InputError(
            f"augment.crop={list(box)} is a box in the frames of the recordings, and those of {cfg.data.train} were "
            f"resized: make the shards with --cut, or set augment.crop=null"
        )
    if clips.cut not in (None, box):
        raise InputError(
            f"augment.crop is {list(box)}, and {list(clips.cut)} was cut out of the frames of {cfg.data.train}: "
            "set the same, or make shards of whole frames"
        )
    return None if clips.cut else box
