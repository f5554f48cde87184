"""What a run of the tests says at its end."""

from __future__ import annotations

import platform
from importlib.metadata import version

from pytest import MonkeyPatch

from tests import conftest


def test_a_run_ends_with_the_versions_that_it_used(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(conftest, "build_record", lambda: {"cpu": {"built": True}, "cuda": {"built": False}})
    lines: list[str] = []

    class Reporter:
        write_line = lines.append

    conftest.pytest_terminal_summary(Reporter())  # type: ignore[arg-type]
    (line,) = lines
    assert f"torch {version('torch')}" in line and f"numpy {version('numpy')}" in line
    assert f"python {platform.python_version()}" in line
    assert line.endswith("csrc: cpu compiled, cuda not compiled")


def test_absent_packages_are_said() -> None:
    assert conftest._version("no-such-package") == "absent"
