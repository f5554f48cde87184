"""From a YAML recipe and dotted overrides to the settings of a run, and back.

`load_config("finetune", "dfew", ["data.train=train.csv", "optim.lr=5e-4"])` starts from the published settings of the
task, puts the recipe over them and the overrides on top, and refuses unknown keys, wrong types and settings that
contradict each other. `save_config` writes the resolved tree, which loads again as it is.
"""

from __future__ import annotations

import copy
import dataclasses
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maedfer._files import atomic_path
from maedfer.dataclass_tree import (
    check_ranges,
    differences,
    former_names,
    from_dict,
    keys_of,
    rename,
    set_dotted,
    task_defaults,
    to_dict,
    without,
)
from maedfer.errors import InputError, require, unknown
from maedfer.models import LGIFormerConfig, MAEDFERConfig, model_config
from maedfer.train.settings import (
    AugmentConfig,
    DataConfig,
    EvalConfig,
    OptimConfig,
    RunConfig,
    Task,
    TrainConfig,
)

__all__ = [
    "AugmentConfig",
    "DataConfig",
    "EvalConfig",
    "OptimConfig",
    "RunConfig",
    "TrainConfig",
    "check_config",
    "config_tree",
    "differing_keys",
    "dump_config",
    "find_recipe",
    "list_recipes",
    "load_config",
    "read_config",
    "resolve",
    "save_config",
]

TASKS: tuple[str, ...] = typing.get_args(Task)
RECIPES = Path(__file__).resolve().parent.parent / "recipes"


def list_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_config(
    task: str, recipe: str | Path | None = None, overrides: Sequence[str] = (), check: bool = True
) -> RunConfig:
    """Resolve a run's settings: defaults of the task, then the recipe, then the overrides.

    An evaluation of a run (`eval.checkpoint` or `eval.runs`) starts from the settings of that run.

    Args:
        task: "pretrain", "finetune" or "evaluate".
        recipe: a YAML file, or the name of a recipe of the package ("dfew").
        overrides: `section.key=value` with the value in YAML ("optim.lr=3e-4", "data.classes=[sad, happy]").
        check: also refuse what could be printed but not run, such as an absent `data.train`.

    Raises:
        InputError: unknown task, recipe or key, a value of the wrong type, or settings that contradict each other.
    """
    if task not in TASKS:
        raise unknown("task", task, TASKS)
    yaml = require("yaml", "train")
    names = _former_names(task)
    requested: dict[str, Any] = {}
    if recipe is not None:
        requested = rename(read_tree(find_recipe(recipe)), names)
        if requested.get("task", task) != task and task != "evaluate":
            raise InputError(f"recipe {str(recipe)!r} is for {requested['task']!r} and cannot be used to {task}")
    requested["task"] = task
    for override in overrides:
        set_dotted(requested, override, lambda text: yaml.safe_load(text) if text else "", names)
    if requested["task"] != task:
        raise InputError(f"task cannot be {requested['task']!r} here: the command says what is run, which is {task!r}")
    tree = _merge(_task_tree(task), rename(_evaluated_run(requested), names) if task == "evaluate" else {})
    tree = _merge(tree, requested)
    if not tree.get("output"):
        tree["output"] = str(_default_output(task, recipe, requested))
    cfg = resolve(tree)
    if check:
        check_config(cfg)
    return cfg


def find_recipe(recipe: str | Path) -> Path:
    """Path of a recipe given as a file or by name.

    Raises:
        InputError: there is no such file and no such name.
    """
    if Path(recipe).is_file():
        return Path(recipe)
    if Path(recipe).suffix in (".yaml", ".yml") or len(Path(recipe).parts) > 1:
        raise InputError(f"recipe file {str(recipe)!r} does not exist (shipped recipes: {', '.join(list_recipes())})")
    if str(recipe) not in list_recipes():
        raise unknown("recipe", recipe, list_recipes())
    return RECIPES / f"{recipe}.yaml"


def read_tree(path: str | Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a section.

    Raises:
        InputError: the file is absent, is not YAML, or holds something else.
    """
    yaml = require("yaml", "train")
    try:
        tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{str(path)!r} is not YAML: {' '.join(str(error).split())}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise InputError(f"{str(path)!r} must hold sections (data:, model:, optim:, ...), not a {type(tree).__name__}")
    return tree


def resolve(tree: Mapping[str, Any]) -> RunConfig:
    """Turn a nested dictionary in the layout of a recipe into a `RunConfig`.

    Raises:
        InputError: unknown key or model, wrong type, or classes that do not agree with `model.num_classes`.
    """
    tree = dict(tree)
    section = tree.pop("model", None) or {}
    if not isinstance(section, Mapping):
        raise InputError(f"model must be a section with keys (model.name, ...), got {section!r}")
    values = dict(section)
    name = values.pop("name", default_model(tree["task"]))
    data = from_dict(DataConfig, _section(tree, "data"), path="data")
    if data.classes and isinstance(model_config(str(name)), LGIFormerConfig):
        count = len(data.classes)
        if values.setdefault("num_classes", count) != count:
            raise InputError(
                f"model.num_classes is {values['num_classes']} but data.classes names {count} classes: "
                "give one of them, or make them agree"
            )
    model = model_config(str(name), **values)
    return from_dict(RunConfig, {**tree, "model_name": str(name), "model": model, "data": data})


def check_config(cfg: RunConfig) -> None:
    """Refuse settings that cannot be run.

    Raises:
        InputError: naming the keys, and what to do.
    """
    pretraining = cfg.task == "pretrain"
    if pretraining != isinstance(cfg.model, MAEDFERConfig):
        fitting = "a masked autoencoder (mae_dfer_base)" if pretraining else "a classifier (lgi_former_base)"
        raise InputError(f"model.name {cfg.model_name!r} does not fit the task: {cfg.task} takes {fitting}")
    check_ranges(cfg)
    _check_together(cfg)
    clip = cfg.clip_model.clip_size
    if len(clip) != 3:
        raise InputError(f"model.clip_size must be [frames, height, width] to be read from video, got {list(clip)}")
    if cfg.clip_model.in_channels != 3:
        raise InputError(f"model.in_channels must be 3 to be read from video, got {cfg.clip_model.in_channels}")
    if cfg.task == "evaluate":
        if cfg.eval.runs and cfg.eval.checkpoint:
            raise InputError("eval.runs and eval.checkpoint exclude each other: pool runs, or evaluate one")
        if not cfg.eval.runs and not cfg.eval.checkpoint:
            raise InputError("nothing to evaluate: set eval.checkpoint to a run folder, or eval.runs to several")
        if cfg.eval.checkpoint and not cfg.data.test:
            raise InputError("data.test is not set: give the annotation file of the clips to score")
        return
    if not cfg.data.train:
        raise InputError(f"data.train is not set: give the annotation file of the clips to {cfg.task} on")
    if not pretraining and cfg.eval.select != "last" and not getattr(cfg.data, cfg.eval.select):
        raise InputError(f"eval.select is {cfg.eval.select!r} but data.{cfg.eval.select} is not set")


def _check_together(cfg: RunConfig) -> None:
    depth = cfg.clip_model.depth
    if cfg.train.freeze_blocks > depth:
        raise InputError(f"train.freeze_blocks must be between 0 and {depth}, got {cfg.train.freeze_blocks}")
    for key, (low, high) in {"scale": cfg.augment.scale, "ratio": cfg.augment.ratio}.items():
        if low > high:
            raise InputError(f"augment.{key} must go from the smaller number to the larger one, got [{low}, {high}]")
    if cfg.train.cuda_graphs and not cfg.train.compile:
        raise InputError("train.cuda_graphs replays what torch.compile makes: set train.compile=true as well")
    if cfg.train.cuda_graphs and cfg.train.accumulate > 1:
        raise InputError(
            "train.cuda_graphs and train.accumulate exclude each other: gradients that are added up would lie in "
            "memory that the next graph writes over"
        )
    if cfg.task != "evaluate" and cfg.optim.warmup_epochs > cfg.optim.epochs:
        raise InputError(
            f"optim.warmup_epochs ({cfg.optim.warmup_epochs:g}) is above optim.epochs ({cfg.optim.epochs}): "
            "lower the one or raise the other"
        )


def config_tree(cfg: RunConfig) -> dict[str, Any]:
    """The settings as nested dictionaries in the layout of a recipe (`model.name` instead of `model_name`)."""
    tree = to_dict(cfg)
    name, model = tree.pop("model_name"), tree.pop("model")
    head = {"task": tree.pop("task"), "output": tree.pop("output"), "seed": tree.pop("seed")}
    return {**head, "report": tree.pop("report"), "model": {"name": name, **model}, **tree}


def dump_config(cfg: RunConfig) -> str:
    """The settings as YAML text that `load_config` reads back to the same tree."""
    yaml = require("yaml", "train")

    class Dumper(yaml.SafeDumper):  # type: ignore[misc, name-defined]
        """Lists on one line, sections in blocks."""

    Dumper.add_representer(
        list, lambda dumper, v: dumper.represent_sequence("tag:yaml.org,2002:seq", v, flow_style=True)
    )
    return yaml.dump(config_tree(cfg), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)


def save_config(cfg: RunConfig, path: str | Path) -> None:
    """Write `dump_config(cfg)` to a file."""
    with atomic_path(path) as temporary:
        temporary.write_text(dump_config(cfg), encoding="utf-8")


def read_config(path: str | Path) -> RunConfig:
    """Read what `save_config` wrote."""
    tree = read_tree(path)
    if tree.get("task") not in TASKS:
        raise InputError(f"{str(path)!r} is not the config.yaml of a run: its task is {tree.get('task')!r}")
    return resolve(tree)


def differing_keys(there: RunConfig, here: RunConfig) -> list[str]:
    """Name the settings in which two runs differ, each as "optim.lr (0.001 there, 0.003 here)".

    What belongs to the machine may differ. The trainer compares the global batch as a whole, so that a run can move to
    another number of processes, and lists of clips by their contents, so that data can move to another folder.
    """
    return differences(config_tree(there), config_tree(here), free=keys_of(RunConfig, "machine"))


def default_model(task: str) -> str:
    """Name of the model that a task takes where none is named."""
    return str(task_defaults(RunConfig, task).get("model_name", RunConfig.model_name))


def _task_tree(task: str) -> dict[str, Any]:
    # The defaults of a task where they are not those of the fields, in the layout of a recipe.
    tree, name = task_defaults(RunConfig, task), default_model(task)
    tree.pop("model_name", None)
    return {**tree, "model": {"name": name, **task_defaults(type(model_config(name)), task)}}


def _former_names(task: str) -> dict[str, str]:
    # `model.encoder` is a section of a masked autoencoder, and the former name of a classifier's architecture.
    model = MAEDFERConfig if task == "pretrain" else LGIFormerConfig
    others = {former: key for former, key in former_names(RunConfig).items() if not former.startswith("model.")}
    return {**others, **former_names(model, "model.")}


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    # A section over a section is merged; anything else replaces, and `from_dict` judges the result.
    for key, value in over.items():
        known = base.get(key)
        if isinstance(value, Mapping) and isinstance(known, dict):
            base[key] = _merge(known, value)
        else:
            base[key] = copy.deepcopy(value)
    return base


def _section(tree: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = tree.get(name)
    if section is None:
        return {}
    if not isinstance(section, Mapping):
        raise InputError(f"{name} must be a section with keys, got {section!r}")
    return section


def _evaluated_run(requested: Mapping[str, Any]) -> dict[str, Any]:
    # The settings of the run that an evaluation is about, as the base that recipe and overrides change.
    folder = _evaluated_folder(requested)
    if folder is None:
        return {}
    tree = read_tree(folder / "config.yaml")
    for key in ("task", "output"):
        tree.pop(key, None)
    tree["eval"] = {**_section(tree, "eval"), "checkpoint": "", "runs": []}
    # Who computed then says nothing of who can compute here.
    tree["model"] = without(LGIFormerConfig, _section(tree, "model"), "machine")
    return tree


def _evaluated_folder(requested: Mapping[str, Any]) -> Path | None:
    section = _section(requested, "eval")
    runs = section.get("runs") or []
    first = section.get("checkpoint") or (runs[0] if isinstance(runs, (list, tuple)) and runs else "")
    path = Path(str(first))
    folder = path.parent.parent if path.suffix == ".pt" else path
    return folder if first and (folder / "config.yaml").is_file() else None


def _default_output(task: str, recipe: str | Path | None, requested: Mapping[str, Any]) -> Path:
    run = _evaluated_folder(requested) if task == "evaluate" else None
    if run is not None and not _section(requested, "eval").get("runs"):
        return run / "evaluation"
    return Path("runs") / (Path(recipe).stem if recipe is not None else task)


def replace_model(cfg: RunConfig, model: LGIFormerConfig | MAEDFERConfig) -> RunConfig:
    """The same run with the configuration that loaded weights brought along."""
    return dataclasses.replace(cfg, model=model)
