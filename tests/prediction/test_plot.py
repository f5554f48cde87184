from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from PIL import Image

from maedfer.errors import InputError
from maedfer.prediction.class_colours import class_colours
from maedfer.prediction.courses import video_course
from maedfer.prediction.plot import clock, plot_timeline, save_timeline
from maedfer.prediction.rows import Row, Window
from maedfer.prediction.thumbnails import choose_peaks, read_thumbnails
from tests.data.media import write_video

CLASSES = ["happy", "sad", "neutral"]


def make_rows(
    spans: dict[int, tuple[float, float]],
    seconds: float,
    hop: float = 1.0,
    classes: int = 3,
    video: str = "talk.mp4",
    box: tuple[float, float, float, float] | None = (10.0, 10.0, 40.0, 40.0),
) -> list[Row]:
    """Rows of windows of 2 s for faces that are there from one second to another."""
    generator = np.random.default_rng(1)
    rows = []
    for number in range(max(1, int((seconds - 2) / hop) + 1)):
        start = number * hop
        there = [face for face, (low, high) in spans.items() if low <= start + 1 < high]
        for face in there:
            window = Window(number, start, start + 2.0, start + 1.0, face, box, 0.9, 16, "ok")
            rows.append(Row(video, window, generator.dirichlet(np.full(classes, 0.5))))
        if not there:
            window = Window(number, start, start + 2.0, start + 1.0, None, None, None, 0, "no_face")
            rows.append(Row(video, window, None))
    return rows


def words_of(figure: Any) -> set[str]:
    return {text.get_text() for text in figure.findobj(matplotlib.text.Text)}


def test_areas_are_the_probabilities() -> None:
    rows = make_rows({1: (0, 99)}, 12.0)
    figure = plot_timeline(rows, CLASSES)
    stack: Any = next(axis for axis in figure.axes if len(axis.collections) == len(CLASSES))
    bottom = np.zeros(len(rows))
    for position, area in enumerate(stack.collections):
        # The upper edge of an area at the windows' middles, from the vertices of its outline.
        corners = area.get_paths()[0].vertices
        top = [corners[np.isclose(corners[:, 0], row.window.time), 1].max() for row in rows]
        assert np.allclose(top - bottom, [row.probabilities[position] for row in rows if row.probabilities is not None])
        bottom = np.array(top)
        assert matplotlib.colors.to_hex(area.get_facecolor()[0]) == class_colours(CLASSES)[position]
    assert np.allclose(bottom, 1)
    assert stack.get_xlim() == (0, 12)


def test_gaps_are_left_empty() -> None:
    figure = plot_timeline(make_rows({1: (0, 8), 2: (14, 30), 3: (14, 20), 4: (25, 30)}, 30.0), CLASSES)
    stack: Any = next(axis for axis in figure.axes if len(axis.collections) == len(CLASSES))
    corners = np.concatenate([area.get_paths()[0].vertices for area in stack.collections])
    # The last window in which it is has its middle at 7, and half a hop more is for it.
    assert corners[:, 0].max() == 7.5 and corners[:, 0].min() == 0
    assert {"away", "no face", "Face 1", "Face 4", "0:30.0 · 4 faces · windows of 2 s every 1 s"} <= words_of(figure)


@pytest.mark.parametrize(
    ("rows", "classes"),
    [
        ([], 3),
        (make_rows({}, 9.0), 7),
        (make_rows({1: (0, 9)}, 2.0), 1),
        (make_rows({face: (0, 99) for face in range(1, 9)}, 20.0, classes=11), 11),
        (make_rows({1: (100, 5000)}, 6000.0, classes=14), 14),
    ],
    ids=["no rows", "no face", "one window", "8 faces", "thousands"],
)
def test_any_number_of_windows_faces_and_classes(rows: list[Row], classes: int, tmp_path: Path) -> None:
    names = [f"class $x_{number} " + "long " * number for number in range(classes)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_timeline(plot_timeline(rows, names, note="a note"), tmp_path / "talk.png")
    with Image.open(tmp_path / "talk.png") as picture:
        assert picture.width == 2000 and 300 < picture.height < 4500
        # Something stands in all four quarters.
        pixels = np.asarray(picture.convert("L"))
    for half in np.array_split(pixels, 2, axis=0):
        for quarter in np.array_split(half, 2, axis=1):
            assert (quarter < 250).any()


def test_many_faces_are_too_many() -> None:
    rows = make_rows({face: (face, face + 3 + face / 4) for face in range(1, 31)}, 60.0)
    words = words_of(plot_timeline(rows, CLASSES))
    assert "18 more faces, which are there for less time, are not shown." in words
    assert "Face 30" in words and "Face 1" not in words


@pytest.mark.parametrize("name", ["a $x_1$ b.mp4", "$.mp4", "été_日本.mp4", "a\nb\udcff.mp4", "\\frac{1}{2}^2.mp4"])
def test_names_are_no_formulas(name: str, tmp_path: Path) -> None:
    rows = make_rows({1: (0, 99)}, 4.0, video=f"folder/{name}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in ("png", "svg"):
            save_timeline(plot_timeline(rows, ["$a$", "_b", "c^2"]), tmp_path / f"talk.{kind}")
    assert (tmp_path / "talk.svg").stat().st_size and (tmp_path / "talk.png").stat().st_size


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_timeline(plot_timeline(make_rows({1: (0, 99)}, 6.0), CLASSES), tmp_path / f"{name}.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with pytest.raises(InputError, match="cannot write"):
        save_timeline(plot_timeline([], CLASSES), tmp_path / "absent" / "a.png")


def test_thumbnails_show_the_face_at_that_moment(tmp_path: Path) -> None:
    """A square that moves over grey and changes its colour; the box follows it."""
    frames = np.full((60, 64, 96, 3), 128, np.uint8)
    levels = np.linspace(0, 250, 60).astype(np.uint8)
    for number, level in enumerate(levels):
        frames[number, 20:36, number : number + 16] = (level, 255 - level, 0)
    path = write_video(tmp_path / "square.mp4", frames, rate=10, options={"crf": "8"})
    rows = []
    for number in (5, 31, 50):
        time = number / 10
        box = (float(number), 20.0, 16.0, 16.0)
        window = Window(number, time - 1, time + 1, time, 1, box, 0.9, 16, "ok")
        rows.append(Row("square.mp4", window, np.array([0.1, 0.9])))
    found, problem = read_thumbnails(path, {1: rows}, margin=1.0)
    assert not problem and [row.window.time for row, _ in found[1]] == [0.5, 3.1, 5.0]
    for (_, picture), number in zip(found[1], (5, 31, 50), strict=True):
        assert picture.shape[0] == picture.shape[1]
        assert abs(picture[40:-40, 40:-40, 0].mean() - float(levels[number])) < 12
    figure = plot_timeline(rows, ["happy", "sad"], video=path)
    assert sum(len(axis.images) for axis in figure.axes) == 3 and "sad 90%" in words_of(figure)
    # A rate is for what tells no times.
    again, _ = read_thumbnails(path, {1: rows}, fps=3, margin=1.0)
    assert all(np.array_equal(one[1], other[1]) for one, other in zip(found[1], again[1], strict=True))
    # It is said why there are none.
    gone = plot_timeline(rows, ["happy", "sad"], video=tmp_path / "gone.mp4")
    assert any("Without pictures" in words and "gone.mp4" in words for words in words_of(gone))
    assert not any(axis.images for axis in gone.axes)


def test_peaks_are_the_surest_of_each_class_at_a_distance() -> None:
    rows = make_rows({1: (0, 999)}, 300.0)
    chosen = choose_peaks(rows, 0.0, 300.0)
    times = [row.window.time for row in chosen]
    assert len(chosen) == 8 and times == sorted(times) and np.diff(times).min() >= 10
    sure = {row.window.time: row.probabilities for row in rows if row.probabilities is not None}
    for which in range(3):
        best = max((time for time in sure if sure[time].argmax() == which), key=lambda time: sure[time].max())
        # Kept, or a surer one of another class is beside it.
        assert min(abs(best - time) for time in times) < 10
    assert len(choose_peaks(rows[:1], 0.0, 2.0)) == 1


def test_colours() -> None:
    for names in (["anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise", "contempt", "anxiety",
                   "helplessness", "disappointment"], list("abcdefghijkl"), ["happy", "happiness", "joy"]):  # fmt: skip
        assert len(set(class_colours(names))) == len(names)
    assert class_colours(["Happy", "x"])[0] == class_colours(["joy"])[0]
    assert len(class_colours([str(number) for number in range(50)])) == 50


def test_times_read_as_on_a_player() -> None:
    assert [clock(seconds) for seconds in (0, 9.4, 65, 3599, 3600, 36061)] == [
        "0:00",
        "0:09",
        "1:05",
        "59:59",
        "1:00:00",
        "10:01:01",
    ]
    assert [clock(seconds, True) for seconds in (0.0, 9.44, 59.97, 61.2)] == ["0:00.0", "0:09.4", "1:00", "1:01"]


def test_nothing_of_pyplot_is_touched(tmp_path: Path) -> None:
    code = (
        "import sys; from maedfer.prediction.plot import plot_timeline, save_timeline; "
        f"save_timeline(plot_timeline([], ['a']), {str(tmp_path / 'a.png')!r}); "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_one_score_a_face_spans_the_time_in_which_it_is_there() -> None:
    rows = []
    for face, (start, end) in enumerate([(0.0, 20.0), (0.0, 8.0), (13.0, 20.0)], 1):
        window = Window(face - 1, start, end, (start + end) / 2, face, None, 0.9, 16, "ok")
        rows.append(Row("talk.mp4", window, np.array([0.2, 0.3, 0.5])))
    course = video_course(rows)
    assert [(one.stretches[0].start, one.stretches[0].end) for one in course.courses] == [(0, 20), (0, 8), (13, 20)]
    assert "0:20.0 · 3 faces · 1 window each" in words_of(plot_timeline(rows, CLASSES))


def test_frames_that_are_crops_are_shown_as_they_are(tmp_path: Path) -> None:
    frames = np.full((30, 64, 96, 3), 40, np.uint8)
    frames[:, :, 16:80] = 200
    path = write_video(tmp_path / "crop.mp4", frames, rate=10)
    rows = make_rows({1: (0, 9)}, 3.0, box=(0.0, 0.0, 96.0, 64.0))
    found, _ = read_thumbnails(path, {1: rows}, margin=None)
    assert all(np.abs(picture.astype(int) - 200).max() < 30 for _, picture in found[1])
