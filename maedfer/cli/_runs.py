"""What the commands that carry out a run share: settings from a recipe and overrides, dry run, report."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maedfer.cli._parser import Parser, add_command, examples, split_items

if TYPE_CHECKING:
    from maedfer.train import RunConfig, RunResult

_OVERRIDES = """Settings come from the defaults of the task, then a RECIPE (a YAML file, or the name of one that comes
with the package), then key=value overrides with the value in YAML. --print-config shows the result of the
three, and `maedfer {task} printed.yaml` runs it. `maedfer settings` explains every key."""


def add_run(
    commands: Any, task: str, run: Callable[[argparse.Namespace], int], summary: str, description: str, *lines: str
) -> Parser:
    """Add the command of a task; `description` is followed by where settings come from, `lines` are its examples."""
    text = f"{description}\n\n{_OVERRIDES.replace('{task}', task)}"
    names = [name for name in _recipes() if name.endswith("pretrain") == (task == "pretrain")]
    if task != "evaluate":
        text += f"\nRecipes: {', '.join(names)}."
    parser = add_command(commands, task, run, summary, text, examples(*lines))
    parser.usage = f"maedfer {task} [RECIPE] [key=value ...] [options]"
    parser.add_argument("items", nargs="*", metavar="RECIPE, key=value", help="recipe and overrides, see above")
    parser.add_argument("--print-config", action="store_true", help="print the resolved settings as YAML and stop")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check settings, annotation files, a sample of the clips and the model with one batch; write nothing",
    )
    return parser


def resolve_settings(args: argparse.Namespace, first: Sequence[str] = ()) -> RunConfig | None:
    """The settings of a command, or None where it was only to print or to check them.

    Args:
        args: of a parser of `add_run`.
        first: overrides that those of the command line are put over.
    """
    recipe, overrides = split_items(args.items, "recipe")
    from maedfer.train.config import dump_config, load_config

    cfg = load_config(args.command, recipe, [*first, *overrides], check=not args.print_config)
    if args.print_config:
        print(dump_config(cfg), end="")
        return None
    if args.dry_run:
        from maedfer.train.dry_run import dry_run

        dry_run(cfg, lambda line: print(line, flush=True))
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


def _recipes() -> list[str]:
    # Not from maedfer.train, which imports torch.
    return sorted(path.stem for path in (Path(__file__).resolve().parent.parent / "recipes").glob("*.yaml"))
