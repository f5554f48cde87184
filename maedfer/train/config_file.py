"""Settings as trees and files: resolved, written, read, compared."""

from __future__ import annotations

import dataclasses
import os
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maedfer._files import atomic_path
from maedfer._values import is_address
from maedfer.dataclass_tree import differences, from_dict, keys_of, map_paths, task_defaults, to_dict
from maedfer.errors import InputError, require
from maedfer.models import LGIFormerConfig, model_config
from maedfer.train.recipes import read_tree
from maedfer.train.settings import DataConfig, RunConfig, Task

TASKS: tuple[str, ...] = typing.get_args(Task)


def resolve(tree: Mapping[str, Any]) -> RunConfig:
    """Turn a nested dictionary in the layout of a recipe into a `RunConfig`.

    Raises:
        InputError: unknown key or model, wrong type, or classes that do not agree with `model.num_classes`.
    """
    tree = dict(tree)
    if "model_name" in tree:
        raise InputError("unknown key 'model_name': the name of the model is model.name")
    section = tree.pop("model", {})
    if not isinstance(section, Mapping):
        raise InputError(f"model must be a section with keys (model.name, ...), got {section!r}")
    values = dict(section)
    for key in values:
        if not isinstance(key, str):
            raise InputError(f"unknown key {key!r} in 'model': keys are names")
    name = str(values.pop("name", default_model(tree["task"])))
    data = from_dict(DataConfig, section_of(tree, "data"), path="data")
    count = len(data.classes)
    # With a map they are those of the data set, and not the model's.
    own = bool(count) and not data.class_map
    if own and isinstance(model_config(name), LGIFormerConfig):
        values.setdefault("num_classes", count)
    model = model_config(name, **values)
    if own and isinstance(model, LGIFormerConfig) and model.num_classes != count:
        raise InputError(
            f"model.num_classes is {model.num_classes} but data.classes names {count} classes: "
            "give one of them, or make them agree"
        )
    return from_dict(RunConfig, {**tree, "model_name": name, "model": model, "data": data})


def config_tree(cfg: RunConfig) -> dict[str, Any]:
    """The settings as nested dictionaries in the layout of a recipe (`model.name` instead of `model_name`)."""
    tree = to_dict(cfg)
    name, model = tree.pop("model_name"), tree.pop("model")
    head = {"task": tree.pop("task"), "output": tree.pop("output"), "seed": tree.pop("seed")}
    return {**head, "report": tree.pop("report"), "model": {"name": name, **model}, **tree}


def dump_config(cfg: RunConfig, ascii_only: bool = False) -> str:
    """The settings as YAML text that `load_config` reads back to the same tree.

    Args:
        cfg: the settings.
        ascii_only: write other characters as escapes, for a stream that cannot hold them.
    """
    return dump_tree(config_tree(cfg), ascii_only)


def saved_tree(cfg: RunConfig) -> dict[str, Any]:
    """`config_tree(cfg)` with whole paths, which lead to the same places from any working directory."""
    return config_tree(map_paths(cfg, _whole))


def save_config(cfg: RunConfig, path: str | Path) -> None:
    """Write the settings to a file as YAML that `load_config` reads, with whole paths."""
    with atomic_path(path) as temporary:
        temporary.write_text(dump_tree(saved_tree(cfg)), encoding="utf-8")


def read_config(path: str | Path) -> RunConfig:
    """Read what `save_config` wrote."""
    tree = read_tree(path)
    if tree.get("task") not in TASKS:
        raise InputError(f"{str(path)!r} is not the config.yaml of a run: its task is {tree.get('task')!r}")
    return resolve(as_it_was(tree))


def as_it_was(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a run saved, with what those that it did not know were in effect.

    Args:
        tree: in the layout of a recipe, complete but for settings that there were not.
    """
    augment = section_of(tree, "augment")
    if tree.get("task") == "finetune" and augment.get("randaugment") and "interpolation" not in augment:
        return {**tree, "augment": {**augment, "interpolation": "bilinear"}}
    return dict(tree)


def differing_keys(there: RunConfig, here: RunConfig) -> list[str]:
    """Name the settings in which two runs differ, each as "optim.lr (0.001 there, 0.003 here)".

    What belongs to the machine may differ. The trainer compares the global batch as a whole, so that a run can move to
    another number of processes, and lists of clips by their contents, so that data can move to another folder. The
    weights to start from are the same where they lie in the same place, or where they lay relative to the run folder.
    """
    if there.train.init and here.train.init and _same_place(there, here):
        there = dataclasses.replace(there, train=dataclasses.replace(there.train, init=here.train.init))
    return differences(config_tree(there), config_tree(here), free=keys_of(RunConfig, "machine"))


def default_model(task: str) -> str:
    """Name of the model that a task takes where none is named."""
    return str(task_defaults(RunConfig, task).get("model_name", RunConfig.model_name))


def section_of(tree: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A section of a tree; empty where it is not there.

    Raises:
        InputError: it is a value and not a section.
    """
    section = tree.get(name)
    if section is None:
        return {}
    if not isinstance(section, Mapping):
        raise InputError(f"{name} must be a section with keys, got {section!r}")
    return section


def _whole(key: str, path: str) -> str:
    no_path = not path or is_address(path) or (key == "train.resume" and path in ("auto", "none"))
    return path if no_path else str(Path(path).absolute())


def _same_place(there: RunConfig, here: RunConfig) -> bool:
    init, other = (os.path.realpath(cfg.train.init) for cfg in (there, here))
    start, start_other = (os.path.realpath(cfg.output) for cfg in (there, here))
    return init == other or os.path.relpath(init, start) == os.path.relpath(other, start_other)


def dump_tree(tree: dict[str, Any], ascii_only: bool = False) -> str:
    """Nested dictionaries as YAML, lists on one line; see `dump_config`."""
    yaml = require("yaml", "train")

    class Dumper(yaml.SafeDumper):  # type: ignore[misc, name-defined]
        """Lists on one line, sections in blocks."""

    Dumper.add_representer(
        list, lambda dumper, v: dumper.represent_sequence("tag:yaml.org,2002:seq", v, flow_style=True)
    )
    text: str = yaml.dump(tree, Dumper=Dumper, sort_keys=False, allow_unicode=not ascii_only, width=120)
    return text
