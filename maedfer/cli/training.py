"""`maedfer pretrain`, `maedfer finetune`, `maedfer evaluate`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from maedfer.cli._parser import Parser, add_command, examples, split_items
from maedfer.errors import InputError

_OVERRIDES = """Settings come from the defaults of the task, then a RECIPE (a YAML file, or the name of one that comes
with the package), then key=value overrides with the value in YAML. --print-config shows the result of the
three, and `maedfer {task} printed.yaml` runs it. `maedfer settings` explains every key."""


def add_commands(commands: Any) -> None:
    """Add the three commands to the parser."""
    recipes = sorted(path.stem for path in (Path(__file__).resolve().parent.parent / "recipes").glob("*.yaml"))
    pretraining = [name for name in recipes if name.endswith("pretrain")]
    finetuning = [name for name in recipes if name not in pretraining]
    _add(
        commands,
        "pretrain",
        "pre-train a masked autoencoder on unlabelled clips",
        f"Pre-train a masked autoencoder on unlabelled clips.\n\n{_OVERRIDES}\nRecipes: {', '.join(pretraining)}.",
        "maedfer pretrain voxceleb2_pretrain data.train=voxceleb2.txt --dry-run",
        "maedfer pretrain voxceleb2_pretrain data.train=voxceleb2.txt output=runs/voxceleb2",
        "torchrun --nproc-per-node 4 -m maedfer pretrain voxceleb2_pretrain data.train=voxceleb2.txt \\",
        "    train.batch_size=32",
        "maedfer pretrain model.name=mae_dfer_tiny model.encoder.region_size=[2,2,10] data.train=clips.txt",
    )
    _add(
        commands,
        "finetune",
        "train a classifier on labelled clips, from pre-trained or random weights",
        "Train a classifier on labelled clips, from pre-trained weights (train.init=...) or random ones.\n\n"
        f"{_OVERRIDES}\nRecipes: {', '.join(finetuning)}.",
        "maedfer finetune dfew data.train=train.csv data.test=test.csv train.init=runs/voxceleb2 --dry-run",
        "maedfer finetune dfew data.train=train.csv data.test=test.csv train.init=runs/voxceleb2",
        "maedfer finetune my_recipe.yaml optim.lr=3e-4 seed=1 output=runs/seed1",
        "maedfer finetune dfew --print-config > my_recipe.yaml",
    )
    parser = _add(
        commands,
        "evaluate",
        "score a classifier, or several folds together",
        "Score a classifier on labelled clips, or put the predictions of several folds together and score them\n"
        "once. With one --run, the settings of that run are the base that overrides change, the weights are its\n"
        "result, and the scores go to its sub-folder evaluation. With several, their pred.csv are pooled; nothing is\n"
        "computed anew.\n\n" + _OVERRIDES,
        "maedfer evaluate --run runs/dfew/fold_1 data.test=other/test.csv eval.views=4",
        "maedfer evaluate --run runs/dfew/fold_1 --weights best",
        "maedfer evaluate --run runs/dfew/fold_1 --run runs/dfew/fold_2 output=runs/dfew/pooled",
        "maedfer evaluate dfew eval.checkpoint=published.pth data.test=test.csv",
    )
    parser.add_argument(
        "--run", metavar="DIR", action="append", default=[], dest="runs", help="run folder; repeat it to pool folds"
    )
    parser.add_argument(
        "--weights", choices=("last", "best"), help="with one --run: its checkpoint to score instead of its result"
    )


def run(args: argparse.Namespace) -> int:
    """Resolve the settings of a command and carry it out, print it, or check it."""
    recipe, overrides = split_items(args.items, "recipe")
    if args.command == "evaluate":
        overrides = [*_evaluation(args), *overrides]
    from maedfer.train.config import dump_config, load_config

    cfg = load_config(args.command, recipe, overrides, check=not args.print_config)
    if args.print_config:
        print(dump_config(cfg), end="")
        return 0
    if args.dry_run:
        from maedfer.cli.dry_run import dry_run

        return dry_run(cfg)
    if args.command == "pretrain":
        from maedfer.train.pretrain import run_pretrain as carry_out
    elif args.command == "finetune":
        from maedfer.train.finetune import run_finetune as carry_out
    else:
        from maedfer.train.evaluate import run_evaluate as carry_out
    carry_out(cfg)
    return 0


def _add(commands: Any, task: str, summary: str, description: str, *lines: str) -> Parser:
    parser = add_command(commands, task, run, summary, description.replace("{task}", task), examples(*lines))
    parser.usage = f"maedfer {task} [RECIPE] [key=value ...] [options]"
    parser.add_argument("items", nargs="*", metavar="RECIPE, key=value", help="recipe and overrides, see above")
    parser.add_argument("--print-config", action="store_true", help="print the resolved settings as YAML and stop")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check settings, annotation files, a sample of the clips and the model with one batch; write nothing",
    )
    return parser


def _evaluation(args: argparse.Namespace) -> list[str]:
    if args.weights and len(args.runs) != 1:
        raise InputError("--weights chooses a checkpoint of one run: give exactly one --run with it")
    for folder in args.runs:
        if not Path(folder).is_dir():
            raise InputError(f"--run {folder!r} is not a folder: give the output folder of a fine-tuning run")
    if len(args.runs) == 1:
        checkpoint = Path(args.runs[0])
        if args.weights:
            checkpoint = checkpoint / "checkpoints" / f"{args.weights}.pt"
        return [f"eval.checkpoint={checkpoint}"]
    return [f"eval.runs=[{', '.join(args.runs)}]"] if args.runs else []
