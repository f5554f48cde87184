from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from maedfer.data.augment import rand_augment
from maedfer.data.augment.rand_augment import OPERATIONS, RandAugment, apply_operation, parse_randaugment
from maedfer.errors import InputError
from tests.data.augment.helpers import clip, frames_equal


def test_notation() -> None:
    settings = parse_randaugment("rand-m7-n4-mstd0.5-inc1")
    assert (settings.magnitude, settings.operations, settings.deviation) == (7.0, 4, 0.5)
    assert settings.increasing and settings.probability == 0.5
    settings = parse_randaugment("rand-m9-p0.25")
    assert (settings.operations, settings.deviation, settings.increasing, settings.probability) == (2, 0, False, 0.25)


@pytest.mark.parametrize("text", ["", "rand-m11", "augmix-m3", "rand-m7-x2", "rand-m7_n4", "rand-mstd", "rand-p2"])
def test_wrong_notation_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="not understood"):
        parse_randaugment(text)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("increasing", [True, False])
def test_operations_keep_shape_and_frames_alike(name: str, increasing: bool) -> None:
    for magnitude in (0.0, 5.5, 10.0):
        out = apply_operation(clip(), name, magnitude, increasing)
        assert out.dtype == torch.uint8 and out.shape == clip().shape and frames_equal(out)


def value(name: str, number: int, magnitude: float, negative: bool = False, increasing: bool = True) -> int:
    frames = torch.full((1, 3, 4, 4), number, dtype=torch.uint8)
    return int(apply_operation(frames, name, magnitude, increasing, negative)[0, 0, 1, 1])


def test_strengths_worked_by_hand() -> None:
    assert value("invert", 200, 3) == 55
    # 4 - int(2.8) = 2 bits stay.
    assert value("posterize", 0b10110111, 7) == 0b10000000
    assert value("posterize", 0b10110111, 0) == 0b10110000
    assert value("posterize", 255, 10) == 0
    assert value("posterize", 0b11110111, 7, increasing=False) == 0b11000000
    # Threshold 256 - int(179.2) = 77.
    assert (value("solarize", 76, 7), value("solarize", 77, 7)) == (76, 178)
    assert value("solarize", 255, 0) == 255
    # int(77) is added below 128.
    assert (value("solarize_add", 127, 7), value("solarize_add", 128, 7)) == (204, 128)
    assert value("solarize_add", 127, 10) == 237
    # Factors 1.63 and 0.37; 0.1 at least.
    assert value("brightness", 100, 7) == 163
    assert value("brightness", 100, 7, negative=True) == 37
    assert value("brightness", 100, 10, negative=True) == 10
    assert value("brightness", 100, 5, increasing=False) == 100
    for name in ("color", "contrast", "sharpness", "rotate", "shear_x", "shear_y", "translate_x", "translate_y"):
        assert torch.equal(apply_operation(clip(), name, 0.0), clip()), name


@pytest.mark.parametrize(("interpolation", "outside"), [("bicubic", [128] * 3), ("bilinear", [124, 116, 104])])
def test_geometry_moves_the_right_way_by_the_right_amount(interpolation: Any, outside: list[int]) -> None:
    def apply_operation(frames: Tensor, name: str, magnitude: float, negative: bool = False) -> Tensor:
        return rand_augment.apply_operation(frames, name, magnitude, negative=negative, interpolation=interpolation)

    frames = torch.zeros(1, 3, 40, 40, dtype=torch.uint8)
    frames[..., 20, 20] = 255
    # 0.45 * 40 at magnitude 5 of 10: 9 pixels.
    assert (apply_operation(frames, "translate_x", 5)[0, 0] == 255).nonzero().tolist() == [[20, 29]]
    assert (apply_operation(frames, "translate_y", 5, negative=True)[0, 0] == 255).nonzero().tolist() == [[11, 20]]
    border = apply_operation(frames, "translate_x", 5)[0, :, 0, 0].tolist()
    assert border == outside
    # Shears hold the upper left corner: 0.3 * 30 = 9 pixels 30 rows (or columns) away from it.
    frames = torch.zeros(1, 3, 40, 40, dtype=torch.uint8)
    frames[..., 30, 30] = 255
    for name, negative, place in (
        ("shear_x", False, [30, 21]),
        ("shear_x", True, [30, 39]),
        ("shear_y", False, [21, 30]),
        ("shear_y", True, [39, 30]),
    ):
        assert (apply_operation(frames, name, 10, negative=negative)[0, 0] > 180).nonzero().tolist() == [place]
    picture = clip(1, 40, 40)
    # A full turn of 30 degrees and back leaves the middle as it was.
    back = apply_operation(apply_operation(picture, "rotate", 10), "rotate", 10, negative=True)
    assert (back.int() - picture.int())[..., 14:26, 14:26].abs().float().mean() < 4


def test_shifts_are_by_parts_of_a_pixel_where_they_are_bicubic() -> None:
    frames = torch.zeros(1, 3, 1, 40, dtype=torch.uint8)
    frames[..., 10] = 200
    # 0.45 * 40 * 0.25 = 4.5 pixels; halfway from one pixel to the next, each has a weight of 5/8, those beyond -1/8.
    moved = apply_operation(frames, "translate_x", 2.5)[0, 0, 0]
    assert moved[:5].tolist() == [128, 128, 128, 128, 0]
    assert moved[13:17].tolist() == [0, 125, 125, 0] and not moved[5:13].any()
    whole = apply_operation(frames, "translate_x", 2.5, interpolation="bilinear")[0, 0, 0]
    assert whole[12:17].tolist() == [0, 0, 200, 0, 0]


def test_unknown_interpolation_is_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'bicubic'"):
        RandAugment("rand-m7", interpolation="bicubik")  # type: ignore[arg-type]


def test_how_often_operations_are_applied() -> None:
    torch.manual_seed(0)
    source = clip(1, 16, 16)
    unchanged = sum(torch.equal(RandAugment("rand-m7-n1-p0.25")(source), source) for _ in range(400))
    # Three quarters, and hardly any operation that leaves the picture as it is.
    assert 270 < unchanged < 340
    assert torch.equal(RandAugment("rand-m7-n3-p0")(source), source)
