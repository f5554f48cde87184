"""Fixtures shared by all tests."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path

import pytest
import torch

from maedfer._native import build_record

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say at the end of a run what was tested with."""
    terminalreporter.write_line(tested_with())


def tested_with() -> str:
    """Versions on which results depend, and which parts of csrc are compiled."""
    packages = [f"{name} {_version(name)}" for name in ("torch", "triton", "numpy", "torchvision")]
    parts = [f"{part} {'compiled' if entry['built'] else 'not compiled'}" for part, entry in build_record().items()]
    return f"tested with {', '.join(packages)}, python {platform.python_version()}; csrc: {', '.join(parts)}"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def clips() -> Path:
    """Folder of real face videos, beside the repository."""
    folder = REPOSITORY.parent / "shared" / "clips"
    if not folder.is_dir():
        pytest.skip(f"real clips are not here: {folder.name} folder absent beside the repository")
    return folder
