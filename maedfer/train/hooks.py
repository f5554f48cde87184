"""Who is told what a run says: TensorBoard, Weights & Biases, MLflow, and functions of one's own.

A hook is anything that can be called with one record, a dictionary that it may keep. Records are those of log.jsonl as
they are written (kind "init", "note", "step", "epoch", "eval"), with two beside them: "start" before the first and
"end" after the last one. Hooks are called in the main process alone, one after the other, and training waits for them.
One that raises is told no more: a run of days is worth more than its curves, and log.jsonl has every record.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from maedfer._files import atomic_path, parse_json
from maedfer.dataclass_tree import leaves
from maedfer.errors import InputError, require

Record = dict[str, Any]
Hook = Callable[[Record], object]

# Where a run folder keeps under which number others know the run.
IDS_FILE = "logged_to.json"
# Records that tell a course, whose numbers are drawn over steps.
_COURSE = ("step", "epoch", "eval")
# MLflow takes so many parameters at a time, and values of this length.
_MOST_PARAMETERS, _LONGEST = 100, 500


class Hooks:
    """The hooks of a run by name, of which one that has failed is told nothing more.

    Attributes:
        missed: how many records each of those that failed was not told, the one it failed with among them.
    """

    def __init__(self, hooks: Mapping[str, Hook]) -> None:
        self._hooks = dict(hooks)
        self.missed: dict[str, int] = {}

    def tell(self, record: Record) -> list[str]:
        """Give a record to all of them.

        Returns:
            A sentence for each that has failed with it.
        """
        said = []
        for name, hook in self._hooks.items():
            if name in self.missed:
                self.missed[name] += 1
                continue
            try:
                hook(copy.deepcopy(record))
            except Exception as error:
                self.missed[name] = 1
                why = " ".join(str(error).split()) or "no message"
                at = f" at step {record['step']}" if record.get("step") else ""
                said.append(
                    f"the run goes on without {name}, which failed with record {record['kind']!r}{at}: "
                    f"{type(error).__name__}: {why}"
                )
        return said


class TensorBoard:
    """Event files in the run folder's `tensorboard`."""

    _writer: Any = None

    def __call__(self, record: Record) -> None:
        if record["kind"] == "start":
            from torch.utils.tensorboard import SummaryWriter

            folder, step = Path(record["output"]) / "tensorboard", record["step"]
            try:
                self._writer = SummaryWriter(str(folder), purge_step=step + 1 if step else 0)
            except UnicodeEncodeError as error:
                raise InputError("it cannot write to a folder whose name is not UTF-8") from error
        elif record["kind"] == "end":
            self._writer.close()
        for name, value in course(record).items():
            self._writer.add_scalar(name, value, record["step"])


class WeightsAndBiases:
    """A run of Weights & Biases, which the same run goes on with when it is resumed.

    Where it belongs and how it is sent is decided by the variables that wandb knows (WANDB_PROJECT, WANDB_MODE, ...).
    """

    _run: Any = None

    def __init__(self) -> None:
        self._wandb: Any = require("wandb", "wandb")

    def __call__(self, record: Record) -> None:
        if record["kind"] == "start":
            output, known = Path(record["output"]), known_id(record, "wandb")
            self._run = self._wandb.init(
                project=os.environ.get("WANDB_PROJECT") or "maedfer",
                name=output.name,
                dir=str(output),
                id=known,
                resume=None if known is None else "allow",
                config=record["config"],
            )
            keep_id(record, "wandb", self._run.id)
        elif record["kind"] == "end":
            self._run.summary.update(numbers("result", record["scores"]))
            self._run.finish(exit_code=0 if record["outcome"] == "complete" else 1)
        elif values := course(record):
            # What a resumed run says once more is of steps that are there, and passed over.
            self._run.log(values, step=record["step"])


class MLflow:
    """A run of MLflow, which the same run goes on with when it is resumed; where is said by MLFLOW_TRACKING_URI."""

    _client: Any = None
    _run_id = ""

    def __init__(self) -> None:
        self._mlflow: Any = require("mlflow", "mlflow")

    def __call__(self, record: Record) -> None:
        if record["kind"] == "start":
            self._client = self._mlflow.MlflowClient()
            known = known_id(record, "mlflow")
            self._run_id = known or self._new_run(record)
            if known is not None:
                self._client.update_run(known, status="RUNNING")
        elif record["kind"] == "end":
            self._log(numbers("result", record["scores"]), record["step"])
            self._client.set_terminated(self._run_id, "FINISHED" if record["outcome"] == "complete" else "FAILED")
        else:
            self._log(course(record), record.get("step", 0))

    def _new_run(self, record: Record) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "maedfer"
        experiment = self._client.get_experiment_by_name(name)
        number = self._client.create_experiment(name) if experiment is None else experiment.experiment_id
        run_id = self._client.create_run(number, run_name=Path(record["output"]).name).info.run_id
        keep_id(record, "mlflow", run_id)
        settings = [self._mlflow.entities.Param(key, str(value)[:_LONGEST]) for key, value in leaves(record["config"])]
        for first in range(0, len(settings), _MOST_PARAMETERS):
            self._client.log_batch(run_id, params=settings[first : first + _MOST_PARAMETERS])
        return run_id

    def _log(self, values: Mapping[str, Any], step: int) -> None:
        now = int(1000 * time.time())
        metrics = [self._mlflow.entities.Metric(name, value, now, step) for name, value in values.items()]
        if metrics:
            self._client.log_batch(self._run_id, metrics=metrics)


BUILT_IN: dict[str, Callable[[], Hook]] = {"wandb": WeightsAndBiases, "mlflow": MLflow}


def course(record: Record) -> dict[str, float]:
    """The numbers of a record that are drawn over steps, by name: "step/loss", "test/uar"; none of other records."""
    if record["kind"] not in _COURSE or "step" not in record:
        return {}
    return numbers(str(record.get("split", record["kind"])), {**record, "step": None})


def numbers(prefix: str, values: Mapping[str, Any]) -> dict[str, float]:
    """Those values that are numbers, each under "prefix/name"."""
    return {
        f"{prefix}/{name}": value
        for name, value in values.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def known_id(start: Record, name: str) -> str | None:
    """Under which number a service knows the run that goes on; None for one that it was not told of.

    Args:
        start: the record "start".
        name: of the service.
    """
    found = _ids(Path(start["output"])).get(name)
    return found if isinstance(found, str) else None


def keep_id(start: Record, name: str, number: str) -> None:
    """Keep the number in the run folder, for when the run is resumed.

    Raises:
        InputError: it cannot be written.
    """
    folder = Path(start["output"])
    known = _ids(folder)
    with atomic_path(folder / IDS_FILE) as path:
        path.write_text(json.dumps({**known, name: number}, indent=2) + "\n", encoding="utf-8")


def check_names(names: Sequence[str]) -> None:
    """Refuse names of hooks that are none, without importing anything.

    Raises:
        InputError: one is no name of a hook, or is given twice.
    """
    for number, name in enumerate(names):
        module, colon, attribute = name.partition(":")
        words = [*module.split("."), *attribute.split(".")]
        if name not in BUILT_IN and not (colon and all(word.isidentifier() for word in words)):
            raise InputError(
                f"train.log_to holds {name!r}: give {', '.join(BUILT_IN)}, or a function of your own as module:function"
            )
        if name in names[:number]:
            raise InputError(f"train.log_to names {name!r} twice: it would be told everything twice")


def find_hook(name: str) -> Hook:
    """The hook that a setting names.

    Args:
        name: "wandb", "mlflow", or "module:function", whose module is looked for in the working directory too.

    Raises:
        InputError: there is no such module or function, or it cannot be called.
        MissingDependencyError: the package is not installed.
    """
    check_names([name])
    if name in BUILT_IN:
        return BUILT_IN[name]()
    module, _, attribute = name.partition(":")
    found: Any = _imported(module, name)
    for word in attribute.split("."):
        if not hasattr(found, word):
            raise InputError(f"train.log_to: {name!r} cannot be found: {module!r} has no {attribute!r}")
        found = getattr(found, word)
    if isinstance(found, type) or not callable(found):
        kind = "a class" if isinstance(found, type) else f"a {type(found).__name__}"
        raise InputError(f"train.log_to: {name!r} is {kind}: name a function, or an object that can be called")
    return found


def _imported(module: str, name: str) -> Any:
    here = os.getcwd()
    if here not in sys.path:
        # For good: a function may import what lies beside it when it is called.
        sys.path.append(here)
    try:
        return importlib.import_module(module)
    except Exception as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}.")
        why = f"{type(error).__name__}: {' '.join(str(error).split())}"
        if absent:
            why = f"there is no module {module!r}, neither in {here!r} nor where Python looks"
        raise InputError(f"train.log_to: {name!r} cannot be imported: {why}") from error


def open_hooks(names: Sequence[str], given: Sequence[Hook] = (), tensorboard: bool = False) -> Hooks:
    """The hooks of a run.

    Args:
        names: see `find_hook`.
        given: hooks as they are.
        tensorboard: write event files, where tensorboard is installed.

    Raises:
        InputError: one of them is none.
        MissingDependencyError: a package is not installed.
    """
    hooks: dict[str, Hook] = {}
    if tensorboard and importlib.util.find_spec("tensorboard"):
        hooks["tensorboard"] = TensorBoard()
    hooks.update((name, find_hook(name)) for name in names)
    for hook in given:
        if isinstance(hook, type) or not callable(hook):
            raise InputError(f"hooks must be functions of one record, or objects that can be called, got {hook!r}")
        name = getattr(hook, "__qualname__", type(hook).__qualname__)
        hooks[name if name not in hooks else f"{name} ({len(hooks) + 1})"] = hook
    return Hooks(hooks)


def _ids(folder: Path) -> dict[str, Any]:
    try:
        found = parse_json((folder / IDS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
