from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from maedfer.data.augment.mixup import cut_box
from maedfer.data.augment.rand_augment import OPERATIONS, RandAugment, apply_operation, parse_randaugment
from maedfer.data.augment.transforms import (
    EvalTransform,
    Mixup,
    PretrainAugment,
    TrainAugment,
    erase_box,
    multiscale_boxes,
)
from maedfer.errors import InputError


def clip(frames: int = 4, height: int = 48, width: int = 64, seed: int = 0) -> torch.Tensor:
    """Smooth random pictures, all frames equal: what is done alike to all frames keeps them equal."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(1, 3, 6, 8, generator=generator)
    picture = torch.nn.functional.interpolate(small, (height, width), mode="bilinear")
    return (picture * 255).to(torch.uint8).repeat(frames, 1, 1, 1)


def frames_equal(frames: torch.Tensor) -> bool:
    return bool((frames == frames[:1]).all())


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


# RandAugment


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


def test_geometry_moves_the_right_way_by_the_right_amount() -> None:
    frames = torch.zeros(1, 3, 40, 40, dtype=torch.uint8)
    frames[..., 20, 20] = 255
    # 0.45 * 40 at magnitude 5 of 10: 9 pixels.
    assert (apply_operation(frames, "translate_x", 5)[0, 0] == 255).nonzero().tolist() == [[20, 29]]
    assert (apply_operation(frames, "translate_y", 5, negative=True)[0, 0] == 255).nonzero().tolist() == [[11, 20]]
    border = apply_operation(frames, "translate_x", 5)[0, :, 0, 0].tolist()
    assert border == [124, 116, 104]
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


def test_how_often_operations_are_applied() -> None:
    torch.manual_seed(0)
    source = clip(1, 16, 16)
    unchanged = sum(torch.equal(RandAugment("rand-m7-n1-p0.25")(source), source) for _ in range(400))
    # Three quarters, and hardly any operation that leaves the picture as it is.
    assert 270 < unchanged < 340
    assert torch.equal(RandAugment("rand-m7-n3-p0")(source), source)


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
        out = erase_box(source)
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


# Mixup and CutMix


def batch(size: int = 4, classes: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.rand(size, 3, 2, 16, 20, generator=generator), torch.arange(size) % classes


def test_smoothing_alone() -> None:
    video, labels = batch()
    mixed, targets = Mixup(0.0, 0.0, 0.1, 7)(video, labels)
    assert torch.equal(mixed, video)
    assert torch.allclose(targets.sum(1), torch.ones(4))
    assert torch.allclose(targets[2, 2], torch.tensor(0.9 + 0.1 / 7)) and torch.allclose(
        targets[2, 0], torch.tensor(0.1 / 7)
    )
    assert torch.equal(Mixup(0.8, 1.0, 0.1, 7, prob=0.0)(video, labels)[0], video)


def test_mixup_blends_with_the_opposite_clip_by_one_ratio() -> None:
    video, labels = batch()
    kept = video.clone()
    mixer = Mixup(0.8, 0.0, 0.0, 7)
    ratios = []
    for _ in range(20):
        mixed, targets = mixer(video, labels)
        ratio = float(targets[0, 0])
        assert torch.allclose(mixed, ratio * video + (1 - ratio) * video.flip(0), atol=1e-6)
        assert torch.allclose(targets[0, 3], torch.tensor(1 - ratio)) and torch.allclose(targets[1, 2], targets[0, 3])
        ratios.append(ratio)
    assert len(set(ratios)) == 20
    assert torch.equal(video, kept)


def test_cutmix_takes_one_box_and_counts_its_area() -> None:
    video, labels = batch()
    mixer = Mixup(0.0, 1.0, 0.0, 7)
    for _ in range(20):
        mixed, targets = mixer(video, labels)
        from_other = (mixed == video.flip(0)).all(dim=1)
        from_own = (mixed == video).all(dim=1)
        assert (from_other | from_own).all()
        # The same pixels in every clip and frame.
        assert (from_other == from_other[:1, :1]).all()
        share = from_own[0, 0].float().mean()
        assert torch.allclose(targets[0, 0], share, atol=1e-6)
        assert torch.allclose(targets.sum(1), torch.ones(4))


def test_cut_box_is_clipped_and_its_ratio_corrected() -> None:
    assert cut_box(16, 20, 0.75, 0.5, 0.5) == (4, 12, 5, 15, 1 - 80 / 320)
    # Centre at the corner: a quarter of the box is inside.
    top, bottom, left, right, keep = cut_box(16, 20, 0.75, 0.0, 0.0)
    assert (top, bottom, left, right) == (0, 4, 0, 5) and keep == pytest.approx(1 - 20 / 320)
    assert cut_box(16, 20, 1.0, 0.3, 0.3)[4] == 1.0
    assert cut_box(16, 20, 0.0, 0.5, 0.5)[4] == 0.0


def test_both_kinds_are_used_in_turn() -> None:
    video, labels = batch()
    mixer = Mixup(0.8, 1.0, 0.0, 7, seed=1)
    boxes = 0
    for _ in range(100):
        mixed, _ = mixer(video, labels)
        boxes += bool(((mixed == video) | (mixed == video.flip(0))).all())
    assert 30 < boxes < 70


def numpy_state() -> list[int]:
    state: Any = np.random.get_state()
    return state[1].tolist()


def test_mixup_is_resumable_and_leaves_other_generators_alone() -> None:
    video, labels = batch()
    mixer = Mixup(0.8, 1.0, 0.1, 7, seed=5)
    before = torch.get_rng_state(), numpy_state()
    mixer(video, labels)
    state = mixer.state_dict()
    expected = [mixer(video, labels) for _ in range(3)]
    assert torch.equal(before[0], torch.get_rng_state()) and before[1] == numpy_state()
    other = Mixup(0.8, 1.0, 0.1, 7, seed=99)
    other.load_state_dict(state)
    for one, two in expected:
        again = other(video, labels)
        assert torch.equal(one, again[0]) and torch.equal(two, again[1])


def test_mixup_errors() -> None:
    with pytest.raises(InputError, match="must not be negative"):
        Mixup(-1.0, 0.0, 0.1, 7)
    with pytest.raises(InputError, match="smoothing"):
        Mixup(1.0, 0.0, 1.0, 7)
