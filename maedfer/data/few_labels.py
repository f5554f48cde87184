"""Few labels: of every class a share of its clips, drawn by a seed, small parts inside of large ones.

A class's clips are put in an order that depends on the seed and on their names alone, and the first ones are taken. So
for one seed the 1 % are among the 5 %, and those among all, whether the clips come from a list, from the same list in
another order, or from shards that were made of it.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from maedfer._files import atomic_path
from maedfer.data.annotations import Clip
from maedfer.data.source import ClipSource
from maedfer.data.video.base import VideoReader
from maedfer.data.video.readers import Backend
from maedfer.errors import InputError

_PERCENT = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,6})?) ?%")
_COUNT = re.compile(r"[0-9]{1,9}")
# Half a clip more or less is rounding; less than this is that of floating point.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class FewLabels:
    """How many labels are used.

    Args:
        percent: of the clips of every class; None where they are counted.
        count: clips of every class; None where they are a share.
    """

    percent: float | None = None
    count: int | None = None

    @property
    def all(self) -> bool:
        """Whether every label is used."""
        return self.percent is None and self.count is None

    def of(self, clips: int) -> int:
        """Clips of a class that has so many: a share is rounded to the nearest number, halves up."""
        if self.count is not None:
            return self.count
        return clips if self.percent is None else int(clips * self.percent / 100 + 0.5 + _ROUNDING)

    def __str__(self) -> str:
        if self.count is not None:
            return f"{self.count} per class"
        return "all" if self.percent is None else f"{self.percent:g}%"


def parse_labels(text: str, key: str = "data.labels") -> FewLabels:
    """Read how many labels are to be used.

    Args:
        text: "all", a share of every class ("1%", "0.5%"), or clips of every class ("5").
        key: what the text was given for, for the message.

    Raises:
        InputError: it is none of these.
    """
    plain = text.strip()
    if plain == "all":
        return FewLabels()
    percent = _PERCENT.fullmatch(plain)
    if percent and 0 < float(percent[1]) <= 100:
        return FewLabels() if float(percent[1]) == 100 else FewLabels(percent=float(percent[1]))
    if _COUNT.fullmatch(plain) and int(plain) > 0:
        return FewLabels(count=int(plain))
    raise InputError(
        f"{key} must be all, a share of every class above 0% and up to 100% (5%), or a number of clips of every class "
        f"(5), got {text!r}"
    )


def choose_few(
    clips: Sequence[Clip], labels: FewLabels, seed: int, classes: Sequence[str], source: str = "data.train"
) -> np.ndarray:
    """Choose the clips whose labels are used.

    Args:
        clips: all with a label below the number of classes.
        labels: how many of each class.
        seed: another seed gives other clips.
        classes: names, in label order.
        source: what the clips are of, for messages.

    Returns:
        Int64 [n] places of the chosen clips, rising.

    Raises:
        InputError: a class would have no clip, or has fewer than are asked for.
    """
    whole = clips.labels if isinstance(clips, ClipSource) else np.array([clip.label for clip in clips], np.int32)
    found = np.bincount(whole, minlength=len(classes))
    wanted = [labels.of(int(count)) for count in found]
    _check(labels, found.tolist(), wanted, classes, source)
    if labels.all:
        return np.arange(len(clips))
    order = _order([clip.name for clip in clips], seed)
    chosen = [order[whole[order] == label][:count] for label, count in enumerate(wanted)]
    return np.sort(np.concatenate(chosen))


class SomeClips(ClipSource):
    """Some clips of a source, which opens them.

    Args:
        source: all clips.
        places: int64 [n] of those that are chosen, rising.
        few: how many labels they have.
        seed: by which they were chosen.
        length: how many clips there are to be, the chosen ones again and again; None = each once.
    """

    def __init__(
        self, source: ClipSource, places: np.ndarray, few: FewLabels, seed: int, length: int | None = None
    ) -> None:
        self.source, self.places = source, places
        self.few, self.seed = few, seed
        self.stride, self.form = source.stride, source.form
        self._order = places if length is None else np.resize(places, length)

    @property
    def chosen(self) -> SomeClips:
        """Every chosen clip once."""
        return SomeClips(self.source, self.places, self.few, self.seed)

    def again_and_again(self) -> SomeClips:
        """The chosen clips one after the other, again and again, until they are as many as the source has."""
        return SomeClips(self.source, self.places, self.few, self.seed, len(self.source))

    def __len__(self) -> int:
        return len(self._order)

    def _clip(self, index: int) -> Clip:
        return self.source[int(self._order[index])]

    def first(self, index: int) -> int:
        """The first place that has the same clip: of clips that come again and again, each is kept once."""
        return index % len(self.places)

    @property
    def labels(self) -> np.ndarray:
        """Int32 [n] labels, -1 where there is none."""
        return self.source.labels[self._order]

    def open(self, index: int, backend: Backend = "auto") -> VideoReader:
        """Open a clip."""
        return self.source.open(int(self._order[index]), backend)

    def check(self, some: Sequence[int] | None = None) -> None:
        """Look whether the clips are there; of shards, whether all shards are."""
        self.source.check(self.places.tolist() if some is None else self._order[list(some)].tolist())


def write_labels(file: str | Path, clips: SomeClips, classes: Sequence[str]) -> None:
    """Write which clips were chosen, as a list that can be trained on: path, label from 0, class, line of the list."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("path", "label", "class", "line"))
    for clip in clips.chosen:
        assert clip.label is not None
        writer.writerow((clip.name, clip.label, classes[clip.label], clip.line))
    with atomic_path(file) as temporary:
        temporary.write_bytes(table.getvalue().encode("utf-8", "surrogateescape"))


def _check(labels: FewLabels, found: list[int], wanted: list[int], classes: Sequence[str], source: str) -> None:
    if labels.all:
        return
    for name, there, count in zip(classes, found, wanted, strict=True):
        if not there:
            raise InputError(f"class {name!r} has no clip in {source}: few labels need one of every class at least")
        if count > there:
            raise InputError(
                f"{labels} are too many labels for class {name!r}, which has {there} in {source}: give {min(found)} or "
                "fewer, or a share of every class (10%)"
            )
        if not count:
            # The least share that gives one clip of the smallest class, to a hundredth of a per cent.
            least = math.ceil(5000 / min(found)) / 100
            raise InputError(
                f"{labels} of the {there} clips of class {name!r} in {source} is less than one: give "
                f"{least:g}% or more, or a number of clips of every class (1)"
            )


def _order(names: Sequence[str], seed: int) -> np.ndarray:
    """Int64 [n] places in an order that hangs on seed and names; what all names begin with does not count."""
    folder = os.path.commonpath([os.path.dirname(name) for name in names]) if _alike(names) else ""
    digests = [
        hashlib.sha256(f"{seed} {name[len(folder) :].lstrip('/')}".encode(errors="surrogateescape")).digest()
        for name in names
    ]
    # Clips that are listed twice stay in their order.
    return np.array(sorted(range(len(names)), key=digests.__getitem__), np.int64)


def _alike(names: Sequence[str]) -> bool:
    # Paths from the root and others have no folder in common.
    return len({name[:1] == "/" for name in names}) == 1
