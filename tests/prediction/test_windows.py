"""Windows and their frames against the plainest computation that there is."""

from __future__ import annotations

import math

import numpy as np
import pytest

from maedfer.errors import InputError
from maedfer.prediction.windows import Grid, last_duration, shown_frames, window_count, window_seconds

RATES = {
    "25": np.arange(200) / 25,
    "30000/1001": np.arange(250) * 1001 / 30000,
    "12.5, every other tie": np.arange(120) / 12.5,
    "60": np.arange(400) / 60,
    "5": np.arange(50) / 5,
    "variable": np.cumsum(np.random.default_rng(3).uniform(0.005, 0.12, 150)),
    "a pause": np.concatenate([np.arange(60) / 25, 6 + np.arange(60) / 25]),
    "a late start": 3.48 + np.arange(100) / 24,
    "short": np.arange(30) / 25,
    "three": np.array([0.0, 0.04, 0.08]),
    "one": np.array([1.5]),
    "half a frame a second": np.arange(12) * 2.0,
    "twice the same time": np.array([0.0, 0.04, 0.04, 0.08] + [0.12 + 0.04 * n for n in range(100)]),
}


def brute_force(
    times: np.ndarray, end: float, window: float, hop: float, frames: int
) -> tuple[list[list[int]], list[float]]:
    """For each window its frames: for each sample the first frame that is nearest, to a millionth of a second.

    Returns:
        Frames, and up to when they are the window's own.
    """
    number = 0
    found: list[list[int]] = []
    ends: list[float] = []
    shown = np.append(times, end)
    while number == 0 or times[0] + number * hop + window <= end + hop * 1e-6:
        start = times[0] + number * hop
        chosen = []
        for sample in range(frames):
            distances = np.abs(times - (start + sample * window / frames))
            chosen.append(int(np.flatnonzero(distances <= distances.min() + 2e-6)[0]))
        found.append(chosen)
        distances = np.abs(shown - (start + window))
        after = int(np.flatnonzero(distances <= distances.min() + 2e-6)[0])
        ends.append(min(time for time in shown[min(after, chosen[-1] + 1) :].tolist()
                        if time >= shown[after] and time > times[chosen[-1]]))  # fmt: skip
        number += 1
    return found, ends


def run(
    grid: Grid, times: np.ndarray, first: int = 0, until: float | None = None
) -> tuple[list[list[int]], list[float], list[float | None], set[int]]:
    """Frames of all windows, their starts and ends, and the frames that were called for on the way."""
    windows, starts, ends = [], [], []
    needed: set[int | None] = set()
    for index, time in enumerate(times, first):
        needed.add(grid.push(index, float(time)))
        for window in grid.closed():
            # All that a window shows was called for before it is closed.
            assert {*window.indices.tolist()} <= needed
            windows.append(window.indices.tolist())
            starts.append(window.start)
            ends.append(window.until)
    needed.add(grid.finish(until))
    for window in grid.closed():
        windows.append(window.indices.tolist())
        starts.append(window.start)
        ends.append(window.until)
    assert not grid.open
    return windows, starts, ends, {index for index in needed if index is not None}


@pytest.mark.parametrize("hop", [1.0, 0.3, 4.0])
@pytest.mark.parametrize("name", RATES)
@pytest.mark.parametrize("known", [True, False])
def test_windows_are_those_of_brute_force(name: str, hop: float, known: bool) -> None:
    times, window = RATES[name], window_seconds(16, 4)
    end = times[-1] + last_duration(times)
    expected, expected_ends = brute_force(times, end, window, hop, 16)
    found, starts, ends, needed = run(Grid(window, hop, 16, end - times[0] if known else None), times, first=7)
    assert [[index - 7 for index in indices] for indices in found] == expected
    assert len(found) == window_count(end - times[0], window, hop)
    np.testing.assert_allclose(np.array(ends, np.float64), expected_ends, rtol=0, atol=1e-9)
    np.testing.assert_allclose(starts, times[0] + hop * np.arange(len(expected)), rtol=0, atol=1e-9)
    shown = shown_frames(times, window, hop, 16, 0, len(expected))
    assert set(np.flatnonzero(shown).tolist()) == {index for indices in expected for index in indices}
    if known:
        assert {index - 7 for index in needed} == set(np.flatnonzero(shown).tolist())
    later = shown_frames(times, window, hop, 16, 1, len(expected))
    assert set(np.flatnonzero(later).tolist()) == {index for indices in expected[1:] for index in indices}


def test_a_window_at_25_frames_a_second_is_what_models_were_trained_on() -> None:
    found, _, ends, _ = run(Grid(window_seconds(16, 4), 1.0, 16), RATES["25"])
    assert ends[0] == 2.56 and ends[3] == 5.56
    assert found[0] == list(range(0, 64, 4)) and found[3] == list(range(75, 139, 4))
    assert len(found) == math.floor(8 - 2.56) + 1


@pytest.mark.parametrize(
    ("duration", "count"), [(0.04, 1), (2.56, 1), (3.55, 1), (3.56, 2), (3.56 - 1e-9, 2), (3 * 3600, 10_798)]
)
def test_a_last_window_that_fits_counts(duration: float, count: int) -> None:
    assert window_count(duration, 2.56, 1.0) == count


def test_the_last_frame_is_shown_as_long_as_most() -> None:
    assert last_duration([2.0]) == 0.04
    assert last_duration(np.array([0, 0.1, 0.2, 0.3, 5])) == pytest.approx(0.1)
    assert last_duration([*np.arange(5000) * 1.0, *(5000 + np.arange(2000) / 10)]) == pytest.approx(0.1)


def test_what_is_held_does_not_grow() -> None:
    grid, most = Grid(2.56, 1.0, 16), 0
    for index in range(20_000):
        grid.push(index, index / 25)
        grid.closed()
        most = max(most, len(grid.open), len(grid._times) // 1000)
        assert grid.oldest is None or index - grid.oldest < 80
    assert most <= 4


def test_no_frames_have_no_windows() -> None:
    grid = Grid(2.56, 1.0, 16)
    assert grid.finish() is None and grid.closed() == []


def test_more_windows_than_anybody_wants_are_refused() -> None:
    with pytest.raises(InputError, match=r"a hop of 1e-06 s gives \d+ windows in 100 s: give a larger hop"):
        Grid(2.56, 1e-6, 16, 100.0)
    grid = Grid(2.56, 1.0, 16)
    grid.push(0, 0.0)
    with pytest.raises(InputError, match=r"frame 1 comes 1.7e\+09 s after the one before.*times are in seconds"):
        grid.push(1, 1.7e9)
