"""`maedfer shard`, from its command line."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest

from maedfer.cli import main
from maedfer.data import open_video
from maedfer.data.shards import open_clip, open_store, read_index
from tests.data.media import pictures, write_video


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("videos/a b").mkdir(parents=True)
    names = ["a b/it's.mp4", "2.mp4", "3.mp4"]
    for number, name in enumerate(names):
        write_video(Path("videos", name), pictures(8 + number, 48, 64))
    Path("list.csv").write_text("path,label\n" + "".join(f'"{name}",{n + 1}\n' for n, name in enumerate(names)))
    Path("named.csv").write_text(
        "path,label\n" + "".join(f'"{name}",{n}\n' for name, n in zip(names, "cab", strict=True))
    )
    return tmp_path


def shard(*words: str) -> int:
    return main(["shard", "--root", "videos", *words])


def test_a_list_becomes_shards(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["list.csv", "--out", "out", "--label-offset", "1", "--clips-per-shard", "2", "--size", "24"]
    assert shard(*words) == 0
    said = capsys.readouterr().out
    assert re.fullmatch(r"3 clips, 27 frames: 2 shards, .* kB, in \d+ s; the index is out/index.json\n", said)
    index = read_index(open_store("out"))
    assert index.about.size == (24, 32) and index.clips.label.tolist() == [0, 1, 2]
    assert shard(*words) == 0
    assert "3 clips, 27 frames, 3 of 3 done before" in capsys.readouterr().out
    assert shard(*words, "--quality", "50") == 2
    assert "out holds shards of something else (quality)" in capsys.readouterr().err


def test_classes_and_no_labels(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert shard("named.csv", "--out", "named", "--classes", "a,b,c", "--seed", "1") == 0
    index = read_index(open_store("named"))
    labels = {index.name(number): int(index.clips.label[number]) for number in range(3)}
    assert labels == {"a b/it's.mp4": 2, "2.mp4": 0, "3.mp4": 1} and index.about.classes == ("a", "b", "c")
    assert shard("list.csv", "--unlabelled", "--out", "bare") == 0
    assert read_index(open_store("bare")).clips.label.tolist() == [-1] * 3
    Path("paths.csv").write_text("2.mp4\n3.mp4\n")
    capsys.readouterr()
    assert shard("paths.csv", "--out", "new") == 2
    assert "the line has no label; it must read 'path label'; --unlabelled stores" in capsys.readouterr().err
    assert shard("list.csv", "--out", "new", "--classes", "a,b,c") == 2
    assert "list.csv:4: label 3 is out of range" in capsys.readouterr().err
    assert not Path("new").exists()


def test_frames_are_as_they_are_asked_for(world: Path) -> None:
    words = ["--format", "raw", "--cut", "8,0,40,32", "--stride", "2", "--max-frames", "3", "--size", "20x16"]
    assert shard("list.csv", "--out", "out", *words) == 0
    index = read_index(open_store("out"))
    assert index.about.size == (20, 16) and index.clips.frames.tolist() == [3, 3, 3]
    assert index.about.settings["cut"] == [8, 0, 40, 32]
    with open_clip(index, 1, open_store("out")) as clip, open_video("videos/2.mp4") as video:
        # 0, 2, 4, 6, 8, of which 2, 4 and 6 are the middle.
        np.testing.assert_array_equal(clip.times, video.times[2:7:2])


def test_broken_clips_are_told(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("videos/2.mp4").write_bytes(b"no video")
    for _ in range(2):
        assert shard("list.csv", "--out", "out") == 1
        assert "1 clip could not be read; out/quarantine.csv says why." in capsys.readouterr().out
    with Path("out/quarantine.csv").open(newline="") as file:
        assert [(row["name"], row["line"]) for row in csv.DictReader(file)] == [("2.mp4", "3")]
    assert main(["shard", "--check", "out"]) == 0
    assert capsys.readouterr().out == "out: 2 clips, 18 frames, 1 shard: all as written\n"


def test_damage_is_told(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert shard("list.csv", "--out", "out") == 0
    with Path("out/shard-000000.tar").open("r+b") as file:
        file.truncate(5000)
    capsys.readouterr()
    assert main(["shard", "--check", "out"]) == 1
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("out/shard-000000.tar: is cut short, 5000 bytes of ") and last.endswith("1 wrong")


def test_faces_are_cropped_once(world: Path) -> None:
    rows = [(name, frame, 5 + frame, 9, 20, 20) for name in ("it's.mp4", "2.mp4", "3.mp4") for frame in range(1, 7)]
    with Path("boxes.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["video", "frame", "x", "y", "width", "height"], *rows])
    assert shard("list.csv", "--out", "out", "--crop", "--boxes", "boxes.csv", "--margin", "1", "--size", "20") == 0
    index = read_index(open_store("out"))
    assert index.about.size == (20, 20) and index.clips.frames.tolist() == [6, 6, 6]
    np.testing.assert_array_equal(index.clips.box, [[8.5, 9, 20, 20]] * 3)
    assert index.about.settings["crop"].keys() == {"size", "margin", "boxes"}
