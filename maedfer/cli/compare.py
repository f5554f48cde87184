"""`maedfer compare`: the page about several runs."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

from maedfer.cli._parser import add_command, examples, path, run_folder
from maedfer.errors import InputError


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "compare",
        run,
        "compare runs: tables, differences seed by seed, curves, confusion matrices",
        "Compare runs that have been scored, and write report.html and report.json. Runs whose settings differ in\n"
        "nothing but the seed and the machine are seeds of one condition, which gets a mean and a spread; LABEL=RUN\n"
        "names the condition of a run instead. Other conditions are compared to the first one, seed by seed; where\n"
        "all were scored on the same clips also clip by clip, by McNemar's test and by bootstrap over seeds and clips\n"
        "(subjects, where it is known who is in clips), with sentences that may be printed.",
        examples(
            "maedfer compare runs/scratch_0 runs/scratch_1 runs/tuned_0 runs/tuned_1 --out runs/comparison",
            "maedfer compare scratch=runs/a scratch=runs/b tuned=runs/c tuned=runs/d --out runs/comparison \\",
            '    --title "Does pre-training help?" --pretraining runs/synth_pretrain',
        ),
    )
    parser.usage = "maedfer compare RUN RUN... --out DIR [options]"
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run or an evaluation, or LABEL=folder")
    parser.add_argument("--out", metavar="DIR", type=path, required=True, help="folder for report.html and report.json")
    parser.add_argument("--title", metavar="TEXT", default="Comparison of runs", help="heading (default: %(default)s)")
    parser.add_argument("--note", metavar="TEXT", default="", help="text below the heading")
    parser.add_argument("--pretraining", metavar="RUN", help="pre-training whose loss and pictures are shown too")


def run(args: argparse.Namespace) -> int:
    """Write the page, and print where it is and what it says."""
    labelled = split_labels(args.runs)
    pretraining = None if args.pretraining is None else run_folder(args.pretraining)
    folders = [run_folder(run) for run in args.runs] if labelled is None else []
    import json

    from maedfer.report import group_runs, write_comparison

    conditions = labelled if labelled is not None else group_runs(folders)
    page = write_comparison(args.out, conditions, args.title, args.note, pretraining=pretraining)
    found = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    scores = found["scores"]
    for difference in scores["differences"]:
        print(difference["sentence"])
    if scores["pairing_note"]:
        print(scores["pairing_note"])
    on_same_clips = found.get("same_clips", {"sentences": [], "notes": []})
    for sentence in on_same_clips["sentences"]:
        print(sentence)
    for note in on_same_clips["notes"]:
        print(f"not compared clip by clip: {note}")
    print(f"report: {page}")
    return 0


def split_labels(items: Sequence[str]) -> dict[str, list[str]] | None:
    """Run folders by label, from items LABEL=RUN; None where no item has a label.

    Raises:
        InputError: some items have a label and others have none.
    """
    pairs = [("", item) if "=" not in item or os.path.exists(item) else item.split("=", 1) for item in items]
    bare = [folder for label, folder in pairs if not label]
    if len(bare) == len(items):
        return None
    if bare:
        raise InputError(f"{bare[0]!r} has no label and other runs have one: give LABEL=RUN for all of them, or none")
    if len(items) < 2:
        raise InputError("1 run to compare: give two or more")
    conditions: dict[str, list[str]] = {}
    for label, folder in pairs:
        conditions.setdefault(label, []).append(run_folder(folder))
    return conditions
