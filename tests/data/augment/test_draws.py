"""What is drawn has the distributions that were published; numpy draws by the same rules on its own."""

from __future__ import annotations

import math
from collections import Counter
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch

from maedfer._programs import (
    BOX,
    EACH,
    ERASED,
    FIRST,
    MIRROR,
    NOISE,
    Operation,
    fitted,
    mix,
    noise_table,
)
from maedfer.data.augment.draws import PretrainDraws, TrainDraws, multiscale_boxes
from maedfer.data.augment.rand_augment import OPERATIONS, RandAugmentSettings, draw_operations
from maedfer.data.augment.transforms import TrainAugment, erase_box
from maedfer.kernels.augment import torch as plain
from tests.data.augment.helpers import clip

HEIGHT, WIDTH = 60, 80
MEAN, DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@pytest.fixture(scope="module")
def drawn() -> np.ndarray:
    """Programs of fine-tuning without RandAugment, all of them with an erased box."""
    torch.manual_seed(0)
    draw = TrainDraws((HEIGHT, WIDTH), "", (0.08, 1.0), (3 / 4, 4 / 3), 0.3, 1.0)
    return torch.stack([draw() for _ in range(4000)]).numpy()


def alike(one: np.ndarray, other: np.ndarray) -> bool:
    """Kolmogorov and Smirnov's test of two samples: their distributions are nowhere far apart (1 time in 1000)."""
    values = np.sort(np.concatenate([one, other]))
    shares = [np.searchsorted(np.sort(sample), values, side="right") / len(sample) for sample in (one, other)]
    return bool(np.abs(shares[0] - shares[1]).max() < 1.95 * math.sqrt(1 / len(one) + 1 / len(other)))


def as_often(counts: np.ndarray, shares: np.ndarray) -> bool:
    """Pearson's test: as often as the shares say (1 time in 1000, by Wilson and Hilferty)."""
    total, free = counts.sum(), (shares > 0).sum() - 1
    expected = (shares * total)[shares > 0]
    assert counts[shares == 0].sum() == 0 and expected.min() >= 5
    statistic = ((counts[shares > 0] - expected) ** 2 / expected).sum()
    return bool(statistic < free * (1 - 2 / (9 * free) + 3.09 * math.sqrt(2 / (9 * free))) ** 3)


# Operations


@pytest.mark.parametrize(
    ("interpolation", "moving"), [("bicubic", Operation.AFFINE_BICUBIC), ("bilinear", Operation.AFFINE)]
)
def test_operations_are_drawn_alike(interpolation: Any, moving: Operation) -> None:
    torch.manual_seed(0)
    steps = draw_operations(RandAugmentSettings(5.0, 6000, 1.5, True, 0.6, interpolation), HEIGHT, WIDTH)
    counts = Counter(int(step[0]) for step in steps)
    shares = {code: 0.6 / len(OPERATIONS) for code in Operation}
    # Turns, two shears and two shifts.
    shares |= {Operation.NONE: 0.4, Operation.AFFINE: 0.0, Operation.AFFINE_BICUBIC: 0.0}
    shares[moving] = 5 * 0.6 / len(OPERATIONS)
    assert as_often(np.array([counts[code] for code in Operation]), np.array([shares[code] for code in Operation]))


def test_strengths_are_drawn_around_the_magnitude() -> None:
    torch.manual_seed(1)
    steps = draw_operations(RandAugmentSettings(5.0, 20000, 2.0, True, 1.0), HEIGHT, WIDTH)
    by_factor = (Operation.COLOR, Operation.CONTRAST, Operation.BRIGHTNESS, Operation.SHARPNESS)
    factors = np.array([step[1] for step in steps if step[0] in by_factor])
    # A factor is 1 + or - 0.9 of the level.
    normal = np.clip(np.random.default_rng(0).normal(5.0, 2.0, 50000), 0, 10)
    assert alike(np.abs(factors - 1) / 0.09, normal)
    assert abs((factors > 1).mean() - 0.5) < 0.03
    thresholds = np.array([step[1] for step in steps if step[0] == Operation.SOLARIZE])
    assert alike(thresholds, 256.0 - np.floor(normal / 10 * 256))


def test_nothing_is_shifted_by_what_is_not_applied() -> None:
    kinds = []
    for probability in (1.0, 0.5):
        torch.manual_seed(3)
        kinds.append(draw_operations(RandAugmentSettings(7.0, 50, 0.5, True, probability), HEIGHT, WIDTH))
    always, sometimes = kinds
    assert 10 < sum(step[0] == Operation.NONE for step in sometimes) < 40
    assert all(other in (step, (Operation.NONE,)) for step, other in zip(always, sometimes, strict=True))


# Boxes


def resized_boxes(count: int) -> np.ndarray:
    """Boxes of a random resized crop: up to ten attempts, and the centre if none fits."""
    random = np.random.default_rng(0)
    boxes: list[tuple[int, ...]] = []
    while len(boxes) < count:
        for _ in range(10):
            area = HEIGHT * WIDTH * random.uniform(0.08, 1.0)
            ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
            width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if width <= WIDTH and height <= HEIGHT:
                top, left = random.integers(0, HEIGHT - height + 1), random.integers(0, WIDTH - width + 1)
                boxes.append((int(top), int(left), height, width))
                break
        else:
            boxes.append((0, 0, HEIGHT, WIDTH))
    return np.array(boxes, float)


def erased_boxes(count: int) -> np.ndarray:
    random = np.random.default_rng(1)
    boxes: list[tuple[int, ...]] = []
    while len(boxes) < count:
        area = HEIGHT * WIDTH * random.uniform(0.02, 1 / 3)
        aspect = math.exp(random.uniform(math.log(0.3), math.log(1 / 0.3)))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if height < HEIGHT and width < WIDTH:
            top, left = random.integers(0, HEIGHT - height + 1), random.integers(0, WIDTH - width + 1)
            boxes.append((int(top), int(left), height, width))
    return np.array(boxes, float)


@pytest.mark.parametrize(("columns", "rule"), [(BOX, resized_boxes), (ERASED, erased_boxes)])
def test_boxes_are_drawn_by_the_published_rules(drawn: np.ndarray, columns: slice, rule: Any) -> None:
    got, want = drawn[:, columns], rule(20000)
    for measure in (
        lambda box: box[:, 2] * box[:, 3],
        lambda box: box[:, 2] / box[:, 3],
        lambda box: box[:, 0],
        lambda box: box[:, 1],
        lambda box: box[:, 0] - box[:, 1],
    ):
        assert alike(measure(got), measure(want))


def test_mirror_images_erased_boxes_and_keys(drawn: np.ndarray) -> None:
    assert abs(drawn[:, MIRROR].mean() - 0.3) < 0.03
    # Nothing is drawn for a box that is not there.
    torch.manual_seed(0)
    draw = TrainDraws((HEIGHT, WIDTH), "rand-m7-n2-p0.5", (0.08, 1.0), (3 / 4, 4 / 3), 0.5, 0.25)
    programs = torch.stack([draw() for _ in range(1500)]).numpy()
    erased = programs[:, ERASED.start + 2] > 0
    assert abs(erased.mean() - 0.25) < 0.05
    assert not programs[~erased][:, [*range(ERASED.start, NOISE.stop)]].any()
    assert programs.shape == (1500, FIRST + 2 * EACH)
    keys = drawn[:, NOISE]
    assert keys.min() >= 0 and keys.max() < 2**32 and (keys == np.floor(keys)).all()
    assert len(np.unique(keys[:, 0])) == len(keys) and alike(keys[:, 0], np.linspace(0, 2**32, 20000))
    assert abs(np.corrcoef(keys.T)[0, 1]) < 4 / math.sqrt(len(keys))


def test_multiscale_boxes_are_drawn_alike() -> None:
    torch.manual_seed(0)
    scales = (1.0, 0.875, 0.75, 0.66)
    draw, boxes = PretrainDraws(scales), multiscale_boxes(160, 200, scales)
    counts = Counter(tuple(map(int, draw(160, 200)[BOX].tolist())) for _ in range(4000))
    shares = Counter(boxes)
    assert set(counts) <= set(shares)
    as_counts, as_shares = (np.array([source[box] for box in shares], float) for source in (counts, shares))
    assert as_often(as_counts, as_shares / len(boxes))


def test_a_program_is_that_of_the_seed() -> None:
    transform, programs = TrainAugment(32), []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        programs.append(transform.draw())
    assert torch.equal(programs[0], programs[1]) and not torch.equal(programs[0], programs[2])
    # To draw and then to follow is what the transform does.
    torch.manual_seed(5)
    assert torch.equal(transform(clip()), transform.follow(transform.fit(clip()), programs[0]))


# Noise


def test_noise_is_normal_rounded_and_cut_off() -> None:
    frames = torch.zeros(16, 3, 100, 120, dtype=torch.uint8)
    noise = erase_box(frames, (0, 0, 100, 120), (2**32 - 1, 12345)).numpy()
    for channel, (mean, deviation) in enumerate(zip(MEAN, DEVIATION, strict=True)):
        below = [0.0, *(NormalDist(mean, deviation).cdf(level + 0.5) for level in range(255)), 1.0]
        assert as_often(np.bincount(noise[:, channel].ravel(), minlength=256), np.diff(below))
        shares = np.bincount(noise_table()[channel], minlength=256) / 65536
        assert np.abs(shares - np.diff(below)).max() <= 1 / 65536


def test_noise_is_new_at_every_place_and_of_every_key() -> None:
    size, keys = (8, 3, 64, 64), [(0, 0), (1, 0), (0, 1), (2**31, 7), (7, 2**31)]
    noise = [erase_box(torch.zeros(size, dtype=torch.uint8), (0, 0, 64, 64), key).double().numpy() for key in keys]

    def related(one: np.ndarray, other: np.ndarray) -> float:
        return abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) * math.sqrt(one.size)

    noise = [one - one.mean((0, 2, 3), keepdims=True) for one in noise]
    first = noise[0]
    # Neighbours in every direction, rows further on, frames and channels.
    for axis in range(4):
        for step in (1, 2, 4, 16):
            if step < first.shape[axis]:
                parts = [np.moveaxis(first, axis, 0)[part] for part in (slice(step, None), slice(None, -step))]
                assert related(*parts) < 4.5, (axis, step)
    for i, one in enumerate(noise):
        for other in noise[i + 1 :]:
            assert related(one, other) < 4.5


@pytest.mark.parametrize("size", [(3, 3, 20, 30), (1, 3, 1, 1), (40, 3, 7, 5)], ids=str)
def test_noise_is_the_same_on_a_device(size: tuple[int, int, int, int]) -> None:
    height, width = size[2:]
    box, key = (height // 3, width // 4, height - height // 3, width - width // 4), (2**32 - 1, 2**31 + 5)
    frames = torch.full(size, 9, dtype=torch.uint8)
    want = erase_box(frames, box, key)
    got = frames.transpose(0, 1).clone()
    plain.erase(got, box, key)
    assert torch.equal(got.transpose(0, 1), want) and not torch.equal(want, frames)


def test_numbers_are_scrambled_as_published() -> None:
    """By whole numbers of Python, and with no two alike among many."""

    def published(x: int) -> int:
        x = (x ^ x >> 16) * 0x7FEB352D % 2**32
        x = (x ^ x >> 15) * 0x846CA68B % 2**32
        return x ^ x >> 16

    numbers = [0, 1, 2, 2**16, 2**31, 2**32 - 1, 123456789]
    want = [published(x) for x in numbers]
    assert mix(np.array(numbers, np.uint32)).tolist() == want
    assert plain.mix(torch.tensor(numbers)).tolist() == want
    assert len(np.unique(mix(np.arange(100000, dtype=np.uint32)))) == 100000


def test_fitting() -> None:
    assert fitted((90, 160), (160, 160), "stretch") == ((160, 160), (0, 0))
    assert fitted((90, 160), (160, 160), "crop") == ((160, 284), (0, 62))
    assert fitted((200, 100), (50, 40), "crop") == ((80, 40), (15, 0))
