"""Every setting of a run in words: its default, what it may be, what it belongs to, what it means."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, Literal, Union

from maedfer.dataclass_tree import field_types, former_names, sections
from maedfer.errors import InputError, unknown
from maedfer.models import LGIFormerConfig, MAEDFERConfig
from maedfer.setting import Owner, Setting, setting_of
from maedfer.train.settings import RunConfig


@dataclasses.dataclass(frozen=True)
class Description:
    """A setting in words.

    Args:
        key: its dotted key, as on the command line.
        default: its default, in YAML; empty where there is none.
        by_task: tasks whose default is another one, and that one.
        values: what it may be.
        belongs_to: what it belongs to, a key of `OWNERS`.
        meaning: what it means.
    """

    key: str
    default: str
    by_task: dict[str, str]
    values: str
    belongs_to: Owner
    meaning: str


@dataclasses.dataclass(frozen=True)
class Section:
    """Settings that stand together.

    Args:
        name: its key; empty for the top level.
        meaning: what is set here.
        settings: in the order of the fields.
    """

    name: str
    meaning: str
    settings: tuple[Description, ...]


def describe() -> list[Section]:
    """All settings, section by section; `model` is there twice, as a classifier and as a masked autoencoder."""
    hints = field_types(RunConfig)
    top, below = [], []
    for field in dataclasses.fields(RunConfig):
        kinds = sections(hints[field.name])
        if field.name == "model_name":
            named = _describe(field, hints[field.name], "model.name")
        elif not kinds:
            top.append(_describe(field, hints[field.name], field.name))
        elif len(kinds) == 1:
            below.append(Section(field.name, setting_of(field).doc, _fields(kinds[0], field.name)))
    classifier = (
        "LGI-Former or a ViT with its head; in pre-training, these keys are under `model.encoder` (`encoder.` may be "
        "left out)"
    )
    return [
        Section("", "top level", tuple(top)),
        *below,
        Section("model", classifier, (named, *_fields(LGIFormerConfig, "model"))),
        Section("model", "the masked autoencoder, in pre-training only", _fields(MAEDFERConfig, "model")),
    ]


def find(key: str) -> list[Section]:
    """The settings that a key stands for: a section, or one setting in the sections that have it.

    Raises:
        InputError: there is no such key, or it goes by another name now.
    """
    everything = describe()
    if key == "model.encoder":
        meaning = "the encoder of a masked autoencoder, in pre-training only"
        return [Section(key, meaning, _fields(LGIFormerConfig, key))]
    former = former_names(RunConfig)
    if key in former:
        raise InputError(f"setting {key!r} is now called {former[key]!r}: ask for that")
    whole = [section for section in everything if section.name == key]
    if key and whole:
        return whole
    # The encoder of an autoencoder has the keys of a classifier.
    name = "model." + key.removeprefix("model.encoder.") if key.startswith("model.encoder.") else key
    found = [
        dataclasses.replace(section, settings=tuple(item for item in section.settings if item.key == name))
        for section in everything
    ]
    found = [section for section in found if section.settings]
    if not found:
        known = [item.key for section in everything for item in section.settings]
        raise unknown("setting", key, [*dict.fromkeys(section.name for section in everything if section.name), *known])
    return found


def shown(value: Any) -> str:
    """A default as YAML has it; "empty" for an empty text."""
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(shown(item) for item in value)}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.4g}"
    return {"": "empty", None: "null"}.get(value, str(value))


def _fields(cls: type, path: str) -> tuple[Description, ...]:
    hints = field_types(cls)
    return tuple(
        _describe(field, hints[field.name], f"{path}.{field.name}")
        for field in dataclasses.fields(cls)
        if not sections(hints[field.name])
    )


def _describe(field: dataclasses.Field[Any], hint: Any, key: str) -> Description:
    known = setting_of(field)
    return Description(
        key=key,
        default="" if field.default is dataclasses.MISSING else shown(field.default),
        by_task={task: shown(value) for task, value in known.by_task.items()},
        values=_values(hint, known),
        belongs_to=known.belongs_to,
        meaning=known.doc,
    )


def _values(hint: Any, known: Setting) -> str:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        options = [_values(part, known) for part in parts if part is not type(None)]
        return ", or ".join([*options, *(["null"] if type(None) in parts else [])])
    if origin is Literal:
        return ", ".join(map(str, parts))
    if origin in (tuple, list):
        count = "a list of" if Ellipsis in parts or origin is list else f"{len(parts)}"
        kind = {int: "whole numbers", float: "numbers", str: "texts"}[parts[0]]
        return f"{count} {kind}" + (f", each {known.range}" if known.has_range else "")
    words = {bool: "true, false", int: "a whole number", float: "a number", str: "text"}
    kind = words[hint]
    if not known.has_range:
        return kind
    return f"{kind} of {known.range}" if known.range.startswith("at ") else f"{kind} {known.range}"
