"""The folds of a protocol: found as lists, or made of one's own clips; nobody in both parts of one."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from maedfer._progress import counted
from maedfer._values import is_address
from maedfer.data.annotations import Clip, clip_key
from maedfer.data.protocols import PROTOCOLS, Fold, find_protocol, paths_of, write_folds
from maedfer.data.shards.layout import is_shards
from maedfer.data.video.base import shown
from maedfer.errors import InputError, some
from maedfer.preparation.split import split_clips
from maedfer.train.config import RunConfig
from maedfer.train.sources import read_clips

_NUMBERED = re.compile(r"fold_([0-9]{1,4})")


@dataclass(frozen=True)
class FoldLists:
    """The lists of a fold.

    Args:
        number: of the fold, from 1.
        train, test: annotation files, or folders of shards.
    """

    number: int
    train: Path
    test: Path

    @property
    def name(self) -> str:
        """The name of its folders."""
        return f"fold_{self.number}"


@dataclass(frozen=True)
class FoldClips:
    """What is in a fold.

    Args:
        train, test: the clips.
        shared: people who are in both parts, each with a clip of either.
    """

    train: Sequence[Clip]
    test: Sequence[Clip]
    shared: Mapping[str, tuple[Clip, Clip]]


def folds_in(folder: str | Path, classes: Sequence[str] = ()) -> list[FoldLists]:
    """Find the folds that `maedfer prepare`, `maedfer lists` or `maedfer shard` has written.

    Args:
        folder: holds `fold_1/train.csv`, `fold_1/test.csv`, ...; or folders of shards `fold_1/train`, `fold_1/test`.
        classes: names that the runs have, which `classes.txt` must have too, in the same order; () = any.

    Raises:
        InputError: there are fewer than two folds, a list is not there, or the classes are others.
    """
    folder = Path(folder)
    try:
        numbers = sorted(int(match[1]) for name in os.listdir(folder) if (match := _NUMBERED.fullmatch(name)))
    except OSError as error:
        raise InputError(f"lists of folds cannot be looked for in {shown(folder)}: {error.strerror}") from None
    if not numbers:
        raise InputError(
            f"{shown(folder)} holds no folds: give the folder that `maedfer prepare` or `maedfer lists` has written, "
            "with fold_1/train.csv, fold_1/test.csv, ..."
        )
    if len(numbers) == 1:
        raise InputError(f"{shown(folder)} holds one fold: there is nothing to cross, run it by `maedfer finetune`")
    _check_classes(folder / "classes.txt", classes)
    return [
        FoldLists(number, *(_part(folder / f"fold_{number}", name) for name in ("train", "test"))) for number in numbers
    ]


def folds_of_protocol(recipe: str, root: str | Path, out: Path) -> list[FoldLists]:
    """Write the folds of a public data set, as its own files or names have them, into `out`.

    Raises:
        InputError: the data set is not there, it has one fold, or `out` holds other folds.
    """
    protocol = find_protocol(recipe)
    folds = protocol.folds_in(root)
    if len(folds) == 1:
        raise InputError(f"{protocol.title} has one fold: there is nothing to cross, run it by `maedfer finetune`")
    return _written(folds, protocol.classes, out, protocol.subjects_of(paths_of(folds)))


def own_folds(cfg: RunConfig, count: int, seed: int, out: Path) -> tuple[list[FoldLists], Path, str]:
    """Divide the clips of `data.train` into folds that are each tested once, by who is in them, and write their lists.

    Args:
        cfg: settings of the runs; who is in a clip is told by the list or `data.subject`.
        count: of the folds.
        seed: says who is in which fold, among equals.
        out: folder for the lists.

    Returns:
        The folds, the folder that their paths start from, and a sentence on how they were made.

    Raises:
        InputError: the clips cannot be divided, or `out` holds other folds.
    """
    if count < 2:
        raise InputError(f"folds must be at least 2, got {count}")
    if is_address(cfg.data.train) or is_shards(cfg.data.train):
        raise InputError(
            f"data.train={cfg.data.train} is shards, which cannot be divided: give the list that they were made of"
        )
    clips = {clip_key(clip.path): clip for clip in reversed(read_clips(cfg, cfg.data.train))}
    base = Path(cfg.data.root or Path(cfg.data.train).parent).absolute()
    rows = [(_place(clip, base), int(clip.label or 0)) for clip in clips.values()]
    who = [clip.subject for clip in clips.values()]
    lacking = next((clip for clip in clips.values() if not clip.subject), None)
    if any(who) and lacking is not None:
        raise InputError(f"{lacking.where}: nobody is named as its subject, as in other lines: name who is in it")
    folds = split_clips(rows, who if any(who) else None, folds=count, seed=seed)
    subjects = {path: name for (path, _), name in zip(rows, who, strict=True) if name}
    if subjects:
        how = f"{counted(len(rows), 'clip')} of {counted(len(set(who)), 'person')} were divided by who is in them"
        how = how.replace("persons", "people")
    else:
        how = (
            f"{counted(len(rows), 'clip')} were divided one by one: where a person is in several of them, scores tell "
            "who is known rather than what is felt (say who is who by --subject, or a column subject of the list)"
        )
    return _written(folds, cfg.classes, out, subjects), base, f"{how}, by seed {seed}"


def look_into(cfg: RunConfig, fold: FoldLists) -> FoldClips:
    """Read the lists of a fold, and look who is in both of them.

    Args:
        cfg: settings of its run, lists aside.
        fold: the fold.

    Raises:
        InputError: a list cannot be read.
    """
    train, test = (read_clips(cfg, str(file)) for file in (fold.train, fold.test))
    first: dict[str, Clip] = {}
    for clip in train:
        first.setdefault(clip.subject, clip)
    shared: dict[str, tuple[Clip, Clip]] = {}
    for clip in test:
        if clip.subject and clip.subject in first:
            shared.setdefault(clip.subject, (first[clip.subject], clip))
    return FoldClips(train, test, shared)


def about_shared(fold: FoldLists, shared: Mapping[str, tuple[Clip, Clip]]) -> str:
    """A clause on the people who are in both parts of a fold."""
    name, (one, other) = next(iter(shared.items()))
    people = "1 person is" if len(shared) == 1 else f"{len(shared):,} people are"
    rest = f", then {shown(some(list(shared)[1:]))}" if len(shared) > 1 else ""
    return (
        f"{people} in both parts of {fold.name}, the first {shown(name)} (training: {shown(one.name)}, test: "
        f"{shown(other.name)}){rest}"
    )


def is_protocol(recipe: str | None) -> bool:
    """Whether a recipe is that of a data set whose folds are known."""
    return recipe in PROTOCOLS


def _part(folder: Path, name: str) -> Path:
    for place in (folder / f"{name}.csv", folder / name):
        if place.exists():
            return place
    raise InputError(f"{shown(folder / name)}.csv is not there, and every fold takes a list for training and for test")


def _check_classes(file: Path, classes: Sequence[str]) -> None:
    """Refuse lists whose classes are not those of the runs: labels would mean others."""
    if not file.is_file() or not classes:
        return
    there = file.read_text(encoding="utf-8", errors="replace").splitlines()
    if there != list(classes):
        how = "them in another order" if sorted(there) == sorted(classes) else "others"
        raise InputError(
            f"{shown(file)} has classes {shown(some(there, 12))}, and data.classes has {how}: "
            f"{some(list(classes), 12)}: give data.classes=[{','.join(there)}]"
        )


def _place(clip: Clip, base: Path) -> str:
    """The path of a clip as a list below another folder has it."""
    return clip.name if base / clip.name == Path(os.path.abspath(clip.path)) else os.path.abspath(clip.path)


def _written(folds: Sequence[Fold], classes: Sequence[str], out: Path, subjects: Mapping[str, str]) -> list[FoldLists]:
    """Write lists, unless they are there: runs on lists that have not been touched are known to be done.

    Raises:
        InputError: other lists are there.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as staged:
            written = write_folds(folds, classes, Path(staged) / out.name, subjects)
            files = {file.relative_to(staged): file.read_bytes() for file in Path(staged).rglob("*") if file.is_file()}
    except OSError as error:
        raise InputError(f"cannot write lists to {shown(out)}: {error.strerror}") from None
    there = {file.relative_to(out.parent): file.read_bytes() for file in out.rglob("*") if file.is_file()}
    if any(files.get(name) != content for name, content in there.items()):
        raise InputError(
            f"{shown(out)} holds other folds (of other clips, people, numbers or seeds): choose another folder, or "
            "remove this one with its runs"
        )
    # Who was killed while writing has left some of them.
    if there.keys() != files.keys():
        write_folds(folds, classes, out, subjects)
    return [
        FoldLists(number, out / folder.name / "train.csv", out / folder.name / "test.csv")
        for number, folder in enumerate(written, 1)
    ]
