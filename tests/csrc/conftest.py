"""One emulator for all tests of this folder."""

from __future__ import annotations

import pytest

from tests.csrc.emulator import Emulator, compiler


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Emulator:
    """The kernels of csrc/cuda on the CPU."""
    if compiler() is None:
        pytest.skip("the emulator needs g++")
    return Emulator(tmp_path_factory.mktemp("emulator"))
