"""What the commands that carry out a run share: settings from a recipe and overrides, dry run, report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from maedfer.cli._parser import Parser, add_command, examples, split_items

if TYPE_CHECKING:
    from maedfer.train import RunConfig, RunResult

_OVERRIDES = """Settings come from the defaults of the task, then a RECIPE (a YAML file, or the name of one that comes
with the package), then key=value overrides, of which the last of a key counts. A value is taken as it is: no
quotes, no escapes; ~ at the beginning of a path is the home folder, [a, b] is a list. --print-config shows the
result of the three, and `maedfer {task} printed.yaml` runs it. `maedfer settings` explains every key."""


def add_run(
    commands: Any, task: str, run: Callable[[argparse.Namespace], int], summary: str, description: str, *lines: str
) -> Parser:
    """Add the command of a task; `description` is followed by where settings come from, `lines` are its examples."""
    text = f"{description}\n\n{_OVERRIDES.replace('{task}', task)}"
    from maedfer.train.recipes import list_recipes

    names = [name for name in list_recipes() if name.endswith("pretrain") == (task == "pretrain")]
    if task != "evaluate":
        text += f"\nRecipes: {', '.join(names)}."
    parser = add_command(commands, task, run, summary, text, examples(*lines))
    parser.usage = f"maedfer {task} [RECIPE] [key=value ...] [options]"
    parser.add_argument("items", nargs="*", metavar="RECIPE, key=value", help="recipe and overrides, see above")
    parser.add_argument("--print-config", action="store_true", help="print the resolved settings as YAML and stop")
    parser.add_argument(
        "--dry-run",
        action="store_const",
        const="sample",
        help="check settings, annotation files, a sample of the clips and the model with one batch; write nothing",
    )
    # An option of its own for the parser: a value that may be left out would swallow the recipe behind it.
    parser.add_argument(
        "--dry-run=all",
        action="store_const",
        const="all",
        dest="dry_run",
        help="the same with every frame of every clip, read by data.workers processes; lists all clips that are broken",
    )
    return parser


def resolve_settings(
    args: argparse.Namespace,
    first: Mapping[str, Any] | None = None,
    check: Callable[[RunConfig], object] = lambda cfg: None,
) -> RunConfig | None:
    """The settings of a command, or None where it was only to print or to check them.

    Args:
        args: of a parser of `add_run`.
        first: dotted keys and values that the overrides of the command line are put over.
        check: refuses settings that other options of the command cannot be carried out with.
    """
    recipe, overrides = split_items(args.items, "recipe")
    if recipe is not None:
        # Before torch is imported, so that a mistyped name is told at once.
        from maedfer.train.recipes import find_recipe, read_tree

        read_tree(find_recipe(recipe))
    from maedfer.train.config import dump_config, load_config

    cfg = load_config(args.command, recipe, overrides, check=not args.print_config, first=first)
    if args.print_config:
        text = dump_config(cfg)
        print(text if _holds(sys.stdout, text) else dump_config(cfg, ascii_only=True), end="")
        return None
    check(cfg)
    if args.dry_run:
        from maedfer.train.dry_run import dry_run

        dry_run(cfg, lambda line: print(line, flush=True), every_clip=args.dry_run == "all")
        return None
    return cfg


def finish(cfg: RunConfig, result: RunResult) -> int:
    """Write the report of a run that has ended, where it is asked for; a failure is told and does not lose the run."""
    from maedfer.train.processes import is_main

    if not cfg.report or not is_main():
        return 0
    try:
        from maedfer.report import write_report

        path = write_report(result.output)
    except Exception as error:
        print(f"the report could not be written ({type(error).__name__}: {error}); the run itself is complete")
        return 0
    print(f"report: {path}", flush=True)
    return 0


def _holds(stream: Any, text: str) -> bool:
    try:
        text.encode(stream.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True
