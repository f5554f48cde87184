"""Errors that reach a user: one sentence that names what is wrong and what to do."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class InputError(ValueError):
    """Something the user gave (file, line, key, shape) cannot be used; the message says which and what to do."""


class MissingDependencyError(ImportError):
    """An optional package is needed for what was asked; the message gives the install command."""


def require(module: str, extra: str) -> ModuleType:
    """Import an optional `module`, or raise `MissingDependencyError` naming the extra that brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"{module.split('.')[0]!r} is needed here but cannot be imported ({error}): pip install 'maedfer[{extra}]'"
        ) from error


def unknown(kind: str, name: object, known: Iterable[object], where: str = "") -> InputError:
    """Build the error for a `name` that is not among the `known` ones, with the nearest one as a suggestion.

    Args:
        kind: what the name stands for.
        name: the unknown one.
        known: the names there are.
        where: what follows the name in the message ("in 'optim'").
    """
    choices = [str(choice) for choice in known]
    near = difflib.get_close_matches(str(name), choices, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(choices))}"
    place = f" {where}" if where else ""
    return InputError(f"unknown {kind} {str(name)!r}{place}: {hint}")
