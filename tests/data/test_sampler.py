from __future__ import annotations

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


def test_sampler_errors() -> None:
    with pytest.raises(InputError, match=r"5 clips are fewer than one batch of 8 \(2 x 4\): lower train.batch_size"):
        EpochSampler(5, world=2, batch_size=4)
    with pytest.raises(InputError, match="rank 2 of 2"):
        EpochSampler(5, rank=2, world=2)
