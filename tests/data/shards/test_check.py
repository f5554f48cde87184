"""What has become of shards since they were written is found, and told with file and place."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maedfer.data import read_annotations
from maedfer.data.annotations import write_annotations
from maedfer.data.shards import open_store, read_index
from maedfer.data.shards.check import check_shards
from maedfer.data.shards.layout import INDEX_FILE, ClipArrays, ShardIndex, Stored
from maedfer.data.shards.options import ShardOptions
from maedfer.data.shards.write import write_shards
from maedfer.errors import InputError
from tests.data.media import pictures, write_video

TAR = "shard-000000.tar"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for number in range(3):
        write_video(folder / f"{number}.mp4", pictures(4 + number, 24, 32))
    (folder / "3.mp4").write_bytes(b"no video")
    write_annotations(folder / "list.csv", [(f"{number}.mp4", number) for number in range(4)])
    return folder / "list.csv"


def made(source: Path, out: Path, stored: Stored = "jpeg") -> ShardIndex:
    write_shards(read_annotations(source), out, ShardOptions(stored, clips_per_shard=2))
    return read_index(open_store(out))


def renew(folder: Path, index: ShardIndex, **arrays: np.ndarray) -> None:
    """Write the index anew, with other arrays and the digests that files have now, as a forger would."""
    clips = dataclasses.replace(index.clips, **arrays)
    content = clips.content()
    (folder / "index.npz").write_bytes(content)
    shards = tuple(
        dataclasses.replace(
            shard,
            bytes=(folder / shard.name).stat().st_size,
            sha256=hashlib.sha256((folder / shard.name).read_bytes()).hexdigest(),
            frames_sha256=hashlib.sha256((folder / shard.frames_name).read_bytes()).hexdigest(),
        )
        for shard in index.about.shards
    )
    about = dataclasses.replace(index.about, shards=shards, clips_sha256=hashlib.sha256(content).hexdigest())
    (folder / INDEX_FILE).write_text(about.text())


def put(path: Path, at: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


@pytest.mark.parametrize("stored", ["jpeg", "raw"])
def test_a_flipped_byte_anywhere_is_found(source: Path, tmp_path: Path, stored: Stored) -> None:
    index = made(source, tmp_path / "out", stored)
    shares: list[float] = []
    assert check_shards(tmp_path / "out", progress=shares.append).wrong == [] and shares[-1] == 1
    draw = np.random.default_rng(0)
    for name in [path.name for path in (tmp_path / "out").iterdir() if path.name != INDEX_FILE]:
        path = tmp_path / "out" / name
        content = path.read_bytes()
        for at in draw.integers(0, len(content), 12).tolist():
            put(path, at, bytes([content[at] ^ 1 << int(draw.integers(8))]))
            try:
                wrong = check_shards(tmp_path / "out").wrong
            except InputError as error:
                wrong = [str(error)]
            # What is in quarantine is only counted.
            assert len(wrong) == 1 or name == "quarantine.csv", (name, at, wrong)
            assert all(str(path) in sentence and "\n" not in sentence for sentence in wrong)
            path.write_bytes(content)
    assert len(index) == 3 and check_shards(tmp_path / "out").wrong == []


def test_the_place_of_damage_is_told(source: Path, tmp_path: Path) -> None:
    index = made(source, tmp_path / "out")
    tar = tmp_path / "out" / TAR
    put(tar, int(index.clips.pictures[1]) + 100, b"????")
    (said,) = check_shards(tmp_path / "out").wrong
    start, end = int(index.clips.pictures[1]), int(index.clips.offset[1] + index.clips.length[1])
    assert said == (
        f"{tar}: clip 000000001 (1.mp4): bytes {start} to {end}: its pictures are not what was written (their digest "
        "differs)"
    )
    size = tar.stat().st_size
    with tar.open("r+b") as file:
        file.truncate(size - 2000)
    (said,) = check_shards(tmp_path / "out").wrong
    assert said.startswith(f"{tar}: is cut short, {size - 2000} bytes of {size}: 1 of its 2 clips are not whole")
    tar.write_bytes(bytes(size + 1))
    assert f"has {size + 1} bytes, and index.json says {size}" in check_shards(tmp_path / "out").wrong[0]
    tar.unlink()
    assert re.fullmatch(f"{re.escape(str(tar))}: No such file or directory", check_shards(tmp_path / "out").wrong[0])


def test_what_does_not_belong_is_told(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    made(source, out)
    (out / "shard-000009.tar").write_bytes(b"")
    (out / "quarantine.csv").write_text("name,line,reason\n")
    said = check_shards(out).wrong
    assert said == [
        f"{out / 'shard-000009.tar'}: is not in the index: it belongs to other shards",
        f"{out / 'quarantine.csv'}: has 0 clips, and index.json counts 1",
    ]


def renamed(tar: Path, at: int, **changes: Any) -> None:
    """Give the member at a place another header."""
    info = tarfile.TarInfo.frombuf(tar.read_bytes()[at : at + 512], "ascii", "strict")
    for name, value in changes.items():
        setattr(info, name, value)
    put(tar, at, info.tobuf(tarfile.USTAR_FORMAT))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "../../outside"}, "member '../../outside' leads out of the folder, where 000000000.000001.jpg"),
        ({"name": "/etc/passwd"}, "member '/etc/passwd' leads out of the folder"),
        ({"name": "000000000.000000.jpg"}, "member '000000000.000000.jpg' is there twice"),
        ({"name": "000000000.txt"}, "member '000000000.txt' does not belong"),
        ({"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "000000000.000001.jpg is a link, a folder or a device"),
        ({"type": tarfile.LNKTYPE, "linkname": "../x"}, "000000000.000001.jpg is a link, a folder or a device"),
        (
            {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 8},
            "000000000.000001.jpg is a link, a folder or a device",
        ),
        # Of a header that goes on for gigabytes, nothing is read.
        ({"type": tarfile.XHDTYPE, "size": 8**11 - 1}, "000000000.000001.jpg is a link, a folder or a device"),
        ({"size": 10**9}, "000000000.000001.jpg has 1000000000 bytes, which are more than there are"),
        ({"size": 1}, "000000000.000001.jpg is not where the index has it, or of another length"),
    ],
)
def test_members_that_would_do_harm_are_found_whatever_the_digests_say(
    source: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    index = made(source, tmp_path / "out")
    rows = index.read_frames(0, open_store(tmp_path / "out"))
    at = int(index.clips.pictures[0]) + -(-int(rows["bytes"][0]) // 512) * 512
    renamed(tmp_path / "out" / TAR, at, **changes)
    renew(tmp_path / "out", index)
    (found,) = check_shards(tmp_path / "out").wrong
    assert found.startswith(f"{tmp_path / 'out' / TAR}: clip 000000000 (0.mp4): byte {at}: {said}")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda clips: {"label": clips.label[::-1].copy()}, "000000000.json has another label than the index"),
        (lambda clips: {"fps": clips.fps * 2}, "000000000.json has another fps than the index, which says 50.0"),
        (lambda clips: {"size": clips.size[:, ::-1].copy()}, "000000000.json has another size than the index"),
        (lambda clips: {"pictures": clips.pictures + 512}, "000000000.000000.jpg is not where the index has it"),
        (lambda clips: {"names": clips.names[::-1].copy()}, "000000000.json has another name than the index"),
    ],
)
def test_an_index_of_other_clips_is_found(
    source: Path, tmp_path: Path, change: Callable[[ClipArrays], dict[str, np.ndarray]], said: str
) -> None:
    index = made(source, tmp_path / "out")
    renew(tmp_path / "out", index, **change(index.clips))
    assert said in check_shards(tmp_path / "out").wrong[0]


def test_names_are_there_once(source: Path, tmp_path: Path) -> None:
    index = made(source, tmp_path / "out")
    names = index.clips.names.copy()
    names[:5] = names[5:10]
    renew(tmp_path / "out", index, names=names)
    assert check_shards(tmp_path / "out").wrong[0] == f"{tmp_path / 'out/index.npz'}: 1.mp4 is there twice"


def test_the_end_of_a_tar_is_looked_at(source: Path, tmp_path: Path) -> None:
    index = made(source, tmp_path / "out")
    tar = tmp_path / "out" / TAR
    end = tar.stat().st_size - 1024
    put(tar, end, b"more")
    renew(tmp_path / "out", index)
    (said,) = check_shards(tmp_path / "out").wrong
    assert said == f"{tar}: byte {end}: the tar does not end after its last clip"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda found: found.update(version=2), "shards of version 2, where this maedfer reads version 1"),
        (lambda found: found.update(mark="others"), "is no index of shards"),
        (lambda found: found.update(clips=4), "is damaged (it counts 4 clips of 15 frames, its shards 3 of 15)"),
        (lambda found: found.update(stored="png"), "is damaged"),
        (lambda found: found.pop("classes"), "is damaged"),
        (lambda found: found.update(colour="red"), "is damaged"),
        (lambda found: found["shards"].append(found["shards"][0]), "is damaged (it names a shard twice)"),
        (lambda found: found["shards"][0].update(name="../shard-000000.tar"), "has no such name"),
        (lambda found: found["shards"][0].update(bytes=-1), "the numbers of shard-000000.tar cannot be"),
        (lambda found: found.update(clips_sha256="0" * 64), "is not the file that index.json was written with"),
    ],
)
def test_an_index_that_cannot_be_is_refused(
    source: Path, tmp_path: Path, change: Callable[[dict[str, Any]], Any], said: str
) -> None:
    made(source, tmp_path / "out")
    path = tmp_path / "out" / INDEX_FILE
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))
    with pytest.raises(InputError) as error:
        check_shards(tmp_path / "out")
    assert said in str(error.value) and str(tmp_path / "out/index.") in str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("key", [0, 0, 2]), ("shard", [0, 1, 1]), ("offset", [0, 0, 0]), ("length", [512, 512, 10**12]),
        ("pictures", [0, 0, 0]), ("first", [0, 5, 0]), ("frames", [4, 0, 6]), ("size", [[0, 1]] * 3),
        ("fps", [np.nan] * 3), ("label", [-2, 0, 0]), ("name_ends", [5, 5, 15]), ("names", [1]),
    ],
)  # fmt: skip
def test_arrays_that_cannot_be_are_refused(source: Path, tmp_path: Path, name: str, value: list[Any]) -> None:
    index = made(source, tmp_path / "out")
    renew(tmp_path / "out", index, **{name: np.array(value, getattr(index.clips, name).dtype)})
    with pytest.raises(InputError, match=r"index.npz: is damaged \(.*cannot be\)"):
        check_shards(tmp_path / "out")
    with io.BytesIO() as other:
        np.savez(other, key=index.clips.key)
        (tmp_path / "out/index.npz").write_bytes(other.getvalue())


def test_shards_that_are_not_finished_are_told(tmp_path: Path) -> None:
    (tmp_path / "out/.unfinished").mkdir(parents=True)
    with pytest.raises(InputError, match="out: these shards are not finished: the same `maedfer shard` command goes"):
        check_shards(tmp_path / "out")
