"""`maedfer evaluate`: score a classifier, or pool the folds of a protocol."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maedfer.cli._parser import path
from maedfer.cli._runs import add_run, finish, resolve_settings
from maedfer.errors import InputError

if TYPE_CHECKING:
    from maedfer.train import RunConfig


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    parser = add_run(
        commands,
        "evaluate",
        run,
        "score a classifier, or several folds together",
        "Score a classifier on labelled clips, or put the predictions of several folds together and score them\n"
        "once. With one --run, the settings of that run are the base that overrides change, the weights are its\n"
        "result, and the scores go to its sub-folder evaluation (evaluation_2 and so on where that holds those of\n"
        "other clips or settings). With several, their pred.csv are pooled; nothing is computed anew.\n\n"
        "A processor with AMX-BF16 or AVX512-BF16 scores in bfloat16 where train.precision is auto, and says so;\n"
        "metrics.json has what was computed in. train.precision=fp32 scores in float32 everywhere.",
        "maedfer evaluate --run runs/dfew/fold_1 data.test=other/test.csv eval.views=4",
        "maedfer evaluate --run runs/dfew/fold_1 --weights best",
        "maedfer evaluate --run runs/dfew/fold_1 --calibrate data.val=val.csv",
        "maedfer evaluate --run runs/dfew/fold_1 --run runs/dfew/fold_2 output=runs/dfew/pooled",
        "maedfer evaluate dfew eval.checkpoint=published.pth data.test=test.csv",
        "maedfer evaluate mafw --run runs/dfew data.test=lists/mafw/test.csv data.class_map=dfew_to_mafw.yaml",
    )
    parser.add_argument(
        "--run",
        metavar="DIR",
        type=path,
        action="append",
        default=[],
        dest="runs",
        help="run folder; repeat it to pool folds",
    )
    parser.add_argument(
        "--calibrate",
        action="store_true",
        help="fit a temperature on the clips of data.val and keep it with the model, so that predictions say how sure "
        "they are; scores stay as they are",
    )
    parser.add_argument(
        "--weights", choices=("last", "best"), help="with one --run: its checkpoint to score instead of its result"
    )


def run(args: argparse.Namespace) -> int:
    """Carry out, print or check an evaluation."""
    cfg = resolve_settings(args, _sources(args), _check_calibration if args.calibrate else lambda cfg: None)
    if cfg is None:
        return 0
    from maedfer.train.evaluate import run_evaluate

    return finish(cfg, run_evaluate(cfg, calibrate=args.calibrate))


def _check_calibration(cfg: RunConfig) -> None:
    from maedfer.train.calibrate import check_calibration

    check_calibration(cfg)


def _sources(args: argparse.Namespace) -> dict[str, Any]:
    """What is evaluated, as settings."""
    if args.weights and len(args.runs) != 1:
        raise InputError("--weights chooses a checkpoint of one run: give exactly one --run with it")
    for folder in args.runs:
        if not Path(folder).is_dir():
            raise InputError(f"--run {folder!r} is not a folder: give the output folder of a fine-tuning run")
        known = ("config.yaml", "config.json", "model", "pred.csv")
        if not args.weights and not any((Path(folder) / name).exists() for name in known):
            raise InputError(f"--run {folder!r} holds no run: give the output folder of a fine-tuning run")
    if len(args.runs) == 1:
        checkpoint = Path(args.runs[0])
        if args.weights:
            checkpoint = _checkpoint(checkpoint, args.weights)
        return {"eval.checkpoint": str(checkpoint)}
    return {"eval.runs": args.runs} if args.runs else {}


def _checkpoint(run: Path, weights: str) -> Path:
    """The checkpoint of a run that is to be scored.

    Raises:
        InputError: the run has none; says why.
    """
    found = run / "checkpoints" / f"{weights}.pt"
    if found.is_file():
        return found
    if weights == "best":
        raise InputError(
            f"{str(found)!r} does not exist: a run keeps its best weights where eval.select is val or test and an "
            "epoch was scored; leave --weights out to score the result of the run"
        )
    raise InputError(
        f"{str(found)!r} does not exist: leave --weights out to score the result of the run, if it has ended"
    )
