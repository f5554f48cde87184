"""Where the clips of a data set are, behind one interface: files and folders of a list, or shards.

A source is a sequence of `Clip`s, of which a million takes little memory, and it opens them.
"""

from __future__ import annotations

import abc
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import overload

import numpy as np

from maedfer.data.annotations import Clip, check_exists
from maedfer.data.video.base import VideoReader
from maedfer.data.video.readers import Backend, open_video
from maedfer.errors import InputError


class ClipSource(Sequence[Clip], abc.ABC):
    """Clips, and how they are opened. What it holds goes to processes that are forked; readers do not.

    Attributes:
        stride: every so many frames of the recordings one is there, from the first on.
        form: how pictures are stored. Digests tell clips apart only where this is the same; "" where they are files.
    """

    stride = 1
    form = ""

    @overload
    def __getitem__(self, index: int) -> Clip: ...
    @overload
    def __getitem__(self, index: slice) -> list[Clip]: ...
    def __getitem__(self, index: int | slice) -> Clip | list[Clip]:
        if isinstance(index, slice):
            return [self._clip(place) for place in range(*index.indices(len(self)))]
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(index)
        return self._clip(place)

    @abc.abstractmethod
    def _clip(self, index: int) -> Clip:
        """The clip at a place from 0 on that is there."""

    def first(self, index: int) -> int:
        """The first place that has the same clip, where one is there several times and that is known."""
        return index

    @property
    @abc.abstractmethod
    def labels(self) -> np.ndarray:
        """Int32 [n] labels, -1 where there is none."""

    @abc.abstractmethod
    def open(self, index: int, backend: Backend = "auto") -> VideoReader:
        """Open a clip.

        Raises:
            InputError: it is missing or damaged, or the backend cannot read it.
        """

    @abc.abstractmethod
    def check(self, some: Sequence[int] | None = None) -> None:
        """Look whether the clips are there; their content is not read.

        Args:
            some: the clips that are looked for, where looking for one costs; None = all.

        Raises:
            InputError: some are missing.
        """

    def expect(self, indices: Sequence[int], block: int) -> None:
        """Prepare for the clips that are opened next, where that saves time. Never fails.

        Args:
            indices: rising, all of one block.
            block: the clips of a block, block i from clip i * block on; clips of it are opened soon, by this process
                or others.
        """


def as_source(clips: Sequence[Clip]) -> ClipSource:
    """The clips as a source: as they are, or those of a list in a table."""
    return clips if isinstance(clips, ClipSource) else ClipTable(clips)


def check_clips(clips: Sequence[Clip], some: Sequence[int] | None = None) -> None:
    """`ClipSource.check` of a source or of the clips of a list."""
    if isinstance(clips, ClipSource):
        clips.check(some)
    else:
        check_exists(clips if some is None else (clips[index] for index in some))


class ClipTable(ClipSource):
    """Many clips in a few arrays: a list of a million `Clip`s takes a gigabyte, again in every loader process.

    Args:
        clips: what to hold; `table[i]` gives an equal `Clip` back.

    Raises:
        InputError: there are clips of shards among them.
    """

    def __init__(self, clips: Iterable[Clip]) -> None:
        text, ends, numbers = bytearray(), [0], []
        sources: dict[str, int] = {}
        people: dict[str, int] = {}
        for clip in clips:
            if clip.digest:
                raise InputError(f"{clip.where}: clips of shards cannot be put into a list: take them all, as they are")
            path = os.fspath(clip.path)
            # Most paths end in the name: keep the part before it only.
            tail = path.endswith(clip.name)
            for part in (path[: len(path) - len(clip.name)] if tail else path, clip.name):
                text += part.encode("utf-8", "surrogateescape")
                ends.append(len(text))
            source = sources.setdefault(clip.source, len(sources))
            who = people.setdefault(clip.subject, len(people))
            numbers.append((-1 if clip.label is None else clip.label, clip.line, source, tail, who))
        self._text = np.frombuffer(bytes(text), np.uint8)
        self._ends = np.array(ends, np.int64)
        self._numbers = np.array(numbers, np.int32).reshape(-1, 5)
        self._sources, self._people = list(sources), list(people)

    def __len__(self) -> int:
        return len(self._numbers)

    def _clip(self, index: int) -> Clip:
        label, line, source, tail, who = self._numbers[index].tolist()
        start, middle, end = self._ends[2 * index : 2 * index + 3].tolist()
        before = self._text[start:middle].tobytes().decode("utf-8", "surrogateescape")
        name = self._text[middle:end].tobytes().decode("utf-8", "surrogateescape")
        path = Path(before + name if tail else before)
        label = None if label < 0 else label
        return Clip(path, label, line, name, self._sources[source], subject=self._people[who])

    @property
    def labels(self) -> np.ndarray:
        """Int32 [n] labels, -1 where there is none."""
        return self._numbers[:, 0]

    def open(self, index: int, backend: Backend = "auto") -> VideoReader:
        """Open the file or folder of a clip; see `open_video`."""
        return open_video(self[index].path, backend)

    def check(self, some: Sequence[int] | None = None) -> None:
        """Look for every clip on disk; see `check_exists`."""
        check_exists(self if some is None else (self[index] for index in some))
