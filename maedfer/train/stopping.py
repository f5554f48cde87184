"""How a run that is asked to stop ends: after the step that it is in, in all processes, with a checkpoint.

The signal of one process is every process's: `Agreement` carries it with each step. What holds nothing that would be
lost is broken off: waiting for a batch, scoring (the epoch is saved before it is scored, and is scored again).
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any, Protocol

from maedfer.errors import Stopped
from maedfer.train.agreement import Agreement
from maedfer.train.checkpoint import random_state, set_random_state
from maedfer.train.checkpoints import LAST, Checkpoints
from maedfer.train.loader import TrainBatches
from maedfer.train.log import RunLog
from maedfer.train.optim import Schedule
from maedfer.train.run_state import Resumable


class Stoppable(Resumable, Protocol):
    """What of a trainer is needed to end it."""

    agreement: Agreement
    batches: TrainBatches
    checkpoints: Checkpoints
    log: RunLog
    schedule: Schedule

    def save(self, name: str, *, stops: bool) -> bool:
        """Write a checkpoint of a run that stops; whether it is written."""


class Stopping:
    """Ends a training run that was asked to.

    Args:
        trainer: of the run.
    """

    def __init__(self, trainer: Stoppable) -> None:
        self.trainer, self.runtime, self.signals = trainer, trainer.runtime, trainer.runtime.signals
        self.signals.heed = lambda number: trainer.agreement.say("stop", float(number))
        # Between epochs, where no step carries it.
        self._between = Agreement(self.runtime, ("stop",), lag=0)
        self._before_step: tuple[Any, ...] | None = None

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """The block of training.

        Raises:
            Stopped: it was asked to stop, and where it stands is saved.
        """
        with self.signals.noted("the run ends where it stands, and saves that"):
            try:
                yield
            except Stopped as stop:
                if stop.together:
                    raise
                if not self.trainer.position.ending:
                    self._take_back()
                self.end(stop.signal)
        self.signals.place = "when training was complete and its result was not"

    def waiting(self, part: int) -> contextlib.AbstractContextManager[None]:
        """A block that waits for the batch of a part of a step.

        A process alone may go back to the end of the step before; one of several would leave the others in theirs.
        """
        if self.runtime.world > 1 or not self.signals.active:
            return contextlib.nullcontext()
        if not part and (trainer := self.trainer).cfg.train.accumulate > 1:
            self._before_step = random_state(self.runtime.device), trainer.task.state_dict(), trainer.skipped
        return self.signals.at_once()

    def scoring(self) -> contextlib.AbstractContextManager[None]:
        """A block that scores; several processes agree upon its end between batches."""
        if self.runtime.world > 1 or not self.signals.active:
            return contextlib.nullcontext()
        return self.signals.at_once()

    @property
    def asked(self) -> int:
        """The signal that all processes know of at this step; 0 = none."""
        return int(self.trainer.agreement.seen["stop"])

    def between_epochs(self) -> None:
        """End the run where it was asked to, after a save.

        Raises:
            Stopped: it was.
        """
        if not self.signals.active:
            return
        self._between.say("stop", float(self.signals.asked))
        self._between.send(self.trainer.position.step)
        self._between.read(everything=True)
        if number := int(self._between.seen["stop"]):
            self.end(number)

    def end(self, number: int) -> None:
        """Save where the run stands, if that is not saved yet, and end it for a signal.

        Raises:
            Stopped: always.
        """
        trainer = self.trainer
        step, total = trainer.position.step, trainer.schedule.total
        self.signals.asked = self.signals.asked or number
        name = signal.Signals(number).name
        if not step:
            # A checkpoint of it would hold nothing, and the log of the start would not be written again.
            trainer.batches.close()
            raise Stopped(
                f"stopped by {name} before the first step; the same command starts anew", number, True
            ) from None
        kept = trainer.checkpoints
        with self.signals.noted("the run is saving"):
            said = kept.wait()
            if not kept.last_is_of(step):
                trainer.save(LAST, stops=True)
                said += kept.wait()
        for text in said:
            trainer.log.say(text)
        trainer.batches.close()
        saved = kept.last_is_of(step)
        why = f" ({kept.failed[LAST]})" if LAST in kept.failed else ""
        where = f"saved at step {step:,} of {total:,}" if saved else f"step {step:,} is not saved{why}: {kept.kept()}"
        trainer.log.record("stop", step=step, signal=name, saved=saved)
        raise Stopped(f"stopped by {name}, {where}; the same command goes on", number, together=True) from None

    def _take_back(self) -> None:
        """Undo what a step has drawn that was broken off in the middle."""
        if self._before_step is not None:
            trainer = self.trainer
            drawn, of_task, trainer.skipped = self._before_step
            set_random_state(drawn, self.runtime.device)
            trainer.task.load_state_dict(of_task)
