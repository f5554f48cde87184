"""`maedfer ablate`: the tables of ablations of the paper, on any data set."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from maedfer._progress import counted
from maedfer.cli._parser import add_command, examples, path, split_items
from maedfer.cli._studies import about_time, add_grid, device_names, shown_progress
from maedfer.errors import InputError

# Generated clips: those of the demo, and fewer for the short form.
_CLIPS, _FEW_CLIPS = 1750, 350


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "ablate",
        run,
        "the tables of ablations of the MAE-DFER paper, on any data set",
        "Pre-train and fine-tune every row of tables of ablations, and put them into one page. The tables are those\n"
        "of the MAE-DFER paper by their numbers, or YAML files of your own:\n\n"
        "  2     size of the encoder                 10    tokens for the head\n"
        "  3     stages of LGI-Former                11    the third stage, shared weights of attention\n"
        "  4     encoder, and what is reconstructed  fig3  weight of appearance in the loss\n"
        "  9     size of a region                    all   all of them\n\n"
        "What rows share is run once: a pre-training for every row that has one of its own, and its fine-tuning with\n"
        "several seeds. Without a RECIPE the clips are drawn faces, made into DIR/data or taken from --data. The same\n"
        "command goes on where an earlier one was ended.\n\n"
        "In DIR:\n"
        "  report.html, report.json        the page, and its numbers\n"
        "  tables/table_N.csv, .tex        the tables, for programs and for a paper\n"
        "  pretrain/ROW                    a run folder each\n"
        "  finetune/ROW/seed_N             a run folder each",
        examples(
            "maedfer ablate --table 3 --table fig3 --seeds 3 --out runs/ablations",
            "maedfer ablate --table all --quick --dry-run --out runs/ablations",
            "maedfer ablate dfew data.train=train.csv data.test=test.csv --pretrain voxceleb2_pretrain \\",
            "    --pretrain-with data.train=voxceleb2.txt --table 3 --devices cuda:0,cuda:1 --out runs/dfew_table_3",
        ),
    )
    parser.usage = "maedfer ablate [RECIPE] [key=value ...] --out DIR [options]"
    parser.add_argument("items", nargs="*", metavar="RECIPE, key=value", help="recipe and settings of fine-tuning")
    parser.add_argument("--out", metavar="DIR", type=path, required=True, help="folder of the study")
    parser.add_argument(
        "--table",
        metavar="N",
        action="append",
        default=[],
        help="2, 3, 4, 9, 10, 11, fig3, all, or a YAML file; may be given several times (default: all)",
    )
    parser.add_argument("--data", metavar="DIR", type=path, help="drawn faces, as `maedfer synth` writes them")
    parser.add_argument("--pretrain", metavar="RECIPE", help="recipe of pre-training, with a RECIPE of your own")
    parser.add_argument(
        "--pretrain-with",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="a setting of pre-training, as data.train=voxceleb2.txt; may be given several times",
    )
    parser.add_argument("--paper", metavar="CSV", type=path, help="scores of the paper: columns table, row, UAR, WAR")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a short form, which shows that all rows can be run and nothing of how they compare: few epochs, of drawn "
        f"faces {_FEW_CLIPS} clips",
    )
    parser.add_argument("--seeds", metavar="N", type=int, help="runs of every row's fine-tuning (3; with --quick 1)")
    parser.add_argument("--first-seed", metavar="N", type=int, default=0, help="the seed of the first of them (0)")
    add_grid(parser, "row", seeds=False)


def run(args: argparse.Namespace) -> int:
    """Run what is left, and say what came out; the status is 2 where a run has failed."""
    recipe, overrides = split_items(args.items, "recipe")
    from maedfer.train.recipes import find_recipe, read_tree

    for name in (recipe, args.pretrain):
        if name is not None:
            # Before torch is imported, so that a mistyped name is told at once.
            read_tree(find_recipe(name))
    seeds = (1 if args.quick else 3) if args.seeds is None else args.seeds
    for option, number, least in (("seeds", seeds, 1), ("first-seed", args.first_seed, 0)):
        if number < least:
            raise InputError(f"--{option} must be at least {least}, got {number}")
    devices = device_names(args.devices)
    drawn = recipe is None
    if drawn and args.pretrain is not None:
        raise InputError("--pretrain is for a RECIPE of your own: drawn faces have synth_pretrain")
    if not drawn and args.data is not None:
        raise InputError("--data is the folder of drawn faces: with a RECIPE give data.train, data.test and data.root")
    if not drawn and args.pretrain is None:
        raise InputError(f"which recipe of pre-training goes with {recipe} is not said: give --pretrain RECIPE")
    from maedfer.studies.ablate import ablate, plan_ablate
    from maedfer.studies.ablation_page import read_paper, write_ablations
    from maedfer.studies.ablation_tables import find_tables
    from maedfer.studies.grid import is_done, shares

    places = shares(args.processes, devices)
    tables = find_tables(args.table or ["all"])
    if args.paper is not None:
        tables = read_paper(args.paper, tables)
    first = list(args.pretrain_with)
    if drawn:
        folder = Path(args.data) if args.data is not None else Path(args.out) / "data"
        if args.data is not None and not (folder / "fold_1" / "train.csv").is_file():
            raise InputError(f"{args.data!r} has no fold_1/train.csv: give a folder that `maedfer synth` has written")
        lists = [f"data.root={folder}", f"data.train={folder / 'fold_1' / 'train.csv'}"]
        overrides = [*lists, f"data.test={folder / 'fold_1' / 'test.csv'}", *overrides]
        first = [*lists, *first]
    plan = plan_ablate(
        args.out,
        tables,
        recipe=recipe or "synth_finetune",
        overrides=overrides,
        pretrain_recipe=args.pretrain or "synth_pretrain",
        pretrain_overrides=first,
        seeds=range(args.first_seed, args.first_seed + seeds),
        quick=args.quick,
    )
    jobs = [*plan.pretraining, *plan.finetuning]
    print(
        f"{counted(len(plan.tables), 'table')} with {counted(len(plan.cells), 'row')}: "
        f"{counted(len(plan.pretraining), 'run')} of pre-training, {len(plan.finetuning)} of fine-tuning"
    )
    if args.dry_run:
        done = {job.output for job in jobs if is_done(job)}
        for job in jobs:
            print(f"  {job.title}: {'done' if job.output in done else 'to be run'}")
        if drawn and not os.path.isdir(folder):
            print("how long it takes is told when the clips are drawn: give --data, or draw them by `maedfer synth`")
            return 0
        print(about_time([job.settings() for job in jobs if job.output not in done], places))
        return 0
    if drawn and args.data is None:
        draw(folder, args.quick)
    what = f"ablations, {len(jobs)} runs"
    with shown_progress() as (say, progress):
        ablate(plan, args.processes, devices, say, lambda share: progress(what, share))
    page = write_ablations(plan)
    print(f"tables: {Path(args.out) / 'tables'}")
    print(f"report: {page}")
    return 0


def draw(folder: Path, quick: bool) -> None:
    """Make the drawn faces, unless they are there."""
    from maedfer.synthetic import write_dataset

    with shown_progress() as (_, progress):
        write_dataset(
            folder,
            clips=_FEW_CLIPS if quick else _CLIPS,
            seed=0,
            size=64,
            frames=40,
            progress=lambda done, clips: progress("drawing", done / clips),
        )
