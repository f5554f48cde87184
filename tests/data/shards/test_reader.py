from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maedfer.data.shards import open_clip, open_store, read_index
from maedfer.data.shards.layout import Stored
from maedfer.data.shards.reader import ShardClipReader
from maedfer.errors import InputError
from tests.data.media import one_line
from tests.data.shards.made import SIZE, Made, make_shards


@pytest.fixture(scope="module", params=["jpeg", "raw"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_shards(tmp_path_factory.mktemp("shards") / "with a space", request.param)


def opened(folder: Path, number: int, **options: Any) -> ShardClipReader:
    store = open_store(folder)
    return open_clip(read_index(store), number, store, **options)


@pytest.mark.parametrize("check", [False, True])
def test_what_was_written_is_read(made: Made, check: bool) -> None:
    store = open_store(made.folder)
    index = read_index(store)
    for number, (frames, times) in enumerate(zip(made.frames, made.times, strict=True)):
        with open_clip(index, number, store, check=check) as reader:
            assert (len(reader), reader.size, reader.fps, reader.backend) == (len(frames), SIZE, 25, "shards")
            np.testing.assert_array_equal(reader.times, times)
            assert reader.end_time == pytest.approx(times[-1] + 0.04)
            for positions in (range(len(frames)), [len(frames) - 1, 0, 0], range(0, len(frames), 3), []):
                found = reader.read(positions)
                assert found.dtype == np.uint8 and found.flags.c_contiguous
                np.testing.assert_array_equal(found, frames[list(positions)])


def test_threads_decode_the_same(made: Made) -> None:
    np.testing.assert_array_equal(opened(made.folder, 2, threads=3).read(range(12)), made.frames[2])


def test_what_is_not_there_cannot_be_asked_for(made: Made) -> None:
    with pytest.raises(IndexError, match="clip 4 is asked for, there are 4"):
        opened(made.folder, 4)
    with pytest.raises(IndexError, match=r"clip 000000005 \(a b/clip 2.mp4\): frames 0 to 12 are asked for"):
        opened(made.folder, 2).read([0, 12])


def test_a_source_without_times_has_none_here_either(tmp_path: Path) -> None:
    reader = opened(make_shards(tmp_path / "s", fps=0).folder, 1)
    assert reader.fps == 0
    with pytest.raises(InputError, match=r"clip 000000003 \(a b/clip 1.mp4\): its source told no times") as error:
        _ = reader.times
    assert one_line(error.value, tmp_path / "s" / "shard-000000.tar")


def change(path: Path, at: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


def refused(folder: Path, number: int, words: str, **options: Any) -> None:
    """Reading the clip is refused in a line that names its shard, key and name."""
    reader = opened(folder, number, **options)
    with pytest.raises(InputError, match=words) as error:
        reader.read(range(len(reader)))
    text = str(error.value)
    assert (
        "\n" not in text
        and f"shard-00000{number // 2}" in text
        and f"clip {2 * number + 1:09d}" in text
        and f"clip {number}.mp4" in text
    )


@pytest.mark.parametrize("stored", ["jpeg", "raw"])
def test_damage_is_told(tmp_path: Path, stored: Stored) -> None:
    made = make_shards(tmp_path / "s", stored)
    index = read_index(open_store(made.folder))
    first, second = made.folder / "shard-000000.tar", made.folder / "shard-000001.tar"
    begin = int(index.clips.pictures[0])
    before = first.read_bytes()
    # One bit of a picture, which a decoder may not notice, and nothing at all in its raw form.
    change(first, begin + 700, bytes([before[begin + 700] ^ 1]))
    refused(made.folder, 0, "digest differs" if stored == "raw" else "digest differs|damaged", check=True)
    np.testing.assert_array_equal(opened(made.folder, 1, check=True).read([0]), made.frames[1])
    # The header of its first picture or array, with a way out of the folder; never a path here.
    start = begin // 512 * 512 - 512 if stored == "jpeg" else (begin - 1) // 512 * 512 - 512
    for name in (b"../../outside\0", b"/etc/passwd\0", b"\xff\n\0"):
        change(first, start, name)
        refused(made.folder, 0, "instead of 000000001")
    first.write_bytes(before)
    for at, content in ((156, b"2"), (124, b"77777777777")):
        change(first, start + at, content)
        refused(made.folder, 0, "instead of 000000001")
        first.write_bytes(before)
    assert opened(made.folder, 0, check=True).read([0]).shape == (1, *SIZE, 3)
    # Cut short, and longer than it was.
    content = second.read_bytes()
    for new in (content[:-512], content[: len(content) // 2], b"", content + bytes(512)):
        second.write_bytes(new)
        refused(made.folder, 3, "bytes, and its index says")
    second.unlink()
    refused(made.folder, 3, "No such file")
    second.mkdir()
    refused(made.folder, 3, "is not a file")
    (made.folder / "shard-000000.frames.npy").write_bytes(b"short")
    if stored == "jpeg":
        refused(made.folder, 1, "ends at byte 5.*wanted for clip 000000003")
    else:
        np.testing.assert_array_equal(opened(made.folder, 1).read([0]), made.frames[1])


def test_an_array_that_is_another_is_refused(tmp_path: Path) -> None:
    made = make_shards(tmp_path / "s", "raw")
    first = made.folder / "shard-000000.tar"
    begin = int(read_index(open_store(made.folder)).clips.pictures[0])
    content = first.read_bytes()
    for old, new in (
        (b"|u1", b"|i1"),
        (b"'fortran_order': False", b"'fortran_order': True "),
        (b"(5, 40, 56, 3)", b"(5, 56, 40, 3)"),
        (b"\x93NUMPY", b"\x93NUMPX"),
        (b"{'descr'", b"{'descr("),
    ):
        at = content.index(old, begin - 128)
        first.write_bytes(content[:at] + new + content[at + len(old) :])
        refused(made.folder, 0, r"its array is not uint8 \[5, 40, 56, 3\], or damaged")
    # Another program may order the words otherwise.
    words, order = b"'descr': '|u1', 'fortran_order': False", b"'fortran_order': False, 'descr': '|u1'"
    first.write_bytes(content.replace(words, order))
    np.testing.assert_array_equal(opened(made.folder, 0).read([4]), made.frames[0][4:])


def test_pictures_that_are_no_pictures_are_refused(tmp_path: Path) -> None:
    made = make_shards(tmp_path / "s")
    first = made.folder / "shard-000000.tar"
    begin = int(read_index(open_store(made.folder)).clips.pictures[0])
    content = first.read_bytes()
    lines = content.index(b"\xff\xc0", begin) + 5
    for at, new in (
        (begin, b"\0\0\0\0"),
        # Half of the picture's data.
        (begin + 500, bytes(300)),
        # 30 lines instead of 40, and more than any memory.
        (lines, b"\0\x1e"),
        (lines, b"\xff\xdc\xff\xdc"),
    ):
        first.write_bytes(content[:at] + new + content[at + len(new) :])
        refused(made.folder, 0, "frame 0: ")


def test_a_missing_decoder_is_named(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    if read_index(open_store(made.folder)).about.stored == "raw":
        pytest.skip("arrays need no decoder")
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    with pytest.raises(ImportError, match="'simplejpeg' is needed here .* pip install simplejpeg"):
        opened(made.folder, 0).read([0])
