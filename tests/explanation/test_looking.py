"""From a video to maps over time: the right frames, the right face, the right moment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from maedfer.data import open_video
from maedfer.errors import InputError
from maedfer.explanation import Explaining, attention_maps
from maedfer.explanation.film import FilmPanel, film_attention
from maedfer.explanation.looking import FaceCourse, Moment, look_at_video, model_input, probabilities_of
from maedfer.explanation.options import parts_of
from maedfer.explanation.overlay import Scale, colour_table, paint, signed_scale, to_pixels
from maedfer.explanation.run import explaining_options
from maedfer.faces.crop import crop_square
from maedfer.models import ClipSettings, LGIFormer
from maedfer.prediction.options import PredictionOptions
from maedfer.prediction.rows import Window
from tests.data.media import write_video
from tests.explanation.test_reconstruction import autoencoder
from tests.helpers import small
from tests.prediction.models import CLASSES, classifier


def numbered(path: Path, count: int, times: list[int] | None = None, side: int = 32) -> Path:
    """A video whose frame n is n * 4 bright; times in units of 1/25 s."""
    frames = np.repeat(np.arange(count, dtype=np.uint8) * 4, side * side * 3).reshape(count, side, side, 3)
    return write_video(path, frames, options={"crf": "1"}, times=times)


def test_times_are_those_of_the_frames_that_are_shown(tmp_path: Path) -> None:
    model = classifier()
    # Every third frame is late.
    shown = [2 * number + (number % 3 == 0) for number in range(40)]
    video = numbered(tmp_path / "a.mp4", 40, shown)
    options = PredictionOptions(crop=False, window=0.8, hop=0.37)
    faces, times = look_at_video(model, video, options, keep_clips=True)
    np.testing.assert_allclose(times, (np.array(shown) - shown[0]) / 25, atol=1e-5)
    assert [face.face for face in faces] == [1] and sorted(faces[0].boxes) == list(range(40))
    course = faces[0]
    assert [moment.window.number for moment in course.moments] == [0, 1, 2, 3, 4, 5, 6]
    # Windows that do not overlap are kept, and the brightness of their frames says which they are.
    assert len(course.clips) == 4
    for clip, at in course.clips:
        numbers = np.round(clip.mean((1, 2, 3)) / 4).astype(int)
        np.testing.assert_allclose(at, times[numbers], atol=1e-5)
    assert course.best is not None
    moment, clip = course.best
    numbers = np.round(clip.mean((1, 2, 3)) / 4).astype(int)
    np.testing.assert_allclose(moment.times, times[numbers], atol=1e-5)
    # The most probable class of all, and the maps of that clip.
    chances = [one.probabilities.max() for one in course.moments if one.probabilities is not None]
    found = probabilities_of(model, clip)
    assert len(chances) == 7 and found is not None and max(chances) == pytest.approx(found.max())
    maps = attention_maps(model, clip)
    np.testing.assert_allclose(moment.grids["intra_region"], maps.map("intra_region") * 9, rtol=1e-4)
    np.testing.assert_allclose(moment.grids["rollout"], maps.rollout() * maps.config.num_tokens, rtol=1e-4)


def test_a_moment_can_be_chosen_and_temperatures_count(tmp_path: Path) -> None:
    model = classifier()
    video = numbered(tmp_path / "a.mp4", 50)
    options = PredictionOptions(crop=False, window=0.4, hop=0.2)
    best = look_at_video(model, video, options, at=1.0)[0][0].best
    assert best is not None and abs(best[0].window.time - 1.0) <= 0.1
    clip = best[1]
    plain = probabilities_of(model, clip)
    model.clip_settings = ClipSettings(classes=CLASSES, stride=2, temperature=3.0)
    cool = probabilities_of(model, clip)
    assert plain is not None and cool is not None
    powers = plain ** (1 / 3)
    np.testing.assert_allclose(cool, powers / powers.sum(), rtol=1e-5)
    # Without classes it is the window in the middle.
    best = look_at_video(autoencoder(), video, options, maps=False)[0][0].best
    assert best is not None and abs(best[0].window.time - 1.0) <= 0.1 and best[0].probabilities is None


def test_of_two_faces_the_larger_is_kept_unless_all_are_wanted(tmp_path: Path) -> None:
    video = numbered(tmp_path / "a.mp4", 40, side=64)
    lines = ["frame,face,x,y,width,height"]
    lines += [f"{frame},1,2,4,12,12" for frame in range(40)]
    lines += [f"{frame},2,30,{10 + frame / 10},20,24" for frame in range(10, 40)]
    (tmp_path / "boxes.csv").write_text("\n".join(lines))
    options = PredictionOptions(boxes=str(tmp_path / "boxes.csv"), window=0.4, hop=0.2, faces="largest")
    model = classifier()
    (face,), _ = look_at_video(model, video, options, maps=False)
    assert sorted(face.boxes) == list(range(10, 40))
    box = face.boxes[20]
    assert box is not None and np.allclose(box, (30, 12, 20, 24), atol=0.5)
    both, _ = look_at_video(model, video, PredictionOptions(**{**vars(options), "faces": "all"}), maps=False)
    assert [len(one.boxes) for one in both] == [40, 30]
    with pytest.raises(InputError, match=r"a.mp4: no face was found in it between 3 and 4 .*--no-crop"):
        (tmp_path / "boxes.csv").write_text("frame,x,y,width,height\n2,1,1,9,9\n3,1,1,9,9\n")
        video = numbered(tmp_path / "a.mp4", 60, [2 * number for number in range(60)])
        look_at_video(model, video, PredictionOptions(**{**vars(options), "between": (3.0, 4.0)}))


def window(number: int, start: float, end: float) -> Window:
    return Window(number, start, end, (start + end) / 2, 1, None, None, 4, "ok")


def test_maps_are_linear_in_time_and_windows_are_blended() -> None:
    rise = np.arange(2, dtype=np.float32)[:, None, None].repeat(3, 1).repeat(3, 2)
    course = FaceCourse(
        1,
        [
            Moment(window(0, 0.0, 1.0), np.array([0.0, 0.2, 0.6, 0.8]), {"x": rise}),
            Moment(window(1, 0.5, 1.5), np.array([0.5, 0.7, 1.1, 1.3]), {"x": rise + 10}),
        ],
    )

    def at(time: float) -> float | None:
        found = course.at("x", time)
        return None if found is None else float(found[1, 2])

    # The middles of the first window's cubes are at 0.1 and 0.7.
    assert at(0.05) == 0 and at(0.1) == 0 and at(0.4) == pytest.approx(0.5)
    # At 0.75 both windows count alike, each half of the way from its middle to its end.
    assert at(0.75) == pytest.approx((1 + 10.25) / 2)
    assert at(0.9) == pytest.approx((0.2 * 1 + 0.8 * 10.5) / 1.0)
    assert at(1.4) == 11 and at(1.6) is None and at(-0.1) is None


def test_a_film_shows_the_crop_and_the_map_where_they_are(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    coarse = draw.integers(60, 200, (6, 8, 3), np.uint8).repeat(20, 0).repeat(20, 1)
    video = write_video(tmp_path / "a.mp4", np.stack([np.roll(coarse, 2 * n, 1) for n in range(12)]))
    options = PredictionOptions(margin=1.0)
    grid = np.zeros((2, 4, 4), np.float32)
    grid[:, 1, 3] = 1.0
    course = FaceCourse(1, [Moment(window(0, 0.0, 1.0), np.array([0.0, 0.1, 0.2, 0.3]), {"x": grid}, np.ones(3) / 3)])
    # The face is away in three frames.
    places = [number for number in range(12) if number not in (5, 6, 7)]
    course.boxes = {number: (20.0 + 2 * number, 30.0, 80.0, 80.0) for number in places}
    model = classifier()
    with open_video(video) as reader:
        times = reader.times
        source = reader.read(list(range(12)))
    film_attention(
        course, video, tmp_path / "out.mp4", times=times, model=model_input(model), options=options,
        panels=[("x", FilmPanel("map", Scale(0, 1)))], classes=CLASSES,
    )  # fmt: skip
    with open_video(tmp_path / "out.mp4") as film:
        assert len(film) == 9
        np.testing.assert_allclose(film.times, times[places], atol=1e-3)
        pictures = film.read(list(range(9)))
    side, gap, head = 320, 12, 39
    for place in (0, 6):
        face = pictures[place, head : head + side, gap : gap + side].astype(int)
        number = places[place]
        expected = crop_square(source[number], np.array(course.boxes[number]), side, 1.0)
        assert np.abs(face - expected).mean() < 6
        painted = pictures[place, head : head + side, 2 * gap + side : 2 * (gap + side)].astype(int)
        # The colour of the scale's end is yellow: red and green, no blue.
        yellow = painted[..., :2].min(-1) - painted[..., 2]
        y, x = np.unravel_index(int(yellow.argmax()), yellow.shape)
        assert 70 < y < 170 and x > 230 and yellow[200:, :150].max() < 60 < yellow.max() - 40


def test_a_tokens_value_is_in_the_middle_of_its_cube() -> None:
    grid = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    # Cubes of odd sides have a pixel in their middle.
    smooth = to_pixels(grid, (6, 9, 20))
    np.testing.assert_allclose(smooth[1::3, 1::3, 2::5], grid, atol=1e-5)
    np.testing.assert_allclose([smooth[1, 1, 4], smooth[1, 1, 0]], [0.4, 0], atol=1e-5)
    squares = to_pixels(grid, (6, 9, 20), smooth=False)
    np.testing.assert_array_equal(squares, grid.repeat(3, 0).repeat(3, 1).repeat(5, 2))


def test_colours_say_what_values_are() -> None:
    frames = np.full((1, 2, 3, 3), 128, np.uint8)
    values = np.array([[[0.0, 0.5, 1.0], [2.0, -1.0, 0.25]]])
    found = paint(frames, values, Scale(0, 1)).astype(int)
    # Grey where nothing is, the scale's colour where most is, and beyond the scale the colours of its ends.
    assert np.abs(found[0, 0, 2] - colour_table("inferno")[-1]).max() < 32
    assert (found[0, 0, 2] == found[0, 1, 0]).all() and (found[0, 0, 0] == found[0, 1, 1]).all()
    signed = paint(frames, np.array([[[-1.0, 0.0, 1.0]] * 2]), signed_scale(np.array([-1.0, 0.5]), "")).astype(int)
    assert signed[0, 0, 0, 2] > signed[0, 0, 0, 0] + 40 and signed[0, 0, 2, 0] > signed[0, 0, 2, 2] + 40
    assert np.ptp(signed[0, 0, 1]) < 12


def test_what_a_model_cannot_give_is_told() -> None:
    model, pre = classifier(), autoencoder()
    extractor = LGIFormer(small(num_classes=0))
    assert parts_of(model, Explaining()) == ("attention", "evidence")
    assert parts_of(pre, Explaining()) == ("attention", "reconstruction") and parts_of(extractor, Explaining()) == (
        "attention",
    )
    assert explaining_options(model).hop == 4 * 2 / 25 / 2
    for wrong, of, message in (
        (Explaining(what=("reconstruction",)), model, "no decoder: there is no reconstruction of it, only attention"),
        (Explaining(what=("evidence",)), pre, "pre-training: there is no evidence of it"),
        (Explaining(what=("evidence",)), extractor, "feature extractor.*no evidence"),
        (Explaining(what=("glance",)), model, "unknown explanation 'glance'"),
        (Explaining(blocks=(7,)), model, "block 7 is out of range: the encoder has blocks 1 to 2"),
        (Explaining(head=2), model, "head 2 is out of range"),
        (Explaining(target="merry"), model, "unknown class 'merry'"),
        (Explaining(target="0"), pre, "class is for the evidence"),
        (Explaining(what=("evidence",), blocks=(1,)), model, "blocks is for the attention"),
        (Explaining(), LGIFormer(small(in_channels=1)), "takes 1 channels of"),
    ):
        with pytest.raises(InputError, match=message):
            parts_of(of, wrong)
