"""Findings as a file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from maedfer import __version__
from maedfer._files import atomic_path
from maedfer.doctor.finding import Finding


def write(path: str | Path, findings: Sequence[Finding]) -> None:
    """Write findings as JSON.

    Raises:
        InputError: the file cannot be written.
    """
    facts = {
        "maedfer": __version__,
        "wrong": sum(one.verdict == "wrong" for one in findings),
        "findings": [dataclasses.asdict(one) for one in findings],
    }
    with atomic_path(path) as temporary:
        temporary.write_text(
            json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8", errors="backslashreplace"
        )
