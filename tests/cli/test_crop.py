"""`maedfer crop`, from its command line."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from PIL import Image

from maedfer.cli import main
from maedfer.data import open_video, read_annotations
from tests.data.media import pictures, write_video


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("videos/a b").mkdir(parents=True)
    rows = []
    for number, name in enumerate(["a b/it's.mp4", "2.mp4"]):
        write_video(Path("videos", name), pictures(8, 48, 64))
        rows += [(name, frame, face, 5 + 25 * face, 9 + number, 20, 20) for frame in range(8) for face in (0, 1)]
    with Path("boxes.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["video", "frame", "face", "x", "y", "width", "height"], *rows])
    Path("list.csv").write_text("path,label\na b/it's.mp4,1\n2.mp4,0\n")
    return tmp_path


def test_folders_and_lists(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["crop", "videos", "--out", "videos/crops", "--boxes", "boxes.csv", "--size", "32", "--faces", "all"]) == 0
    )
    assert "4 faces of 2 videos" in capsys.readouterr().out
    with open_video("videos/crops/a b/it's_face1.mp4") as crop:
        assert (len(crop), crop.size) == (8, (32, 32))
    # Crops below the folder that is searched are not cropped again.
    assert (
        main(["crop", "videos", "--out", "videos/crops", "--boxes", "boxes.csv", "--size", "32", "--faces", "all"]) == 0
    )
    assert "4 faces of 2 videos, 2 of them done before" in capsys.readouterr().out
    command = ["crop", "list.csv", "--root", "videos", "--out", "out", "--boxes", "boxes.csv", "--size", "32"]
    assert main([*command, "--save-boxes"]) == 0
    assert [(clip.name, clip.label) for clip in read_annotations("out/list.csv")] == [("a b/it's.mp4", 1), ("2.mp4", 0)]
    assert Path("out/a b/it's.boxes.csv").is_file()


def test_failures_are_told(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("videos/3.mp4").write_bytes(b"no video")
    assert main(["crop", "videos", "--out", "out", "--dry-run"]) == 1
    said = capsys.readouterr().out
    assert "videos/3.mp4: " in said and "3 videos, 1 s, 16 frames; 1 cannot be read" in said
    assert not Path("out").exists()
    assert main(["crop", "videos", "--out", "out", "--boxes", "boxes.csv"]) == 1
    assert "There is no crop of 1 video; out/failed.csv says why. The first: videos/3.mp4" in capsys.readouterr().out
    assert main(["crop", "videos/3.mp4", "--out", "none", "--boxes", "boxes.csv"]) == 2
    assert "there is no crop of 1 video; the first: videos/3.mp4" in capsys.readouterr().err


def test_a_folder_of_frames_is_gone_on_with(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("home").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(world / "home"))
        frames = Path("home/take")
        frames.mkdir()
        for number, picture in enumerate(pictures(6, 48, 64)):
            Image.fromarray(picture).save(frames / f"{number}.jpg")
        Path("boxes.csv").write_text("frame,x,y,width,height\n" + "".join(f"{at},5,9,20,20\n" for at in range(6)))
        options = ["--out", "home/take/crops", "--boxes", "boxes.csv", "--size", "32", "--fps", "25"]
        assert main(["crop", "~/take", *options]) == 0
        assert main(["crop", "~/take", *options]) == 0
        assert "1 face of 1 video, 1 of them done before" in capsys.readouterr().out
    assert Path("home/take/crops/take.mp4").is_file()
    assert main(["crop", "home/take/crops/take.mp4", *options]) == 2
    assert "take.mp4 is in the folder that crops go to" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["videos"], "--out"),
        (["videos", "--out", "x", "--faces", "most"], "--faces must be largest, all, or a number, got 'most'"),
        (["videos", "--out", "x", "--size", "33"], "--size must be even"),
        (["videos", "--out", "x", "--workers", "0"], "--workers must be at least 1"),
        (["videos", "--out", "x", "--classes", "dfw"], "unknown data set 'dfw'"),
        (["absent.mp4", "--out", "x"], "absent.mp4: no such file"),
        (["--out", "x"], "there is nothing to do"),
        (["videos", "--out", "list.csv", "--boxes", "boxes.csv"], "list.csv"),
        (["videos", "--out", "x", "--boxes", "absent.csv"], "absent.csv: no such file"),
        (["videos", "--out", "x", "--boxes", "absent.csv", "--dry-run"], "absent.csv: no such file"),
        (["videos", "--out", "x", "--boxes", "list.csv", "--dry-run"], "the header has no column"),
        (["videos", "--out", "x", "--detector", "absent.onnx", "--dry-run"], "absent.onnx"),
    ],
)
def test_bad_command_lines(world: Path, capsys: pytest.CaptureFixture[str], words: list[str], answer: str) -> None:
    assert main(["crop", *words]) == 2
    assert answer in capsys.readouterr().err
    assert not Path("x").exists()


def test_a_real_clip(clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["crop", str(clips / "pyfeat/noface_face.mov"), "--out", str(tmp_path / "out")]) == 0
    assert "Of 1 video no crop has half of the frames, the first is noface_face.mp4" in capsys.readouterr().out
    with open_video(tmp_path / "out/noface_face.mp4") as crop:
        assert (len(crop), crop.size) == (72, (224, 224))
