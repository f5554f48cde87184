"""What text stands for, by the type that is wanted: one reading for the command line and for files of settings.

YAML guesses a type from the text alone, so that a folder called 2024, no or 1:30 is no text, 010 is 8 and `ft #2` is
`ft`. Here the setting that takes a value says what it is, and text for a setting that holds text stays as it is.
"""

from __future__ import annotations

import json
import os
import re
from typing import NamedTuple

from maedfer.errors import InputError

_WHOLE = re.compile(r"[-+]?[0-9]{1,4000}")
_NUMBER = re.compile(r"[-+]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|\.?(?:inf|nan))", re.IGNORECASE)
_CLOCK = re.compile(r"(?:([0-9]{1,9}):)?([0-9]{1,9}):([0-9]{1,2}(?:\.[0-9]*)?)")
# Two letters at least: one is a drive of Windows.
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_HUB = "hf://"
# What the hub allows in names of users and models.
_HUB_NAME = re.compile(
    r"(?!.*(?:--|\.\.))(?:[A-Za-z0-9_](?:[\w.-]{0,94}[A-Za-z0-9_])?/[A-Za-z0-9_](?:[\w.-]{0,94}[A-Za-z0-9_])?)", re.A
)
_NULL = frozenset(("", "null", "none", "~"))
# An item in double quotes, in single quotes, or as it is; then the comma or the end.
_ITEM = re.compile(r"""(?:("(?:[^"\\]|\\.)*")|'((?:[^']|'')*)'|((?!["'])[^,]*))\s*(,|$)""", re.DOTALL)


class Plain(str):
    """Text without quotes, from a file or the command line: its meaning follows from the setting that takes it."""

    __slots__ = ()


def whole_number(text: str) -> int | None:
    """The number that decimal digits stand for (010 is 10), None for any other text."""
    return int(text) if _WHOLE.fullmatch(text) else None


def number(text: str) -> float | None:
    """The number that a decimal stands for (3e-4, .5, also inf and nan), None for any other text."""
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan")) if _NUMBER.fullmatch(text) else None


def seconds(text: str) -> float | None:
    """Seconds that a decimal, m:ss or h:mm:ss stands for (90, 1:30, 1:02:03.5), None for any other text."""
    clock = _CLOCK.fullmatch(text)
    if clock is None:
        return number(text)
    hours, minutes, rest = int(clock[1] or 0), int(clock[2]), float(clock[3])
    return 3600 * hours + 60 * minutes + rest if rest < 60 and (not clock[1] or minutes < 60) else None


def boolean(text: str) -> bool | None:
    """True for "true", False for "false" in capitals or not, None for any other text."""
    return {"true": True, "false": False}.get(text.lower())


def is_null(text: str) -> bool:
    """Whether text says that there is no value: nothing, null, none or ~."""
    return text.lower() in _NULL


def list_items(text: str, where: str) -> list[str]:
    """The items of a list in brackets, `[a, b]`; quotes, single or as in JSON, keep a comma or a blank in an item.

    Args:
        text: the list.
        where: what it is given to, for error messages.

    Returns:
        The items, `Plain` where there are no quotes.

    Raises:
        InputError: there are no brackets, or one of them or a quote is missing.
    """
    stripped = text.strip()
    if not stripped.startswith("["):
        raise InputError(f"{where} must be a list in brackets, such as [a, b], got {str(text)!r}")
    if not stripped.endswith("]"):
        raise InputError(f"{where} must be a list in brackets: {str(text)!r} has no ] at its end")
    rest = stripped[1:-1].lstrip()
    items: list[str] = []
    while rest:
        found = _ITEM.match(rest)
        if found is None:
            raise InputError(f"{where}: in the list {str(text)!r}, a quote has no end, or text follows it")
        double, single, plain, _ = found.groups()
        items.append(_unquoted(double, single, plain, where))
        rest = rest[found.end() :].lstrip()
    return items


def is_address(text: str) -> bool:
    """Whether a text begins like an address, `s3://`, rather than being a path."""
    return _ADDRESS.match(text) is not None


class HubName(NamedTuple):
    """A model on the Hugging Face hub: "user/name", and the branch, tag or commit that is meant; None = the newest."""

    repository: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{_HUB}{self.repository}" + (f"@{self.revision}" if self.revision else "")


def hub_name(text: str) -> HubName | None:
    """What "user/name" or "user/name@revision" means on the Hugging Face hub; None where no model can be called so."""
    repository, at, revision = text.partition("@")
    # A revision has no blanks, and neither begins nor ends with a slash.
    named = _HUB_NAME.fullmatch(repository) and (not at or re.fullmatch(r"[^\s/@](?:[^\s@]*[^\s/@])?", revision))
    return HubName(repository, revision or None) if named else None


def hub_address(text: str) -> HubName | None:
    """What an address `hf://user/name@revision` means; None for any other text.

    Raises:
        InputError: no model can be called so.
    """
    if not text.startswith(_HUB):
        return None
    found = hub_name(text.removeprefix(_HUB))
    if found is None:
        raise InputError(f"{text!r} is no address of a model: give hf://user/name, or hf://user/name@revision")
    return found


def check_exists(source: str, what: str) -> None:
    """Refuse a path that is not there; an address of the hub is looked at when it is needed.

    Args:
        source: what a command was given.
        what: what it should have been given, for the message.

    Raises:
        InputError: there is no such file or folder.
    """
    if hub_address(source) is None and not os.path.exists(source):
        found = hub_name(source)
        hint = "" if found is None else f"; a model of the Hugging Face hub is {found}"
        raise InputError(f"{source!r} does not exist: give {what}{hint}")


def expand_home(path: str) -> str:
    """A path with the home folder for a `~` or `~user` at its beginning.

    Raises:
        InputError: there is no such user.
    """
    if not path.startswith("~"):
        return path
    expanded = os.path.expanduser(path)
    if expanded == path and not os.path.lexists(path):
        who = path[1:].partition("/")[0]
        why = f"there is no user {who!r}" if who else "this user has no home folder, HOME is not set"
        raise InputError(f"{path!r}: {why}: give the whole path, or './{path}' for a name that begins with ~")
    return expanded


def _unquoted(double: str | None, single: str | None, plain: str, where: str) -> str:
    if double is not None:
        try:
            return str(json.loads(double, strict=False))
        except ValueError:
            raise InputError(f"{where}: {double} is no text in double quotes as JSON has it") from None
    if single is not None:
        return single.replace("''", "'")
    if not plain.strip():
        raise InputError(f"{where}: an item of the list is empty: write '' for an empty text")
    return Plain(plain.strip())
