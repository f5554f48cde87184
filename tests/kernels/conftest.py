"""Kernel tests run where kernels can: on a GPU, or on the CPU under Triton's interpreter.

The interpreter must be chosen before Triton is imported, so `make test` runs this folder once more in a process of its
own, with TRITON_INTERPRET=1. Tests that take the `device` fixture are marked "gpu" everywhere else.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from maedfer._native import MODULES, absent
from maedfer.kernels._dispatch import interpreting

# Instruction sets that csrc's kernels were compiled for and this processor runs, best first.
VARIANTS = MODULES["cpu"].variants() if MODULES["cpu"] and not interpreting() else []


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "variant" in metafunc.fixturenames:
        metafunc.parametrize("variant", VARIANTS or ["none"], indirect=True)


@pytest.fixture
def variant(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set in turn, for what csrc computes on a CPU; its name."""
    compiled = MODULES["cpu"]
    if not VARIANTS or compiled is None:
        pytest.skip("nothing of csrc runs under Triton's interpreter" if interpreting() else absent("cpu"))
    before = compiled.variant()
    assert compiled.choose_variant(request.param)
    yield request.param
    assert compiled.choose_variant(before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if interpreting():
        return
    for item in items:
        if "device" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.gpu)


@pytest.fixture
def device() -> torch.device:
    """Where kernels run."""
    if interpreting():
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device, or TRITON_INTERPRET=1 in the environment")
    return torch.device("cuda")


@pytest.fixture(autouse=True)
def _uninitialised_memory_is_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel does not write must not look right by accident."""
    plain = torch.Tensor.new_empty

    def new_empty(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        out = plain(self, *args, **kwargs)
        return out.fill_(float("nan")) if out.is_floating_point() else out

    monkeypatch.setattr(torch.Tensor, "new_empty", new_empty)
