"""Crops of one video beside what is cut out of its frames here."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from maedfer.data import open_video
from maedfer.errors import InputError
from maedfer.faces import FaceTrack, crop_square, read_boxes
from maedfer.faces.crop_options import CropOptions
from maedfer.faces.frame import Frame
from maedfer.faces.write_crops import NoFaceError, choose, crop_video
from tests.data.media import difference, pictures, write_video

# In 25ths of a second.
UNITS = [0, 1, 2, 4, 5, 9, 10, 11, 12, 20, 21, 22, 23, 24, 25, 26, 27, 28, 30, 31, 33, 34, 35, 36]


def write_boxes(path: Path, rows: Sequence[tuple[float, ...]]) -> Path:
    """Rows of frame, face, x, y, width, height."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["frame", "face", "x", "y", "width", "height"], *rows])
    return path


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Two faces: the first in frames 3 to 20, the second, a larger one, in all."""
    frames = pictures(len(UNITS), 120, 160)
    rows = [(frame, 1, 10.0 + frame, 20.0, 30.0, 40.0) for frame in range(3, 21)]
    rows += [(frame, 2, 90.0, 50.0, 50.0, 60.0) for frame in range(len(UNITS))]
    write_boxes(tmp_path / "boxes.csv", rows)
    return write_video(tmp_path / "a.mp4", frames, options={"crf": "4"}, times=UNITS)


def test_crops_are_squares_of_the_frames_at_their_times(video: Path, tmp_path: Path) -> None:
    options = CropOptions(faces="all", size=64, quality=2, boxes=str(tmp_path / "boxes.csv"))
    shares: list[float] = []
    first, second = crop_video(video, "in/a", tmp_path / "out", options, progress=shares.append)
    assert shares == sorted(shares) and shares[-1] == 1
    assert (first.face, first.file, first.frames, first.video_frames) == (1, "in/a_face1.mp4", 18, 24)
    assert (second.face, second.file, second.frames) == (2, "in/a_face2.mp4", 24)
    assert (first.start, first.end) == pytest.approx((UNITS[3] / 25, UNITS[21] / 25), abs=1e-6)
    assert (second.start, second.width, second.height, second.detection) == (0.0, 160, 120, 1.0)
    assert second.box == pytest.approx((90, 50, 50, 60))
    with open_video(video) as source, open_video(tmp_path / "out/in/a_face1.mp4") as crop:
        assert crop.times == pytest.approx(source.times[3:21] - source.times[3], abs=1e-5)
        assert crop.end_time == pytest.approx(first.end - first.start, abs=1e-5)
        # The face moves evenly in frames, not in time: its smoothed box is near the one that was given.
        for place, (picture, cut) in enumerate(zip(source.read(range(3, 21)), crop.read(range(18)), strict=True), 3):
            expected = crop_square(picture, np.array([10.0 + place, 20, 30, 40]), 64)
            assert difference(cut, expected) < 6
    with open_video(video) as source, open_video(tmp_path / "out/in/a_face2.mp4") as crop:
        expected = np.stack(
            [crop_square(picture, np.array([90, 50, 50, 60]), 64) for picture in source.read(range(24))]
        )
        assert difference(crop.read(range(24)), expected) < 3
    assert sorted(path.name for path in (tmp_path / "out/in").iterdir()) == ["a_face1.mp4", "a_face2.mp4"]


def test_folders_of_pictures(video: Path, tmp_path: Path) -> None:
    options = CropOptions(size=40, format="frames", boxes=str(tmp_path / "boxes.csv"), save_boxes=True)
    (tmp_path / "out/a").mkdir(parents=True)
    (tmp_path / "out/a/99999.jpg").write_bytes(b"of an earlier run")
    (face,) = crop_video(video, "a", tmp_path / "out", options)
    # The largest one, though the other has the lower number.
    assert (face.face, face.file, face.frames) == (2, "a", 24)
    with open_video(tmp_path / "out/a") as crop, open_video(video) as source:
        assert (len(crop), crop.size) == (24, (40, 40))
        expected = crop_square(source.read([7])[0], np.array([90, 50, 50, 60]), 40)
        assert difference(crop.read([7])[0], expected) < 3
        # The boxes that were written say where the crops are from.
        again = read_boxes(tmp_path / "out/a.boxes.csv", times=source.times)
    found = again.detect([Frame(index, 0.0, None) for index in range(24)])
    assert all(one.boxes[0] == pytest.approx([90, 50, 50, 60]) for one in found)
    assert [len(one) for one in found] == [1] * 24


def test_the_same_crops_give_the_same_bytes(video: Path, tmp_path: Path) -> None:
    options = CropOptions(size=32, boxes=str(tmp_path / "boxes.csv"))
    for out in ("one", "two"):
        crop_video(video, "a", tmp_path / out, options)
    assert (tmp_path / "one/a.mp4").read_bytes() == (tmp_path / "two/a.mp4").read_bytes()


def test_nothing_is_left_of_what_fails(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "none.csv").write_text("frame,x,y,width,height\n0,,,,\n")
    with pytest.raises(NoFaceError, match=r"a.mp4: no face was found in its 24 frames"):
        crop_video(video, "a", tmp_path / "out", CropOptions(boxes=str(tmp_path / "none.csv")))
    calls = iter(range(60))
    real = crop_square

    def failing(*args: object, **kwargs: object) -> np.ndarray:
        if next(calls) == 30:
            raise OSError(28, "No space left on device")
        return real(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr("maedfer.faces.write_crops.crop_square", failing)
    for form in ("mp4", "frames"):
        calls = iter(range(60))
        options = CropOptions(faces="all", format=form, size=32, boxes=str(tmp_path / "boxes.csv"))  # type: ignore[arg-type]
        with pytest.raises(InputError, match=r"cannot write .*a_face.*No space left"):
            crop_video(video, "a", tmp_path / "out", options)
        assert list((tmp_path / "out").iterdir()) == []


def test_faces_are_chosen_by_their_area_over_time() -> None:
    times = np.arange(100) / 25

    def track(face: int, first: int, last: int, side: float) -> FaceTrack:
        knots = times[[first, last]]
        boxes = np.full((2, 4), side, np.float32)
        return FaceTrack(face, float(knots[0]), knots, boxes, np.ones(2, np.float32), np.full(2, knots[0]))

    # 100 * 400, 20 * 2500, 50 * 900, 100 * 400.
    tracks = [track(1, 0, 99, 20), track(2, 10, 29, 50), track(3, 40, 89, 30), track(4, 0, 99, 20)]
    assert [one.face for one in choose(tracks, times, "largest")] == [2]
    assert [one.face for one in choose(tracks, times, 2)] == [2, 3]
    assert [one.face for one in choose(tracks, times, 3)] == [1, 2, 3]
    assert [one.face for one in choose(tracks, times, "all")] == [1, 2, 3, 4]
    assert choose([], times, "largest") == []


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"size": 225}, "size must be even"),
        ({"size": 8}, "size must be between 16 and 4096"),
        ({"faces": 0}, "faces must be largest, all, or a number from 1 on"),
        ({"quality": 60}, "quality must be between 0 and 51 where format is mp4"),
        ({"quality": 0, "format": "frames"}, "quality must be between 1 and 100 where format is frames"),
        ({"margin": 0.4}, "margin must be at least 0.5"),
        ({"every": 51}, "every must be between 1 and 50"),
        ({"format": "gif"}, "format must be mp4 or frames, got 'gif'"),
        ({"faces": "foo"}, "faces must be largest, all, or a number from 1 on, got 'foo'"),
        ({"boxes": "a.csv", "detector": "b.onnx"}, "give boxes or detector"),
    ],
)
def test_impossible_options_are_refused(given: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        CropOptions(**given)  # type: ignore[arg-type]
