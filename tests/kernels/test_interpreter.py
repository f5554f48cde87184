"""What tests change of Triton's interpreter (`tests/interpreter.py`) ends with each launch."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
import triton
import triton.language as tl

from maedfer.kernels._dispatch import interpreting

pytestmark = pytest.mark.skipif(not interpreting(), reason="there is no interpreter without TRITON_INTERPRET=1")


@triton.jit
def _twice(x):
    return tl.abs(x) + tl.abs(x)


@triton.jit
def _kernel(x, fails: tl.constexpr):
    values = tl.load(x + tl.arange(0, 4))
    tl.store(x + tl.arange(0, 4), _twice(_twice(values)))
    if fails:
        tl.load(x + tl.arange(0, 3))


def _language() -> dict[Any, Any]:
    """The functions that the interpreter replaces, by where they are."""
    places = (tl, tl.math, tl.tensor)
    return {(p, n): member for p in places for n, member in inspect.getmembers(p) if tl.core.is_builtin(member)}


@pytest.mark.parametrize("fails", [False, True])
def test_the_language_is_put_back_after_a_launch(fails: bool) -> None:
    before = _language()
    assert before
    for _ in range(2):
        x = torch.tensor([-1.0, 2.0, -3.0, 4.0])
        if fails:
            with pytest.raises(Exception, match="power of 2"):
                _kernel[(1,)](x, fails)
        else:
            _kernel[(1,)](x, fails)
        assert x.tolist() == [4.0, 8.0, 12.0, 16.0]
        assert _language() == before
