"""Which passes are captured and replayed; a stand-in for CUDA's graphs notes what is run while it captures."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from maedfer.evaluation.replay import Passes


class Graph:
    """Replaying runs what was captured, and writes the results where they were."""

    current: Graph | None = None
    work: Callable[[], None]

    def replay(self) -> None:
        self.work()


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    notes: list[str] = []

    @contextlib.contextmanager
    def graph(made: Graph, pool: Any, capture_error_mode: str) -> Iterator[None]:
        assert (pool, capture_error_mode) == ("pool", "thread_local")
        notes.append("capture")
        Graph.current = made
        yield
        Graph.current = None

    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "pool")
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    return notes


def doubling(notes: list[str]) -> Callable[[Tensor], tuple[Tensor, None]]:
    def run(frames: Tensor) -> tuple[Tensor, None]:
        out = 2.0 * frames
        if Graph.current is None:
            notes.append("eager")
        else:

            def again() -> None:
                notes.append("replay")
                torch.mul(frames, 2.0, out=out)

            Graph.current.work = again
        return out, None

    return run


def test_a_size_that_comes_again_is_replayed_and_odd_ones_are_not(noted: list[str]) -> None:
    passes = Passes(doubling(noted), "cpu", replay=True)
    batches = [torch.randn(size, 3) for size in (4, 4, 4, 1, 4)]
    found = [passes(batch) for batch in batches]
    assert noted == ["eager", "capture", "replay", "replay", "eager", "replay"]
    for (out, none), batch in zip(found, batches, strict=True):
        # It was not written over by a later one.
        assert out is not None and torch.equal(out, 2.0 * batch) and none is None


def test_few_sizes_are_captured(noted: list[str]) -> None:
    passes = Passes(doubling(noted), "cpu", replay=True)
    for size in (1, 2, 3, 4, 5, 6):
        for _ in range(2):
            passes(torch.randn(size))
    assert noted.count("capture") == 4


def test_passes_run_as_they_are_where_nothing_is_replayed(noted: list[str]) -> None:
    passes = Passes(doubling(noted), "cpu")
    for _ in range(3):
        passes(torch.ones(2))
    assert noted == ["eager"] * 3
