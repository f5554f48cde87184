"""Figures from plain arrays: what is drawn is what was given."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from maedfer._figure_style import PALETTE
from maedfer.errors import InputError
from maedfer.report import figures
from maedfer.report.figures import Curve, Panel


def texts(axis: Any) -> list[str]:
    return [item.get_text() for item in axis.texts]


def drawn(figure: Any) -> bool:
    figure.savefig(io.BytesIO(), format="png", dpi=40)
    return True


def test_matplotlib_is_imported_only_to_draw() -> None:
    code = "import sys, maedfer.report; assert not {'matplotlib', 'sklearn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_drawing_leaves_the_global_style_alone() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    figures.confusion_matrix(np.eye(2), ["a", "b"])
    assert dict(matplotlib.rcParams) == before


def test_curves_draw_the_points_that_were_given() -> None:
    score = Curve([1, 2, 3], [0.2, 0.4, 0.5], low=[0.1, 0.3, 0.4], high=[0.3, 0.5, 0.6], color=1)
    panels = [
        Panel("Loss", "step", {"a": Curve([0, 1], [3.0, 2.0]), "b": Curve([0, 1], [1.0, 1.5], dashed=True)}),
        Panel("WAR", "epoch", {"a": score}, mark=2, mark_label="selected", percent=True),
    ]
    figure: Any = figures.curves(panels, columns=2)
    loss, war = figure.axes
    np.testing.assert_array_equal(loss.lines[0].get_xydata(), [[0, 3], [1, 2]])
    assert [line.get_color() for line in loss.lines] == list(PALETTE[:2])
    assert loss.lines[0].get_linestyle() != loss.lines[1].get_linestyle()
    mark, line = war.lines
    assert mark.get_xdata()[0] == 2
    np.testing.assert_allclose(line.get_ydata(), [20, 40, 50])
    band = war.collections[0].get_paths()[0].get_extents()
    assert (band.ymin, band.ymax) == (pytest.approx(10), pytest.approx(60))
    assert [item.get_text() for item in war.get_legend().get_texts()] == ["selected", "a"]
    assert drawn(figure)


def test_panels_fill_rows_and_leave_the_rest_blank() -> None:
    figure: Any = figures.curves([Panel(str(i), "step", {"a": Curve([0, 1], [0, i])}) for i in range(4)], columns=3)
    assert [axis.axison for axis in figure.axes] == [True] * 4 + [False] * 2


def test_a_long_curve_is_averaged_and_keeps_its_range() -> None:
    y = np.random.default_rng(0).normal(size=12345)
    y[777] = 50.0
    axis: Any = figures.curves([Panel("Loss", "step", {"a": Curve(np.arange(len(y)), y)})]).axes[0]
    points = axis.lines[0].get_xydata()
    assert len(points) == 250 and abs(points[:, 1].mean() - y.mean()) < 0.01
    assert axis.collections[0].get_paths()[0].get_extents().ymax == 50


def test_confusion_matrix_writes_shares_and_clips() -> None:
    figure: Any = figures.confusion_matrix([[30, 10], [0, 0]], ["yes", "no"], title="Test")
    axis = figure.axes[0]
    assert texts(axis) == ["75.0", "30", "25.0", "10"]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["yes", "no"]
    shades = [cell.get_alpha() for cell in axis.patches]
    assert shades[0] > shades[1] > shades[2] == shades[3]
    assert texts(figures.confusion_matrix([[3, 1], [1, 1]], "ab", clips=False).axes[0]) == [
        "75.0",
        "25.0",
        "50.0",
        "50.0",
    ]
    assert drawn(figure)


def test_class_bars_show_recall_f1_clips_and_means() -> None:
    figure: Any = figures.class_bars(["a", "b", "c"], [0.8, 0.04, np.nan], [0.5, 0.5, 0.0], [1234, 20, 0])
    axis = figure.axes[0]
    np.testing.assert_allclose([bar.get_width() for bar in axis.patches], [80, 4, 0, 50, 50, 0])
    assert texts(axis) == ["80.0", "4.0", "no clips", "50.0", "50.0", "0.0"]
    assert axis.get_yticklabels()[0].get_text() == "a\n1,234 clips"
    assert [round(line.get_xdata()[0], 3) for line in axis.lines] == [42.0, 33.333]
    labels = [item.get_text() for item in figure.legends[0].get_texts()]
    assert labels == ["recall (mean 42.0)", "F1 (mean 33.3)"]
    assert drawn(figure)


def test_reconstruction_grid_takes_the_right_frame_for_each_row() -> None:
    shape = (2, 8, 64, 64, 3)
    frame = np.arange(8).reshape(1, 8, 1, 1, 1) / 10
    clip = np.array([0.0, 0.05]).reshape(2, 1, 1, 1, 1)
    pictures = {"masked": 0.0, "appearance": 0.0, "motion": 0.1, "full": 0.0, "original": 0.02}
    arrays = {name: np.broadcast_to(frame + clip + add, shape).astype(np.float16) for name, add in pictures.items()}
    options: dict[str, Any] = {**arrays, "clips": 2, "columns": 2}
    figure: Any = figures.reconstruction_grid(**options)
    assert len(figure.axes) == 2 and drawn(figure)
    for number, axis in enumerate(figure.axes):
        sheet = axis.images[0].get_array()
        rows, columns = (
            np.linspace(0, sheet.shape[0], 11)[1::2].astype(int),
            (sheet.shape[1] // 4, 3 * sheet.shape[1] // 4),
        )
        # The first and the last cube: frames 0-1 and 6-7; appearance from the first frame, the others from the second.
        want = [(0.1, 0.7), (0.0, 0.6), (0.2, 0.8), (0.1, 0.7), (0.12, 0.72)]
        seen = sheet[np.ix_(rows, columns)][..., 0] / 255
        np.testing.assert_allclose(seen, np.array(want) + 0.05 * number, atol=0.004)
    labels = texts(figure.axes[0])
    assert labels[:5] == ["masked input", "appearance", "motion", "sum", "original"]
    assert labels[5:] == ["frames 1\N{EN DASH}2", "7\N{EN DASH}8"]


def test_reconstruction_grid_of_appearance_alone_shows_first_frames() -> None:
    original = np.zeros((1, 4, 32, 32, 3))
    original[:, 1::2] = 1.0
    figure: Any = figures.reconstruction_grid(original, original, appearance=original)
    assert figure.axes[0].images[0].get_array()[..., :3].max() == 0
    assert texts(figure.axes[0])[:3] == ["masked input", "appearance", "original"]


def test_motion_is_strengthened_about_grey() -> None:
    grey = np.full((1, 2, 96, 96, 3), 0.5)
    figure: Any = figures.reconstruction_grid(grey, grey, motion=grey + 0.1, motion_gain=3.0)
    sheet = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(sheet[np.array([40, 140, 240]), 40, 0] / 255, [0.5, 0.8, 0.5], atol=0.003)


def test_large_pictures_are_averaged_down() -> None:
    clip = np.random.default_rng(0).random((1, 2, 320, 320, 3))
    sheet: Any = figures.reconstruction_grid(clip, clip, full=clip).axes[0].images[0].get_array()
    np.testing.assert_allclose(sheet[0, 0, :3] / 255, clip[0, 1, :2, :2].mean(axis=(0, 1)), atol=0.003)
    assert sheet.shape[1] == 160


def test_tsne_scatter_marks_class_and_mistake() -> None:
    points = np.arange(20.0).reshape(10, 2)
    labels = np.array([0] * 6 + [8] * 4)
    predictions = labels.copy()
    predictions[:2] = 8
    figure: Any = figures.tsne_scatter(points, labels, [f"c{i}" for i in range(9)], predictions=predictions)
    groups = [group for group in figure.axes[0].collections if len(group.get_offsets())]
    found = {(len(group.get_offsets()), len(group.get_facecolors())) for group in groups}
    # Two hollow and four full points of the first class, four full ones of the ninth.
    assert found == {(2, 0), (4, 1)}
    assert [item.get_text() for item in figure.legends[0].get_texts()] == ["c0", "c8", "recognised wrongly"]
    shapes = {len(group.get_paths()[0].vertices) for group in groups}
    assert len(shapes) == 2 and drawn(figure)


def test_seed_comparison_draws_every_seed_and_the_mean() -> None:
    scores = {"old": [0.5, 0.6, np.nan], "new": [0.7, 0.8, 0.9]}
    figure: Any = figures.seed_comparison({"UAR": scores, "WAR": scores})
    assert len(figure.axes) == 2 and drawn(figure)
    axis = figure.axes[0]
    np.testing.assert_allclose(axis.collections[1].get_offsets()[:, 0], [70, 80, 90])
    upright = [line.get_xdata() for line in axis.lines if len(set(line.get_xdata())) == 1 and line.get_linewidth() > 2]
    np.testing.assert_allclose([x[0] for x in upright], [55, 80])
    bands = [line.get_xdata() for line in axis.lines if line.get_linewidth() > 10]
    np.testing.assert_allclose(bands[1], [70, 90])
    assert [label.get_text() for label in axis.get_yticklabels()] == ["old", "new"]


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (lambda: figures.curves([]), "at least one panel"),
        (lambda: figures.curves([Panel("", "", {"a": Curve([1, 2], [1])})]), "'a': x and y"),
        (lambda: figures.confusion_matrix(np.eye(3), ["a", "b"]), r"shape \(3, 3\), but there are 2"),
        (lambda: figures.class_bars(["a"], [1, 1], [1], [1]), r"recall has shape \(2,\)"),
        (
            lambda: figures.reconstruction_grid(np.zeros((1, 4, 8, 8, 3)), np.zeros((1, 4, 8, 8))),
            "'original' has shape",
        ),
        (lambda: figures.reconstruction_grid(*[np.zeros((1, 1, 8, 8, 3))] * 2), "T >= 2"),
        (lambda: figures.tsne_scatter(np.zeros((4, 2)), np.zeros(3), ["a"]), "points"),
        (lambda: figures.seed_comparison({"UAR": {}}), "at least one metric"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(draw: Callable[[], Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        draw()
