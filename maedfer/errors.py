"""Errors that reach a user: one sentence that names what is wrong and what to do."""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import re
from collections.abc import Iterable, Sequence
from types import ModuleType

# Names of packages to install that are not those to import.
_DISTRIBUTIONS = {"PIL": "pillow", "yaml": "pyyaml", "sklearn": "scikit-learn", "umap": "umap-learn"}
_MOST_NAMES = 25


class InputError(ValueError):
    """Something the user gave (file, line, key, shape) cannot be used; the message says which and what to do."""


class MissingDependencyError(ImportError):
    """An optional package is needed for what was asked; the message gives the install command."""


class Stopped(KeyboardInterrupt):
    """A run was asked to stop by a signal, and has ended so that the same command goes on with it.

    It is a KeyboardInterrupt, as Ctrl-C is one of the signals: what catches errors does not catch it, and what ends for
    Ctrl-C ends for it.

    Attributes:
        text: where the run stands.
        signal: number of the signal.
        status: what a command ends with, 128 and the signal; 0 where Slurm has the job again.
        together: whether all processes of the run end alike.
    """

    def __init__(self, text: str, signal: int, together: bool = False) -> None:
        super().__init__(text)
        self.text, self.signal, self.status, self.together = text, int(signal), 128 + int(signal), together

    def __str__(self) -> str:
        return self.text


def require(module: str, extra: str) -> ModuleType:
    """Import an optional `module`, or raise `MissingDependencyError` naming what to install.

    Args:
        module: to import.
        extra: of pyproject.toml, that brings it; whatever else of it is missing is named as well.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".")[0]
        raise MissingDependencyError(
            f"{package!r} is needed here but cannot be imported ({error}): pip install {_to_install(package, extra)}"
        ) from error


def unknown(kind: str, name: object, known: Iterable[object], where: str = "") -> InputError:
    """Build the error for a `name` that is not among the `known` ones, with the nearest one as a suggestion.

    Args:
        kind: what the name stands for.
        name: the unknown one.
        known: the names there are.
        where: what follows the name in the message ("in 'optim'").
    """
    choices = sorted(str(choice) for choice in known)
    near = difflib.get_close_matches(str(name), choices, n=1, cutoff=0.5)
    if near:
        hint = f"did you mean {near[0]!r}?"
    else:
        hint = "known: " + ", ".join(choices[:_MOST_NAMES]) + (", ..." if len(choices) > _MOST_NAMES else "")
    place = f" {where}" if where else ""
    return InputError(f"unknown {kind} {shortened(str(name))!r}{place}: {hint}")


def shortened(text: str, most: int = 200) -> str:
    """The text, without its middle where it is longer than a sentence can bear."""
    return text if len(text) <= most else f"{text[: most // 2]}...{text[-most // 4 :]}"


def some(names: Sequence[str], most: int = 3, between: str = ", ") -> str:
    """The first few of many names, and how many more there are: "a, b, c and 2 more"."""
    return between.join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _to_install(package: str, extra: str) -> str:
    """What of an extra is not installed, as words for pip: no index has this package, so its extra cannot be named."""
    wanted = [_DISTRIBUTIONS.get(package, package)]
    for name in _requirements(extra):
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            wanted.append(name)
    return " ".join(dict.fromkeys(wanted))


def _requirements(extra: str) -> list[str]:
    """Names of the packages of an extra, those of extras that it takes in among them; none where nothing is known."""
    try:
        lines = importlib.metadata.requires("maedfer") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    found: list[str] = []
    for line in lines:
        name, _, condition = line.partition(";")
        # What only some machines can install is left out: it is never needed.
        if re.fullmatch(rf"\s*extra == ['\"]{extra}['\"]\s*", condition):
            inner = re.match(r"maedfer\[(.*)\]", name)
            found += _requirements(inner[1]) if inner else [re.split(r"[^\w.-]", name.strip())[0]]
    return found
