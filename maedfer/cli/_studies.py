"""What the commands that carry out many runs share: how runs are spread, and how far they are."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from maedfer._progress import ProgressLine, duration
from maedfer.cli._parser import Parser

if TYPE_CHECKING:
    from maedfer.studies.grid import Share
    from maedfer.train.config import RunConfig


def add_grid(parser: Parser | argparse.ArgumentParser, cell: str, seeds: bool = True) -> None:
    """Add the options by which many runs are spread and repeated.

    Args:
        parser: of the command.
        cell: what is run of each seed, for the help.
        seeds: the command has several seeds.
    """
    if seeds:
        parser.add_argument("--seeds", metavar="N", type=int, default=1, help=f"runs of every {cell} (1)")
        parser.add_argument("--first-seed", metavar="N", type=int, default=0, help="the seed of the first of them (0)")
    parser.add_argument(
        "--processes",
        metavar="N",
        type=int,
        default=0,
        help="runs at a time, which divide the CPUs (1, or one for each device)",
    )
    parser.add_argument("--devices", metavar="LIST", help="devices that runs are spread over, as in cuda:0,cuda:1")
    parser.add_argument("--dry-run", action="store_true", help="make lists, say what there is to run, run nothing")


def device_names(text: str | None) -> list[str]:
    """The devices of a list `cuda:0,cuda:1`."""
    return [] if text is None else [name.strip() for name in text.split(",")]


def about_time(left: Sequence[RunConfig], places: Sequence[Share]) -> str:
    """A sentence on how long runs take.

    Args:
        left: settings of the runs.
        places: what they are spread over; those on one device, or on the CPU, divide it.
    """
    from maedfer.studies.estimate import estimate

    seconds = estimate(left) / max(1, len({place.device for place in places}))
    return (
        f"what is left takes about {duration(seconds)} of computing, by a step of each kind here and now; to read the "
        "clips comes on top"
    )


@contextlib.contextmanager
def shown_progress() -> Iterator[tuple[Callable[[str], None], Callable[[str, float], None]]]:
    """A function that prints lines, and one that shows below them what is done, how far it is, and the time left."""
    lines: list[ProgressLine] = []

    def clear() -> None:
        for line in lines:
            line.clear()

    def say(text: str) -> None:
        clear()
        print(text, flush=True)

    def progress(what: str, share: float) -> None:
        if not lines or lines[0].what != what:
            clear()
            lines[:] = [ProgressLine(what, sys.stderr)]
        lines[0](share)

    try:
        yield say, progress
    finally:
        clear()
