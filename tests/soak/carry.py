"""The part of a scheduler: start a run, let something happen, look at what is left, start it again, until it ends."""

from __future__ import annotations

import json
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from maedfer.errors import InputError
from maedfer.train.lock import LOCK_FILE, check_free
from tests.soak import latest
from tests.soak.attempt import Ended, Step, attempt
from tests.soak.faults import PASSING, Fault
from tests.soak.harm import SIGNALS
from tests.soak.inside import Plan
from tests.soak.job import Job

# Faults in which no checkpoint can be written.
_UNSAVED = ("full", "read_only", "quota")
# Attempts after which a run is given up.
_MOST = 400


@dataclass
class Story:
    """What happened to a run.

    Args:
        counts: of everything there is to count, by name.
        wrong: what did not go as it should, a sentence each.
        history: of each process, what every step came to in the end.
        edited: fingerprints of checkpoints that were edited.
    """

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    history: list[dict[int, Step]] = field(default_factory=list)
    edited: list[str] = field(default_factory=list)


def carry(
    job: Job,
    folder: Path,
    data: Path,
    plan: Plan,
    draw: random.Random,
    damages: Sequence[str] = (),
    seen: Callable[[int], None] = lambda step: None,
) -> Story:
    """Carry a run through all that is planned for it.

    Args:
        job: the run.
        folder: to work in; the run's folder is "run" in it.
        data: its clips.
        plan: whose `faults` are dealt out to attempts: one that ends the run for each, others as their steps come.
        draw: of what is damaged between two attempts.
        damages: what is done to the latest checkpoint, each once, in pauses in which there is one before it.
        seen: called after each attempt with the step that is reached.
    """
    output = folder / "run"
    story = Story(history=[{} for _ in range(job.world)])
    waiting = [fault for fault in plan.faults if fault.kind not in PASSING]
    passing = [fault for fault in plan.faults if fault.kind in PASSING]
    spoil = list(damages)
    start: latest.Found | None = None
    for number in range(_MOST):
        step = start.step if start else 0
        fault = None
        if waiting and step < job.steps - 1:
            fault = waiting.pop(0)
            # The run may be further than that already.
            fault = replace(fault, step=max(fault.step, step + 1))
        mine = [one for one in passing if fault is None or one.step < fault.step]
        part = replace(plan, faults=[*mine, fault] if fault else mine)
        ended = attempt(part, folder / f"attempt_{number:03d}", job.world)
        check = _Check(job, output, ended, fault, start, story)
        check.all()
        passing = [one for one in passing if (one.kind, one.step) not in ended.fired]
        story.counts.update(kind for kind, _ in ended.fired)
        story.counts["attempts"] += 1
        seen(max(story.history[0], default=0))
        if not any(ended.codes):
            late = [*([fault] if fault and not check.kind else []), *waiting]
            story.counts["faults that found the run at its end"] += len(late)
            _at_the_end(output, story)
            return story
        if ended.hung or len(story.wrong) > 2:
            return story
        start = latest.find(output, story.edited)
        # Not in the first pause, so that a run also goes on from a checkpoint that is left alone.
        if spoil and number and start is not None and start.path.stem == "last" and (before := start.before()):
            how = spoil.pop()
            latest.damage(output, how, draw)
            if how == "edited":
                story.edited.append(latest.fingerprint(start.path))
            story.counts[f"checkpoint {how}"] += 1
            # A flipped bit may lie where nothing is.
            start = latest.find(output) if how == "flipped" else before
    story.wrong.append(f"the run has not ended after {_MOST} attempts")
    return story


class _Check:
    """What must hold of an attempt that has ended."""

    def __init__(
        self, job: Job, output: Path, ended: Ended, fault: Fault | None, start: latest.Found | None, story: Story
    ) -> None:
        self.job, self.output, self.ended, self.fault = job, output, ended, fault
        self.start, self.story = start, story
        self.kind = fault.kind if fault and (fault.kind, fault.step) in ended.fired else ""
        self.windows = [kind for kind, _ in ended.fired if kind in _UNSAVED]
        # Whether the last words may have found no place.
        self.silent = "full_output" in dict(ended.fired)

    def say(self, text: str) -> None:
        """Something is wrong."""
        what = f"after {self.kind} in step {self.fault.step}" if self.kind and self.fault else "without an end from us"
        self.story.wrong.append(f"{self.job}: {what}, status {self.ended.codes}: {text}: ...{self.ended.text[-600:]}")

    def all(self) -> None:
        """Look at everything."""
        if self.ended.hung:
            self.say("it hangs")
            return
        self._start()
        self._steps()
        self._status()
        self._checkpoint()
        self._folder()
        self.story.counts["saves that failed, said"] += self.ended.text.count(" could not be written (")

    def _start(self) -> None:
        said = re.findall(r"^going on from .*/(\w+(?:\.pt)?), step (\d+)", self.ended.text, re.MULTILINE)
        expected = [] if self.start is None else [(self.start.path.name, str(self.start.step))]
        if said != expected and self.ended.steps():
            self.say(f"it says that it goes on from {said}, and should from {expected}")
        if self.start is not None and self.start.path.stem != "last":
            self.story.counts["fallbacks"] += 1
            if f"checkpoints/last{self.start.path.suffix} is" not in self.ended.text:
                self.say("it does not say why it goes on from an earlier checkpoint")

    def _steps(self) -> None:
        first = self.start.step if self.start else 0
        for rank, history in enumerate(self.story.history):
            steps = self.ended.steps(rank)
            numbers = [step.number for step in steps]
            if numbers != list(range(first, first + len(numbers))):
                self.say(f"process {rank} goes on at step {first} and does the steps {numbers}")
            again = [step for step in steps if step.number in history]
            other = [step.number for step in again if step != history[step.number]]
            self.story.counts["steps done again"] += len(again)
            if other and not self.story.counts["clip_damaged"] and "clip_damaged" not in dict(self.ended.fired):
                self.say(f"steps {other} come to something else when they are done again")
            history.update((step.number, step) for step in steps)
        if self.ended.hung:
            return

    def _status(self) -> None:
        codes, kind = self.ended.codes, self.kind
        ended = not any(codes)
        if kind in ("kill", "kill_writing"):
            good = set(codes) == {-9}
        elif kind == "rank_killed":
            assert self.fault is not None
            good = codes[self.fault.rank] == -9 and all(codes)
        elif kind in SIGNALS:
            # A second signal may find a process that has saved and listens no more.
            good = ended or set(codes) <= {128 + SIGNALS[kind], *([-SIGNALS[kind]] if kind == "term_twice" else [])}
        elif kind == "loader_killed":
            good = ended or set(codes) == {2}
            if not ended and not self.silent and "a loader process" not in self.ended.text:
                self.say("nothing is said of the loader's process")
        else:
            good = ended
        if not good:
            self.say("it ends otherwise than it should")
        if "Traceback (most recent call last)" in self.ended.text:
            self.say("there is a traceback")
        if kind in SIGNALS and not ended:
            said = re.findall(r"stopped by (\w+), saved at step ([\d,]+) of", self.ended.text)
            found = latest.find(self.output, self.story.edited)
            if (
                not self.windows
                and not self.silent
                and said != [(SIGNALS[kind].name, f"{found.step:,}" if found else "0")]
            ):
                self.say(f"it says that it stopped as {said}, with {found}")

    def _checkpoint(self) -> None:
        done = min(
            max((step.number + 1 for step in self.ended.steps(rank)), default=0) for rank in range(self.job.world)
        )
        found = latest.find(self.output, self.story.edited)
        here = found.step if found else 0
        if not any(self.ended.codes):
            return
        started = self.start.step if self.start else 0
        if done == 0:
            done = started
        asked_for = self.kind in SIGNALS
        most = 0 if asked_for else self.job.interval * (2 if self.job.saves_later else 1)
        if self.windows:
            most += 3 * self.job.interval
        if done - here > most:
            self.say(f"step {done} was finished, and the checkpoint is of step {here}")
        if found is None:
            self.story.counts["ends before the first checkpoint"] += 1
            return
        self.story.counts["usable checkpoints"] += 1
        if self.kind.startswith("kill"):
            self.story.counts["usable checkpoints after kills"] += 1
        record = self.story.history[0].get(found.step - 1)
        if record is None or record.weights != found.weights:
            self.say(f"{found.path.name} does not hold the weights that there were after step {found.step}")

    def _folder(self) -> None:
        try:
            check_free(self.output)
        except InputError as error:
            self.say(f"the folder is not free: {error}")
        if -9 in self.ended.codes:
            self._killed()
            return
        if "read_only" in self.windows and any(self.ended.codes):
            # Nothing can be removed there; the next start does that.
            return
        if (self.output / LOCK_FILE).exists():
            self.say("the file of the lock is left")
        if left := leftovers(self.output):
            self.say(f"it leaves {', '.join(left)}")

    def _killed(self) -> None:
        """Count what the process that writes was doing."""
        stepping = [line for lines in self.ended.lines for line in lines if "fired" in line and line["stepping"]]
        saved = [path for path in leftovers(self.output) if path.startswith("checkpoints")]
        self.story.counts["kills in the middle of a save"] += bool(saved)
        self.story.counts["kills in a save while a step went on"] += bool(saved and stepping)


def leftovers(output: Path) -> list[str]:
    """Temporary files in a run folder."""
    return [str(path.relative_to(output)) for path in output.rglob("*") if path.name.endswith(".tmp")]


def _at_the_end(output: Path, story: Story) -> None:
    if any(story.counts[kind] for kind in _UNSAVED) and not story.counts["saves that failed, said"]:
        story.wrong.append("nothing is said of checkpoints that could not be written")
    facts = json.loads((output / "environment.json").read_text())
    if facts["outcome"] != "complete":
        story.wrong.append(f"the run has ended, and environment.json says that it is {facts['outcome']}")
    for line in (output / "log.jsonl").read_text().splitlines():
        kind = json.loads(line)["kind"]
        if kind in ("skipped_step", "quarantined", "not_saved", "stop"):
            story.counts[f"records: {kind}"] += 1
    for name in ("last", "previous"):
        for path in (output / "checkpoints").glob(f"{name}*"):
            if not os.access(path, os.R_OK):
                story.wrong.append(f"{path} cannot be read")
