"""`maedfer report`: the page about a run."""

from __future__ import annotations

import argparse
from typing import Any

from maedfer.cli._parser import add_command, examples, run_folder


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "report",
        run,
        "write the report of a run anew, also of one that was interrupted",
        "Write report.html and report.json into a run folder, from what the folder holds: curves, scores, confusion\n"
        "matrix, reconstructions, features, settings. Runs and evaluations write them in the end by themselves\n"
        "(report=true); this command is for runs that go on, were interrupted, or had report=false.",
        examples(
            "maedfer report runs/dfew",
            "maedfer report runs/dfew/evaluation",
        ),
    )
    parser.add_argument("run_folder", metavar="RUN", help="folder of a run or an evaluation")


def run(args: argparse.Namespace) -> int:
    """Write the page and say where it is."""
    folder = run_folder(args.run_folder)
    from maedfer.report import write_report

    print(f"report: {write_report(folder)}")
    return 0
