"""`maedfer settings`: what can be set, what it is when it is not, and what it means."""

from __future__ import annotations

import argparse
import textwrap
from typing import Any

from maedfer.cli._parser import add_command, examples

_WIDTH = 100


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "settings",
        run,
        "tell what a setting of a run means, may be, and is by default",
        "Tell what the settings of pre-training, fine-tuning and evaluation mean, what they may be, and what they are\n"
        "where nothing is given. KEY is a setting or a section; without it, the sections are listed.",
        examples("maedfer settings", "maedfer settings optim", "maedfer settings model.region_size"),
    )
    parser.usage = "maedfer settings [KEY] [options]"
    parser.add_argument("key", nargs="?", default="", metavar="KEY", help="for example optim, or optim.lr")


def run(args: argparse.Namespace) -> int:
    """Print what was asked for."""
    from maedfer.setting import OWNERS
    from maedfer.train.describe import describe, find

    if not args.key:
        sections = describe()
        for item in sections[0].settings:
            print(f"{item.key:<10} {item.meaning}")
        for section in sections[1:]:
            print(f"{section.name:<10} {section.meaning} ({len(section.settings)} settings)")
        print("\nmaedfer settings KEY tells more about one, KEY=value on the command line of a run changes it.")
        return 0
    sections = find(args.key)
    blocks = [_block(item) for section in sections for item in section.settings]
    print("\n\n".join(blocks))
    print()
    for owner in sorted({item.belongs_to for section in sections for item in section.settings}):
        print(_wrapped(f'A setting that belongs to "{owner}" {OWNERS[owner]}.', ""))
    return 0


def _block(item: Any) -> str:
    default = f" = {item.default}" if item.default else ""
    others = "".join(f" ({task}: {value})" for task, value in item.by_task.items())
    may_be = f'{item.values}; belongs to "{item.belongs_to}"'
    return "\n".join([f"{item.key}{default}{others}", _wrapped(item.meaning), _wrapped(f"({may_be})")])


def _wrapped(text: str, indent: str = "    ") -> str:
    return textwrap.fill(text, _WIDTH, initial_indent=indent, subsequent_indent=indent)
