"""What was measured, for people: tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.loading.sides import OURS, PUBLISHED

# Clips a second that a GPU takes in pre-training.
RATE = 4000
_WHO = {PUBLISHED: "published way", OURS: "ours"}


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What each side of a task does on so many cores."""
    head = ("clips/s", "of turns", "times published", "processor, ms a clip", "read, kB a clip")
    lines = [("loader", "clips from", "changed at random", *head)]
    for row in rows:
        spread = f"{row['slowest']:.0f}-{row['fastest']:.0f}"
        times = f"{row['times_published']:.2f}"
        numbers = (f"{row['clips_per_s']:.1f}", spread, times, f"{row['processor_ms']:.2f}", _kilobytes(row))
        lines.append((*_names(row), *numbers))
    cores = rows[0]["cores"]
    return ["", f"{rows[0]['task']}, {cores} {'core' if cores == 1 else 'cores'}", "", *_markdown(lines)]


def scaling(rows: Sequence[dict[str, Any]]) -> list[str]:
    """How many times as fast each side is on more cores as on the least."""
    counts = sorted({row["cores"] for row in rows})
    lines = [("task", "loader", "clips from", "changed at random", *(f"{count} cores" for count in counts[1:]))]
    rates = {(row["task"], *_names(row), row["cores"]): row["clips_per_s"] for row in rows}
    for row in rows:
        side = (row["task"], *_names(row))
        if row["cores"] == counts[0]:
            more = (f"{rates[(*side, count)] / row['clips_per_s']:.2f}" for count in counts[1:])
            lines.append((*side, *more))
    return ["", f"clips/s, times those on {counts[0]}", "", *_markdown(lines)] if counts[1:] else []


def needs(rows: Sequence[dict[str, Any]], rate: int = RATE) -> list[str]:
    """What it takes to load so many clips a second, from the rows of the least cores."""
    least = min(row["cores"] for row in rows)
    head = ("cores", "from disk or network, GB/s", "the same in Gbit/s")
    lines = [("task", "loader", "clips from", "changed at random", *head)]
    for row in rows:
        if row["cores"] == least:
            cores = rate * least / row["clips_per_s"]
            read = (row["read_bytes"] or 0) * rate / 1e9
            lines.append((row["task"], *_names(row), f"{cores:.0f}", f"{read:.2f}", f"{8 * read:.1f}"))
    return ["", f"For {rate:,} clips/s", "", *_markdown(lines)]


def _names(row: dict[str, Any]) -> tuple[str, str, str]:
    return _WHO[row["loader"]], row["source"], "by the loader" if row["changes"] else "no"


def _kilobytes(row: dict[str, Any]) -> str:
    return "" if row["read_bytes"] is None else f"{row['read_bytes'] / 1000:.0f}"


def _markdown(lines: Sequence[Sequence[str]]) -> list[str]:
    first, *others = lines
    return [f"| {' | '.join(line)} |" for line in (first, ["---"] * len(first), *others)]
