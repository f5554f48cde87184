"""Lines that tell how far a long step is."""

from __future__ import annotations

import io
import time

import pytest

from maedfer import _progress as progress
from maedfer._progress import Patience, ProgressLine, counted, duration


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be set."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_terminal_has_one_line_that_is_kept_up_to_date(clock: list[float]) -> None:
    stream = Terminal()
    line = ProgressLine("drawing", stream)
    line(0.0)
    clock[0] += 0.1
    line(0.1)
    clock[0] += 9.9
    line(0.25)
    assert stream.getvalue().split("\r\x1b[K") == ["", "  drawing: 0 %", "  drawing: 25 %, 30 s left"]
    line.clear()
    assert stream.getvalue().endswith("\r\x1b[K") and "\n" not in stream.getvalue()
    # What was printed in between must not hide the line until its turn comes again.
    line(0.26)
    assert stream.getvalue().endswith("26 %, 28 s left")


def test_elsewhere_a_line_is_written_now_and_then(clock: list[float]) -> None:
    stream = io.StringIO()
    line = ProgressLine("drawing", stream, every=30)
    for second in range(100):
        clock[0] = 100.0 + second
        line(second / 100)
        line.clear()
    lines = ["  drawing: 30 %, 1 min 10 s left", "  drawing: 60 %, 40 s left", "  drawing: 90 %, 10 s left"]
    assert stream.getvalue().splitlines() == lines


def test_what_was_done_before_does_not_count_as_pace(clock: list[float]) -> None:
    stream = Terminal()
    line = ProgressLine("drawing", stream)
    line(0.5)
    clock[0] += 10
    line(0.6)
    assert stream.getvalue().endswith("60 %, 40 s left")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (3900, "1 h 05 min"), (7260, "2 h 01 min")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_who_waits_long_is_told_so_and_who_does_not_is_not() -> None:
    told: list[float] = []
    patience = Patience(told.append, first=0.1)
    for _ in range(5):
        with patience:
            time.sleep(0.03)
    assert told == []
    with patience:
        time.sleep(0.5)
    patience.close()
    # After 0.1 s, and each time that this has doubled.
    assert 2 <= len(told) <= 3 and told == sorted(told) and told[0] >= 0.1 and told[1] >= 0.2


def test_numbers_of_things() -> None:
    assert [counted(number, "clip") for number in (0, 1, 2)] == ["0 clips", "1 clip", "2 clips"]
