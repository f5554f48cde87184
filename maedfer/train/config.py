"""From a YAML recipe and dotted overrides to the settings of a run, and back.

`load_config("finetune", "dfew", ["data.train=train.csv", "optim.lr=5e-4"])` starts from the published settings of the
task, puts the recipe over them and the overrides on top, and refuses unknown keys, wrong types and settings that
contradict each other. `save_config` writes the resolved tree, which loads again as it is.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from maedfer._values import Plain, is_null
from maedfer.data.few_labels import parse_labels
from maedfer.data.subjects import SubjectPattern
from maedfer.dataclass_tree import (
    check_ranges,
    field_types,
    former_names,
    from_dict,
    keys_of,
    rename,
    sections,
    set_key,
    split_override,
    task_defaults,
)
from maedfer.errors import InputError, unknown
from maedfer.models import LGIFormerConfig, MAEDFERConfig, model_config
from maedfer.models.config import full_key, named_keys, nested
from maedfer.models.load import saved_clip_settings
from maedfer.train.config_file import (
    TASKS,
    as_it_was,
    config_tree,
    default_model,
    differing_keys,
    dump_config,
    read_config,
    resolve,
    save_config,
    saved_tree,
    section_of,
)
from maedfer.train.evaluated import (
    check_honoured,
    differing_evaluation,
    free_folder,
    run_folder_of,
    settings_of_run,
)
from maedfer.train.hooks import check_names
from maedfer.train.recipes import find_recipe, list_recipes, read_section, read_tree
from maedfer.train.settings import (
    AugmentConfig,
    DataConfig,
    EvalConfig,
    OptimConfig,
    RunConfig,
    TrainConfig,
)
from maedfer.train.tune import Tune

__all__ = [
    "AugmentConfig",
    "DataConfig",
    "EvalConfig",
    "OptimConfig",
    "RunConfig",
    "TrainConfig",
    "check_config",
    "config_tree",
    "differing_evaluation",
    "differing_keys",
    "dump_config",
    "find_recipe",
    "list_recipes",
    "load_config",
    "read_config",
    "read_tree",
    "resolve",
    "run_folder_of",
    "save_config",
    "saved_tree",
]


def load_config(
    task: str,
    recipe: str | Path | None = None,
    overrides: Sequence[str] = (),
    check: bool = True,
    first: Mapping[str, Any] | None = None,
) -> RunConfig:
    """Resolve a run's settings: defaults of the task, then the recipe, then the overrides.

    An evaluation of a run (`eval.checkpoint` or `eval.runs`) starts from the settings of that run, one of another model
    from the class names and clip settings that are kept with it.

    Args:
        task: "pretrain", "finetune" or "evaluate".
        recipe: a YAML file, or the name of a recipe of the package ("dfew").
        overrides: `section.key=value` ("optim.lr=3e-4", "data.classes=[sad, happy]"), the last of a key counts. What
            follows the first `=` is taken as it is, and read by the type of the setting.
        check: also refuse what could be printed but not run, such as an absent `data.train`.
        first: dotted keys and values that the overrides are put over.

    Raises:
        InputError: unknown task, recipe or key, a value of the wrong type, or settings that contradict each other.
    """
    if task not in TASKS:
        raise unknown("task", task, TASKS)
    written = _written(recipe, task) if recipe is not None else {}
    given = [*(first or {}).items()]
    for override in overrides:
        given += split_override(RunConfig, override, read_section)
    for key, value in given:
        if key == "task" and value != task:
            raise InputError(f"task cannot be {value!r} here: the command says what is run, which is {task!r}")
    base: dict[str, Any] = {}
    run: Path | None = None
    if task == "evaluate":
        asked = _eval_section(written, given)
        run = run_folder_of(asked.checkpoint or (asked.runs[0] if asked.runs else ""))
        kept = saved_clip_settings(asked.checkpoint) if run is None and asked.checkpoint else None
        base = settings_of_run(run) if run is not None else {} if kept is None else kept.as_run()
    if run is not None:
        # The weights bring their model along; a recipe says who computes it.
        machine = keys_of(LGIFormerConfig, "machine")
        written["model"] = {key: value for key, value in section_of(written, "model").items() if key in machine}

    named = section_of(base, "model").get("name") or section_of(written, "model").get("name") or default_model(task)
    name = str(dict(given).get("model.name", named))
    if task != "evaluate":
        _check_fit(task, name, model_config(name))
    tree = _task_tree(task, name)
    for layer in (base, written):
        _merge(tree, _canonical(layer, name))
    if name != named:
        _forget(tree["model"], named_keys(name, str(named)))
    keys = {_canonical_key(key, name) for key, _ in given}
    if task != "evaluate" and "data.classes" in keys:
        # Their number, where a recipe has one, goes with the classes that it names.
        _forget(tree["model"], ["num_classes"])
    requested: dict[str, Any] = {"task": task, "model": {"name": name}}
    for key, value in given:
        set_key(requested, _canonical_key(key, name), value)
    _merge(tree, requested)
    chosen = bool(tree.get("output"))
    if not chosen:
        stem = Path(recipe).stem if recipe is not None else task
        tree["output"] = str(run / "evaluation" if run is not None and not asked.runs else Path("runs") / stem)
    cfg = resolve(tree)
    if task == "evaluate":
        check_honoured(cfg, keys, base)
        cfg = cfg if chosen else dataclasses.replace(cfg, output=str(free_folder(cfg)))
    if check:
        check_config(cfg)
    return cfg


def check_config(cfg: RunConfig) -> None:
    """Refuse settings that cannot be run.

    Raises:
        InputError: naming the keys, and what to do.
    """
    pretraining = cfg.task == "pretrain"
    _check_fit(cfg.task, cfg.model_name, cfg.model)
    check_ranges(cfg)
    check_names(cfg.train.log_to)
    _check_together(cfg)
    if cfg.train.save_async and cfg.train.checkpoint == "file":
        raise InputError("train.save_async writes sharded checkpoints: add train.checkpoint=sharded, or leave it out")
    if cfg.data.class_map and cfg.task != "evaluate":
        raise InputError("data.class_map is for evaluate: a model is trained on the classes that it has, leave it out")
    if cfg.data.class_map and not cfg.data.classes:
        raise InputError("data.class_map needs data.classes: the names of the data set's classes, in label order")
    if cfg.data.subject:
        SubjectPattern(cfg.data.subject)
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


def _check_fit(task: str, name: str, model: LGIFormerConfig | MAEDFERConfig) -> None:
    pretraining = task == "pretrain"
    if pretraining != isinstance(model, MAEDFERConfig):
        fitting = "a masked autoencoder (mae_dfer_base)" if pretraining else "a classifier (lgi_former_base)"
        raise InputError(f"model.name {name!r} does not fit the task: {task} takes {fitting}")


def _check_together(cfg: RunConfig) -> None:
    if cfg.task == "pretrain" and cfg.eval.select != "last":
        raise InputError(f"eval.select is {cfg.eval.select!r} but pre-training scores nothing: leave it out")
    few = parse_labels(cfg.data.labels)
    if cfg.task == "pretrain" and not few.all:
        raise InputError(f"data.labels is {cfg.data.labels!r} but pre-training uses no labels: leave it out")
    if cfg.task != "evaluate":
        Tune.of_run(cfg)
    for key, (low, high) in {"scale": cfg.augment.scale, "ratio": cfg.augment.ratio}.items():
        if low > high:
            raise InputError(f"augment.{key} must go from the smaller number to the larger one, got [{low}, {high}]")
    if cfg.data.window != DataConfig.window and not cfg.data.block:
        raise InputError("data.window mixes blocks of data.block clips, which is 0: set data.block, or leave it out")
    graphs = cfg.train.cuda_graphs == "true" and cfg.task != "evaluate"
    if graphs and cfg.train.compile == "false":
        raise InputError("train.cuda_graphs replays what torch.compile makes: leave train.compile=false out")
    if graphs and cfg.train.accumulate > 1:
        raise InputError(
            "train.cuda_graphs and train.accumulate exclude each other: gradients that are added up would lie in "
            "memory that the next graph writes over"
        )
    if cfg.train.global_batch and cfg.train.accumulate > 1:
        raise InputError(
            f"train.accumulate ({cfg.train.accumulate}) follows from train.global_batch ({cfg.train.global_batch}) and "
            "the number of processes: leave the one or the other out"
        )
    if cfg.task != "evaluate" and cfg.optim.warmup_epochs > cfg.optim.epochs:
        raise InputError(
            f"optim.warmup_epochs ({cfg.optim.warmup_epochs:g}) is above optim.epochs ({cfg.optim.epochs}): "
            "lower the one or raise the other"
        )


def for_processes(cfg: RunConfig, world: int) -> RunConfig:
    """The run with `train.accumulate` as `train.global_batch` has it for so many processes.

    Raises:
        InputError: their batches do not make that up.
    """
    train = cfg.train
    if not train.global_batch or cfg.task == "evaluate":
        return cfg
    passes, rest = divmod(train.global_batch, train.batch_size * world)
    if rest or not passes:
        raise InputError(
            f"train.global_batch ({train.global_batch}) is no multiple of train.batch_size ({train.batch_size}) x "
            f"{world} {'process' if world == 1 else 'processes'}: give a batch_size by which it is"
        )
    if passes > 1 and train.cuda_graphs == "true":
        raise InputError(
            f"train.cuda_graphs needs one pass a step, and train.global_batch ({train.global_batch}) takes {passes} of "
            f"train.batch_size ({train.batch_size}) x {world} {'process' if world == 1 else 'processes'}"
        )
    return dataclasses.replace(cfg, train=dataclasses.replace(train, accumulate=passes, global_batch=0))


def _task_tree(task: str, name: str) -> dict[str, Any]:
    # The defaults of a task where they are not those of the fields, in the layout of a recipe.
    tree = task_defaults(RunConfig, task)
    tree.pop("model_name", None)
    return {**tree, "model": {"name": name, **task_defaults(type(model_config(name)), task)}}


def _written(recipe: str | Path, task: str) -> dict[str, Any]:
    # What a recipe says, but for its task.
    path = find_recipe(recipe)
    tree: dict[str, Any] = read_tree(path)
    folder = path.absolute().parent
    of_a_run = path.name == "config.yaml" and (folder / "environment.json").is_file()
    if of_a_run:
        tree = as_it_was(tree)
    for key, hint in field_types(RunConfig).items():
        # All lines of the section are commented out.
        if sections(hint) and isinstance(tree.get(key), Plain) and is_null(tree[key]):
            del tree[key]
    meant = tree.pop("task", task)
    if meant not in TASKS:
        raise unknown(f"task in {str(recipe)!r}:", meant, TASKS)
    if meant != task and task != "evaluate":
        raise InputError(f"recipe {str(recipe)!r} is for {str(meant)!r} and cannot be used to {task}")
    if of_a_run and tree.get("output"):
        # A run folder that was moved is the output of its settings wherever it lies now.
        tree["output"] = str(folder)
    return tree


def _canonical(layer: Mapping[str, Any], name: str) -> dict[str, Any]:
    # With present names, and with the settings of an encoder under `model.encoder`.
    kind: type = type(model_config(name))
    layer = rename(layer, _former_names(kind))
    section = section_of(layer, "model")
    return {**layer, "model": nested(section, "model.") if kind is MAEDFERConfig else dict(section)}


def _canonical_key(key: str, name: str) -> str:
    kind: type = type(model_config(name))
    if kind is MAEDFERConfig and key.startswith("model."):
        key = "model." + full_key(key.removeprefix("model."))
    return _former_names(kind).get(key, key)


@cache
def _former_names(model: type) -> Mapping[str, str]:
    # `model.encoder` is a section of a masked autoencoder, and the former name of a classifier's architecture.
    others = {former: key for former, key in former_names(RunConfig).items() if not former.startswith("model.")}
    return {**others, **former_names(model, "model.")}


def _forget(section: dict[str, Any], keys: Iterable[str]) -> None:
    # Sizes that go with the name of another model.
    for key in keys:
        *path, last = key.split(".")
        inner: Any = section
        for part in path:
            inner = inner.get(part, {})
        inner.pop(last, None)


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    # A section over a section is merged; anything else replaces, and `from_dict` judges the result.
    for key, value in over.items():
        known = base.get(key)
        if isinstance(value, Mapping) and isinstance(known, dict):
            base[key] = _merge(known, value)
        else:
            base[key] = copy.deepcopy(value)
    return base


def _eval_section(written: Mapping[str, Any], given: Sequence[tuple[str, Any]]) -> EvalConfig:
    section = {**section_of(written, "eval")}
    section.update((key.removeprefix("eval."), value) for key, value in given if key.startswith("eval."))
    return from_dict(EvalConfig, section, path="eval")


def replace_model(cfg: RunConfig, model: LGIFormerConfig | MAEDFERConfig) -> RunConfig:
    """The same run with the configuration that loaded weights brought along."""
    return dataclasses.replace(cfg, model=model)
