"""Arithmetic of timings. No test looks at how long anything takes."""

from __future__ import annotations

import time

import pytest
import torch

from benchmarks.measure import (
    Clock,
    Spread,
    Timed,
    interleave,
    measure_floors,
    moved_bytes,
    peak_memory,
    percentile,
    spread,
)
from benchmarks.workload import Cost

CPU = torch.device("cpu")


def test_percentiles_lie_between_neighbours() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([1.0, 2.0], 0.2) == pytest.approx(1.2)
    assert percentile([7.0], 0.8) == 7.0
    found = spread([5.0, 1.0, 2.0, 3.0, 4.0])
    assert (found.ms, found.p20, found.p80, found.calls) == (3.0, pytest.approx(1.8), pytest.approx(4.2), 5)


def test_calls_take_turns_and_one_that_raises_stops_alone() -> None:
    order: list[str] = []

    def broken(_: object) -> None:
        order.append("broken")
        raise MemoryError("too much")

    calls = {"a": Timed(lambda _: order.append("a")), "broken": Timed(broken), "b": Timed(lambda _: order.append("b"))}
    found = interleave(calls, Clock(CPU), seconds=0.0)
    # One round to warm up and three to time.
    assert order == ["a", "broken", "b", "a", "b", "a", "b", "a", "b"]
    assert isinstance(found["broken"], MemoryError)
    assert isinstance(found["a"], Spread) and found["a"].calls == 3


def test_a_call_gets_what_was_prepared_and_stops_at_the_deadline() -> None:
    got: list[int] = []
    numbers = iter(range(100))
    calls = {"a": Timed(got.append, lambda: next(numbers))}
    interleave(calls, Clock(CPU), seconds=1e9, deadline=time.monotonic() - 1)
    assert got == [0, 1, 2, 3]


def test_the_floor_is_the_slower_of_bytes_and_operations() -> None:
    floors = {"copy_bytes_per_s": 1e12, "product_flops_per_s": 1e14}
    assert Cost(bytes=10**9, flops=10**9).floor_ms(floors) == pytest.approx(1.0)
    assert Cost(bytes=10**9, flops=10**12).floor_ms(floors) == pytest.approx(10.0)
    assert Cost(1, 2) + Cost(3, 4) == Cost(4, 6)


def test_floors_are_positive_and_memory_is_unknown_on_a_cpu() -> None:
    floors = measure_floors(Clock(CPU), torch.float32, seconds=0.0, small=True)
    assert floors["copy_bytes_per_s"] > 0 and floors["product_flops_per_s"] > 0
    assert peak_memory(Timed(lambda _: None), CPU) is None


def test_moved_bytes_are_those_of_inputs_and_outputs_and_not_of_views() -> None:
    x = torch.ones(10, 10)
    assert moved_bytes(Timed(lambda _: x.t()[2:].flatten(0, 0))) == 0
    assert moved_bytes(Timed(lambda _: x + x)) == 3 * 400
    assert moved_bytes(Timed(lambda made: made.mul_(2.0), lambda: x.clone())) == 2 * 400
    assert moved_bytes(Timed(lambda _: (x.t() @ x).sum())) == 3 * 400 + 404
