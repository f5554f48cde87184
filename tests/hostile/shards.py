"""Damaged shards: each clip is read, or refused with a sentence."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np

from maedfer.data import read_annotations
from maedfer.data.annotations import write_annotations
from maedfer.data.shards import open_clip, open_store, read_index
from maedfer.data.shards.check import check_shards
from maedfer.data.shards.layout import ClipArrays
from maedfer.data.shards.options import ShardOptions
from maedfer.data.shards.write import write_shards
from maedfer.data.video import VideoReader, open_video
from maedfer.errors import InputError
from tests.data.media import pictures, write_video
from tests.data.shards.made import make_shards

# What is read in damaged shards, besides the end.
_SOME = 8


def build(folder: Path) -> None:
    """Write shards of both kinds below a folder, and beside them what is in their clips."""
    for stored in ("jpeg", "raw"):
        made = make_shards(folder / stored, stored, (3, 1, 9, 4), people=("Ann", "é"))  # type: ignore[arg-type]
        np.savez(made.folder / "truth", *made.frames)
        # The rows of the index as bytes, for damage that no checksum tells of.
        with np.load(made.folder / "index.npz") as arrays:
            (made.folder / "rows").write_bytes(b"".join(arrays[name].tobytes() for name in _fields()))

    _begin(folder / "begun")


def _begin(folder: Path) -> None:
    """Write shards of a list, and others whose writing was ended when one was whole and one clip waited."""
    folder.mkdir()
    for number in range(4):
        write_video(folder / f"{number}.mp4", pictures(3 + number, 24, 32))
    write_annotations(folder / "list.csv", [(f"{number}.mp4", number) for number in range(4)])
    _write(folder, "whole")
    files = (folder / "whole").iterdir()
    (folder / "truth.json").write_text(json.dumps({path.name: _digest(path) for path in files}))
    try:
        _write(folder, "out", end="3.mp4")
    except KeyboardInterrupt:
        return


def _write(folder: Path, out: str, end: str = "") -> None:
    def opener(path: Path) -> VideoReader:
        if path.name == end:
            raise KeyboardInterrupt
        return open_video(path)

    clips = read_annotations(folder / "list.csv")
    write_shards(clips, folder / out, ShardOptions(clips_per_shard=2), opener=opener)


def go_on(folder: Path) -> None:
    """Go on with shards: what comes out is what it would have been."""
    _write(folder, "out")
    assert not _changed(folder, "out")


def check(folder: Path) -> None:
    """Look for damage in shards: it is found, with the name of the file."""
    changed = _changed(folder, "whole")
    wrong = check_shards(folder / "whole").wrong
    assert bool(wrong) == bool(changed), (wrong, changed)
    assert all("\n" not in sentence and any(name in sentence for name in changed) for sentence in wrong), wrong


def _changed(folder: Path, out: str) -> list[str]:
    truth = json.loads((folder / "truth.json").read_text())
    return [name for name, digest in truth.items() if _digest(folder / out / name) != digest]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read(folder: Path) -> None:
    """Read all clips, with and without a look at their digests."""
    _read(folder, same_index=True)


def read_signed(folder: Path) -> None:
    """Read them by an index whose digest is that of the damaged file."""
    _sign(folder, (folder / "index.npz").read_bytes())
    _read(folder)


def read_rows(folder: Path) -> None:
    """Read them by an index of damaged rows, which is as it should be otherwise."""
    rows, arrays, at = (folder / "rows").read_bytes(), {}, 0
    with np.load(folder / "index.npz") as whole:
        for name in _fields():
            part = rows[at : at + whole[name].nbytes].ljust(whole[name].nbytes, b"\xff")
            arrays[name] = np.frombuffer(part, whole[name].dtype).reshape(whole[name].shape)
            at += whole[name].nbytes
    content = ClipArrays(**arrays).content()
    (folder / "index.npz").write_bytes(content)
    _sign(folder, content)
    _read(folder)


def _fields() -> list[str]:
    return [field.name for field in dataclasses.fields(ClipArrays)]


def _sign(folder: Path, content: bytes) -> None:
    about = json.loads((folder / "index.json").read_text())
    about["clips_sha256"] = hashlib.sha256(content).hexdigest()
    (folder / "index.json").write_text(json.dumps(about))


def _read(folder: Path, same_index: bool = False) -> None:
    with np.load(folder / "truth.npz") as whole:
        truth = [whole[name] for name in whole.files]
    errors: list[InputError] = []
    store = open_store(folder)
    index = read_index(store)
    for number in range(len(index)):
        who = index.subject(number)
        assert not same_index or who == ("", "Ann", "é")[number % 3]
        for check in (False, True):
            try:
                with open_clip(index, number, store, check=check) as clip:
                    positions = np.unique(np.linspace(0, len(clip) - 1, _SOME).astype(int))
                    frames = clip.read(positions)
                    assert frames.shape == (len(positions), *clip.size, 3) and frames.dtype == np.uint8
                    assert not check or not same_index or np.array_equal(frames, truth[number][positions])
                    assert len(clip.times) == len(clip)
            except InputError as error:
                assert "\n" not in str(error) and "shard-00000" in str(error) and "clip 0" in str(error), str(error)
                errors.append(error)
    store.close()
    if errors:
        raise errors[0]
