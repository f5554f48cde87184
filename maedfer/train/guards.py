"""What keeps a bad batch from spoiling a run: a step whose loss or gradient is not finite is left out, and told.

After the backward passes of a step, all processes agree whether their losses and the gradient's norm are finite. Where
they are not, weights, the optimiser's state and the moving average stay as they were, and step counter, schedule and
order of the clips go on. A CPU decides at once. A GPU decides by itself, as `torch.amp.GradScaler` has it: the fused
optimiser looks at `found_inf` on the device, and the host learns of it a few steps later (`Agreement`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from maedfer.data.annotations import Clip
from maedfer.errors import InputError, some
from maedfer.train import watch
from maedfer.train.agreement import Agreed, Agreement
from maedfer.train.log import RunLog
from maedfer.train.optim import Ema, local
from maedfer.train.parallel import whole
from maedfer.train.processes import Runtime
from maedfer.train.run_state import Position
from maedfer.train.watch import DeadGradients

# Overflowing steps in a row after which an fp16 run is given up; the scaler needs a few to find its scale.
_MOST_OVERFLOWS = 50
# Events of a kind that are told as they come; of later ones, those whose number is a power of two.
_TOLD = 3
# Steps of which the clips are remembered: as many as are fetched from a device at once, and some more.
_REMEMBERED = 64


class Numerics(Protocol):
    """A gradient scaler, as far as it is used: `torch.amp.GradScaler`."""

    def unscale_(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide the gradients by the scale."""

    def update(self) -> None:
        """Adapt the scale to what was found in the gradients."""


def gradient_norms(parameters: Iterable[nn.Parameter]) -> tuple[Tensor, Tensor]:
    """The norm of all gradients, and that of each.

    Args:
        parameters: those without a gradient are left out. Their gradients may be sharded (DTensor).

    Returns:
        A scalar and [n], float32 on the device, the same in all processes where gradients are averaged or sharded. The
        first is what `torch.nn.utils.get_total_norm` gives.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return torch.zeros(()), torch.zeros(0)
    each = torch.stack(torch._foreach_norm(local(gradients)))
    if isinstance(gradients[0], DTensor):
        # Of all parts at once: each would be added up by itself otherwise.
        squares = each.square()
        dist.all_reduce(squares, group=gradients[0].device_mesh.get_group())
        each = squares.sqrt()
    return torch.linalg.vector_norm(each), each


class GuardedStep:
    """What follows the backward passes of a step: clipping, the optimiser, the moving average; or nothing of it.

    Args:
        model: what is trained.
        optimizer: of it; a fused one decides on the device, another one on the host.
        scaler: of the losses; a disabled one changes nothing.
        ema: moving average of the weights, where there is one.
        agreement: has a flag "skip".
        dead: is told of the gradients' norms.
        clip: largest norm of the gradient; None = no clipping.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.AdamW,
        scaler: Numerics,
        ema: Ema | None,
        agreement: Agreement,
        dead: DeadGradients,
        clip: float | None,
    ) -> None:
        self.model, self.optimizer, self.scaler, self.ema = model, optimizer, scaler, ema
        self.agreement, self.dead, self.clip = agreement, dead, clip

    def __call__(self, step: int, loss: Tensor) -> Tensor:
        """Make the step, or leave it out.

        Args:
            step: number of the step, from 1.
            loss: of this process: a scalar that is finite only where that of every pass is.

        Returns:
            Norm of the gradient before clipping.
        """
        self.scaler.unscale_(self.optimizer)
        parameters = list(self.model.parameters())
        norm, each = gradient_norms(parameters)
        self.dead.note(each)
        agreed = self.agreement.send(step, skip=~(norm.isfinite() & loss.isfinite()))
        skip = agreed[self.agreement.names.index("skip")]
        if self.clip is not None:
            nn.utils.clip_grads_with_norm_(parameters, self.clip, norm)
        if self.optimizer.defaults["fused"]:
            # Kernels of a fused optimiser look at it, and leave everything as it is where it is 1.
            optimizer: Any = self.optimizer
            optimizer.found_inf = skip
            optimizer.step()
            del optimizer.found_inf
            if self.ema is not None:
                self.ema.update(self.model, step - 1, skip)
        elif not skip:
            self.optimizer.step()
            if self.ema is not None:
                self.ema.update(self.model, step - 1)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return norm


class Recent(NamedTuple):
    """A step that is not long ago: its number from 1, this process's clips, its loss, and the gradient's norm."""

    step: int
    clips: list[int]
    loss: Tensor
    norm: Tensor


class Incidents:
    """Tells of steps that were left out, with their clips, and ends a run that comes to nothing else.

    Args:
        runtime: the processes.
        clips: that are learned from.
        steps_per_epoch: steps of an epoch.
        most: skipped steps in a row that end the run; 0 = none do.
        kept: gives the checkpoint that holds what the run last had, as sentences have it; "" where there is none. All
            processes call it.
    """

    def __init__(
        self, runtime: Runtime, clips: Sequence[Clip], steps_per_epoch: int, most: int, kept: Callable[[], str]
    ) -> None:
        self.runtime, self.clips, self.steps_per_epoch, self.most = runtime, clips, steps_per_epoch, most
        # Where losses are scaled, overflows are part of it.
        self.scaled = runtime.precision == "fp16"
        self.kept = kept
        self._recent: deque[Recent] = deque(maxlen=_REMEMBERED)

    def note(self, step: Recent) -> None:
        """Remember a step until it is known what became of it."""
        self._recent.append(step)

    def epoch(self, step: int) -> int:
        """The epoch of a step, both from 1."""
        return (step - 1) // self.steps_per_epoch + 1

    def names(self, step: int) -> list[str]:
        """The names of a step's clips over all processes, which all take part; of one with a loss that is bad first."""
        mine = next((recent for recent in self._recent if recent.step == step), None)
        found = self.runtime.gather(([], True) if mine is None else (mine.clips, math.isfinite(float(mine.loss))))
        found.sort(key=lambda part: part[1])
        return list(dict.fromkeys(self.clips[index].name for part, _ in found for index in part))

    def learn(self, agreed: Agreed, position: Position, log: RunLog, model: nn.Module) -> None:
        """Take note of what the processes agreed upon at a step.

        Args:
            agreed: with a flag "skip".
            position: of the run, which counts.
            log: where it is told.
            model: whose weights must still be finite.

        Raises:
            InputError: too many steps in a row were left out; all processes raise it.
        """
        if not agreed.flags["skip"]:
            position.in_a_row = position.overflows = 0
            return
        step, epoch = agreed.step, self.epoch(agreed.step)
        why, loss = self._why(step)
        if self.scaled:
            position.overflows += 1
            if position.overflows >= _MOST_OVERFLOWS:
                raise InputError(self._end(step, why, f"{position.overflows} steps in a row overflowed", model))
            return
        position.skipped += 1
        position.in_a_row += 1
        names = self.names(step)
        log.record("skipped_step", step=step, epoch=epoch, loss=loss, why=why, clips=names)
        if is_told(position.skipped):
            until = f"{position.in_a_row} in a row" + (f", {self.most} stop the run" if self.most else "")
            log.say(
                f"step {step} (epoch {epoch}) was skipped, the weights are as they were: {why}; its clips: "
                f"{some(names)}; the {ordinal(position.skipped)} such step ({until}); log.jsonl names all"
            )
        if self.most and position.in_a_row >= self.most:
            raise InputError(self._end(step, why, counted_in_a_row(position.in_a_row), model))

    def spike(self, step: int, loss: float, usual: float, number: int, log: RunLog) -> None:
        """Tell of a loss far above the usual one, the so-manieth; all processes take part."""
        names, epoch = self.names(step), self.epoch(step)
        log.record("spike", step=step, epoch=epoch, loss=loss, usual=usual, clips=names)
        if is_told(number):
            log.say(
                f"loss {loss:.4g} at step {step} (epoch {epoch}), where {usual:.4g} is usual; its clips: "
                f"{some(names)}; the {ordinal(number)} such step; log.jsonl names all"
            )

    def dead(self, step: int, names: list[str], log: RunLog) -> None:
        """Tell of parts of the model that no gradient reaches."""
        if names:
            log.record("dead", step=step, epoch=self.epoch(step), parameters=names, steps=watch.DEAD_AFTER)
            log.say(
                f"step {step}: the gradient has been zero for {watch.DEAD_AFTER} steps or more in {some(names)}: what "
                "is there does not learn; log.jsonl names all"
            )

    def _why(self, step: int) -> tuple[str, float]:
        """What was not finite at a step, as a sentence has it, and the loss over all processes."""
        mine = next((recent for recent in self._recent if recent.step == step), None)
        rows = self.runtime.gather(None if mine is None else (float(mine.loss), float(mine.norm)))
        losses = [row[0] for row in rows if row is not None]
        norm = next((row[1] for row in rows if row is not None), math.nan)
        loss = sum(losses) / max(1, len(losses))
        bad = [str(rank) for rank, row in enumerate(rows) if row is not None and not math.isfinite(row[0])]
        if not bad:
            return f"the norm of the gradient is {norm}", loss
        where = f" in process {some(bad)}" if len(rows) > 1 else ""
        return f"the loss is {loss}{where}", loss

    def _end(self, step: int, why: str, what: str, model: nn.Module) -> str:
        spoiled = next((name for name, value in model.named_parameters() if not whole(value).isfinite().all()), None)
        kept = self.kept()
        held = f"{kept} holds the last good weights" if kept else "no checkpoint was written yet"
        if spoiled is not None:
            held = f"the weights are not finite any more ({spoiled}); {kept or 'no checkpoint'} is from before"
        precision = "" if self.runtime.precision == "fp32" else ", or train.precision=fp32"
        clips = f"; log.jsonl names the clips of skipped steps (train.max_skipped={self.most})"
        return (
            f"{why} at step {step} (epoch {self.epoch(step)}), training stops: {what}; {held}; try a lower optim.lr, "
            f"optim.clip_grad{precision}{'' if self.scaled else clips}"
        )


def skipped_note(position: Position, total: int) -> list[str]:
    """What readers of a run's scores must know of its skipped steps: no sentence, or one.

    Args:
        position: of the run.
        total: steps of the run.
    """
    if not position.skipped:
        return []
    were = "was" if position.skipped == 1 else "were"
    return [
        f"{position.skipped:,} of {total:,} steps {were} skipped because the loss or the gradient was no finite "
        "number: log.jsonl names their clips"
    ]


def is_told(number: int) -> bool:
    """Whether the so-manieth event of a kind is told as it comes: the first ones, and then ever fewer."""
    return number <= _TOLD or number & (number - 1) == 0


def ordinal(number: int) -> str:
    """A number of an order: "1st", "22nd", "113th"."""
    ending = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number:,}{ending}"


def counted_in_a_row(number: int) -> str:
    """How many steps were left out, as a sentence has it."""
    return "it was skipped" if number == 1 else f"{number} steps in a row were skipped"
