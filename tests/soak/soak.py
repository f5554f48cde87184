"""A run under faults and the same run without, from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tests.soak import faults
from tests.soak.attempt import attempt
from tests.soak.carry import Story, carry
from tests.soak.compare import differences, run_clean, to_replay
from tests.soak.flat import WARM_UP, run_flat
from tests.soak.inside import Plan
from tests.soak.job import CLIPS, SCORED, Job, copy_data, write_data

# Of the clips that are learned from: broken from the beginning, and by and by.
_BROKEN = 2


@dataclass(frozen=True)
class Wanted:
    """What is to happen to a run.

    Args:
        ending: kinds of faults that end it, each once.
        passing: kinds of faults that do not, each once.
        poisoned: steps whose loss or gradient is no number.
        damages: what is done to its latest checkpoint while it does not run, each once.
    """

    ending: Sequence[str]
    passing: Sequence[str] = ()
    poisoned: int = 0
    damages: Sequence[str] = ()


def soak(job: Job, folder: Path, seed: int, wanted: Wanted, seen: Callable[[int], None] = lambda step: None) -> Story:
    """Carry a run through faults, and compare it with one that had none.

    Args:
        job: the run.
        folder: to work in; made.
        seed: of all that is drawn.
        wanted: what is to happen.
        seen: called with the step that is reached.
    """
    draw = random.Random(seed)
    clips = draw.sample(range(SCORED, CLIPS), _BROKEN + sum(kind == "clip_damaged" for kind in wanted.passing))
    data = write_data(folder / "data", clips[:_BROKEN])
    before = copy_data(data, folder / "before")
    ending = faults.ending(draw, wanted.ending, job.steps, job.world)
    passing = faults.passing(draw, wanted.passing, job.steps, job.interval, clips[_BROKEN:])
    poisoned = poison(draw, job, wanted.poisoned)
    plan = Plan(job.task, job.settings(data, folder / "faults" / "run"), str(data), [*passing, *ending], poisoned)
    story = carry(job, folder / "faults", data, plan, draw, wanted.damages, seen)
    story.counts["steps"] += job.steps
    if story.wrong:
        return story
    broke = [fault.nth for fault in passing if fault.kind == "clip_damaged"]
    clean, story.wrong = run_clean(job, folder / "clean", before, poisoned, to_replay(story.history, job, broke))
    story.counts["poisoned steps"] += len(poisoned)
    story.wrong += _learned(story, job, clips, set(clips[:_BROKEN])) + _skipped(story, job, poisoned)
    if not story.wrong:
        told = not any(story.counts[kind] for kind in ("full", "quota"))
        runs = folder / "faults" / "run", folder / "clean" / "run"
        story.wrong = differences(job, *runs, (story.history, clean), told)
    return story


def elastic(job: Job, folder: Path, seed: int) -> Story:
    """A process of a run under torchrun is killed, and torchrun carries the run on by itself."""
    draw = random.Random(seed)
    data = write_data(folder / "data", [])
    fault = replace(faults.ending(draw, ["rank_killed"], job.steps - 2, job.world)[0], step=job.interval + 1)
    plan = Plan(job.task, job.settings(data, folder / "faults" / "run"), str(data), [fault])
    ended = attempt(plan, folder / "faults" / "attempt", job.world, restarts=1)
    story = Story()
    story.counts.update(["torchrun's restarts"] * len(ended.fired))
    history = [{step.number: step for step in ended.steps(rank)} for rank in range(job.world)]
    if any(ended.codes) or not ended.fired:
        story.wrong.append(f"{job}: under torchrun it ends with {ended.codes}: {ended.text[-1500:]}")
        return story
    clean, story.wrong = run_clean(job, folder / "clean", data, {}, [])
    story.wrong += differences(job, folder / "faults" / "run", folder / "clean" / "run", (history, clean), True)
    return story


def flat(job: Job, folder: Path, seed: int, kinds: Sequence[str], poisoned: int) -> Story:
    """One long run in one process, with what it has to live with; nothing may grow.

    Each kind of fault happens once before memory is looked at: what handles it is loaded then, and stays.
    """
    draw = random.Random(seed)
    damaged = 1 + sum(kind == "clip_damaged" for kind in kinds)
    clips = draw.sample(range(SCORED, CLIPS), _BROKEN + damaged)
    data = write_data(folder / "data", clips[:_BROKEN])
    passing = faults.passing(draw, faults.PASSING, int(WARM_UP * job.steps), job.interval, clips[-1:])
    passing += faults.passing(draw, kinds, job.steps, job.interval, clips[_BROKEN:-1])
    ended, wrong = run_flat(job, folder, data, passing, poison(draw, job, poisoned))
    story = Story(wrong=[f"{job}: {line}" for line in wrong])
    story.counts.update(kind for kind, _ in ended.fired)
    story.counts["steps in one process"] += len(ended.steps())
    story.counts["looks at memory and handles"] += sum("at" in line for line in ended.lines[0])
    return story


def leaks(folder: Path, steps: int) -> Story:
    """Runs that lose memory, files or threads on purpose; each must be found."""
    story = Story()
    job = Job("pretrain", max(1, steps // 6))
    for what, amount in {"bytes": 64 << 10, "files": 5, "threads": 5}.items():
        data = write_data(folder / what / "data", [])
        _, wrong = run_flat(job, folder / what, data, leak={what: amount})
        name = "memory" if what == "bytes" else what
        found = [line for line in wrong if line.startswith(name)]
        story.counts["planted leaks found"] += bool(found)
        if len(wrong) != 1 or not found:
            story.wrong.append(f"a planted leak of {what} is seen as {wrong}")
    return story


def poison(draw: random.Random, job: Job, count: int) -> dict[int, tuple[int, str]]:
    """Steps whose loss or gradient is no number."""
    steps = draw.sample(range(1, job.steps), count)
    return {step: (draw.randrange(job.world), draw.choice(("loss", "gradient"))) for step in sorted(steps)}


def _skipped(story: Story, job: Job, poisoned: Collection[int]) -> list[str]:
    """Steps that changed the weights although their loss or gradient was no number, and others that did not."""
    wrong = []
    for history in story.history:
        same = {number for number in range(1, job.steps) if history[number].weights == history[number - 1].weights}
        if same != set(poisoned):
            wrong.append(f"{job}: the steps {sorted(same)} left the weights as they were, and not {sorted(poisoned)}")
    return wrong


def _learned(story: Story, job: Job, clips: Sequence[int], first: set[int]) -> list[str]:
    """What was learned from where broken clips had their turn."""
    wrong = []
    for rank, history in enumerate(story.history):
        for number, step in history.items():
            passed = job.passed(number, rank, step.clips)
            story.counts["broken clips passed over"] += len(passed)
            if whole := passed.difference(clips):
                wrong.append(f"{job}: step {number} passed over {whole}, which are whole")
            if broken := first.intersection(step.clips):
                wrong.append(f"{job}: step {number} learned from {broken}, which are broken")
    return wrong
