"""`maedfer features`: what a model makes of clips, as a table."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from maedfer._values import check_exists, expand_home
from maedfer.cli._parser import add_command, examples, path, split_items
from maedfer.errors import InputError


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "features",
        run,
        "compute features of clips, with labels or without, as a table",
        "Compute the features of the clips of data.test, a list with labels or without, and write them as a table,\n"
        "one row a clip. MODEL is a run, a saved model, a checkpoint or a published file, pre-trained or fine-tuned.\n"
        "Its features are what the head of a classifier sees: the mean of the representative tokens of the last block\n"
        "through a LayerNorm; temporal views are averaged. They are computed as an evaluation computes, on some\n"
        "processors in bfloat16: train.precision=fp32 gives float32. Clips are read as the model's run read them,\n"
        "unless key=value overrides say otherwise. With eval.on_error=skip, clips that cannot be read are left out,\n"
        "and named in a .skipped.csv beside FILE.\n\n"
        "FILE.npz holds the arrays names, labels (-1 where there is none), features [clips, channels] and about:\n"
        "where they come from, as JSON. FILE.csv has the columns name, label, f0, f1, ..., with FILE.json beside it.",
        examples(
            "maedfer features runs/voxceleb2 data.test=clips.csv --out features.npz",
            "maedfer features runs/dfew --out features.csv --out features.npz        # the run's own test list",
            "maedfer features checkpoint-49.pth data.test=clips.csv data.stride=2 eval.views=4 --per-view --out f.npz",
            "maedfer features models/dfew1 data.test=clips.csv eval.on_error=skip --out features.csv",
        ),
    )
    parser.usage = "maedfer features MODEL [key=value ...] --out FILE [options]"
    parser.add_argument("items", nargs="*", metavar="MODEL, key=value", help="model and settings, see above")
    parser.add_argument(
        "--out", metavar="FILE", type=path, action="append", required=True, help=".npz or .csv; repeat it to write both"
    )
    parser.add_argument("--per-view", action="store_true", help="keep the features of each temporal view")
    parser.add_argument("--force", action="store_true", help="overwrite FILE")


def run(args: argparse.Namespace) -> int:
    """Compute, write, and say what was written."""
    model, overrides = split_items(args.items, "model")
    if model is None:
        raise InputError("features needs a MODEL: a run, a saved model, a checkpoint or a published file")
    model = expand_home(model)
    check_exists(model, "a run, a saved model, a checkpoint or a published file")
    for file in map(Path, args.out):
        # What is told of a .csv goes to a .json beside it.
        for written in (file, file.with_suffix(".json")) if file.suffix == ".csv" else (file,):
            if written.exists() and not args.force:
                raise InputError(f"{str(written)!r} exists: choose another name, or give --force to overwrite it")
    from maedfer._progress import counted
    from maedfer.train.features import features_config, run_features
    from maedfer.train.processes import is_main

    found = run_features(features_config(model, overrides), args.out, args.per_view)
    if is_main():
        kept = f" in each of {found.about['views']} views" if args.per_view else ""
        clips = counted(len(found.names), "clip")
        print(f"{found.vectors.shape[-1]} features of each of {clips}{kept}: {', '.join(args.out)}")
        for note in found.about["notes"]:
            print(note)
        if found.skipped:
            whole = len(found.names) + len(found.skipped)
            print(f"{len(found.skipped)} of {whole} clips could not be read, the first one: {found.skipped[0].reason}")
    return 0
