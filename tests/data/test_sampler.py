from __future__ import annotations

import itertools

import pytest

from maedfer.data.sampler import EpochSampler, SampleKey
from maedfer.errors import InputError


def keys(epoch: int = 0, start: int = 0, **settings: object) -> list[SampleKey]:
    sampler = EpochSampler(**settings)  # type: ignore[arg-type]
    sampler.set_epoch(epoch)
    sampler.start_batch = start
    out = list(sampler)
    assert len(out) == len(sampler)
    return out


@pytest.mark.parametrize("world", [2, 3, 4])
@pytest.mark.parametrize("drop_last", [True, False])
def test_processes_share_the_batches_of_one_process(world: int, drop_last: bool) -> None:
    for n in (24, 25, 31, 35):
        one = keys(2, n=n, seed=7, batch_size=3 * world, drop_last=drop_last)
        parts = [
            keys(2, n=n, seed=7, rank=rank, world=world, batch_size=3, drop_last=drop_last) for rank in range(world)
        ]
        whole = n // (3 * world)
        for batch in range(whole):
            mine = [key for part in parts for key in part[3 * batch : 3 * batch + 3]]
            assert mine == one[3 * world * batch : 3 * world * (batch + 1)]
        rest = [key for part in parts for key in part[3 * whole :]]
        assert rest == one[3 * world * whole :]
        assert len(one) == (whole * 3 * world if drop_last else n)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_every_epoch_has_its_own_order_and_seeds() -> None:
    first, second = keys(0, n=50, seed=1, batch_size=5), keys(1, n=50, seed=1, batch_size=5)
    assert sorted(key.index for key in first) == sorted(key.index for key in second) == list(range(50))
    assert [key.index for key in first] != [key.index for key in second]
    assert first == keys(0, n=50, seed=1, batch_size=5) != keys(0, n=50, seed=2, batch_size=5)
    seeds = {key.seed for epoch in range(20) for seed in range(5) for key in keys(epoch, n=50, seed=seed)}
    assert len(seeds) == 20 * 5 * 50 and max(seeds) < 2**63
    in_order = keys(3, n=7, shuffle=False, batch_size=2, drop_last=False)
    assert [key.index for key in in_order] == list(range(7))


def test_going_on_inside_an_epoch() -> None:
    for rank in range(2):
        settings = {"n": 33, "seed": 4, "rank": rank, "world": 2, "batch_size": 4}
        whole = keys(3, **settings)
        for start in range(5):
            assert keys(3, start, **settings) == whole[4 * start :]
    sampler = EpochSampler(33, batch_size=4)
    sampler.start_batch = 2
    sampler.set_epoch(1)
    assert sampler.start_batch == 0 and sampler.batches == 8


def test_the_order_of_a_seed_stays_what_it_is() -> None:
    # Runs of earlier versions go on in the midst of an epoch.
    order = keys(3, n=11, seed=5)
    assert [key.index for key in order] == [6, 8, 5, 3, 2, 4, 9, 7, 10, 0, 1]
    assert [key.seed for key in order[:2]] == [4032576983210384345, 235725461354084615]
    assert order == keys(3, n=11, seed=5, block=0, window=3)


@pytest.mark.parametrize(("n", "block", "window"), [(100, 8, 1), (101, 7, 4), (64, 1, 5), (30, 100, 2), (5, 3, 9)])
def test_blocks_of_neighbours_stay_within_their_window(n: int, block: int, window: int) -> None:
    orders = set()
    for epoch in range(8):
        order = [key.index for key in keys(epoch, n=n, seed=2, block=block, window=window)]
        assert sorted(order) == list(range(n))
        orders.add(tuple(order))
        # Every window holds whole blocks, as many as it may, and no other clips.
        left = set(range(-(-n // block)))
        while order:
            taken = list(dict.fromkeys(clip // block for clip in order))[:window]
            clips = {clip for number in taken for clip in range(number * block, min(n, (number + 1) * block))}
            assert set(order[: len(clips)]) == clips
            assert left.issuperset(taken)
            left -= set(taken)
            order = order[len(clips) :]
    assert len(orders) == 8


def test_blocks_are_shuffled_and_mixed() -> None:
    """Every clip comes first, last and in the middle equally often, and its neighbours are seldom beside it."""
    places, beside, epochs = [0] * 40, 0, 400
    for epoch in range(epochs):
        order = [key.index for key in keys(epoch, n=40, seed=9, block=5, window=3)]
        for place, clip in enumerate(order):
            places[clip] += place
        beside += sum(abs(a - b) == 1 for a, b in itertools.pairwise(order))
    means = [total / epochs for total in places]
    # Means of uniform places have a standard deviation of 40 / sqrt(12 * 400) = 0.58.
    assert all(abs(mean - 19.5) < 4 * 0.58 for mean in means)
    # Of 14 others in a window two at most are neighbours: 1.6 / 14 in the mean of 39 pairs, in place of all of them.
    assert beside / epochs < 8


def test_going_on_inside_an_epoch_of_blocks() -> None:
    settings = {"n": 70, "seed": 4, "block": 6, "window": 2}
    one = keys(1, batch_size=8, **settings)
    for start in range(8):
        parts = [keys(1, start, rank=rank, world=2, batch_size=4, **settings) for rank in range(2)]
        mine = [key for batch in range(8 - start) for part in parts for key in part[4 * batch : 4 * batch + 4]]
        assert mine == one[8 * start :]


def test_sampler_errors() -> None:
    with pytest.raises(InputError, match=r"5 clips are fewer than one batch of 8 \(2 x 4\): lower train.batch_size"):
        EpochSampler(5, world=2, batch_size=4)
    with pytest.raises(InputError, match="rank 2 of 2"):
        EpochSampler(5, rank=2, world=2)
    with pytest.raises(InputError, match="block -1"):
        EpochSampler(5, block=-1)
    with pytest.raises(InputError, match="window 0"):
        EpochSampler(5, block=2, window=0)
