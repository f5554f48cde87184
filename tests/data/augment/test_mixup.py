from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from maedfer.data.augment.mixup import Mixup, cut_box
from maedfer.errors import InputError

LABELS = torch.arange(4)


def test_smoothing_alone() -> None:
    mix, targets = Mixup(0.0, 0.0, 0.1, 7).draw(LABELS, 16, 20)
    assert mix.tolist() == [1, 0, 0, 0, 0]
    assert torch.allclose(targets.sum(1), torch.ones(4))
    assert torch.allclose(targets[2, 2], torch.tensor(0.9 + 0.1 / 7)) and torch.allclose(
        targets[2, 0], torch.tensor(0.1 / 7)
    )
    assert Mixup(0.8, 1.0, 0.1, 7, prob=0.0).draw(LABELS, 16, 20)[0].tolist() == [1, 0, 0, 0, 0]


def test_mixup_blends_with_the_opposite_clip_by_one_ratio() -> None:
    mixer = Mixup(0.8, 0.0, 0.0, 7)
    ratios = []
    for _ in range(20):
        (ratio, *box), targets = mixer.draw(LABELS, 16, 20)
        assert box == [0, 0, 0, 0]
        assert torch.allclose(targets[0, 0], ratio) and torch.allclose(targets[0, 3], 1 - ratio)
        assert torch.allclose(targets[1, 2], targets[0, 3])
        ratios.append(float(ratio))
    assert len(set(ratios)) == 20 and all(0 <= ratio <= 1 for ratio in ratios)


def test_cutmix_takes_one_box_and_counts_its_area() -> None:
    mixer = Mixup(0.0, 1.0, 0.0, 7)
    for _ in range(20):
        (keep, top, bottom, left, right), targets = mixer.draw(LABELS, 16, 20)
        assert keep == 1 and 0 <= top <= bottom <= 16 and 0 <= left <= right <= 20
        assert torch.allclose(targets[0, 0], 1 - (bottom - top) * (right - left) / 320, atol=1e-6)
        assert torch.allclose(targets.sum(1), torch.ones(4))


def test_cut_box_is_clipped_and_its_ratio_corrected() -> None:
    assert cut_box(16, 20, 0.75, 0.5, 0.5) == (4, 12, 5, 15, 1 - 80 / 320)
    # Centre at the corner: a quarter of the box is inside.
    top, bottom, left, right, keep = cut_box(16, 20, 0.75, 0.0, 0.0)
    assert (top, bottom, left, right) == (0, 4, 0, 5) and keep == pytest.approx(1 - 20 / 320)
    assert cut_box(16, 20, 1.0, 0.3, 0.3)[4] == 1.0
    assert cut_box(16, 20, 0.0, 0.5, 0.5)[4] == 0.0


def test_both_kinds_are_used_in_turn() -> None:
    mixer = Mixup(0.8, 1.0, 0.0, 7, seed=1)
    assert 30 < sum(float(mixer.draw(LABELS, 16, 20)[0][0]) == 1 for _ in range(100)) < 70


def numpy_state() -> list[int]:
    state: Any = np.random.get_state()
    return state[1].tolist()


def test_mixup_is_resumable_and_leaves_other_generators_alone() -> None:
    mixer = Mixup(0.8, 1.0, 0.1, 7, seed=5)
    before = torch.get_rng_state(), numpy_state()
    mixer.draw(LABELS, 16, 20)
    state = mixer.state_dict()
    expected = [mixer.draw(LABELS, 16, 20) for _ in range(3)]
    assert torch.equal(before[0], torch.get_rng_state()) and before[1] == numpy_state()
    other = Mixup(0.8, 1.0, 0.1, 7, seed=99)
    other.load_state_dict(state)
    for one, two in expected:
        again = other.draw(LABELS, 16, 20)
        assert torch.equal(one, again[0]) and torch.equal(two, again[1])


def test_mixup_errors() -> None:
    with pytest.raises(InputError, match="must not be negative"):
        Mixup(-1.0, 0.0, 0.1, 7)
    with pytest.raises(InputError, match="smoothing"):
        Mixup(1.0, 0.0, 1.0, 7)
