"""An operation as a workload, for functions of tensors: outputs and gradients checked against float64, then timed.

The bytes of a forward pass are those of inputs and outputs; a backward pass reads the inputs and the gradients of
outputs, and writes gradients.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import Timed
from benchmarks.workload import Builders, Candidate, Cost, Settings, Skip, Verdict, Workload, compare, nbytes
from maedfer.kernels import Impl

Sizes = dict[str, Any]
Function = Callable[..., Tensor | tuple[Tensor, ...]]

BASE = {"H": 8, "C": 512, "patch": (2, 16, 16)}
_SMALL = {"M": 2, "H": 2, "C": 32, "patch": (2, 8, 8)}
# Rows of a region -> regions of a clip of 800 tokens. In pre-training 80 tokens are visible.
_REGIONS = {11: 8, 41: 20, 51: 16, 101: 8, 201: 4}


@dataclass(frozen=True)
class Operation:
    """An operation and its sizes.

    Attributes:
        name: of the workload.
        rows: values of S for the base model.
        inputs: makes its inputs; gradients are taken of those that require one.
        call: runs it: call(sizes, impl, *inputs).
        flops: of the forward pass; backward passes of products take twice as many.
        others: providers beside reference, its compilation and ours; each takes sizes and gives the function.
        read: bytes that the forward pass reads, from sizes and inputs; None where it reads every input in full.
        label: of a size.
    """

    name: str
    rows: Sequence[int]
    inputs: Callable[[Settings, Sizes], list[Tensor | None]]
    call: Callable[..., Tensor | tuple[Tensor, ...]]
    flops: Callable[[Sizes], int]
    others: dict[str, Callable[[Settings, Sizes], Function]] = field(default_factory=dict)
    read: Callable[[Sizes, Sequence[Tensor | None]], int] | None = None
    label: str = "S={S}"

    def workload(self) -> Workload:
        """The operation as a workload."""
        return Workload(self.name, self._sizes, self._prepare)

    def _sizes(self, settings: Settings) -> dict[str, Sizes]:
        if settings.small:
            found = [{"B": 1, "S": s, **_SMALL} for s in (5, 9)[: len(self.rows)]]
        else:
            found = [{"B": settings.batch, "M": _REGIONS[s], "S": s, **BASE} for s in self.rows]
        return {self.label.format(**sizes): sizes for sizes in found}

    def _prepare(self, settings: Settings, sizes: Sizes) -> Builders:
        torch.manual_seed(0)
        inputs = self.inputs(settings, sizes)

        def function(impl: Impl) -> Function:
            return functools.partial(self.call, sizes, impl)

        with torch.no_grad():
            outputs = as_tuple(function("reference")(*inputs))
        gradients = [torch.randn_like(output) for output in outputs]
        costs = self.costs(sizes, inputs, outputs)

        @functools.cache
        def truth() -> tuple[list[Tensor], list[Tensor]]:
            exact = [_in_float64(x) for x in inputs]
            low = results(function("reference"), inputs, gradients)
            return low, results(function("reference"), exact, [gradient.double() for gradient in gradients])

        def judge(got: list[Tensor]) -> Verdict:
            return compare(got, *truth(), outputs=len(outputs))

        def builder(make: Callable[[], Function]) -> Callable[[], Candidate]:
            return lambda: candidate(make(), inputs, gradients, judge, costs)

        functions: dict[str, Callable[[], Function]] = {
            "reference": lambda: function("reference"),
            "reference_compiled": lambda: compiled(function("reference")),
            **{name: functools.partial(make, settings, sizes) for name, make in self.others.items()},
            "ours": lambda: function("auto"),
        }
        return {name: builder(make) for name, make in functions.items()}

    def costs(self, sizes: Sizes, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> dict[str, Cost]:
        """The least work of each mode."""
        read = nbytes(inputs) if self.read is None else self.read(sizes, inputs)
        flops = self.flops(sizes)
        written = nbytes(x for x in inputs if x is not None and x.requires_grad)
        forward = Cost(read + nbytes(outputs), flops)
        backward = Cost(read + nbytes(outputs) + written, 2 * flops)
        return {"forward": forward, "backward": backward, "both": forward + backward}


def candidate(
    function: Function,
    inputs: Sequence[Tensor | None],
    gradients: Sequence[Tensor],
    judge: Callable[[list[Tensor]], Verdict],
    costs: dict[str, Cost],
) -> Candidate:
    """A function of tensors as a candidate: forward pass (with what its backward pass needs), backward pass, both."""
    wanted = _wanted(inputs)

    def forward(_: Any = None) -> tuple[Tensor, ...]:
        return as_tuple(function(*inputs))

    def backward(outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(outputs, wanted, gradients)

    timed = {"forward": Timed(forward)}
    if wanted:
        timed |= {"backward": Timed(backward, forward), "both": Timed(lambda _: backward(forward()))}
    return Candidate(lambda: judge(results(function, inputs, gradients)), timed, costs)


def results(function: Function, inputs: Sequence[Tensor | None], gradients: Sequence[Tensor]) -> list[Tensor]:
    """Outputs, then the gradients of all inputs that require one."""
    outputs = as_tuple(function(*inputs))
    wanted = _wanted(inputs)
    found = torch.autograd.grad(outputs, wanted, gradients) if wanted else ()
    return [*(output.detach() for output in outputs), *found]


def compiled(function: Callable[..., Any], mode: str | None = None) -> Callable[..., Any]:
    """torch.compile for fixed sizes, in one of its modes.

    Raises:
        Skip: there is no C++ compiler, which it needs even for a GPU's code.
    """
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        raise Skip("torch.compile needs a C++ compiler")
    return torch.compile(function, dynamic=False, mode=mode)


def as_tuple(value: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A result as a tuple."""
    return value if isinstance(value, tuple) else (value,)


def _in_float64(x: Tensor | None) -> Tensor | None:
    if x is None or x.dtype == torch.int64:
        return x
    if x.dtype == torch.uint8:
        # Frames: the reference would bring them to float32.
        return x.double() / 255.0
    return x.detach().double().requires_grad_(x.requires_grad)


def _wanted(inputs: Sequence[Tensor | None]) -> list[Tensor]:
    return [x for x in inputs if x is not None and x.requires_grad]
