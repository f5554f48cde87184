"""What a detector sees of clips, against pictures in which it is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from maedfer.faces import crop_square, open_detector
from maedfer.faces.frame import Detections, Frame
from maedfer.preparation.face_sample import LEAST_SHARE, FaceSample, about_faces, sample_faces
from maedfer.preparation.look import ClipLook
from tests.preparation import trees


def looks(*names: str) -> list[ClipLook]:
    return [ClipLook(name, (0, 0)) for name in names]


def test_the_share_of_the_picture_is_that_of_the_face(tmp_path: Path) -> None:
    for number, face in enumerate((10, 20, 30, 0)):
        trees.frames(tmp_path / str(number), face=face, height=40, width=60)
    sample = sample_faces(tmp_path, looks("0", "1", "2", "3"), trees.RedDetector())
    assert (sample.clips, sample.none, sample.several, sample.first_none) == (4, 1, 0, "3")
    assert sample.share == pytest.approx(400 / 2400, rel=0.15)
    # Evenly spread: of four clips the second and the last.
    assert sample_faces(tmp_path, looks("0", "1", "2", "3"), trees.RedDetector(), most=2).none == 1


class Told:
    """A detector that says what it was told."""

    needs_pictures = True
    name, note = "told", ""

    def __init__(self, *boxes: Sequence[float]) -> None:
        self.boxes = np.array(boxes, np.float32).reshape(-1, 4)

    def detect(self, frames: Sequence[Frame]) -> list[Detections]:
        return [Detections(self.boxes, np.ones(len(self.boxes), np.float32)) for _ in frames]


@pytest.mark.parametrize(
    ("boxes", "several", "share"),
    [
        ([(0, 0, 20, 20), (20, 20, 20, 20)], 1, 0.25),
        ([(0, 0, 20, 20), (20, 20, 4, 4)], 0, 0.25),
        # What lies outside of the picture covers nothing of it.
        ([(-20, -20, 40, 40), (30, 30, 40, 40)], 1, 0.25),
        ([(-40, -40, 120, 120)], 0, 1.0),
    ],
)
def test_faces_beside_the_largest(boxes: list[tuple[int, ...]], several: int, share: float, tmp_path: Path) -> None:
    trees.frames(tmp_path / "a")
    sample = sample_faces(tmp_path, looks("a"), Told(*boxes))
    assert (sample.several, sample.share) == (several, pytest.approx(share))


def test_what_is_said() -> None:
    found, mind = about_faces(FaceSample(10, 0, 1, 0.46), "faces")
    assert "covers 46 % of the picture" in found[0] and not mind
    found, mind = about_faces(FaceSample(10, 6, 0, 0.5), "faces")
    assert not found and "do not look like crops of faces" in mind[0]
    found, mind = about_faces(FaceSample(10, 3, 4, 0.5, "x", "y"), "own")
    assert found and mind[0].startswith("Nobody is seen in 3 of 10") and mind[1].startswith("Several faces are in 4 of")
    assert about_faces(FaceSample(0, 0, 0, 0.0), "faces") == ([], [])


def test_crops_of_real_faces_are_told_from_whole_pictures(clips: Path, tmp_path: Path) -> None:
    from maedfer.data import open_video

    detector = open_detector(threads=1)
    names = ["pyfeat/single_face.mp4", "lipnet_grid/bbaf2n.mpg"]
    whole = sample_faces(clips, looks(*names), detector)
    assert not whole.are_crops() and whole.none == 0
    from PIL import Image

    for number, name in enumerate(names):
        with open_video(clips / name) as reader:
            picture = reader.read([len(reader) // 2])[0]
        (found,) = detector.detect([Frame(0, 0.0, picture)])
        (tmp_path / str(number)).mkdir()
        Image.fromarray(crop_square(picture, found.boxes[0], 224, 1.3)).save(tmp_path / str(number) / "1.png")
    crops = sample_faces(tmp_path, looks("0", "1"), detector)
    assert crops.are_crops() and crops.share > 2 * LEAST_SHARE
