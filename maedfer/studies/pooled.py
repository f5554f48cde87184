"""The predictions of several runs, put together and scored once."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maedfer._files import parse_json
from maedfer.train.config import load_config
from maedfer.train.evaluate import run_evaluate

METRICS = ("uar", "war")
# How the two ways to make one number of folds are called, wherever they stand.
POOLED, MEAN = "pooled (all folds scored once)", "mean of the folds"


def pool_runs(runs: Sequence[Path], output: Path) -> None:
    """Write pred.csv and metrics.json of all runs together into a folder, which `maedfer compare` and `report` take.

    Those of an earlier call are replaced.

    Raises:
        InputError: a run has no predictions, or the runs have different classes.
    """
    # Those of fewer folds, or of a study that lay elsewhere, are made anew.
    (output / "metrics.json").unlink(missing_ok=True)
    settings = [f"output={output}", "train.device=cpu", "report=false"]
    # What it says is in the tables.
    with contextlib.redirect_stdout(io.StringIO()):
        run_evaluate(load_config("evaluate", None, settings, first={"eval.runs": [str(run) for run in runs]}))


def read_metrics(folder: Path) -> dict[str, Any]:
    """What metrics.json of a run holds."""
    found: dict[str, Any] = parse_json((folder / "metrics.json").read_text(encoding="utf-8"))
    return found
