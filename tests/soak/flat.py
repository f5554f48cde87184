"""Whether a long run takes no more and more of the machine, whatever it has to live with."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.soak.attempt import Ended, attempt
from tests.soak.faults import Fault
from tests.soak.inside import Plan
from tests.soak.job import Job

# What is no growth: bytes between the first and the last third of a run, and handles.
_ALLOWED = {"memory": 3 << 20, "loader": 3 << 20, "files": 0, "threads": 0, "children": 0, "shared": 0}
# Looks at a run in all, and the share of them in which everything still comes to its size.
_LOOKS, WARM_UP = 200, 0.2


def run_flat(
    job: Job,
    folder: Path,
    data: Path,
    faults: Sequence[Fault] = (),
    poisoned: Mapping[int, tuple[int, str]] | None = None,
    leak: Mapping[str, int] | None = None,
) -> tuple[Ended, list[str]]:
    """Carry out a run in one process, looking at what it holds, and say what grows.

    Args:
        job: the run.
        folder: to work in.
        data: its clips.
        faults, poisoned: what it has to live with.
        leak: what is lost on purpose.
    """
    plan = Plan(
        job.task,
        job.settings(data, folder / "run"),
        str(data),
        list(faults),
        dict(poisoned or {}),
        sampled=max(1, job.steps // _LOOKS),
        leak=dict(leak or {}),
    )
    ended = attempt(plan, folder / "attempt")
    if any(ended.codes):
        return ended, [f"it ends with {ended.codes}: {ended.text[-600:]}"]
    return ended, growth([line for line in ended.lines[0] if "at" in line])


def growth(looks: Sequence[Mapping[str, int]]) -> list[str]:
    """What a process holds more of in the last third of a run than in the first; a sentence each.

    Memory by the medians of thirds, because single looks meet a score now and then; of what is counted, the least,
    because threads of a save may end a moment after it.

    Args:
        looks: what was held, by name, in the order of time.
    """
    warm = looks[int(len(looks) * WARM_UP) :]
    third = len(warm) // 3
    found = []
    for name, allowed in _ALLOWED.items():
        of_third = statistics.median if allowed else min
        before, after = (of_third([look[name] for look in part]) for part in (warm[:third], warm[-third:]))
        if after - before > allowed:
            found.append(f"{name} grows from {before:,.0f} to {after:,.0f}")
    return found
