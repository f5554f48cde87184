"""What the commands' parsers share."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any, NoReturn

from maedfer._values import expand_home
from maedfer.errors import InputError


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are raised as `InputError` and whose help keeps its line breaks."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Refuse the arguments."""
        raise InputError(f"{message} (see '{self.prog} --help')")

    def _print_message(self, message: str, file: Any = None) -> None:
        # argparse says nothing where a message cannot be written.
        if message:
            print(message, end="", file=file)

    def commands(self) -> list[str]:
        """Names of the sub-commands."""
        return [
            name
            for action in self._actions
            if isinstance(action, argparse._SubParsersAction)
            for name in action.choices
        ]


def add_command(commands: Any, name: str, run: Any, summary: str, description: str, epilog: str) -> Parser:
    """Add a sub-command that calls `run(args) -> int`."""
    parser: Parser = commands.add_parser(name, help=summary, description=description, epilog=epilog)
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    parser.set_defaults(run=run, parser=parser)
    return parser


def examples(*lines: str) -> str:
    """The closing part of a help text."""
    return "\n".join(["examples:", *(f"  {line}" for line in lines)])


def parse(parser: Parser, argv: Sequence[str]) -> argparse.Namespace:
    """Parse arguments, letting options and `key=value` items stand in any order.

    Raises:
        InputError: an option or item that the command does not take.
    """
    args, rest = parser.parse_known_args(argv)
    where = getattr(args, "parser", parser)
    options = [item for item in rest if item.startswith("-")]
    if options or (rest and not hasattr(args, "items")):
        where.error(f"unrecognised argument {(options or rest)[0]!r}")
    if rest:
        args.items = [*args.items, *rest]
    return args


def path(text: str) -> str:
    """The type of an argument that is a path: `~` at its beginning is the home folder."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    try:
        return expand_home(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def class_names(text: str | None) -> tuple[str, ...]:
    """Names of classes in label order: those of a data set that is named, those of a list `a,b,c`, none of None.

    Raises:
        InputError: there is no such data set.
    """
    if text is None:
        return ()
    if "," in text:
        return tuple(name.strip() for name in text.split(","))
    from maedfer.data.protocols import find_protocol

    return find_protocol(text).classes


def run_folder(text: str) -> str:
    """The folder of a run, looked for before torch is imported.

    Raises:
        InputError: it is not there, or is a file.
    """
    folder = expand_home(text)
    if os.path.isdir(folder):
        return folder
    if os.path.exists(folder):
        raise InputError(f"{folder!r} is a file: give the folder of a run")
    raise InputError(f"run folder {folder!r} does not exist")


def split_items(items: Sequence[str], what: str) -> tuple[str | None, list[str]]:
    """Tell the leading name from the `key=value` items.

    Args:
        items: positional arguments as given.
        what: what the leading name is, for the error message ("recipe").

    Raises:
        InputError: a second item without `=`.
    """
    # A path with an equals sign in it; a text that is too long for a path is none.
    named = [index for index, item in enumerate(items) if "=" not in item or (not index and os.path.exists(item))]
    names = [items[index] for index in named]
    overrides = [item for index, item in enumerate(items) if index not in named]
    if len(names) > 1:
        raise InputError(f"{names[1]!r} is neither the {what} ({names[0]!r} is) nor of the form key=value")
    return (names[0] if names else None), overrides
