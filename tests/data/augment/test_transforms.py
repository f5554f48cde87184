from __future__ import annotations

from typing import Any

import pytest
import torch

from maedfer.data.augment.draws import draw_erased_box, multiscale_boxes
from maedfer.data.augment.transforms import EvalTransform, PretrainAugment, TrainAugment, erase_box
from maedfer.errors import InputError
from tests.data.augment.helpers import clip, frames_equal


@pytest.mark.parametrize("size", [32, (24, 40)])
@pytest.mark.parametrize("make", [TrainAugment, PretrainAugment, EvalTransform])
def test_shape_and_type(make, size) -> None:
    for seed in range(5):
        torch.manual_seed(seed)
        out = make(size)(clip())
        assert out.dtype == torch.uint8
        assert out.shape == (4, 3, *((size, size) if isinstance(size, int) else size))


@pytest.mark.parametrize("transform", [TrainAugment(32, erase=0), PretrainAugment(32)], ids=["train", "pretrain"])
def test_all_frames_are_changed_alike_and_the_seed_decides(transform) -> None:
    results = []
    for seed in range(12):
        torch.manual_seed(seed)
        first = transform(clip())
        torch.manual_seed(seed)
        assert torch.equal(first, transform(clip()))
        assert frames_equal(first)
        results.append(first)
    assert sum(torch.equal(results[0], other) for other in results) < 4


def test_input_is_not_changed_in_place() -> None:
    source = clip()
    for transform in (TrainAugment(48, erase=1.0), PretrainAugment(48), EvalTransform((48, 64))):
        for _ in range(5):
            transform(source)
    assert torch.equal(source, clip())


# Crops


def test_multiscale_boxes_of_the_published_setting() -> None:
    boxes = multiscale_boxes(160, 160, (1, 0.875, 0.75, 0.66))
    sizes = {(height, width) for _, _, height, width in boxes}
    # Sides 160, 140, 120, 105: ten pairs at most one step apart, 13 places each.
    assert len(boxes) == 10 * 13
    assert sizes == {
        (160, 160), (160, 140), (140, 160), (140, 140), (140, 120), (120, 140), (120, 120), (120, 105), (105, 120),
        (105, 105),
    }  # fmt: skip
    places = sorted((top, left) for top, left, height, width in boxes if (height, width) == (120, 120))
    corners = [(0, 0), (0, 40), (40, 0), (40, 40)]
    edges = [(0, 20), (20, 0), (20, 40), (40, 20)]
    quarters = [(10, 10), (10, 30), (30, 10), (30, 30)]
    assert places == sorted([*corners, *edges, *quarters, (20, 20)])


def test_multiscale_boxes_stay_inside() -> None:
    for height, width in ((1, 1), (5, 300), (201, 99)):
        for top, left, rows, columns in multiscale_boxes(height, width, (1, 0.875, 0.75, 0.66)):
            assert top >= 0 and left >= 0 and rows >= 1 and columns >= 1
            assert top + rows <= height and left + columns <= width


def test_pretrain_crop_comes_first() -> None:
    frames = torch.zeros(2, 3, 224, 224, dtype=torch.uint8)
    frames[..., 0:160, 32:192] = 200
    for seed in range(5):
        torch.manual_seed(seed)
        assert (PretrainAugment(160, crop=(0, 32, 160, 160))(frames) == 200).all()
    torch.manual_seed(0)
    whole = PretrainAugment(224, scales=(1.0,))(frames)
    assert torch.equal(whole, frames)


def test_pretrain_errors() -> None:
    with pytest.raises(InputError, match=r"crop 0,32,160,160 .* does not fit into frames of 48x64"):
        PretrainAugment(160, crop=(0, 32, 160, 160))(clip())
    with pytest.raises(InputError, match="crop must be"):
        PretrainAugment(160, crop=(0, 0, 0, 5))
    with pytest.raises(InputError, match="scales"):
        PretrainAugment(160, scales=(1.0, 1.5))


def test_evaluation_fits() -> None:
    ramp = torch.arange(64).mul(4).to(torch.uint8).expand(2, 3, 32, 64)
    stretched = EvalTransform(32)(ramp)
    assert stretched[0, 0, 0, 0] < 8 and stretched[0, 0, 0, -1] > 244
    cropped = EvalTransform(32, fit="crop")(ramp)
    assert torch.equal(cropped, ramp[..., 16:48])
    # Odd sizes and enlargement.
    assert EvalTransform(50, fit="crop")(clip(2, 33, 47)).shape == (2, 3, 50, 50)
    assert EvalTransform((30, 50), fit="crop")(clip(2, 90, 91)).shape == (2, 3, 30, 50)
    with pytest.raises(InputError, match="did you mean 'crop'"):
        EvalTransform(32, fit="corp")  # type: ignore[arg-type]


def test_flip_mirrors_about_half_of_the_clips() -> None:
    torch.manual_seed(0)
    source = clip(1, 32, 32)
    options: dict[str, Any] = {"randaugment": "", "scale": (1.0, 1.0), "ratio": (1.0, 1.0), "erase": 0.0}
    transform = TrainAugment(32, flip=0.5, **options)
    outs = [transform(source) for _ in range(100)]
    flipped = sum(torch.equal(out, source.flip(-1)) for out in outs)
    assert 30 < flipped < 70
    assert flipped + sum(torch.equal(out, source) for out in outs) == 100
    assert torch.equal(TrainAugment(32, flip=0.0, **options)(source), source)


def test_resized_crop_keeps_the_range_of_areas() -> None:
    """A step in brightness at the middle comes nearer the border the less of the picture is kept."""
    torch.manual_seed(0)
    transform = TrainAugment(64, randaugment="", scale=(0.25, 0.25), ratio=(1.0, 1.0), flip=0, erase=0)
    ramp = torch.arange(64).mul(4).to(torch.uint8).expand(1, 3, 64, 64)
    for _ in range(20):
        out = transform(ramp)[0, 0, 0].int()
        # Half of the side is kept: half of the ramp.
        assert abs(int(out[-1] - out[0]) - 126) <= 6


def test_erasing() -> None:
    torch.manual_seed(0)
    source = torch.full((3, 3, 60, 60), 10, dtype=torch.uint8)
    areas, pixels = [], []
    for _ in range(60):
        out = erase_box(source, draw_erased_box(60, 60), torch.randint(2**32, (2,)).tolist())
        changed = out != source
        # One box, the same in every frame (a few pixels of noise may hit the old value).
        hit = changed.any(dim=(0, 1))
        rows, columns = hit.any(1).nonzero().flatten(), hit.any(0).nonzero().flatten()
        height, width = int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1
        assert int(hit.sum()) == height * width
        box = changed[..., rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert box.float().mean() > 0.9
        areas.append(height * width / 3600)
        pixels.append(out[changed].float())
    assert min(areas) > 0.015 and max(areas) < 0.36 and max(areas) - min(areas) > 0.2
    # Normal noise around ImageNet's mean, cut off at 0 and 255.
    noise = torch.cat(pixels)
    assert 110 < noise.mean() < 122 and 50 < noise.std() < 58
    transform = TrainAugment(60, randaugment="", scale=(1, 1), ratio=(1, 1), flip=0, erase=0.25)
    erased = sum(not torch.equal(transform(source), source) for _ in range(200))
    assert 30 < erased < 75
