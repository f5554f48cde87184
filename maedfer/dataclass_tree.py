"""Dataclass trees filled from plain dictionaries, with types and ranges checked and unknown keys refused.

Model configurations (JSON beside the weights) and run configurations (YAML recipes with dotted overrides) are both
frozen dataclasses of these types: bool, int, float, str, Literal, Optional, tuple[T, ...], list[T], and dataclasses.
Text of recipes and overrides arrives as `Plain` and is read here, by the type of the field that takes it.

What is known of a field beside its type (`maedfer.setting`) is found here by its dotted key: the checks, the rules of
resuming and of taking weights over, the tables in the documentation and the help texts derive from that.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any, Literal, TypeVar, Union

from maedfer._values import Plain, boolean, expand_home, is_null, list_items, number, whole_number
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


@cache
def former_names(cls: type, path: str = "") -> Mapping[str, str]:
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
        if setting_of(fields[key]).path and changes[key] is not None:
            changes[key] = _each(changes[key], partial(_path, where))
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
    left, right = dict(leaves(there)), dict(leaves(here))
    return [
        f"{key} ({left.get(key, 'absent')!r} there, {right.get(key, 'absent')!r} here)"
        for key in {**left, **right}
        if key not in free and left.get(key) != right.get(key)
    ]


def split_override(cls: type, override: str, read_section: Callable[[str, str], Any]) -> list[tuple[str, Any]]:
    """Read `a.b.c=value` as the settings that it changes.

    Args:
        cls: the dataclass of the whole tree.
        override: key and value. What follows the first `=` is taken as it is; its meaning follows from the type of the
            setting. A section is `{key: value}` and changes the keys that it names.
        read_section: reads the text in braces; called with it and with the override, for error messages.

    Returns:
        Dotted keys with their values.

    Raises:
        InputError: the override has no `=` or no key, or a section cannot be read.
    """
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError(f"override {override!r} is not of the form key=value (for example optim.lr=3e-4)")
    if text.lstrip().startswith("{") and _is_section(cls, key.split(".")):
        section = read_section(text, f"override {override!r}")
        if isinstance(section, Mapping):
            return [(f"{key}.{inner}", value) for inner, value in leaves(section)]
    return [(key, Plain(text))]


def set_key(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key in a nested dictionary.

    Raises:
        InputError: a part of the key is a value and not a section.
    """
    *sections, name = key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise InputError(f"override of {key}: {section!r} is a value, not a section")
    tree[name] = value


def map_paths(config: T, change: Callable[[str, str], str], path: str = "") -> T:
    """The same tree with every path changed.

    Args:
        config: a dataclass.
        change: gives the new path for the dotted key of a setting and its path.
        path: where the dataclass sits in a larger one, with a dot at the end ("data.").
    """
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        value, key = getattr(config, field.name), f"{path}{field.name}"
        if dataclasses.is_dataclass(value):
            changes[field.name] = map_paths(value, change, f"{key}.")
        elif setting_of(field).path:
            changes[field.name] = _each(value, partial(change, key))
    return dataclasses.replace(config, **changes)  # type: ignore[type-var]


def leaves(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a nested dictionary as (dotted key, value), each key with `path` ("model.") before it."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _is_section(cls: Any, parts: Sequence[str]) -> bool:
    kinds = sections(field_types(cls)[parts[0]]) if parts[0] in field_types(cls) else []
    return bool(kinds) if len(parts) == 1 else any(_is_section(kind, parts[1:]) for kind in kinds)


def _each(value: Any, change: Callable[[str], str]) -> Any:
    return change(value) if isinstance(value, str) else tuple(map(change, value))


def _path(where: str, text: str) -> str:
    if "\0" in text:
        raise InputError(f"{where} must be a path, and no path holds a zero byte, got {text!r}")
    try:
        return expand_home(text)
    except InputError as error:
        raise InputError(f"{where} is {error}") from None


def _convert(hint: Any, value: Any, where: str, base: Any) -> Any:
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        options = typing.get_args(hint)
        if type(None) in options and (value is None or (isinstance(value, Plain) and is_null(value))):
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
        return _choice(typing.get_args(hint), value, where)
    if origin in (tuple, list):
        return _list(origin, typing.get_args(hint), value, where)
    if hint is Any:
        return value
    if hint is dict and isinstance(value, Mapping):
        return dict(value)
    found = _scalar(hint, value)
    if found is None:
        names = {bool: "true or false", int: "a whole number", float: "a number", str: "text", dict: "a section"}
        raise _mismatch(where, names.get(hint, str(hint)), value)
    return found


def _scalar(hint: Any, value: Any) -> Any:
    # None where the value is of another type.
    if hint is float and isinstance(value, str):
        # In quotes as well: YAML 1.1 takes 3e-4 for text, and files of earlier versions have it that way.
        return number(value)
    if isinstance(value, Plain) and hint in (int, bool):
        return whole_number(value) if hint is int else boolean(value)
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return None
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if hint is bool and isinstance(value, bool):
        return value
    return str(value) if hint is str and isinstance(value, str) else None


def _choice(choices: tuple[Any, ...], value: Any, where: str) -> Any:
    if str(value).lower() in ("true", "false"):
        # A setting that was true or false in an earlier version, in capitals or not.
        value = str(value).lower()
    if not isinstance(value, str) or value not in choices:
        raise unknown(f"value for {where}:", value, choices)
    return str(value)


def _list(kind: Any, items: tuple[Any, ...], value: Any, where: str) -> Any:
    if isinstance(value, Plain):
        value = list_items(value, where)
    if isinstance(value, str) or not isinstance(value, (list, tuple)):
        raise _mismatch(where, "a list", value)
    if kind is tuple and (len(items) != 2 or items[1] is not Ellipsis):
        if len(value) != len(items):
            raise _mismatch(where, f"a list of {len(items)} values", value)
        return tuple(_convert(item, part, where, None) for item, part in zip(items, value, strict=True))
    return kind(_convert(items[0], part, f"{where}[{index}]", None) for index, part in enumerate(value))


def _mismatch(where: str, expected: str, value: Any) -> InputError:
    return InputError(f"{where} must be {expected}, got {value!r}")
