"""Triton's interpreter, made a third faster.

At every call of one kernel function by another, the interpreter looks through all of `triton.language` for functions to
replace, although those of the launch have been replaced when it began, and stay so until it ends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from triton.runtime import interpreter

# Private to Triton: where it has gone, kernels are interpreted as fast as Triton does it.
_NAME = "_patch_lang"


class _Nothing:
    """What a call inside of a launch has to put back."""

    def restore(self) -> None:
        pass


def patch_once_a_launch() -> None:
    """Have the language replaced once for each module of kernels in a launch."""
    if hasattr(interpreter, _NAME):
        setattr(interpreter, _NAME, _once_a_launch(getattr(interpreter, _NAME)))


def _once_a_launch(patch: Callable[[Callable[..., Any]], Any]) -> Callable[[Callable[..., Any]], Any]:
    """`patch`, which replaces what a function's module sees of the language, but for modules seen in this launch."""
    seen: set[int] = set()

    def once(function: Callable[..., Any]) -> Any:
        module = id(function.__globals__)
        if module in seen:
            return _Nothing()
        starts_a_launch = not seen
        scope = patch(function)
        seen.add(module)
        if starts_a_launch:
            restore = scope.restore

            def end() -> None:
                seen.clear()
                restore()

            scope.restore = end
        return scope

    return once
