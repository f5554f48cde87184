"""`maedfer crossval`: all folds of a protocol, and what they come to together."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from maedfer.cli._parser import add_command, examples, path, split_items
from maedfer.cli._studies import add_grid, device_names, shown_progress
from maedfer.errors import InputError


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "crossval",
        run,
        "train and score all folds of a protocol, and put them together",
        "Fine-tune every fold of a protocol with a recipe, one after another or spread over devices, and put the\n"
        "results together: UAR and WAR of all predictions pooled, as the MAE-DFER paper has them, and the mean and\n"
        "spread over folds. The same command goes on where an earlier one was ended; a fold that is done is not run\n"
        "again.\n\n"
        "The folds are those of --lists (fold_1/train.csv, fold_1/test.csv, ... as `maedfer prepare` and `maedfer\n"
        "lists` write them), or --folds many of your own clips in data.train, nobody being in two of them, or those\n"
        "of the public data set that the recipe is of, in data.root.\n\n"
        "In DIR:\n"
        "  report.html, report.json   the page, and its numbers\n"
        "  table.csv, table.tex       the table, for programs and for a paper\n"
        "  seed_0/fold_1, ...         a run folder each, and what it has printed in fold_1.log\n"
        "  seed_0/pooled              pred.csv and metrics.json of all folds together, for maedfer compare\n"
        "  lists                      the lists of folds that were made",
        examples(
            "maedfer crossval dfew --lists prepared/dfew data.root=/data/DFEW train.init=runs/voxceleb2 \\",
            "    --out runs/dfew --devices cuda:0,cuda:1",
            "maedfer crossval my_recipe.yaml data.train=clips.csv --folds 5 --subject '(p[0-9]+)_' --out runs/mine",
            "maedfer crossval crema_d data.root=/data/CREMA-D/faces --seeds 3 --out runs/crema_d",
        ),
    )
    parser.usage = "maedfer crossval [RECIPE] [key=value ...] --out DIR [options]"
    parser.add_argument("items", nargs="*", metavar="RECIPE, key=value", help="recipe and settings of all runs")
    parser.add_argument("--out", metavar="DIR", type=path, required=True, help="folder of the study")
    parser.add_argument("--lists", metavar="DIR", type=path, help="folder of lists: fold_1/train.csv, ...")
    parser.add_argument("--folds", metavar="N", type=int, help="divide data.train into so many folds")
    parser.add_argument(
        "--subject",
        metavar="PATTERN",
        help="who is in a clip, found in its path (data.subject); without it, what a column subject of the list says",
    )
    parser.add_argument("--split-seed", metavar="N", type=int, default=0, help="says who is in which fold (0)")
    parser.add_argument(
        "--shared-subjects", action="store_true", help="run folds of which somebody is in both parts, and say so"
    )
    add_grid(parser, "fold")


def run(args: argparse.Namespace) -> int:
    """Run what is left, and say what came out; the status is 2 where a run has failed."""
    recipe, overrides = split_items(args.items, "recipe")
    if recipe is not None:
        # Before torch is imported, so that a mistyped name is told at once.
        from maedfer.train.recipes import find_recipe, read_tree

        read_tree(find_recipe(recipe))
    if args.subject is not None:
        overrides.append(f"data.subject={args.subject}")
    for name, least in (("seeds", 1), ("first_seed", 0), ("split_seed", 0)):
        if getattr(args, name) < least:
            raise InputError(f"--{name.replace('_', '-')} must be at least {least}, got {getattr(args, name)}")
    devices = device_names(args.devices)
    from maedfer.studies.crossval import crossval, plan_crossval, result_table, to_do
    from maedfer.studies.grid import shares

    shares(args.processes, devices)
    plan = plan_crossval(
        recipe,
        args.out,
        overrides,
        lists=args.lists,
        folds=args.folds,
        split_seed=args.split_seed,
        seeds=range(args.first_seed, args.first_seed + args.seeds),
        shared_subjects=args.shared_subjects,
    )
    for sentence in (plan.origin, *plan.warnings):
        print(f"{sentence}.")
    if args.dry_run:
        for job, done in to_do(plan):
            print(f"  {job.title}: {'done' if done else 'to be run'}, {job.output}")
        return 0
    what = f"cross-validating, {len(plan.jobs)} runs"
    with shown_progress() as (say, progress):
        page = crossval(plan, args.processes, devices, say, lambda share: progress(what, share))
    table = result_table(plan)
    print(table.text(), end="")
    print(f"table: {Path(args.out) / 'table.csv'}, {Path(args.out) / 'table.tex'}")
    print(f"report: {page}")
    return 0
