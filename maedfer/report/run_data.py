"""What the reports read from a run folder: every file is optional, a broken one is an error that names it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maedfer._files import check_archive, parse_json
from maedfer.dataclass_tree import former_names, rename
from maedfer.errors import InputError, require, shortened
from maedfer.evaluation.metrics import intervals, scores
from maedfer.models import profile
from maedfer.report.page import leaves
from maedfer.train.config import RunConfig, resolve
from maedfer.train.recipes import check_size

Record = dict[str, Any]


@dataclass(frozen=True)
class Scores:
    """A confusion matrix and what follows from it, as fractions; NaN where a score is undefined.

    Args:
        classes: names, in label order.
        confusion: counts [classes, classes], rows true, columns predicted.
        recall, f1: per class.
        uar, war, macro_f1, weighted_f1: over all clips.
    """

    classes: tuple[str, ...]
    confusion: NDArray[np.int64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]
    uar: float
    war: float
    macro_f1: float
    weighted_f1: float

    @classmethod
    def of(cls, classes: tuple[str, ...], confusion: NDArray[np.int64]) -> Scores:
        """Score the matrix, which must hold a clip at least."""
        found = scores(confusion)
        return cls(
            classes,
            confusion,
            np.array(found["recall"], dtype=float),
            np.array(found["f1"], dtype=float),
            *(float(found[key]) for key in ("uar", "war", "macro_f1", "weighted_f1")),
        )

    @property
    def counts(self) -> NDArray[np.int64]:
        """Clips per true class."""
        return self.confusion.sum(axis=1)

    @property
    def n(self) -> int:
        """Clips in all."""
        return int(self.confusion.sum())

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """The 95 % intervals of UAR and WAR over clips."""
        return intervals(self.confusion)


@dataclass(frozen=True)
class RunData:
    """The files of a run folder, parsed; None or empty where a file is absent.

    Args:
        path: the folder.
        config: config.yaml, by present names.
        environment: environment.json.
        metrics: metrics.json as it is.
        scores: the confusion matrix of metrics.json.
        steps, epochs, evals, events: records of log.jsonl by kind; what a resumed run did again counts once.
        torn: number of the line of log.jsonl that was cut off when the run was killed.
    """

    path: Path
    config: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    scores: Scores | None = None
    steps: list[Record] = field(default_factory=list)
    epochs: list[Record] = field(default_factory=list)
    evals: list[Record] = field(default_factory=list)
    events: list[Record] = field(default_factory=list)
    torn: int | None = None

    def setting(self, key: str, default: Any = None) -> Any:
        """Value of a dotted key of config.yaml."""
        value: Any = self.config
        for part in key.split("."):
            if not isinstance(value, Mapping) or part not in value:
                return default
            value = value[part]
        return value

    @property
    def precision(self) -> str | None:
        """What the run computed in; None where nothing says it, or nothing was computed (folds put together)."""
        if self.setting("eval.runs") and self.setting("task") == "evaluate":
            return None
        found = self.metrics.get("precision", self.environment.get("precision"))
        return found if isinstance(found, str) else None

    @property
    def trained(self) -> str:
        """How many of the weights were trained, for people; "" where all of them were, or nothing says it."""
        of_all = ("", "all")
        events = [item for item in self.events if item.get("kind") == "trained"]
        told = [item for item in events if item.get("tune", "all") not in of_all]
        count, share = (number(told[-1].get(key)) for key in ("trained", "share")) if told else (None, None)
        if count is None or share is None:
            return ""
        return f"{count / 1e6:.3g} M trained ({100 * share:.3g} %): {told[-1]['tune']}"

    def leaves(self) -> dict[str, Any]:
        """The settings by dotted key, `train.precision` as what "auto" came to."""
        found = dict(leaves(self.config))
        if found.get("train.precision") == "auto" and self.precision is not None:
            found["train.precision"] = self.precision
        return found

    def series(self, records: str, key: str, x: str = "step") -> tuple[list[float], list[float]]:
        """Two lists, `x` and `key`, of the records that have both as finite numbers."""
        pairs = [(number(item.get(x)), number(item.get(key))) for item in getattr(self, records)]
        known = [(left, right) for left, right in pairs if left is not None and right is not None]
        return [left for left, _ in known], [right for _, right in known]


def read_run(run_dir: str | Path) -> RunData:
    """Read the small files of a run folder.

    Raises:
        InputError: the folder is absent or holds nothing to report, or a file in it is broken.
    """
    path = Path(run_dir)
    if not path.is_dir():
        if path.exists():
            raise InputError(f"{str(path)!r} is a file: give the folder of a run")
        raise InputError(f"run folder {str(path)!r} does not exist")
    names = ("config.yaml", "environment.json", "metrics.json", "log.jsonl")
    if not any((path / name).is_file() for name in names):
        raise InputError(f"{str(path)!r} is not a run folder: it has none of {', '.join(names)}")
    records, torn = read_log(path / "log.jsonl")
    metrics = read_json(path / "metrics.json")
    return RunData(
        path=path,
        config=rename(_read_yaml(path / "config.yaml"), former_names(RunConfig)),
        environment=read_json(path / "environment.json"),
        metrics=metrics,
        scores=_scores(metrics, path / "metrics.json"),
        steps=_latest(records, "step", "step"),
        epochs=_latest(records, "epoch", "epoch"),
        evals=_latest(records, "eval", "epoch"),
        events=[item for item in records if item.get("kind") not in ("step", "epoch", "eval")],
        torn=torn,
    )


def read_log(path: Path) -> tuple[list[Record], int | None]:
    """Read log.jsonl; a last line that was cut off by a kill is left out.

    Returns:
        The records, and the number of the line that was cut off.

    Raises:
        InputError: another line is no record, by file and line number.
    """
    if not path.is_file():
        return [], None
    lines = path.read_text(encoding="utf-8", errors="replace").rstrip().split("\n")
    records: list[Record] = []
    for index, line in enumerate(lines, 1):
        record = _record(line)
        if record is not None:
            records.append(record)
        elif index == len(lines) and line:
            return records, index
        elif line.strip():
            raise InputError(f"{str(path)!r} line {index} is not a JSON record: remove the line to read the log")
    return records, None


def _record(line: str) -> Record | None:
    try:
        value = parse_json(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _latest(records: Iterable[Record], kind: str, order: str) -> list[Record]:
    # A run that goes on from a checkpoint logs again what came after it: the last record of a step or epoch counts.
    found: dict[tuple[Any, float], Record] = {}
    for index, item in enumerate(records):
        if item.get("kind") == kind:
            at = number(item.get(order))
            found[item.get("split"), index if at is None else at] = item
    return sorted(found.values(), key=lambda item: number(item.get(order)) or 0.0)


def read_arrays(path: Path, wanted: Iterable[str], optional: Iterable[str] = ()) -> dict[str, NDArray[Any]]:
    """Read an .npz file; an absent file gives an empty dictionary.

    Raises:
        InputError: the file is broken or lacks one of the `wanted` arrays.
    """
    if not path.is_file():
        return {}
    try:
        check_archive(path)
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in (*wanted, *optional) if name in file.files}
    except Exception as error:  # numpy, zipfile and zlib each raise their own.
        why = shortened(str(error))
        raise InputError(f"{str(path)!r} cannot be read ({why}): delete it or write it anew") from error
    missing = [name for name in wanted if name not in arrays]
    if missing:
        raise InputError(f"{str(path)!r} lacks the array {', '.join(missing)}: write it anew")
    return arrays


def read_features(path: Path) -> dict[str, NDArray[Any]]:
    """Read features.npz: features [n, C], labels [n], predictions [n] where given.

    Raises:
        InputError: the file is broken, or its arrays do not belong together.
    """
    arrays = read_arrays(path, ("features", "labels"), ("predictions", "names"))
    if arrays:
        shapes = {name: array.shape for name, array in arrays.items()}
        n = len(arrays["labels"])
        if arrays["features"].ndim != 2 or any(shape[0] != n for shape in shapes.values()):
            raise InputError(f"{str(path)!r} has arrays that do not belong together: {shapes}")
    return arrays


def read_pictures(path: Path) -> dict[str, NDArray[Any]]:
    """Read reconstructions.npz: masked and original, the predictions where given, all [n, T, H, W, 3].

    Raises:
        InputError: the file is broken, or its arrays are no pictures of one shape.
    """
    arrays = read_arrays(path, ("masked", "original"), ("appearance", "motion", "full"))
    shapes = {name: array.shape for name, array in arrays.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != 5 or shape[-1] != 3 for shape in shapes.values()):
        raise InputError(f"{str(path)!r} must hold arrays [n, T, H, W, 3] of one shape, got {shapes}")
    return arrays


def count_parameters(run: RunData) -> int | None:
    """Number of weights, of the model that config.yaml describes."""
    try:
        return profile(resolve(run.config).model).parameters
    except (InputError, KeyError):
        # Settings of another version, or none: one number less on the page.
        return None


def number(value: Any) -> float | None:
    """The value as a float, None unless it is a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def read_json(path: Path) -> dict[str, Any]:
    """Read an object of a JSON file; an absent file gives an empty one.

    Raises:
        InputError: the file is no JSON, or holds something else.
    """
    if not path.is_file():
        return {}
    try:
        value = parse_json(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except ValueError as error:
        raise InputError(f"{str(path)!r} is not JSON ({error}): delete it or write it anew") from error
    if not isinstance(value, dict):
        raise InputError(f"{str(path)!r} must hold a JSON object, not a {type(value).__name__}")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it holds {name}, which is no number, and scores beside it are worth nothing")


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    yaml = require("yaml", "train")
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
        check_size(value, repr(str(path)))
    except RecursionError:
        raise InputError(f"{str(path)!r} is nested too deeply for settings") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{str(path)!r} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(value, dict):
        raise InputError(f"{str(path)!r} must hold sections with keys, not a {type(value).__name__}")
    return value


def _scores(metrics: Mapping[str, Any], path: Path) -> Scores | None:
    if not metrics:
        return None
    try:
        confusion = np.asarray(metrics["confusion"], dtype=np.int64)
        classes = tuple(str(name) for name in metrics["classes"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{str(path)!r} needs 'classes' and a 'confusion' matrix of counts: evaluate the run anew"
        ) from error
    if not classes or confusion.shape != (len(classes),) * 2 or (confusion < 0).any() or not confusion.any():
        raise InputError(
            f"{str(path)!r}: 'confusion' must hold the counts of {len(classes)} x {len(classes)} classes,"
            f" got an array of shape {confusion.shape} with {int(confusion.sum())} clips"
        )
    return Scores.of(classes, confusion)
