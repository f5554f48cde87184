from __future__ import annotations

import numpy as np
import pytest
import torch

from maedfer.data.sampling import pretrain_indices, train_indices, view_indices
from maedfer.errors import InputError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (1, [0] * 16),
        (3, [2] * 16),
        # 5 // 4 = 1 position of linspace(0, 5), then the last frame.
        (5, [0] + [4] * 15),
        # linspace(0, 8, 2) = 0, 8; held inside the clip.
        (8, [0, 7] + [7] * 14),
        # linspace(0, 20, 5) = 0, 5, 10, 15, 20.
        (20, [0, 5, 10, 15, 19] + [19] * 11),
        # Exactly 16 * 4: linspace(0, 64, 16), steps of 64 / 15, floored.
        (64, [0, 4, 8, 12, 17, 21, 25, 29, 34, 38, 42, 46, 51, 55, 59, 63]),
    ],
)
def test_train_of_short_clips(n: int, expected: list[int]) -> None:
    assert train_indices(n, 16, 4, generator()).tolist() == expected


def test_train_of_the_shortest_long_clip_has_one_stretch() -> None:
    # n = 65: the end can only be 64, the start 0.
    expected = [0, 4, 8, 12, 17, 21, 25, 29, 34, 38, 42, 46, 51, 55, 59, 63]
    assert all(train_indices(65, 16, 4, generator(seed)).tolist() == expected for seed in range(5))


def test_train_of_long_clips_draws_every_end() -> None:
    seen = set()
    for seed in range(200):
        positions = train_indices(70, 16, 4, generator(seed))
        start = int(positions[0])
        assert positions[-1] == start + 63
        assert (positions == np.minimum(np.floor(np.linspace(start, start + 64, 16)), start + 63)).all()
        seen.add(start)
    assert seen == set(range(6))


def test_train_stride_one() -> None:
    # linspace(0, 16, 16) has steps of 16 / 15: floored, the positions 0..15.
    assert train_indices(16, 16, 1, generator()).tolist() == list(range(16))
    assert train_indices(10, 16, 1, generator()).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9] + [9] * 6


@pytest.mark.parametrize(
    ("n", "stride", "expected"),
    [
        (1, 4, [0] * 16),
        (4, 4, [0] * 16),
        # Position 4 would be the last frame, which is left out.
        (5, 4, [0] * 16),
        (6, 4, [0] + [4] * 15),
        (10, 4, [0, 4] + [8] * 14),
        (61, 4, [*range(0, 57, 4), 56]),
        (62, 4, list(range(0, 61, 4))),
        (64, 4, list(range(0, 61, 4))),
        (9, 1, [0, 1, 2, 3, 4, 5, 6] + [7] * 9),
    ],
)
def test_pretrain_of_short_clips(n: int, stride: int, expected: list[int]) -> None:
    assert pretrain_indices(n, 16, stride, generator(3)).tolist() == expected


def test_pretrain_draws_every_start_that_leaves_a_whole_sample() -> None:
    seen = set()
    for seed in range(200):
        positions = pretrain_indices(70, 16, 4, generator(seed))
        assert (np.diff(positions) == 4).all()
        seen.add(int(positions[0]))
    assert seen == set(range(7))


@pytest.mark.parametrize(("frames", "stride"), [(16, 4), (4, 3), (16, 1)])
def test_pretrain_holds_frames_as_the_published_loader_counts_them(frames: int, stride: int) -> None:
    for n in range(1, 2 * frames * stride):
        for seed in range(3):
            positions = pretrain_indices(n, frames, stride, generator(seed))
            # Frames are counted from 1, and a step is taken where the frame after it is inside of the clip still.
            number, expected = int(positions[0]) + 1, []
            for _ in range(frames):
                expected.append(number - 1)
                if number + stride < n:
                    number += stride
            assert positions.tolist() == expected


@pytest.mark.parametrize(
    ("n", "stride", "views", "expected"),
    [
        (1, 4, 2, [[0] * 4, [0] * 4]),
        # Positions 0, 4; two frames short.
        (7, 4, 2, [[0, 4, 4, 4], [0, 4, 4, 4]]),
        (13, 4, 2, [[0, 4, 8, 12], [0, 4, 8, 12]]),
        # Seven positions, three spare: views at 0, int(1.5) = 1, 3.
        (28, 4, 3, [[0, 4, 8, 12], [4, 8, 12, 16], [12, 16, 20, 24]]),
        (28, 4, 2, [[0, 4, 8, 12], [12, 16, 20, 24]]),
        (28, 4, 1, [[4, 8, 12, 16]]),
        (6, 1, 2, [[0, 1, 2, 3], [2, 3, 4, 5]]),
    ],
)
def test_views(n: int, stride: int, views: int, expected: list[list[int]]) -> None:
    assert [view.tolist() for view in view_indices(n, 4, stride, views)] == expected


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 63, 64, 65, 127, 500])
@pytest.mark.parametrize("stride", [1, 2, 4, 7])
def test_always_inside_rising_and_of_the_right_length(n: int, stride: int) -> None:
    samples = view_indices(n, 16, stride, 3)
    for seed in range(5):
        samples += [train_indices(n, 16, stride, generator(seed)), pretrain_indices(n, 16, stride, generator(seed))]
    for positions in samples:
        assert positions.shape == (16,) and positions.dtype == np.int64
        assert positions.min() >= 0 and positions.max() < n and (np.diff(positions) >= 0).all()


def test_generator_decides() -> None:
    for rule in (train_indices, pretrain_indices):
        assert (rule(500, 16, 4, generator(1)) == rule(500, 16, 4, generator(1))).all()
        torch.manual_seed(5)
        before = torch.get_rng_state()
        rule(500, 16, 4, generator(1))
        assert torch.equal(before, torch.get_rng_state())


def test_nonsense_is_refused() -> None:
    with pytest.raises(InputError, match="must be at least 1"):
        train_indices(0, 16, 4)
    with pytest.raises(InputError, match="must be at least 1"):
        pretrain_indices(5, 16, 0)
    with pytest.raises(InputError, match="views must be at least 1"):
        view_indices(5, 16, 4, 0)
