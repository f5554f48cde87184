"""`maedfer lists`: annotation files of a public data set, from its own splits."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maedfer.cli._parser import add_command, examples, path


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    protocols = Path(__file__).resolve().parent.parent / "data" / "protocols"
    names = sorted(path.stem for path in protocols.glob("[!_]*.py"))
    parser = add_command(
        commands,
        "lists",
        run,
        "write the lists of clips of a public data set, fold by fold",
        "Write the lists of clips of a public data set: fold_1/train.csv, fold_1/test.csv, ... and classes.txt.\n"
        "Splits that the data set ships are read from its own files; for the others, folds follow from the subjects\n"
        "in the files' names. The numbers of clips are compared with the published ones.\n\n"
        f"Data sets: {', '.join(names)}.",
        examples(
            "maedfer lists dfew --root /data/DFEW --out lists/dfew",
            "maedfer lists crema_d --root /data/CREMA-D --out lists/crema_d",
        ),
    )
    parser.add_argument("dataset", metavar="DATASET", help="name of the data set, and of its recipe")
    parser.add_argument("--root", metavar="DIR", type=path, required=True, help="folder that the data set is in")
    parser.add_argument("--out", metavar="DIR", type=path, required=True, help="folder to write the lists to")


def run(args: argparse.Namespace) -> int:
    """Write the lists and say what is in them."""
    from maedfer.data.protocols import compare_counts, find_protocol, paths_of, write_folds

    protocol = find_protocol(args.dataset)
    root, out = Path(args.root), Path(args.out)
    told: list[str] = []
    folds = protocol.folds_in(root, told.append)
    clips = paths_of(folds)
    folders = write_folds(folds, protocol.classes, out, protocol.subjects_of(clips))
    print(f"{protocol.title}: {_count(len(clips), 'clip')} of {len(protocol.classes)} classes, lists in {out}")
    for folder, fold in zip(folders, folds, strict=True):
        print(f"  {folder.name}: {len(fold.train):,} clips for training, {len(fold.test):,} for test")
    for sentence in (*told, *compare_counts(protocol, folds), *absent(root, sorted(clips))):
        print(sentence)
    first = folders[0]
    settings = {
        "data.root": root,
        "data.train": first / "train.csv",
        "data.test": first / "test.csv",
        "output": Path("runs") / args.dataset / first.name,
    }
    print("Next, with train.init=... where there are pre-trained weights:")
    print(f"  maedfer finetune {args.dataset} " + shlex.join(f"{key}={value}" for key, value in settings.items()))
    return 0


def absent(root: Path, clips: Sequence[str]) -> list[str]:
    """Say how many of the clips are not in the data set's folder."""
    missing = [path for path in clips if not os.path.exists(root / path)]
    if not missing:
        return []
    others = f" (then {', '.join(missing[1:4])}{', ...' if len(missing) > 4 else ''})" if len(missing) > 1 else ""
    return [
        f"{_count(len(missing), 'clip')} of the lists cannot be found, the first as {root / missing[0]}{others}: "
        "frames may not be unpacked yet, or lie elsewhere."
    ]


def _count(number: int, name: str) -> str:
    return f"{number:,} {name}" + ("" if number == 1 else "s")
