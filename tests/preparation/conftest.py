from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from maedfer.preparation import Prepared, PrepareOptions, cropping, prepare_dataset
from tests.preparation.trees import RedDetector

Prepare = Callable[..., Prepared]


@pytest.fixture
def red(monkeypatch: pytest.MonkeyPatch) -> None:
    """A detector that is not looked for in packages."""
    monkeypatch.setattr(cropping, "open_detector", lambda *_, **__: RedDetector())


@pytest.fixture
def prepare(tmp_path: Path, red: None) -> Prepare:
    """Prepare the data set in `tmp_path/root` into `tmp_path/out`."""

    def run(dataset: str, dry_run: bool = False, **options: Any) -> Prepared:
        chosen = PrepareOptions(**options)
        return prepare_dataset(dataset, tmp_path / "root", tmp_path / "out", chosen, dry_run=dry_run)

    return run
