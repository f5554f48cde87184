"""What a workload is, what it costs at least, and when a provider's results are good enough to be timed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import Timed

# How names of providers end that torch.compile makes.
COMPILED = "_compiled"

# A provider's error may be so many times that of the reference in the same dtype: outputs, gradients.
OUTPUT_FACTOR, GRADIENT_FACTOR = 2.0, 3.0
# Beyond that: roundings of the largest value, and an error in the mean that is no rounding any more.
_ROUNDINGS, _MEAN_SQUARE = 4.0, 0.005
# For models, in roundings of the whole: sixteen blocks one after the other, four each, where the reference in the
# precision of the run is the truth itself; one where its own error tells, because a few logits may be right by chance.
_FLOAT32_ROUNDINGS, _ROUNDINGS_BELOW = 64.0, 1.0


class Skip(Exception):
    """A provider cannot run here; the message says why."""


@dataclass(frozen=True)
class Settings:
    """What a run is told.

    Attributes:
        device: "cpu" or "cuda".
        dtype: of activations; models keep float32 weights and run under autocast.
        batch: clips at once; pre-training takes twice as many.
        seconds: timing of each call.
        small: sizes of a smoke check.
        sweep: whether sweeps are part of the set.
        providers: the only ones to run; all when empty.
        compiled: whether providers that torch.compile makes run: "with" the others, "without", or "only" those.
    """

    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    batch: int = 1
    seconds: float = 0.5
    small: bool = False
    sweep: bool = False
    providers: tuple[str, ...] = ()
    compiled: str = "with"

    def wants(self, provider: str) -> bool:
        """Whether a provider is among those to run."""
        if self.compiled != "with" and (self.compiled == "only") != provider.endswith(COMPILED):
            return False
        return not self.providers or provider in self.providers


@dataclass(frozen=True)
class Cost:
    """The least that a call must do: bytes moved with every tensor read or written once, operations of its matrix
    products (two a multiply-add)."""

    bytes: int
    flops: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.bytes + other.bytes, self.flops + other.flops)

    def floor_ms(self, floors: dict[str, float]) -> float:
        """Milliseconds at the measured speeds, the slower of copying and multiplying."""
        return 1e3 * max(self.bytes / floors["copy_bytes_per_s"], self.flops / floors["product_flops_per_s"])


@dataclass(frozen=True)
class Verdict:
    """What the check of a provider found.

    Attributes:
        error: the largest error over its budget; above one is too much.
        reason: what is wrong, or None.
        losses: of the first training steps, where there are any.
    """

    error: float
    reason: str | None = None
    losses: tuple[float, ...] = ()


@dataclass
class Candidate:
    """A provider that is ready to run.

    Attributes:
        check: compares its results with the truth; called before anything is timed.
        timed: the calls to time, by mode.
        costs: the least each of them must do, by mode.
        held: bytes of weights and optimiser state, which are there between calls.
    """

    check: Callable[[], Verdict]
    timed: dict[str, Timed]
    costs: dict[str, Cost]
    held: int = 0


Builders = dict[str, Callable[[], Candidate]]


@dataclass(frozen=True)
class Workload:
    """Something to measure.

    Attributes:
        name: what --op calls it.
        sizes: label -> sizes, for given settings; B is the number of clips.
        prepare: makes inputs for given sizes and returns the providers; a provider that cannot run raises Skip.
        in_sweep: measured with --sweep only.
        tokens: tokens of one clip, for plots against the amount of work.
    """

    name: str
    sizes: Callable[[Settings], dict[str, dict[str, Any]]]
    prepare: Callable[[Settings, dict[str, Any]], Builders]
    in_sweep: bool = False
    tokens: Callable[[Settings, dict[str, Any]], int] | None = None


def compare(got: Sequence[Tensor], low: Sequence[Tensor], want: Sequence[Tensor], outputs: int) -> Verdict:
    """Judge an operation by its largest error, and by the mean square, which a small error everywhere does not pass.

    Args:
        got: a provider's outputs, then gradients.
        low: the same of the reference in the same dtype: its error is the measure.
        want: the same of the reference in float64.
        outputs: how many of them are outputs.
    """
    worst = Verdict(0.0)
    for number, (ours, plain, true) in enumerate(zip(got, low, want, strict=True)):
        name, factor = _name_and_factor(number, outputs)
        errors = [x.double() - true for x in (ours, plain)]
        largest, allowed, most = (float(x.abs().max()) for x in (*errors, true))
        length, allowed_length, whole = (float(x.norm()) for x in (*errors, true))
        for error, budget in (
            (largest, factor * allowed + _ROUNDINGS * torch.finfo(plain.dtype).eps * most),
            (length, max(factor * allowed_length, _MEAN_SQUARE * whole)),
        ):
            worst = max(worst, _judge(name, error, budget), key=_severity)
    return worst


def compare_models(
    got: Sequence[Tensor], low: Sequence[Tensor], want: Sequence[Tensor], outputs: int, dtype: torch.dtype
) -> Verdict:
    """Judge a model by the Euclidean lengths of its errors, which many roundings add up to evenly.

    The truth is the reference in float32. Gradients are judged one parameter at a time; one whose gradient is next to
    nothing is given roundings of the typical one, because it is a difference of such.

    Args:
        got: logits or loss, then gradients.
        low: the same of the reference in the same precision.
        want: the same of the reference in float32.
        outputs: how many of them are no gradients.
        dtype: of the activations.
    """
    eps = torch.finfo(dtype).eps
    gradients = [float(true.norm()) for true in want[outputs:]]
    typical = math.hypot(*gradients) / math.sqrt(len(gradients)) if gradients else 0.0
    worst = Verdict(0.0)
    for number, (ours, plain, true) in enumerate(zip(got, low, want, strict=True)):
        name, factor = _name_and_factor(number, outputs)
        error, allowed, length = (float((x.double()).norm()) for x in (ours - true, plain - true, true))
        roundings = _FLOAT32_ROUNDINGS if dtype == torch.float32 else _ROUNDINGS_BELOW
        slack = length if number < outputs else max(length, typical)
        worst = max(worst, _judge(name, error, factor * allowed + roundings * eps * slack), key=_severity)
    return worst


def _name_and_factor(number: int, outputs: int) -> tuple[str, float]:
    if number < outputs:
        return f"output {number}", OUTPUT_FACTOR
    return f"gradient {number - outputs}", GRADIENT_FACTOR


def _judge(name: str, error: float, budget: float) -> Verdict:
    # A comparison with NaN is false, so that it never passes.
    if error <= budget:
        return Verdict(error / budget if budget else 0.0)
    return Verdict(math.inf, f"{name} is wrong by {error:.3g}, {budget:.3g} is allowed")


def _severity(verdict: Verdict) -> float:
    return verdict.error


def nbytes(tensors: Iterable[Tensor | None]) -> int:
    """Bytes of several tensors."""
    return sum(x.nbytes for x in tensors if x is not None)
