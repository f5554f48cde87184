"""`maedfer reproduce`: the published fold tables, beside what the published weights score here."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from maedfer.cli._parser import add_command, examples, path
from maedfer.cli._studies import add_grid, device_names, shown_progress
from maedfer.errors import InputError


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "reproduce",
        run,
        "score published fine-tuned weights fold by fold, beside the published table",
        "Check a data set, score the published fine-tuned weights of its folds as the published code does (two views\n"
        "at the stride of the recipe, the class of the largest mean softmax; float32), and print the published fold\n"
        "table beside the scores, with the differences and what may explain them.\n\n"
        "Data sets: dfew, ferv39k, mafw. The name of a file or of its folder tells its fold (fold_1, split01, set_1);\n"
        "else K=FILE does. Folds without weights are named. The same command goes on where an earlier one ended.\n\n"
        "In DIR: report.html and report.json, table.csv and table.tex, fold_1 and so on (an evaluation each), pooled,\n"
        "and data (what maedfer prepare writes: which clips are left out, and why).",
        examples(
            "maedfer reproduce dfew --root /data/DFEW --weights dfew_fold_*.pth --out runs/reproduce_dfew",
            "maedfer reproduce dfew --root /data/DFEW --weights 1=a.pth 3=b.pth --out runs/two_folds --dry-run",
            "maedfer reproduce mafw --root /data/MAFW --weights mafw/set_*/best.pth --out runs/mafw \\",
            "    --devices cuda:0,cuda:1 data.workers=4",
        ),
    )
    parser.usage = "maedfer reproduce DATASET --root ROOT --weights FILE [FILE ...] --out DIR [key=value ...]"
    parser.add_argument("dataset", metavar="DATASET", help="dfew, ferv39k or mafw")
    parser.add_argument("items", nargs="*", metavar="key=value", help="settings of the evaluations")
    parser.add_argument("--root", metavar="ROOT", type=path, required=True, help="folder that the data set is in")
    parser.add_argument(
        "--weights", metavar="FILE", nargs="+", action="extend", required=True, help="weights of a fold each, or K=FILE"
    )
    parser.add_argument("--out", metavar="DIR", type=path, required=True, help="folder of the study")
    parser.add_argument("--workers", metavar="N", type=int, default=1, help="processes that check the data (1)")
    parser.add_argument(
        "--crop",
        metavar="WHETHER",
        default="auto",
        help="as of maedfer prepare: auto (default), yes or no",
    )
    add_grid(parser, "fold", seeds=False)


def run(args: argparse.Namespace) -> int:
    """Score, and print the table and what there is to say of it."""
    from maedfer.studies.reproduce import plan_reproduction, reproduce, split_weights

    weights, settings = split_weights(args.weights)
    wrong = next((item for item in args.items if "=" not in item), None)
    if wrong is not None:
        raise InputError(f"{wrong!r} is no setting of the form key=value: weights stand behind --weights")
    devices = device_names(args.devices)
    from maedfer.preparation import PrepareOptions
    from maedfer.preparation.prepare import prepare_dataset
    from maedfer.studies.grid import shares

    shares(args.processes, devices)
    try:
        options = PrepareOptions(workers=args.workers, crop=args.crop, digests=False)
    except InputError as error:
        # It begins with the option's name.
        raise InputError(f"--{error}") from None
    plan = plan_reproduction(args.dataset, args.root, args.out, weights, [*args.items, *settings])
    if args.dry_run:
        print(prepare_dataset(plan.dataset, plan.root, plan.out / "data", options, dry_run=True).text, end="")
        for fold, file in plan.weights.items():
            print(f"  fold {fold}: {file}")
        return 0
    with shown_progress() as (say, progress):
        table, sentences, page = reproduce(plan, options, args.processes, devices, say, progress)
    print(table.text(), end="")
    for sentence in (*table.notes, *sentences):
        print(sentence)
    print(f"table: {Path(args.out) / 'table.csv'}, {Path(args.out) / 'table.tex'}")
    print(f"report: {page}")
    return 0
