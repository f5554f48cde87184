"""Shards of lists: every clip once, the same bytes however they came about, and what cannot be read is told."""

from __future__ import annotations

import csv
import dataclasses
import errno
import json
import os
import random
import signal
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image

from maedfer.data import read_annotations
from maedfer.data.annotations import VIDEO_SUFFIXES, write_annotations
from maedfer.data.augment.torch_pictures import resize
from maedfer.data.shards import open_clip, open_store, read_index, unfinished
from maedfer.data.shards.check import check_shards
from maedfer.data.shards.layout import INDEX_FILE, WORK_FOLDER, ShardIndex
from maedfer.data.shards.options import ShardOptions
from maedfer.data.shards.write import ShardsWritten, write_shards
from maedfer.data.video import open_video
from maedfer.data.video.base import VideoReader
from maedfer.errors import InputError
from tests.data.media import difference, pictures, write_sound, write_video
from tests.data.shards.killed import write_until

RAW = ShardOptions(format="raw")
# So small that clips of the fixture fill several shards.
SMALL = ShardOptions(clips_per_shard=2, seed=3)
CLASSES = ("calm", "glad", "sad")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of seven clips: of one name in two folders, of odd names, one frame, a folder of frames, one damaged."""
    folder = tmp_path_factory.mktemp("clips")
    names = ["a/1.mp4", "b/1.mp4", "it's a\tb.mp4", os.fsdecode(b"\xe4.mp4"), "one.mp4", "frames", "cut.mp4"]
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        clip = pictures(1 if name == "one.mp4" else 5 + number, 24 + 8 * (number % 2), 48)
        if name == "frames":
            path.mkdir()
            for frame, picture in enumerate(clip):
                Image.fromarray(picture).save(path / f"{frame}.png")
        else:
            write_video(path, clip, times=[0, *range(2, 1 + len(clip))] if number == 1 else None)
    cut = folder / "cut.mp4"
    cut.write_bytes(cut.read_bytes()[:-300])
    lines = ["path,label", *(f'"{name}",{number % 3}' for number, name in enumerate(names))]
    (folder / "list.csv").write_bytes("\n".join(lines).replace("\t", " ").encode("utf-8", "surrogateescape"))
    (folder / "it's a\tb.mp4").rename(folder / "it's a b.mp4")
    return folder / "list.csv"


def write(source: Path, out: Path, options: ShardOptions | None = None, **more: Any) -> ShardsWritten:
    return write_shards(read_annotations(source), out, options, **more)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def readers(folder: Path) -> tuple[ShardIndex, list[VideoReader]]:
    store = open_store(folder)
    index = read_index(store)
    return index, [open_clip(index, number, store, check=True) for number in range(len(index))]


def one(tmp_path: Path, path: Path, options: ShardOptions, **more: Any) -> np.ndarray:
    """The frames of a single clip, written and read."""
    write_annotations(tmp_path / "one.csv", [(str(path), 0)])
    write(tmp_path / "one.csv", tmp_path / "out", options, **more)
    _, (reader,) = readers(tmp_path / "out")
    return reader.read(range(len(reader)))


def test_raw_clips_read_back_exactly(source: Path, tmp_path: Path) -> None:
    shares: list[tuple[float, int]] = []
    written = write(source, tmp_path / "out", RAW, classes=CLASSES, progress=lambda *said: shares.append(said))
    index, stored = readers(tmp_path / "out")
    clips = [clip for clip in read_annotations(source) if clip.name != "cut.mp4"]
    assert len(index) == len(clips) == 6 and written.about == index.about
    assert index.about.classes == CLASSES and index.about.size is None
    for number, (clip, reader) in enumerate(zip(clips, stored, strict=True)):
        with open_video(clip.path) as original:
            assert (len(reader), reader.size) == (len(original), original.size)
            np.testing.assert_array_equal(reader.read(range(len(reader))), original.read(range(len(original))))
            if clip.name == "frames":
                with pytest.raises(InputError, match="told no times"):
                    _ = reader.times
            else:
                assert reader.fps == original.fps
                np.testing.assert_array_equal(reader.times, original.times)
        assert index.name(number) == clip.name and index.clips.line[number] == clip.line
        assert index.clips.label[number] == clip.label
    assert not check_shards(tmp_path / "out").wrong
    done = [share for share, _ in shares]
    assert done == sorted(done) and done[0] == 0 and done[-1] == 1
    # What was expected in the end is what has come.
    assert shares[-1][1] + 1024 == index.about.shards[0].bytes
    with (tmp_path / "out/quarantine.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["name"], row["line"]) == ("cut.mp4", "8") and row["reason"] == written.quarantined[0].reason
    assert index.about.quarantined == 1 and "cut.mp4" not in row["reason"]


def test_members_are_what_the_layout_says(source: Path, tmp_path: Path) -> None:
    write(source, tmp_path / "out", ShardOptions(quality=70), classes=CLASSES)
    with tarfile.open(tmp_path / "out/shard-000000.tar") as tar:
        members = tar.getmembers()
        described = [json.load(tar.extractfile(one)) for one in members if one.name.endswith(".json")]  # type: ignore[arg-type]
        picture = tar.extractfile("000000001.000002.jpg").read()  # type: ignore[union-attr]
        label = tar.extractfile("000000001.cls").read()  # type: ignore[union-attr]
    assert [one.name for one in members if one.name.startswith("000000001")] == [
        "000000001.json", "000000001.cls", *(f"000000001.{frame:06d}.jpg" for frame in range(6))
    ]  # fmt: skip
    assert {(one.uid, one.gid, one.mtime, one.isreg()) for one in members} == {(0, 0, 0, True)}
    assert label == b"1" and described[1]["class"] == "glad" and described[1]["name"] == "b/1.mp4"
    assert described[3]["name"] == os.fsdecode(b"\xe4.mp4") and described[5]["times"] is None
    assert described[1]["times"] == pytest.approx([0, 0.08, 0.12, 0.16, 0.2, 0.24])
    with open_video(source.parent / "b/1.mp4") as original:
        expected = simplejpeg.encode_jpeg(original.read([2])[0], quality=70, colorsubsampling="420")
    assert picture == expected


def test_the_same_clips_give_the_same_bytes(source: Path, tmp_path: Path) -> None:
    names = {}
    for name, seed in {"first": 3, "again": 3, "other": 4, "list": None}.items():
        options = dataclasses.replace(SMALL, seed=seed)
        write(source, tmp_path / name, options)
        index = read_index(open_store(tmp_path / name))
        assert [shard.clips for shard in index.about.shards] == [2, 2, 2]
        names[name] = [index.name(number) for number in range(len(index))]
    assert content(tmp_path / "first") == content(tmp_path / "again")
    assert names["first"] != names["other"] and sorted(names["first"]) == sorted(names["other"]) == sorted(
        names["list"]
    )
    # Processes finish in any order.
    write(source, tmp_path / "processes", SMALL, workers=2)
    assert content(tmp_path / "first") == content(tmp_path / "processes")


def test_shards_are_as_long_as_they_may_be(tmp_path: Path) -> None:
    for number in range(5):
        write_video(tmp_path / f"{number}.mp4", pictures(40, 96, 96))
    write_annotations(tmp_path / "list.csv", [(f"{number}.mp4", 0) for number in range(5)])
    # A clip has 1.1 MB.
    about = write(tmp_path / "list.csv", tmp_path / "out", dataclasses.replace(RAW, shard_size=3)).about
    assert [shard.clips for shard in about.shards] == [2, 2, 1]
    about = write(tmp_path / "list.csv", tmp_path / "single", dataclasses.replace(RAW, shard_size=1)).about
    assert [shard.clips for shard in about.shards] == [1] * 5


def test_killed_at_any_step_nothing_is_lost_and_nothing_is_there_twice(source: Path, tmp_path: Path) -> None:
    write(source, tmp_path / "whole", SMALL)
    expected, draw = content(tmp_path / "whole"), random.Random(0)
    kills = 0
    for folder in map(str, range(20)):
        while True:
            status = write_until(draw.randint(1, 24), source, tmp_path / folder, SMALL)
            if status != -signal.SIGKILL:
                break
            kills += 1
        assert status == 0
        assert content(tmp_path / folder) == expected
        if kills >= 20:
            break
    assert kills >= 20


def test_clips_that_have_changed_are_done_again(tmp_path: Path) -> None:
    names = ["1.mp4", "2.mp4", "3.mp4", "4.mp4"]
    for name in names:
        write_video(tmp_path / name, pictures(4, 24, 24))
    write_annotations(tmp_path / "list.csv", [(name, 1) for name in names])
    seen: list[str] = []

    def ended_by_the_fourth(path: Path) -> VideoReader:
        seen.append(path.name)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return open_video(path)

    def again() -> ShardsWritten:
        return write(tmp_path / "list.csv", tmp_path / "out", RAW, opener=ended_by_the_fourth)

    with pytest.raises(KeyboardInterrupt):
        again()
    write_video(tmp_path / "2.mp4", pictures(6, 24, 24))
    left = tmp_path / "out" / WORK_FOLDER
    # What a power cut may leave: the length without the content, or less.
    lost = bytearray((left / "000000002.clip").read_bytes())
    lost[3000:4000] = bytes(1000)
    (left / "000000002.clip").write_bytes(lost)
    (left / "000000003.clip").write_bytes(b"half of a clip")
    assert again().done_before == 1 and seen == [*names, "2.mp4", "3.mp4", "4.mp4"]
    index, _ = readers(tmp_path / "out")
    assert index.clips.frames.tolist() == [4, 6, 4, 4] and not check_shards(tmp_path / "out").wrong
    seen.clear()
    assert again().done_before == 4 and not seen


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"size": 17}, "size"),
        ({"format": "raw"}, "format, quality"),
        ({"seed": None, "clips_per_shard": 3}, "clips_per_shard, seed"),
    ],
)
def test_a_folder_has_shards_of_one_kind(source: Path, tmp_path: Path, change: dict[str, Any], names: str) -> None:
    write(source, tmp_path / "out", SMALL)
    before = content(tmp_path / "out")
    with pytest.raises(InputError, match=rf"out holds shards of something else \({names}\)"):
        write(source, tmp_path / "out", dataclasses.replace(SMALL, **change))
    assert content(tmp_path / "out") == before


def test_other_lists_and_folders_are_refused(source: Path, tmp_path: Path) -> None:
    write(source, tmp_path / "out", SMALL)
    clips = read_annotations(source)
    with pytest.raises(InputError, match=r"something else \(another list\)"):
        write_shards(clips[1:], tmp_path / "out", SMALL)
    with pytest.raises(InputError, match=r"something else \(other classes\)"):
        write_shards(clips, tmp_path / "out", SMALL, classes=CLASSES)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").write_text("mine")
    with pytest.raises(InputError, match="other is not empty and holds no shards"):
        write_shards(clips, tmp_path / "other", SMALL)
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["notes.txt"]
    with pytest.raises(InputError, match=r"list.csv:2: a/1.mp4 is in line 4 as well"):
        write_shards([dataclasses.replace(clips[0], line=4), *clips], tmp_path / "new", SMALL)
    with pytest.raises(InputError, match="none of its 7 clips exists, the first as absent/a/1.mp4"):
        write_shards([dataclasses.replace(one, path="absent" / Path(one.name)) for one in clips], tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_two_processes_do_not_write_to_one_folder(source: Path, tmp_path: Path) -> None:
    def opener(path: Path) -> VideoReader:
        with pytest.raises(InputError, match="out: another process is writing shards there"):
            write(source, tmp_path / "out", SMALL)
        return open_video(path)

    assert write(source, tmp_path / "out", SMALL, opener=opener).about.clips == 6


def broken(folder: Path) -> list[str]:
    """Files that hold no clip, each in another way."""
    whole = write_video(folder / "whole.mp4", pictures(30, 48, 64)).read_bytes()
    files = {f"cut_{share}.mp4": whole[: len(whole) * share // 100] for share in (1, 30, 70, 95, 99)}
    files |= {"empty.mp4": b"", "text.mp4": b"this is no video\n" * 20, "picture.avi": b"\x89PNG\r\n\x1a\n" + bytes(99)}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    write_sound(folder / "sound.mp4")
    (folder / "folder").mkdir()
    return [*files, "sound.mp4", "folder", "absent.mp4"]


def test_what_cannot_be_read_is_in_quarantine(tmp_path: Path) -> None:
    names = broken(tmp_path)
    # A wrong extension is no hindrance.
    (tmp_path / "whole.mp4").rename(tmp_path / "whole.jpg")
    write_annotations(tmp_path / "list.csv", [*((name, 1) for name in names), ("whole.jpg", 2)])
    written = write(tmp_path / "list.csv", tmp_path / "out")
    assert [clip.name for clip in written.quarantined] == names and written.about.clips == 1
    assert all("\n" not in clip.sentence and "1 shows where" not in clip.reason for clip in written.quarantined)
    assert "no such file" in written.quarantined[-1].reason and not check_shards(tmp_path / "out").wrong
    write_annotations(tmp_path / "none.csv", [(name, 1) for name in names])
    with pytest.raises(InputError, match=r"none.csv: none of its 11 clips can be read; the first: cut_1.mp4 \("):
        write(tmp_path / "none.csv", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_defect_of_a_reader_is_told_as_one(source: Path, tmp_path: Path) -> None:
    found = {"frames": OSError(errno.EMFILE, "Too many open files")}

    def opener(path: Path) -> VideoReader:
        if path.name == "one.mp4":
            raise KeyError("odd")
        if path.name in found:
            raise found[path.name]
        return open_video(path)

    with pytest.raises(OSError, match="Too many open files"):
        write(source, tmp_path / "out", RAW, opener=opener)
    # That was no fault of the clip, and so it is tried again.
    found.clear()
    written = write(source, tmp_path / "out", RAW, opener=opener)
    assert [clip.name for clip in written.quarantined] == ["one.mp4", "cut.mp4"]
    assert "KeyError" in written.quarantined[0].reason and "MAEDFER_TRACEBACK=1" in written.quarantined[0].reason


@pytest.mark.parametrize("place", [".clip", "tar", "frames.npy", INDEX_FILE])
def test_a_full_disk_ends_the_run_and_nothing_else(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    write(source, tmp_path / "whole", SMALL)
    real = os.replace

    def full(old: Any, new: Any) -> None:
        if str(new).endswith(place):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(InputError, match=f"cannot write .*{place}: No space left on device"):
            write(source, tmp_path / "out", SMALL)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.suffix == ".tmp"]
    assert not (tmp_path / "out" / INDEX_FILE).exists()
    # With space it goes on.
    write(source, tmp_path / "out", SMALL)
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_shards_that_have_gone_are_missed(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("maedfer.data.shards.write._finish", fail)
        with pytest.raises(KeyboardInterrupt):
            write(source, tmp_path / "out", SMALL)
    (tmp_path / "out/shard-000001.tar").unlink()
    with pytest.raises(InputError, match="shard-000001.tar: is not there any more"):
        write(source, tmp_path / "out", SMALL)
    (tmp_path / "out" / WORK_FOLDER / "plan.json").write_text("other")
    with pytest.raises(InputError, match="out holds other files"):
        write(source, tmp_path / "out", SMALL)


def test_a_clip_that_vanishes_before_its_shard_is_told(source: Path, tmp_path: Path) -> None:
    with unfinished.Unfinished(tmp_path / "out", {"settings": {}}) as work:
        work.clip_file(7).write_bytes(b"no clip")
        with pytest.raises(InputError, match="000000007.clip: is gone or damaged"):
            work.put_together(0, [7], 8, [])
    assert not (tmp_path / "out/shard-000000.tar").exists()


def test_frames_are_chosen_cut_and_resized(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", pictures(30, 48, 64))
    with open_video(path) as reader:
        whole = reader.read(range(30))
    (tmp_path / "1").mkdir()
    found = one(tmp_path / "1", path, ShardOptions("raw", stride=4, max_frames=5, cut=(8, 16, 40, 32)))
    # 0, 4, ..., 28, of which 4 ... 20 are the middle.
    np.testing.assert_array_equal(found, whole[4:21:4, 8:48, 16:48])
    index = read_index(open_store(tmp_path / "1/out"))
    assert index.clips.fps[0] == 6.25 and index.about.size == (40, 32)
    sizes: dict[Any, tuple[int, int]] = {24: (24, 32), (20, 20): (20, 20), 96: (96, 128)}
    for name, (size, expected) in enumerate(sizes.items(), 2):
        (tmp_path / str(name)).mkdir()
        found = one(tmp_path / str(name), path, ShardOptions("raw", size=size))
        frames = resize(torch.from_numpy(whole).permute(0, 3, 1, 2), expected).permute(0, 2, 3, 1)
        np.testing.assert_array_equal(found, frames.numpy())


def test_a_cut_that_does_not_fit_is_told(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", pictures(3, 48, 64))
    with pytest.raises(InputError, match=r"has frames of 48 x 64 \(height x width\), which --cut 0,32,48,48 does not"):
        one(tmp_path, path, ShardOptions(cut=(0, 32, 48, 48)))


def test_boxes_of_a_reader_are_stored(tmp_path: Path) -> None:
    def opener(path: Path) -> VideoReader:
        reader: Any = open_video(path)
        reader.boxes = np.arange(24, dtype=np.float32).reshape(6, 4)
        return reader

    path = write_video(tmp_path / "clip.mp4", pictures(6, 24, 24))
    one(tmp_path, path, ShardOptions("raw", stride=2, fps=5), opener=opener, opener_about={"margin": 1.3})
    index = read_index(open_store(tmp_path / "out"))
    np.testing.assert_array_equal(index.clips.box, [[8, 9, 10, 11]])
    assert index.about.settings["crop"] == {"margin": 1.3}
    with tarfile.open(tmp_path / "out/shard-000000.tar") as tar:
        described = json.load(tar.extractfile("000000000.json"))  # type: ignore[arg-type]
    assert described["box"] == [8, 9, 10, 11] and described["boxes"][2] == [16, 17, 18, 19]


def test_real_clips_read_back(clips: Path, tmp_path: Path) -> None:
    files = sorted(path for path in clips.rglob("*") if path.suffix in VIDEO_SUFFIXES)
    write_annotations(tmp_path / "list.csv", [(str(path), None) for path in files])
    items = read_annotations(tmp_path / "list.csv", labelled=False)
    # The first frames, as a whole video takes seconds.
    write_shards(items, tmp_path / "raw", ShardOptions("raw"), opener=_first_frames)
    write_shards(items, tmp_path / "jpeg", ShardOptions(), opener=_first_frames)
    assert len(files) >= 20
    for path, exact, lossy in zip(files, readers(tmp_path / "raw")[1], readers(tmp_path / "jpeg")[1], strict=True):
        with open_video(path) as reader:
            frames = reader.read(range(min(4, len(reader))))
            np.testing.assert_array_equal(exact.times, reader.times[:4])
        np.testing.assert_array_equal(exact.read(range(len(exact))), frames)
        # Quality 90 without a half of the colours' resolution.
        assert difference(lossy.read(range(len(lossy))), frames) < 2.5, path


class _First(VideoReader):
    """The first frames of a video."""

    backend = "first"

    def __init__(self, reader: VideoReader, count: int) -> None:
        self.path, self.size, self.fps = reader.path, reader.size, reader.fps
        self._reader, self._count = reader, min(count, len(reader))

    def __len__(self) -> int:
        return self._count

    @property
    def _frame_times(self) -> Any:
        known = self._reader._frame_times
        return dataclasses.replace(known, starts=None if known.starts is None else known.starts[: self._count])

    def _read(self, positions: list[int]) -> np.ndarray:
        return self._reader.read(positions)

    def close(self) -> None:
        self._reader.close()


def _first_frames(path: Path) -> VideoReader:
    return _First(open_video(path), 4)
