"""Squares cut out of pictures, beside NumPy's own padding and Pillow's resizing."""

from __future__ import annotations

import numpy as np
import pytest

from maedfer.faces.crop import crop_square
from tests.data.media import difference, pictures

PICTURE = pictures(1, 60, 90)[0]


def padded(picture: np.ndarray, left: int, top: int, side: int, reach: int) -> np.ndarray:
    wide = np.pad(picture, ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    return wide[top + reach : top + reach + side, left + reach : left + reach + side]


@pytest.mark.parametrize(
    ("left", "top", "side"),
    [(20, 10, 30), (-10, -7, 30), (75, 45, 30), (-40, -40, 170), (-400, 20, 20), (300, -90, 33)],
)
def test_squares_are_those_of_a_reflected_picture(left: int, top: int, side: int) -> None:
    expected = padded(PICTURE, left, top, side, 500)
    assert np.array_equal(crop_square(PICTURE, np.array([left, top, side, side]), side, 1.0), expected)


def test_the_square_has_the_boxs_centre_and_its_longer_side_times_the_margin() -> None:
    # Centre (40, 30), side 1.5 * 20.
    crop = crop_square(PICTURE, np.array([36, 20, 8, 20], np.float32), 30, 1.5)
    assert np.array_equal(crop, PICTURE[15:45, 25:55])
    crop = crop_square(PICTURE, np.array([30.4, 20.4, 20, 8]), 30, 1.5)
    assert np.array_equal(crop, PICTURE[9:39, 25:55])


@pytest.mark.parametrize("size", [16, 45, 64])
def test_resizing_is_that_of_pillow(size: int) -> None:
    image = pytest.importorskip("PIL.Image")
    noise = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    crop = crop_square(noise, np.array([10, 5, 40, 40]), size, 1.0)
    expected = np.asarray(image.fromarray(noise[5:45, 10:50]).resize((size, size), image.Resampling.BILINEAR))
    assert crop.shape == (size, size, 3) and crop.flags.c_contiguous
    assert difference(crop, expected) < 0.5


@pytest.mark.parametrize(
    "box",
    [(-1e6, 3, 4, 4), (1e12, -1e12, 50, 20), (0, 0, 1e7, 1e7), (5, 5, 0, 0), (5, 5, -3, 2), (-500, -500, 1100, 1100)],
)
@pytest.mark.parametrize("shape", [(1, 1), (2, 5000), (5000, 2), (60, 90)])
def test_any_box_gives_a_square(box: tuple[float, ...], shape: tuple[int, int]) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)
    assert crop_square(picture, np.array(box), 24).shape == (24, 24, 3)


def test_what_is_no_box_or_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="four finite numbers"):
        crop_square(PICTURE, np.array([0, 0, np.nan, 5]), 8)
    with pytest.raises(ValueError, match=r"uint8 \[H, W, 3\], got float64 \[60, 90, 3\]"):
        crop_square(PICTURE / 255, np.array([0, 0, 5, 5]), 8)
