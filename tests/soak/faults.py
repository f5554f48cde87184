"""What goes wrong in a run, and when: drawn from a seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong once.

    Args:
        kind: one of `ENDING` or `PASSING`.
        step: the optimiser step, counted from 0, with whose beginning it is due.
        moment: how much later, as a share of the time from one step to the next.
        nth: which call that writes into the run folder ("kill_writing"), which clip ("clip_damaged"), or whether the
            log is met too ("full").
        rank: the process that it meets.
        whole: whether it meets all processes of the run, those of the loader too, as when a machine goes down or a
            scheduler ends a job.
        steps: how long it lasts ("full", "read_only", "quota").
    """

    kind: str
    step: int
    moment: float = 0.0
    nth: int = 0
    rank: int = 0
    whole: bool = False
    steps: int = 0


# Faults after which the run has to be started again, and those that it has to live with.
ENDING = ("kill", "kill_writing", "term", "int", "usr1", "term_twice", "loader_killed", "rank_killed")
PASSING = ("full", "full_output", "read_only", "quota", "clip_damaged")
# What is done to the latest checkpoint while the run does not go on.
DAMAGES = ("flipped", "cut", "emptied", "edited", "removed")
# The same, and what else is done to one that is a folder.
DAMAGES_OF_FOLDERS = (*DAMAGES, "part removed", "part of another", "index edited", "unmarked")
# Of calls that write: as many as two saves have. Before the last steps, so that there are so many.
_CALLS, _LAST = 24, 12


def possible(world: int, workers: int) -> list[str]:
    """Kinds of ending faults that a run may meet."""
    absent = {"rank_killed"} if world == 1 else set()
    absent |= set() if workers else {"loader_killed"}
    return [kind for kind in ENDING if kind not in absent]


def ending(draw: random.Random, kinds: Sequence[str], steps: int, world: int) -> list[Fault]:
    """One fault of each of the kinds, in the order of their steps."""
    faults = []
    for kind in draw.sample(kinds, len(kinds)):
        fault = Fault(
            kind,
            draw.randrange(1, max(2, steps - _LAST)),
            round(draw.random(), 3),
            draw.randrange(_CALLS),
            # The first one writes.
            0 if kind == "kill_writing" else draw.randrange(world),
            # A rank alone is the matter of a kind of its own.
            kind.startswith("kill") or (kind != "rank_killed" and draw.random() < 0.5),
        )
        faults.append(fault)
    return sorted(faults, key=lambda fault: (fault.step, fault.moment))


def passing(
    draw: random.Random, kinds: Sequence[str], steps: int, interval: int, clips: Sequence[int] = ()
) -> list[Fault]:
    """One fault of each of the kinds, in the order of their steps; each lasts so long that something is to be saved.

    Args:
        draw: of steps and moments.
        kinds: of faults.
        steps: of the run.
        interval: steps between two checkpoints.
        clips: which ones are damaged, one for each fault of that kind.
    """
    left = list(clips)
    faults = []
    for kind in kinds:
        clip = kind == "clip_damaged"
        nth = left.pop() if clip else draw.randrange(2)
        lasts = 0 if clip else draw.randrange(interval, 2 * interval + 1)
        # What cannot be saved at the very end of a run is an error.
        first = draw.randrange(1, max(2, steps - lasts - 2 * interval))
        faults.append(Fault(kind, first, round(draw.random(), 3), nth, steps=lasts))
    return sorted(faults, key=lambda fault: fault.step)


def several(draw: random.Random, kinds: Sequence[str], count: int) -> list[str]:
    """So many kinds, each as often as any other but for one."""
    order = draw.sample(kinds, len(kinds))
    return [order[number % len(order)] for number in range(count)]
