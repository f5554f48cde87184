from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from maedfer.data.augment.mixup import Mixup, cut_box
from maedfer.errors import InputError


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
