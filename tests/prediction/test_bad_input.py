"""What users bring that cannot be predicted: each has a sentence, and stops nothing else."""

from __future__ import annotations

import csv
import os
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest

from maedfer.cli import main
from maedfer.prediction.table import read_table
from tests.data.media import pictures, write_sound, write_video
from tests.prediction.models import classifier

# Names of good videos, as they may be typed.
NAMES = ["a b.mp4", 'it\'s "q".mp4', "line\nbreak.mp4", os.fsdecode(b"latin\xe4.mp4"), "-dash.mp4", "12:30:05.mp4"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classifier().save_pretrained(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good videos and bad ones; the bad ones are named so."""
    folder = tmp_path_factory.mktemp("videos")
    good = write_video(folder / "good.mp4", pictures(40))
    whole = good.read_bytes()
    for name in NAMES:
        shutil.copy(good, folder / name)
    for count in (1, 3):
        write_video(folder / f"{count}.mp4", pictures(count))
    write_video(folder / "wide.mkv", np.zeros((5, 2, 10_000, 3), np.uint8), "ffv1", "bgr0")
    write_sound(folder / "bad sound.mp4")
    write_sound(folder / "bad cover.mp4", cover=True)
    for name, content in {"cut": whole[: len(whole) // 2], "empty": b"", "text": b"no video\n" * 99}.items():
        (folder / f"bad {name}.mp4").write_bytes(content)
    (folder / "bad middle.mp4").write_bytes(whole[: len(whole) // 2] + bytes(300) + whole[len(whole) // 2 + 300 :])
    (folder / "bad link.mp4").symlink_to("nowhere.mp4")
    os.mkfifo(folder / "bad pipe.mp4")
    shutil.copy(good, folder / f"bad {'x' * 245}.mp4")
    (folder / "bad frames").mkdir()
    (folder / "bad frames" / "1.png").write_bytes(b"no picture")
    return folder


def predict(*argv: object) -> int:
    words = ["predict", *map(str, argv), "--no-crop", "--no-plot", "--precision", "fp32", "--workers", "0"]
    return main([*words, "--window", "0.5", "--hop", "0.25"])


def test_what_is_bad_is_listed_and_stops_nothing(
    checkpoint: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(videos, "--checkpoint", checkpoint, "--out", tmp_path / "out") == 1
    printed = capsys.readouterr()
    assert printed.err == "" and "failed.csv says why" in printed.out
    with open(tmp_path / "out" / "failed.csv", newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        failed = {Path(row["input"]).name: row["reason"] for row in csv.DictReader(file)}
    assert set(failed) == {path.name for path in videos.iterdir() if path.name.startswith("bad")}
    for name, words in {
        "bad sound.mp4": "no video stream",
        "bad cover.mp4": "no video stream",
        "bad cut.mp4": "cut off",
        "bad empty.mp4": "empty",
        "bad text.mp4": "not a readable video",
        "bad middle.mp4": "damaged",
        "bad link.mp4": "a link to something that is not there",
        "bad pipe.mp4": "a pipe",
        "bad frames": "not a readable picture",
        f"bad {'x' * 245}.mp4": "rename it",
    }.items():
        assert words in failed[name] and name in failed[name] and "\n" not in failed[name]
    with open(tmp_path / "out" / "summary.csv", newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        for row in csv.DictReader(file):
            assert 0 < float(row["minutes_with_a_face"]) <= float(row["minutes"]) + 1e-4
    rows = {}
    for path in (tmp_path / "out").glob("*.csv"):
        if path.stem not in ("failed", "summary"):
            rows[path.stem] = list(read_table(path)[1])
    # Of a video that is damaged on the way, whole windows stay.
    assert len(rows.pop("bad middle")) < 5
    assert set(rows) == {path.stem for path in videos.iterdir() if not path.name.startswith("bad")}
    # 1.6 s of half a second every quarter: the last one begins at 1.0. Shorter ones have one window.
    for name, found in rows.items():
        assert len(found) == (1 if name in ("1", "3", "wide") else 5), name
        assert all(row.probabilities is not None and abs(row.probabilities.sum() - 1) < 1e-5 for row in found)
    assert {rows[Path(name).stem][0].video for name in NAMES} == {str(videos / name) for name in NAMES}


def test_a_full_disk_leaves_whole_rows_and_the_rest_comes_later(
    checkpoint: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [videos / "good.mp4", videos / "3.mp4", "--checkpoint", checkpoint]
    assert predict(*given, "--out", tmp_path / "whole") == 0
    size = (tmp_path / "whole" / "good.csv").stat().st_size
    # What no file may exceed stands for a disk without room; the files of what is begun are larger.
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    begun = max(path.stat().st_size for path in (tmp_path / "whole").glob("*.json"))
    assert begun > size
    (tmp_path / "out").mkdir()
    shutil.copy(tmp_path / "whole" / "good.csv", tmp_path / "keep.csv")
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - 40, before[1]))
    try:
        status = predict(*given, "--out", tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert status == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "File too large" in error and "Traceback" not in error
    for path in (tmp_path / "out").glob("*.csv"):
        assert path.read_bytes().endswith(b"\n")
    assert predict(*given, "--out", tmp_path / "out") == 0
    for name in ("good.csv", "3.csv"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_results_cannot_go_where_no_folder_can_be(
    checkpoint: Path, videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for out in (videos / "good.mp4" / "out", Path("/proc/out")):
        assert predict(videos / "good.mp4", "--checkpoint", checkpoint, "--out", out) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "cannot be written" in error
