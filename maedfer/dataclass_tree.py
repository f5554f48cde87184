"""Dataclass trees filled from plain dictionaries, with types and ranges checked and unknown keys refused.

Model configurations (JSON beside the weights) and run configurations (YAML recipes with dotted overrides) are both
frozen dataclasses of these types: bool, int, float, str, Literal, Optional, tuple[T, ...], list[T], and dataclasses.

What is known of a field beside its type (`maedfer.setting`) is found here by its dotted key: the checks, the rules of
resuming and of taking weights over, the tables in the documentation and the help texts derive from that.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Container, Iterator, Mapping
from functools import cache
from typing import Any, Literal, TypeVar, Union

from maedfer.errors import InputError, unknown
from maedfer.setting import Owner, check_range, setting_of

T = TypeVar("T")


@cache
def field_types(cls: type) -> dict[str, Any]:
    """Map the field names of a dataclass to their resolved types."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def sections(hint: Any) -> list[Any]:
    """The dataclasses that a field's type allows: none for a value, several for a section of which there are kinds."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)
    return [option for option in options if dataclasses.is_dataclass(option)]


def walk(cls: type, path: str = "") -> Iterator[tuple[str, dataclasses.Field[Any]]]:
    """All values of a dataclass tree as (dotted key, field), those of every kind of section."""
    for field in dataclasses.fields(cls):
        key = f"{path}{field.name}"
        kinds = sections(field_types(cls)[field.name])
        for kind in kinds:
            yield from walk(kind, f"{key}.")
        if not kinds:
            yield key, field


def keys_of(cls: type, *owners: Owner) -> frozenset[str]:
    """Dotted keys of the settings that belong to any of `owners`."""
    return frozenset(key for key, field in walk(cls) if setting_of(field).belongs_to in owners)


def without(cls: type, values: Mapping[str, Any], owner: Owner) -> dict[str, Any]:
    """A tree of `to_dict` without the settings that belong to `owner`."""
    left_out = keys_of(cls, owner)

    def rest(tree: Mapping[str, Any], path: str) -> dict[str, Any]:
        return {
            key: rest(value, f"{path}{key}.") if isinstance(value, Mapping) else value
            for key, value in tree.items()
            if f"{path}{key}" not in left_out
        }

    return rest(values, "")


def task_defaults(cls: type, task: str) -> dict[str, Any]:
    """The defaults of a task where they are not those of the dataclass, as a nested dictionary.

    A section of which there are several kinds is left out: which one a task takes is not known here.
    """
    found: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        kinds = sections(field_types(cls)[field.name])
        if len(kinds) == 1 and (inner := task_defaults(kinds[0], task)):
            found[field.name] = inner
        if task in setting_of(field).by_task:
            found[field.name] = setting_of(field).by_task[task]
    return found


def check_ranges(config: Any, path: str = "") -> None:
    """Refuse a dataclass tree with a number out of its range.

    Args:
        config: the tree.
        path: where it sits in a larger one, for error messages ("model.encoder").

    Raises:
        InputError: names the key, what is allowed, and the value.
    """
    for field in dataclasses.fields(config):
        value, key = getattr(config, field.name), f"{path}.{field.name}" if path else field.name
        if dataclasses.is_dataclass(value):
            check_ranges(value, key)
        else:
            check_range(field, value, key)


def former_names(cls: type, path: str = "") -> dict[str, str]:
    """Present dotted keys of a dataclass tree by the former ones, each with `path` ("model.") before it."""
    return {
        f"{path}{key.removesuffix(field.name)}{former}": f"{path}{key}"
        for key, field in walk(cls)
        if (former := setting_of(field).formerly)
    }


def rename(values: Mapping[str, Any], names: Mapping[str, str], path: str = "") -> dict[str, Any]:
    """A nested dictionary with the present names of settings where it has former ones; sections are no settings.

    Args:
        values: the dictionary.
        names: present dotted keys by the former ones, see `former_names`.
        path: where in a larger tree this one sits, with a dot at the end ("model.").

    Raises:
        InputError: a section has a setting under both names.
    """
    renamed: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{path}{name}"
        if isinstance(value, Mapping):
            renamed[name] = rename(value, names, f"{key}.")
        elif key in names:
            present = names[key].removeprefix(path)
            if present in values:
                raise InputError(f"{key} is the former name of {names[key]}: give one of them, not both")
            renamed[present] = value
        else:
            renamed[name] = value
    return renamed


def from_dict(cls: type[T], values: Mapping[str, Any], base: T | None = None, path: str = "") -> T:
    """Make a `cls` from nested dictionaries.

    Args:
        cls: a dataclass type.
        values: keys to set; what is absent keeps the value of `base`, or the field's default.
        base: an instance to start from.
        path: where in a larger tree this one sits, for error messages ("model.encoder").

    Raises:
        InputError: unknown key (with the nearest known one), a key under both its names, wrong type, number out of
            range, missing required key.
    """
    hints = field_types(cls)  # type: ignore[arg-type]
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    prefix = f"{path}." if path else ""
    values = rename(values, former_names(cls, prefix), prefix)  # type: ignore[arg-type]
    changes: dict[str, Any] = {}
    for key, value in values.items():
        where = f"{prefix}{key}"
        if key not in hints:
            raise unknown("key", key, hints, where=f"in {path!r}" if path else "")
        changes[key] = _convert(hints[key], value, where, getattr(base, key, None))
        check_range(fields[key], changes[key], where)
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


def differences(there: Mapping[str, Any], here: Mapping[str, Any], free: Container[str] = ()) -> list[str]:
    """Name what differs in two trees of `to_dict`, each as "optim.lr (0.001 there, 0.003 here)".

    Args:
        there, here: the trees.
        free: dotted keys that may differ.
    """
    left, right = dict(_leaves(there)), dict(_leaves(here))
    return [
        f"{key} ({left.get(key, 'absent')!r} there, {right.get(key, 'absent')!r} here)"
        for key in {**left, **right}
        if key not in free and left.get(key) != right.get(key)
    ]


def set_dotted(
    tree: dict[str, Any], assignment: str, parse: Callable[[str], Any], names: Mapping[str, str] | None = None
) -> None:
    """Set `a.b.c=value` in a nested dictionary.

    Args:
        tree: the dictionary.
        assignment: key and value.
        parse: reads the text of the value.
        names: present dotted keys by the former ones; a tree without former names then stays one.

    Raises:
        InputError: the assignment has no `=`, or a part of its key is a value and not a section.
    """
    key, equals, text = assignment.partition("=")
    if not equals or not key:
        raise InputError(f"override {assignment!r} is not of the form key=value (for example optim.lr=3e-4)")
    value, names = parse(text), names or {}
    if isinstance(value, Mapping):
        value = rename(value, names, f"{key}.")
    else:
        key = names.get(key, key)
    *sections, name = key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise InputError(f"override {assignment!r}: {section!r} is a value, not a section")
    tree[name] = value


def _leaves(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


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
        except (ValueError, OverflowError):
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


def _mismatch(where: str, expected: str, value: Any) -> InputError:
    return InputError(f"{where} must be {expected}, got {value!r}")
