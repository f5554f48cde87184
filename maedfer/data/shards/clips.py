"""The clips of a folder of shards, as a data set takes them."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from maedfer._progress import counted
from maedfer.data.annotations import Clip
from maedfer.data.shards.layout import INDEX_FILE, ShardIndex, key_text, read_index, refuse_unfinished
from maedfer.data.shards.reader import open_clip
from maedfer.data.shards.store import LocalStore, RemoteStore, open_store
from maedfer.data.source import ClipSource
from maedfer.data.subjects import SubjectPattern
from maedfer.data.video.base import VideoReader, shown
from maedfer.data.video.readers import Backend
from maedfer.errors import InputError

# Shards on a server that are looked for: each costs a request.
_REQUESTS = 64
# Settings of shards that their pictures do not depend on.
_ORDER = frozenset(("seed", "shard_size", "clips_per_shard", "fps"))


def read_shards(
    place: str | Path,
    num_classes: int | None = None,
    labelled: bool = True,
    classes: Sequence[str] = (),
    subject: str = "",
) -> ShardClips:
    """Read the index of a folder of shards.

    Args:
        place: its path or address.
        num_classes: labels must be below it; None = any.
        labelled: whether every clip must have a label.
        classes: names of the classes in label order; those of the shards, where they have some, must be the same.
        subject: pattern that finds who is in a clip in its name, see `SubjectPattern`; "" = what the shards say.

    Raises:
        InputError: there are no such shards, they are damaged or not finished, clips have no labels or others than
            there are classes, the classes have other names or another order, or the pattern is not found in a name.
    """
    store = open_store(place)
    if not store.remote:
        refuse_unfinished(Path(place))
    clips = ShardClips(str(place), read_index(store), store)
    known = clips.shards.about.classes
    if classes and known and tuple(classes) != known:
        what = "in another order" if sorted(classes) == sorted(known) else "under other names"
        raise InputError(
            f"{shown(place)}: the shards have the classes {list(known)}, data.classes has them {what}: "
            f"{list(classes)}; leave data.classes out, or make shards with these"
        )
    if labelled:
        _check_labels(clips, num_classes)
    if subject:
        clips.find_subjects(SubjectPattern(subject))
    return clips


class ShardClips(ClipSource):
    """The clips of shards; a `Clip` has the name, the list and the line that it had when the shards were made.

    Args:
        place: path or address of the folder.
        index: of the shards.
        store: what their files are read from.
    """

    def __init__(self, place: str, index: ShardIndex, store: LocalStore | RemoteStore) -> None:
        self.place, self.shards, self.store = place, index, store
        self._find_subject: Callable[[str], str] | None = None
        self.stride = self._whole("stride") or 1
        box = index.about.settings.get("cut")
        if box is not None and not (isinstance(box, list) and len(box) == 4 and all(type(edge) is int for edge in box)):
            raise self._damaged("cut", box)
        # Top, left, height, width of what was cut out of every frame, and whether frames were resized then.
        self.cut = None if box is None else (box[0], box[1], box[2], box[3])
        self.resized = any(index.about.settings.get(key) is not None for key in ("size", "crop"))
        kept = {key: value for key, value in index.about.settings.items() if key not in _ORDER}
        self.form = json.dumps([index.about.stored, index.about.quality, kept], sort_keys=True)

    def __len__(self) -> int:
        return len(self.shards)

    def _clip(self, index: int) -> Clip:
        arrays, label = self.shards.clips, int(self.shards.clips.label[index])
        return Clip(
            Path(self.store.place(self.shards.tar(index).name), key_text(arrays.key[index])),
            None if label < 0 else label,
            int(arrays.line[index]),
            self.shards.name(index),
            self.shards.about.source,
            arrays.digest[index].tobytes().hex(),
            self.shards.subject(index) if self._find_subject is None else self._find_subject(self.shards.name(index)),
        )

    def find_subjects(self, find: Callable[[str], str]) -> None:
        """Tell who is in a clip by its name, whatever the shards say.

        Args:
            find: takes a name.

        Raises:
            InputError: it finds nobody in a name; tells the clip.
        """
        for index in range(len(self)):
            try:
                find(self.shards.name(index))
            except InputError as error:
                raise InputError(f"{self.shards.where(index, self.store)}: {error}") from None
        self._find_subject = find

    @property
    def labels(self) -> np.ndarray:
        """Int32 [n] labels, -1 where there is none."""
        return self.shards.clips.label

    def open(self, index: int, backend: Backend = "auto") -> VideoReader:
        """Open a clip.

        Raises:
            InputError: its shard is missing or damaged there, or a reader of videos is asked for by name.
        """
        self.check_backend(backend)
        return open_clip(self.shards, index, self.store)

    def check_backend(self, backend: Backend) -> None:
        """Refuse a reader of videos or folders that is asked for by name.

        Raises:
            InputError: it is not "auto".
        """
        if backend != "auto":
            raise InputError(f"{shown(self.place)}: holds shards, which backend {backend!r} cannot read; use 'auto'")

    def check(self, some: Sequence[int] | None = None) -> None:
        """Look whether every shard is there, as long as the index says; of many on a server, a part of them.

        Args:
            some: has no meaning here, as many clips are in one file.

        Raises:
            InputError: shards are missing or cut short; names how many, and the first few.
        """
        shards: Sequence[int] = range(len(self.shards.about.shards))
        if self.store.remote and len(shards) > _REQUESTS:
            shards = [number * len(shards) // _REQUESTS for number in range(_REQUESTS)]
        problems = []
        for number in shards:
            shard = self.shards.about.shards[number]
            try:
                self.store.read(shard.name, shard.bytes - 1, 1)
            except InputError as error:
                problems.append(str(error))
        if problems:
            shown_ones = "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
            raise InputError(f"{len(problems)} of {len(shards)} shards cannot be read: {shown_ones}")

    def expect(self, indices: Sequence[int], block: int) -> None:
        """Let a disk read the whole block ahead, and ask a server for these clips at once where they are neighbours."""
        first, last = indices[0], indices[-1] + 1
        if not self.store.remote:
            first = first // block * block
            last = min(first + block, len(self))
        elif last - first > 2 * len(indices) or last - first < 2:
            return
        arrays = self.shards.clips
        ends = arrays.offset[first:last] + arrays.length[first:last]
        for number in range(int(arrays.shard[first]), int(arrays.shard[last - 1]) + 1):
            inside = arrays.shard[first:last] == number
            start, stop = int(arrays.offset[first:last][inside].min()), int(ends[inside].max())
            # What is wrong is told when the clips are read.
            with contextlib.suppress(InputError):
                self.store.prefetch(self.shards.about.shards[number].name, start, stop)

    def _whole(self, key: str) -> int | None:
        number = self.shards.about.settings.get(key)
        if number is not None and (type(number) is not int or number < 1):
            raise self._damaged(key, number)
        return number

    def _damaged(self, key: str, value: object) -> InputError:
        return InputError(
            f"{self.store.place(INDEX_FILE)}: is damaged ({key} cannot be {shown(str(value))[:40]}): make the shards "
            "anew"
        )

    def describe(self) -> str:
        """What the shards hold, in words."""
        about = self.shards.about
        how = "raw pixels" if about.quality is None else f"jpeg of quality {about.quality}"
        size = "of several sizes" if about.size is None else f"{about.size[1]} x {about.size[0]} pixels"
        megabytes = sum(shard.bytes for shard in about.shards) / 1e6
        return f"{how}, {size}, in {counted(len(about.shards), 'shard')} of {megabytes:.4g} MB together"

    def digest(self) -> bytes:
        """What tells these clips from others: their names, labels and pictures, in their order."""
        arrays = self.shards.clips
        whole = hashlib.sha256()
        for array in (arrays.label, arrays.digest, arrays.name_ends, arrays.names):
            whole.update(np.ascontiguousarray(array).data)
        return whole.digest()


def _check_labels(clips: ShardClips, num_classes: int | None) -> None:
    labels = clips.labels
    bad = labels < 0 if num_classes is None else (labels < 0) | (labels >= num_classes)
    if not bad.any():
        return
    first = int(np.flatnonzero(bad)[0])
    label = int(labels[first])
    if label < 0:
        what, remedy = "no label", "make shards of a list with labels, without --unlabelled"
    else:
        what = f"label {label}, not one of 0 to {(num_classes or 0) - 1}"
        remedy = "make shards of a list with labels of these classes, or set data.classes"
    raise InputError(
        f"{clips.shards.where(first, clips.store)} has {what} ({int(bad.sum())} of {len(clips)} clips): {remedy}"
    )
