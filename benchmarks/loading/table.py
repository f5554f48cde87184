"""What was measured, for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_HEAD = ("loader", "source", "frames", "clips/s", "slowest-fastest", "times published", "ms of a processor", "KB read")


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Lines of a table in Markdown, under a line that says of which task and how many cores."""
    lines = ["", f"{rows[0]['task']}, cores: {rows[0]['cores']}", "", _line(_HEAD), _line(["---"] * len(_HEAD))]
    return lines + [_line(_cells(row)) for row in rows]


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        row["loader"],
        row["source"],
        "changed" if row["changes"] else "as read",
        f"{row['clips_per_s']:.1f}",
        f"{row['slowest']:.1f}-{row['fastest']:.1f}",
        f"{row['times_published']:.2f}",
        f"{row['processor_ms']:.2f}",
        "" if row["read_bytes"] is None else f"{row['read_bytes'] / 1000:.0f}",
    ]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
