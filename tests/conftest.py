"""Fixtures shared by all tests."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

# Before the package is imported, and for processes that tests start: who multiplies must not depend on what else the
# processor is doing.
os.environ["MAEDFER_PRODUCTS"] = "csrc"

# A shell that starts the tests in the background has them ignore Ctrl-C, and nohup the end of a terminal: runs that are
# tested must hear both.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

from maedfer._native import build_record
from maedfer.kernels._dispatch import interpreting

if interpreting():
    from tests.interpreter import patch_once_a_launch

    patch_once_a_launch()

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


@pytest.fixture(scope="session", autouse=True)
def _any_processor() -> Iterator[None]:
    """What a precision of `auto` comes to in tests is the same whatever the processor multiplies."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("maedfer.models.arithmetic.bfloat16_instructions", lambda: "")
        yield


@pytest.fixture
def bfloat16_processor(monkeypatch: pytest.MonkeyPatch) -> str:
    """A processor that multiplies bfloat16 fast; gives the name of its instructions."""
    monkeypatch.setattr("maedfer.models.arithmetic.bfloat16_instructions", lambda: "AVX512-BF16")
    return "AVX512-BF16"


@pytest.fixture(scope="session")
def clips() -> Path:
    """Folder of real face videos, beside the repository."""
    folder = REPOSITORY.parent / "shared" / "clips"
    if not folder.is_dir():
        pytest.skip(f"real clips are not here: {folder.name} folder absent beside the repository")
    return folder
