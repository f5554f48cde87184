"""`maedfer fewlabels`: what a model comes to with few labels, and with more."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from maedfer.cli._parser import add_command, examples, path, split_items
from maedfer.cli._studies import about_time, add_grid, device_names, shown_progress
from maedfer.errors import InputError


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "fewlabels",
        run,
        "the curve over the number of labels, with several seeds",
        "Fine-tune with parts of the labels of data.train, several seeds of each, and draw UAR and WAR over the\n"
        "number of labels: mean and interval over seeds. Every class keeps its share, and for one seed the clips of a\n"
        "small part are among those of a larger one and the same for all weights that are compared. The same command\n"
        "goes on where an earlier one was ended.\n\n"
        "In DIR:\n"
        "  report.html, report.json   the page, and its numbers\n"
        "  curve.png                  the picture\n"
        "  table.csv, table.tex       the table, for programs and for a paper\n"
        "  CONDITION/LABELS/seed_N    a run folder each; its labels.csv has the clips that were chosen",
        examples(
            "maedfer fewlabels dfew data.train=train.csv data.test=test.csv --init runs/voxceleb2 --scratch \\",
            "    --labels 1%,5%,10%,all --seeds 3 --devices cuda:0,cuda:1 --out runs/few",
            "maedfer fewlabels dfew data.train=train.csv data.test=test.csv --labels 5,20,100 \\",
            "    --init joint=runs/joint --init pixels=runs/pixels --out runs/few",
        ),
    )
    parser.usage = "maedfer fewlabels [RECIPE] [key=value ...] --labels LIST --out DIR [options]"
    parser.add_argument("items", nargs="*", metavar="RECIPE, key=value", help="recipe and settings of all runs")
    parser.add_argument("--out", metavar="DIR", type=path, required=True, help="folder of the study")
    parser.add_argument(
        "--labels",
        metavar="LIST",
        default="1%,5%,10%,all",
        help="parts of the labels: shares of every class (5%%), clips of every class (5), all (default: %(default)s)",
    )
    parser.add_argument(
        "--init",
        metavar="[NAME=]WEIGHTS",
        action="append",
        default=[],
        help="weights to start from, as train.init; several are compared, by their names",
    )
    parser.add_argument(
        "--scratch", action="store_true", help="also start from random weights, with optim.layer_decay=1"
    )
    parser.add_argument(
        "--scratch-with",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="a setting of the runs from scratch alone, as optim.lr=3e-4",
    )
    parser.add_argument(
        "--epoch",
        choices=("whole", "once"),
        default="whole",
        help="whole: all runs take as many steps as one with all labels; once: as many epochs, so that fewer labels "
        "mean fewer steps (default: %(default)s)",
    )
    parser.add_argument("--seeds", metavar="N", type=int, default=3, help="runs of every part (default: %(default)s)")
    parser.add_argument("--first-seed", metavar="N", type=int, default=0, help="the seed of the first of them (0)")
    add_grid(parser, "part of the labels", seeds=False)


def run(args: argparse.Namespace) -> int:
    """Run what is left, and say what came out; the status is 2 where a run has failed."""
    recipe, overrides = split_items(args.items, "recipe")
    if recipe is not None:
        # Before torch is imported, so that a mistyped name is told at once.
        from maedfer.train.recipes import find_recipe, read_tree

        read_tree(find_recipe(recipe))
    for name, least in (("seeds", 1), ("first_seed", 0)):
        if getattr(args, name) < least:
            raise InputError(f"--{name.replace('_', '-')} must be at least {least}, got {getattr(args, name)}")
    devices = device_names(args.devices)
    inits = named_weights(args.init)
    from maedfer.data.few_labels import parse_labels

    labels = [item.strip() for item in args.labels.split(",")]
    for item in labels:
        parse_labels(item, "--labels")
    from maedfer.studies.fewlabels import fewlabels, plan_fewlabels, read_scores, result_table, sentences
    from maedfer.studies.grid import is_done, shares

    places = shares(args.processes, devices)
    plan = plan_fewlabels(
        recipe,
        args.out,
        overrides,
        labels=labels,
        seeds=range(args.first_seed, args.first_seed + args.seeds),
        inits=inits,
        scratch=args.scratch,
        scratch_with=args.scratch_with,
        epoch=args.epoch,
    )
    parts = ", ".join(f"{few} ({clips:,} clips)" for few, clips in zip(plan.labels, plan.clips, strict=True))
    print(
        f"{len(plan.jobs)} runs: {', '.join(plan.conditions)}; labels {parts}; seeds {', '.join(map(str, plan.seeds))}"
    )
    if args.dry_run:
        left = []
        for job in plan.jobs:
            done = is_done(job)
            print(f"  {job.title}: {'done' if done else 'to be run'}, {job.output}")
            left += [] if done else [job.settings()]
        print(about_time(left, places))
        return 0
    what = f"few labels, {len(plan.jobs)} runs"
    with shown_progress() as (say, progress):
        page = fewlabels(plan, args.processes, devices, say, lambda share: progress(what, share))
    scores = read_scores(plan)
    print(result_table(plan, scores).text(), end="")
    for sentence in sentences(plan, scores):
        print(sentence)
    print("files: " + ", ".join(str(Path(args.out) / name) for name in ("curve.png", "table.csv", "table.tex")))
    print(f"report: {page}")
    return 0


def named_weights(items: list[str]) -> dict[str, str]:
    """Weights by the name of their condition, from items NAME=WEIGHTS; one that has no name is "pre-trained".

    Raises:
        InputError: two of several items have no name, or one name.
    """
    import os

    from maedfer._values import expand_home

    found: dict[str, str] = {}
    for item in items:
        name, equals, place = item.partition("=")
        if not equals or os.path.exists(item):
            name, place = "pre-trained", item
        if not name or not place:
            raise InputError(f"--init {item!r} has no {'weights' if name else 'name'}: give WEIGHTS, or NAME=WEIGHTS")
        if name in found:
            raise InputError(f"two --init are called {name!r}: give NAME=WEIGHTS, so that they can be told apart")
        found[name] = expand_home(place)
    return found
