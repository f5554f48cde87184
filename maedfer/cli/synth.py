"""`maedfer synth`: write the generated data set."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from maedfer.cli._parser import add_command, examples, path
from maedfer.errors import InputError


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "synth",
        run,
        "write a data set of generated faces acting out 7 expressions",
        "Write a data set of generated faces that act out 7 expressions over time: h264 clips, annotation files of\n"
        "subject-disjoint folds, and a list for pre-training. Two pairs of classes differ in motion only. The frames\n"
        "depend on the options and on nothing else. A folder that holds the same data set already is left as it is.",
        examples(
            "maedfer synth --out data/synth",
            "maedfer synth --out data/small --clips 140 --size 64 --frames 32",
            "maedfer pretrain synth_pretrain data.root=data/synth data.train=data/synth/fold_1/train.csv",
            "maedfer finetune synth_finetune data.root=data/synth data.train=data/synth/fold_1/train.csv \\",
            "    data.test=data/synth/fold_1/test.csv train.init=runs/synth_pretrain",
        ),
    )
    parser.add_argument("--out", metavar="DIR", type=path, required=True, help="folder to write")
    for name, default, text in (
        ("clips", 700, "number of clips"),
        ("seed", 0, "another seed gives other people and other clips"),
        ("size", 96, "height and width of the frames in pixels"),
        ("frames", 48, "frames of a clip"),
        ("folds", 5, "number of subject-disjoint folds"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{text} (default: %(default)s)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: the cores this process may use)")


def run(args: argparse.Namespace) -> int:
    """Write the data set and say where it is."""
    if args.workers is not None and args.workers < 1:
        raise InputError(f"--workers must be at least 1, got {args.workers}")
    from maedfer._progress import ProgressLine, counted
    from maedfer.synthetic import write_dataset

    line = ProgressLine("drawing", sys.stderr)
    try:
        folder = write_dataset(
            args.out,
            clips=args.clips,
            seed=args.seed,
            folds=args.folds,
            size=args.size,
            frames=args.frames,
            workers=args.workers,
            progress=lambda done, clips: line(done / clips),
        )
    finally:
        line.clear()
    print(f"{counted(args.clips, 'clip')} and {args.folds} folds in {folder}; its README.txt tells what is what")
    return 0
