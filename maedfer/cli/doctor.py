"""`maedfer doctor`: what a bug report needs, and whether the installation does what it should."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from maedfer.cli import _parser
from maedfer.cli._parser import add_command, examples
from maedfer.errors import InputError


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "doctor",
        run,
        "try the installation and the machine, a verdict a line",
        "Try Python and packages, the machine's limits, PyTorch, the GPU, Triton, the compiled code, readers of\n"
        "videos and pictures, the detector of faces, the disk of a folder, and the processes of a run. Each line is\n"
        "ok, a note, or wrong with what to do; the status is 1 where something is wrong. Nothing is downloaded, sent\n"
        "or left behind.\n\n"
        "The text is made to be pasted into an issue: it holds no names of users and no home folders, and of the\n"
        "environment only variables that are known to change something.",
        examples(
            "maedfer doctor",
            "maedfer doctor --folder /data/runs --data train.csv",
            "maedfer doctor --json doctor.json",
        ),
    )
    parser.add_argument("--json", metavar="FILE", type=_parser.path, help="also write all of it as JSON")
    parser.add_argument(
        "--folder", metavar="DIR", type=_parser.path, default=".", help="on the disk to try (default: where you are)"
    )
    parser.add_argument(
        "--data", metavar="LIST", type=_parser.path, help="a list of clips, or shards, to look at as well"
    )


def run(args: argparse.Namespace) -> int:
    """Print a line for each finding."""
    if args.json and not Path(args.json).absolute().parent.is_dir():
        raise InputError(f"the folder of --json {args.json!r} does not exist")
    if args.json and Path(args.json).is_dir():
        raise InputError(f"--json {args.json!r} is a folder: give a file")
    from maedfer._progress import is_terminal
    from maedfer.doctor import examine
    from maedfer.doctor.finding import Finding

    shown = is_terminal(sys.stderr)

    def found(finding: Finding) -> None:
        if shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        print(finding, flush=True)

    def begun(area: str) -> None:
        if shown:
            print(f"\r\x1b[K  looking at {area}", end="", file=sys.stderr, flush=True)

    findings = examine(args.folder, args.data or "", found=found, begun=begun)
    counts = {verdict: sum(one.verdict == verdict for one in findings) for verdict in ("ok", "note", "wrong")}
    if shown:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    notes = f"{counts['note']} note{'' if counts['note'] == 1 else 's'}"
    print(f"{counts['wrong'] or 'nothing'} wrong, {notes}, {counts['ok']} ok")
    if args.json:
        from maedfer.doctor.report import write

        write(args.json, findings)
    return 1 if counts["wrong"] else 0
