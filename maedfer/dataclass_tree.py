"""Dataclass trees filled from plain dictionaries, with types checked and unknown keys refused.

Model configurations (JSON beside the weights) and run configurations (YAML recipes with dotted overrides) are both
frozen dataclasses of these types: bool, int, float, str, Literal, Optional, tuple[T, ...], list[T], and dataclasses.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, TypeVar, Union

from maedfer.errors import InputError, unknown

T = TypeVar("T")


@cache
def field_types(cls: type) -> dict[str, Any]:
    """Map the field names of a dataclass to their resolved types."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def from_dict(cls: type[T], values: Mapping[str, Any], base: T | None = None, path: str = "") -> T:
    """Make a `cls` from nested dictionaries.

    Args:
        cls: a dataclass type.
        values: keys to set; what is absent keeps the value of `base`, or the field's default.
        base: an instance to start from.
        path: where in a larger tree this one sits, for error messages ("model.encoder").

    Raises:
        InputError: unknown key (with the nearest known one), wrong type, missing required key.
    """
    hints = field_types(cls)  # type: ignore[arg-type]
    changes: dict[str, Any] = {}
    for key, value in values.items():
        where = f"{path}.{key}" if path else str(key)
        if key not in hints:
            raise unknown(f"key in {path!r}" if path else "key", key, hints)
        changes[key] = _convert(hints[key], value, where, getattr(base, key, None))
    if base is not None:
        return dataclasses.replace(base, **changes)  # type: ignore[type-var]
    missing = [
        field.name
        for field in dataclasses.fields(cls)  # type: ignore[arg-type]
        if field.init
        and field.name not in changes
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise InputError(f"missing key {', '.join(repr(name) for name in missing)} in {path or cls.__name__!r}")
    return cls(**changes)


def to_dict(config: Any) -> dict[str, Any]:
    """Turn a dataclass tree into dictionaries, lists and scalars that JSON and YAML can hold."""
    return _plain(dataclasses.asdict(config))


def set_dotted(tree: dict[str, Any], assignment: str, parse: Any) -> None:
    """Set `a.b.c=value` in a nested dictionary, reading the text of the value with `parse`.

    Raises:
        InputError: the assignment has no `=`, or a part of its key is a value and not a section.
    """
    key, equals, text = assignment.partition("=")
    if not equals or not key:
        raise InputError(f"override {assignment!r} is not of the form key=value (for example optim.lr=3e-4)")
    *sections, name = key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise InputError(f"override {assignment!r}: {section!r} is a value, not a section")
    tree[name] = parse(text)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _convert(hint: Any, value: Any, where: str, base: Any) -> Any:
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        options = typing.get_args(hint)
        if value is None and type(None) in options:
            return None
        errors = []
        for option in options:
            if option is type(None):
                continue
            try:
                return _convert(option, value, where, base)
            except InputError as error:
                errors.append(error)
        raise errors[0]
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, hint):
            return value
        if not isinstance(value, Mapping):
            raise _mismatch(where, "a section with keys", value)
        return from_dict(hint, value, base if isinstance(base, hint) else None, where)
    if origin is Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            raise unknown(f"value for {where}:", value, choices)
        return value
    if origin in (tuple, list):
        items = typing.get_args(hint)
        if isinstance(value, str) or not isinstance(value, (list, tuple)):
            raise _mismatch(where, "a list", value)
        if origin is tuple and (len(items) != 2 or items[1] is not Ellipsis):
            if len(value) != len(items):
                raise _mismatch(where, f"a list of {len(items)} values", value)
            return tuple(_convert(item, part, where, None) for item, part in zip(items, value, strict=True))
        return origin(_convert(items[0], part, f"{where}[{index}]", None) for index, part in enumerate(value))
    if hint is Any:
        return value
    if hint is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        # YAML 1.1 reads 3e-4 as a string; people write learning rates that way.
        try:
            return float(value)
        except ValueError:
            raise _mismatch(where, "a number", value) from None
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if hint is bool and isinstance(value, bool):
        return value
    if hint is str and isinstance(value, str):
        return value
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text", dict: "a section"}
    if hint is dict and isinstance(value, Mapping):
        return dict(value)
    raise _mismatch(where, names.get(hint, str(hint)), value)


def _mismatch(where: str, wanted: str, value: Any) -> InputError:
    return InputError(f"{where} must be {wanted}, got {value!r}")
