"""Shards: many clips in a few tar files, and an index that says where each picture is.

    DIR/index.json               what this is, settings, classes, list, and of each shard name, bytes, clips, digests
    DIR/index.npz                arrays with a row for each clip, `ClipArrays`; its digest is in index.json
    DIR/shard-000000.tar         clips in the WebDataset layout
    DIR/shard-000000.frames.npy  a row for each frame of the shard's clips: its time, and the bytes of its picture
    DIR/quarantine.csv           name, line, reason: clips of the list that could not be read; absent where all could
    DIR/.unfinished              only while they are written: whole clips that wait for the rest of their shard

index.json is written last: a folder without it holds no shards. A clip's key is its place in the order of writing, nine
digits; a clip in quarantine leaves a gap. The members of a clip follow each other:

    KEY.json         name, label, class, frames, size [height, width], fps, times, and the source's digest; of clips
                     that were cut out, box (mean) and boxes (of every frame): x, y, width, height in the source;
                     subject, who is in it, where that is known
    KEY.cls          the label in digits, where there is one
    KEY.000000.jpg   one a frame, of "jpeg"
    KEY.frames.npy   uint8 [T, H, W, 3], of "raw"

Tars are ustar, regular files alone, with owner, group and times of 0, so that the same clips give the same bytes. A
clip's digest is the SHA-256 of its pictures' bytes, one after the other: of jpg files, or of uint8 [T, H, W, 3].

Frame i of a "jpeg" clip begins where the one before ends: `picture_starts` counts headers and padding. Frame i of a
"raw" clip begins at pictures + i * H * W * 3.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np

from maedfer._files import check_archive, parse_json
from maedfer._values import is_address
from maedfer.data.video.base import MAX_PIXELS, shown
from maedfer.errors import InputError

MARK, VERSION = "maedfer shards", 1
INDEX_FILE, CLIPS_FILE, QUARANTINE_FILE, WORK_FOLDER = "index.json", "index.npz", "quarantine.csv", ".unfinished"
# Tars are made of these.
BLOCK = 512
Stored = Literal["jpeg", "raw"]
# Time in seconds (NaN where the source tells none) and bytes of a picture.
FRAME = np.dtype([("time", "<f8"), ("bytes", "<u4")])
# Bytes before the rows of a file of frames: the header of npy.
FRAMES_START = 128
_SHARD = re.compile(r"shard-[0-9]{6,}\.tar")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_HUGE = 2**53


class ShardStore(Protocol):
    """Where the files of a folder of shards are read from: a disk, or a server."""

    def place(self, name: str) -> str:
        """The path or address of a file, as sentences name it."""

    def read(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """Bytes of a file, from `start` on, `length` of them or all.

        Raises:
            InputError: it is not there, cannot be read, or ends before; names the place.
        """


@dataclass(frozen=True)
class ShardFile:
    """One shard.

    Args:
        name: of its tar.
        bytes: of the tar.
        clips, frames: that are in it.
        sha256: of the tar.
        frames_sha256: of its file of frames.
    """

    name: str
    bytes: int
    clips: int
    frames: int
    sha256: str
    frames_sha256: str

    @property
    def frames_name(self) -> str:
        """The name of its file of frames."""
        return self.name.removesuffix(".tar") + ".frames.npy"


@dataclass(frozen=True)
class ShardSet:
    """What index.json holds.

    Args:
        stored: how pictures are stored.
        quality: of "jpeg", 1 to 100; None for "raw".
        size: height and width where all clips have the same.
        classes: names in label order, as far as they are known.
        source: the list's name.
        source_sha256: the list's digest.
        settings: how clips were chosen, cut and written.
        clips, frames, quarantined: how many there are; those in quarantine are in no shard.
        clips_sha256: digest of index.npz.
        shards: in their order.
    """

    stored: Stored
    quality: int | None
    size: tuple[int, int] | None
    classes: tuple[str, ...]
    source: str
    source_sha256: str
    settings: dict[str, Any]
    clips: int
    frames: int
    quarantined: int
    clips_sha256: str
    shards: tuple[ShardFile, ...] = field(repr=False)

    def text(self) -> str:
        """The content of index.json."""
        return json.dumps({"mark": MARK, "version": VERSION, **dataclasses.asdict(self)}, indent=1) + "\n"


@dataclass(frozen=True)
class ClipArrays:
    """What index.npz holds: arrays of n clips, in the order of their keys.

    Args:
        key: int64 [n], rising.
        shard: int32 [n], place in `ShardSet.shards`.
        offset, length: int64 [n], the bytes of its members in the tar.
        pictures: int64 [n], where the bytes of its first picture begin in the tar.
        first, frames: int64 and int32 [n], its rows in the shard's file of frames.
        size: int32 [n, 2], height and width of its pictures.
        fps: float64 [n], average frames a second, 0 where unknown.
        label: int32 [n], -1 where there is none.
        line: int32 [n], in the list.
        box: float32 [n, 4], mean box x, y, width, height in the source, NaN where nothing was cut out.
        digest: uint8 [n, 32], SHA-256 of its pictures.
        names, name_ends: uint8 [...] and int64 [n], names in UTF-8, one after the other, and where each one ends.
        subject: int32 [n], who is in it, place in `people`, -1 where that is not known; None where it is of no clip.
        people, people_ends: uint8 [...] and int64 [p], subjects as the list has them, written like names; None as well.
    """

    key: np.ndarray
    shard: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    pictures: np.ndarray
    first: np.ndarray
    frames: np.ndarray
    size: np.ndarray
    fps: np.ndarray
    label: np.ndarray
    line: np.ndarray
    box: np.ndarray
    digest: np.ndarray
    names: np.ndarray
    name_ends: np.ndarray
    subject: np.ndarray | None = None
    people: np.ndarray | None = None
    people_ends: np.ndarray | None = None

    def content(self) -> bytes:
        """The content of index.npz."""
        file = io.BytesIO()
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        np.savez(file, **{name: array for name, array in arrays.items() if array is not None})
        return file.getvalue()


# Who is in clips, which only some lists say.
WHO = ("subject", "people", "people_ends")
# Type and size of a row; names and people have rows of their own.
_ARRAYS: dict[str, tuple[str, tuple[int, ...]]] = {
    "key": ("<i8", ()),
    "shard": ("<i4", ()),
    "offset": ("<i8", ()),
    "length": ("<i8", ()),
    "pictures": ("<i8", ()),
    "first": ("<i8", ()),
    "frames": ("<i4", ()),
    "size": ("<i4", (2,)),
    "fps": ("<f8", ()),
    "label": ("<i4", ()),
    "line": ("<i4", ()),
    "box": ("<f4", (4,)),
    "digest": ("|u1", (32,)),
    "names": ("|u1", ()),
    "name_ends": ("<i8", ()),
    "subject": ("<i4", ()),
    "people": ("|u1", ()),
    "people_ends": ("<i8", ()),
}


@dataclass(frozen=True)
class ShardIndex:
    """The index of a folder of shards: what is known of all clips. A clip's number is its row, from 0.

    Args:
        about: what index.json holds.
        clips: what index.npz holds.
    """

    about: ShardSet
    clips: ClipArrays = field(repr=False)

    def __len__(self) -> int:
        return self.about.clips

    def name(self, number: int) -> str:
        """The clip's name in the list."""
        return _text(self.clips.names, self.clips.name_ends, number)

    def subject(self, number: int) -> str:
        """Who is in the clip, "" where that is not known."""
        clips = self.clips
        if clips.subject is None or clips.people is None or clips.people_ends is None or clips.subject[number] < 0:
            return ""
        return _text(clips.people, clips.people_ends, int(clips.subject[number]))

    def tar(self, number: int) -> ShardFile:
        """The shard that a clip is in."""
        return self.about.shards[int(self.clips.shard[number])]

    def where(self, number: int, store: ShardStore) -> str:
        """The place of a clip, for error messages: its shard, key and name."""
        key = key_text(self.clips.key[number])
        return f"{store.place(self.tar(number).name)}: clip {key} ({shown(self.name(number))})"

    def read_frames(self, number: int, store: ShardStore) -> np.ndarray:
        """Read the rows of a clip's frames: `FRAME` [frames].

        Raises:
            InputError: they cannot be read, or are not those of this clip.
        """
        clips = self.clips
        start = FRAMES_START + int(clips.first[number]) * FRAME.itemsize
        count = int(clips.frames[number])
        content = store.read(self.tar(number).frames_name, start, count * FRAME.itemsize)
        rows = np.frombuffer(content, FRAME)
        end = int(clips.offset[number] + clips.length[number])
        if len(rows) == count:
            last = int(picture_starts(self.about.stored, int(clips.pictures[number]), rows["bytes"])[-1])
            if (rows["bytes"] > 0).all() and last + int(rows["bytes"][-1]) <= end:
                return rows
        raise InputError(
            f"{store.place(self.tar(number).frames_name)}: its rows for clip {key_text(clips.key[number])} are "
            "damaged; `maedfer shard --check` tells more"
        )


def is_shards(place: str | Path) -> bool:
    """Whether a path or an address is that of a folder of shards, finished or not, rather than of a list."""
    if is_address(str(place)):
        return True
    return any(os.path.exists(os.path.join(place, name)) for name in (INDEX_FILE, WORK_FOLDER))


def refuse_unfinished(folder: Path) -> None:
    """Refuse a folder of shards of which some are still to be written.

    Raises:
        InputError: it is one; says how it is finished.
    """
    if (folder / WORK_FOLDER).is_dir() and not (folder / INDEX_FILE).is_file():
        raise InputError(f"{shown(folder)}: these shards are not finished: the same `maedfer shard` command goes on")


def _text(texts: np.ndarray, ends: np.ndarray, number: int) -> str:
    """One of several texts that follow each other."""
    start = int(ends[number - 1]) if number else 0
    return texts[start : int(ends[number])].tobytes().decode("utf-8", "surrogateescape")


def key_text(key: int) -> str:
    """A key as names of members begin with it."""
    return f"{int(key):09d}"


def picture_starts(stored: Stored, first: int, sizes: np.ndarray) -> np.ndarray:
    """Where the bytes of pictures begin in a tar.

    Args:
        stored: how they are stored.
        first: where those of the clip's first picture begin.
        sizes: bytes of each picture of the clip.

    Returns:
        int64 [frames].
    """
    steps = sizes.astype(np.int64)
    if stored == "jpeg":
        # Each member is filled up to whole blocks, and one block of header comes before it.
        steps = -(-steps // BLOCK) * BLOCK + BLOCK
    return first + np.cumsum(steps) - steps


def read_index(store: ShardStore) -> ShardIndex:
    """Read the index of a folder of shards.

    Raises:
        InputError: it is not there, of another version, or damaged.
    """
    about = parse_set(store.read(INDEX_FILE), store.place(INDEX_FILE))
    content = store.read(CLIPS_FILE)
    if hashlib.sha256(content).hexdigest() != about.clips_sha256:
        raise InputError(
            f"{store.place(CLIPS_FILE)}: is not the file that {INDEX_FILE} was written with (its digest differs): copy "
            "both again, or make the shards anew"
        )
    try:
        check_archive(io.BytesIO(content))
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            there = [name for name in _ARRAYS if name not in WHO or any(one in file for one in WHO)]
            clips = ClipArrays(**{name: file[name] for name in there})
        _check(about, clips)
    except Exception as error:
        reason = str(error) if isinstance(error, InputError) else type(error).__name__
        raise InputError(f"{store.place(CLIPS_FILE)}: is damaged ({reason}): make the shards anew") from error
    return ShardIndex(about, clips)


def parse_set(content: bytes, place: str) -> ShardSet:
    """Read what index.json holds.

    Args:
        content: of the file.
        place: of the file, for error messages.

    Raises:
        InputError: it is another file, of another version, or damaged.
    """
    try:
        found = parse_json(content)
        mark, version = found.pop("mark"), found.pop("version")
        if mark != MARK:
            raise ValueError
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise InputError(f"{place}: is no index of shards: give the folder that `maedfer shard` wrote") from None
    if version != VERSION:
        raise InputError(
            f"{place}: shards of version {shown(str(version))[:20]}, where this maedfer reads version {VERSION}: make "
            "them anew, or install the maedfer that wrote them"
        )
    try:
        return _set_of(found)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        reason = f" ({error})" if isinstance(error, InputError) else ""
        raise InputError(f"{place}: is damaged{reason}: copy it again, or make the shards anew") from None


def _set_of(found: dict[str, Any]) -> ShardSet:
    """What index.json holds, looked at; raises whatever is wrong with it."""
    shards = []
    for row in found.pop("shards"):
        shard = ShardFile(**row)
        if not _SHARD.fullmatch(shard.name) or not all(map(_DIGEST.fullmatch, (shard.sha256, shard.frames_sha256))):
            raise InputError(f"its shard {shown(shard.name)[:40]!r} has no such name or digests")
        if not all(type(number) is int and 0 < number < _HUGE for number in (shard.bytes, shard.clips, shard.frames)):
            raise InputError(f"the numbers of {shard.name} cannot be")
        shards.append(shard)
    size = found.pop("size")
    about = ShardSet(
        **{**found, "classes": tuple(map(str, found["classes"]))},
        size=None if size is None else (int(size[0]), int(size[1])),
        shards=tuple(shards),
    )
    if about.stored not in get_args(Stored) or not _DIGEST.fullmatch(about.clips_sha256):
        raise InputError("it says neither jpeg nor raw, or has no digest of index.npz")
    if len({shard.name for shard in shards}) < len(shards):
        raise InputError("it names a shard twice")
    clips, frames = sum(shard.clips for shard in shards), sum(shard.frames for shard in shards)
    if (about.clips, about.frames) != (clips, frames) or not clips:
        raise InputError(f"it counts {about.clips} clips of {about.frames} frames, its shards {clips} of {frames}")
    return about


def _check(about: ShardSet, clips: ClipArrays) -> None:
    """Refuse arrays that cannot be those of these shards."""
    for name, (kind, row) in _ARRAYS.items():
        array = getattr(clips, name)
        if array is None:
            continue
        count = array.shape[:1] if name in ("names", "people", "people_ends") else (about.clips,)
        if array.dtype != np.dtype(kind) or array.shape != (*count, *row):
            raise InputError(f"{name} is {array.dtype} {list(array.shape)}")
    rising = np.diff(clips.key) > 0
    same = np.diff(clips.shard) == 0
    ends, rows = clips.offset + clips.length, clips.first + clips.frames
    sizes = np.array([shard.bytes for shard in about.shards])[clips.shard.clip(0, len(about.shards) - 1)]
    right = {
        "key": rising.all() and clips.key[0] >= 0,
        "shard": np.array_equal(
            np.bincount(clips.shard.clip(0), minlength=len(about.shards)), [shard.clips for shard in about.shards]
        )
        and (np.diff(clips.shard) >= 0).all(),
        # Clips of a shard follow each other without anything between.
        "offset": (clips.offset[np.r_[True, ~same]] == 0).all() and (clips.offset[1:][same] == ends[:-1][same]).all(),
        "length": (clips.length > 0).all() and (clips.length % BLOCK == 0).all() and (ends <= sizes).all(),
        "pictures": (clips.pictures > clips.offset).all() and (clips.pictures < ends).all(),
        "first": (clips.first[np.r_[True, ~same]] == 0).all() and (clips.first[1:][same] == rows[:-1][same]).all(),
        "frames": (clips.frames > 0).all(),
        "size": (clips.size > 0).all() and (clips.size.astype(np.int64).prod(1) <= MAX_PIXELS).all(),
        "fps": (np.isfinite(clips.fps) & (clips.fps >= 0)).all(),
        "label": (clips.label >= -1).all() and (not about.classes or (clips.label < len(about.classes)).all()),
        "name_ends": (np.diff(clips.name_ends, prepend=0) > 0).all() and clips.name_ends[-1] == len(clips.names),
    }
    if clips.subject is not None and clips.people is not None and clips.people_ends is not None:
        ends = clips.people_ends
        right["people_ends"] = len(ends) > 0 and (np.diff(ends, prepend=0) > 0).all() and ends[-1] == len(clips.people)
        right["subject"] = (clips.subject >= -1).all() and (clips.subject < len(ends)).all()
    wrong = [name for name, is_right in right.items() if not is_right]
    if wrong:
        raise InputError(f"{', '.join(wrong)} cannot be")
