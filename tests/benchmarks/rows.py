"""Rows of results files, made by hand."""

from __future__ import annotations

from typing import Any


def row(workload: str, size: str, provider: str, mode: str, ms: float, **values: Any) -> dict[str, Any]:
    """A row that was timed, with a spread of 1% to either side."""
    return {
        "workload": workload,
        "size": size,
        "sizes": {"B": 1},
        "provider": provider,
        "mode": mode,
        "ms": ms,
        "p20": 0.99 * ms,
        "p80": 1.01 * ms,
        **values,
    }
