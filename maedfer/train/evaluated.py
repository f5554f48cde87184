"""What an evaluation takes from the run that it is about, and what makes it another evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maedfer._values import is_address
from maedfer.dataclass_tree import differences, keys_of, to_dict, without
from maedfer.errors import InputError
from maedfer.models import LGIFormerConfig, model_config
from maedfer.models.config import named_keys
from maedfer.models.load import load_path
from maedfer.train.config_file import read_config, section_of
from maedfer.train.precision import precision_here, recorded_precision
from maedfer.train.recipes import read_tree
from maedfer.train.settings import RunConfig

# What makes an evaluation another one, whose scores must not take the place of the first one's.
_EVALUATION = (
    "data.test",
    "data.root",
    "data.classes",
    "data.class_map",
    "data.label_offset",
    "data.stride",
    "data.fit",
    "data.backend",
    "eval.views",
    "eval.checkpoint",
    "eval.runs",
    "train.precision",
)
# What an evaluation of `eval.runs` looks at beside what belongs to the machine, and what it does not look at.
_POOLED = frozenset("task output report data.classes eval.runs eval.checkpoint".split())
_CLIPS = frozenset("data.train data.val data.test data.root eval.save_features".split())


def run_folder_of(source: str) -> Path | None:
    """The folder of the run that an evaluation is about, given by itself or by one of its checkpoints."""
    path = Path(source)
    folder = path.parent.parent if path.suffix == ".pt" else path
    return folder if source and (folder / "config.yaml").is_file() else None


def settings_of_run(folder: Path) -> dict[str, Any]:
    """The settings of a run, as the base that recipe and overrides of its evaluation change."""
    tree = read_tree(folder / "config.yaml")
    pretrained = tree.get("task") == "pretrain"
    for key in ("task", "output"):
        tree.pop(key, None)
    tree["eval"] = {**section_of(tree, "eval"), "checkpoint": "", "runs": []}
    data = section_of(tree, "data")
    if data.get("class_map"):
        # Classes are then those of that evaluation's data set.
        tree["data"] = {key: value for key, value in data.items() if key not in ("class_map", "classes")}
    # Who computed then says nothing of who can compute here, and what else an autoencoder is its weights tell.
    tree["model"] = {} if pretrained else without(LGIFormerConfig, section_of(tree, "model"), "machine")
    return tree


def check_honoured(cfg: RunConfig, asked: set[str], trained: Mapping[str, Any]) -> None:
    """Refuse overrides that an evaluation would not look at.

    Args:
        cfg: the evaluation.
        asked: dotted keys that the command line gives.
        trained: the settings of the run that it is about; empty where it is about other weights.

    Raises:
        InputError: names the first of them.
    """
    machine = keys_of(RunConfig, "machine")
    if cfg.eval.runs and not cfg.eval.checkpoint:
        idle = sorted(key for key in asked if key not in _POOLED | machine or key in _CLIPS)
        if idle:
            raise InputError(
                f"{idle[0]} changes nothing here: eval.runs puts the predictions of runs together and computes nothing "
                "anew: leave it out, or evaluate one run with it"
            )
        return
    keys = {key.removeprefix("model.") for key in asked - machine if key.startswith("model.")} - {"drop_path"}
    if "name" in keys:
        keys |= named_keys(cfg.model_name, cfg.model_name)
    if not keys or not cfg.eval.checkpoint or cfg.eval.runs:
        return
    theirs = dict(section_of(trained, "model"))
    weights = model_config(str(theirs.pop("name")), **theirs) if theirs else load_path(cfg.eval.checkpoint).config
    differ = [text for text in differences(to_dict(weights), to_dict(cfg.model)) if text.partition(" ")[0] in keys]
    if differ:
        raise InputError(
            f"model.{differ[0].replace(' there, ', ' in the weights, ')} cannot change: an evaluation takes the model "
            "that the weights are of: leave it out"
        )


def differing_evaluation(there: RunConfig, here: RunConfig, folder: Path) -> list[str]:
    """Name the settings by which two evaluations are about other things: clips, model, or how clips are read.

    Args:
        there, here: settings of the one that is there, and of the other.
        folder: of the one that is there.
    """
    left, right = ({key: _evaluation_value(cfg, key) for key in _EVALUATION} for cfg in (there, here))
    if there.train.precision == here.train.precision == "auto":
        # The device decides. Nothing is computed anew where runs are put together.
        before = recorded_precision(folder)
        if before is not None and not here.eval.runs:
            left["train.precision"], right["train.precision"] = before, precision_here(here)
    return differences(left, right)


def free_folder(cfg: RunConfig, most: int = 10_000) -> Path:
    """The folder of an evaluation that nobody has chosen: the first one whose scores are not those of another.

    Raises:
        InputError: there are too many.
    """
    for number in range(1, most):
        folder = Path(cfg.output if number == 1 else f"{cfg.output}_{number}")
        try:
            known = read_config(folder / "config.yaml") if (folder / "config.yaml").is_file() else None
        except InputError:
            continue
        if known is None or known.task != "evaluate" or not differing_evaluation(known, cfg, folder):
            return folder
    raise InputError(f"{cfg.output!r} and {most - 2} folders beside it hold other evaluations: give output=FOLDER")


def _evaluation_value(cfg: RunConfig, key: str) -> Any:
    section, name = key.split(".")
    value = getattr(getattr(cfg, section), name)
    if isinstance(value, tuple):
        return [str(Path(item).absolute()) for item in value] if key == "eval.runs" else list(value)
    if key not in ("data.test", "data.root", "data.class_map", "eval.checkpoint") or not value or is_address(value):
        return value
    path, folder = Path(value).absolute(), Path(cfg.output).absolute().parent
    if key == "eval.checkpoint" and (path == folder or path.parent.parent == folder):
        # An evaluation inside of the run that it is about stays the same when the run is moved.
        return str(path.relative_to(folder))
    return str(path)
