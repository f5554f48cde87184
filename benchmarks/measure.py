"""Time and memory of single calls, and the device's own ceilings: how fast it copies and multiplies matrices.

Before each call a buffer larger than the caches is overwritten, so that no provider finds its inputs there; copying
them is part of the floor. A GPU's time is read from events around a call; while it overwrites the buffer, the host gets
ahead, so that the time of a small kernel is not that of its launch. What takes the host longer than that lead shows in
the time, as it does in use.

A backward pass is timed on a graph made afresh for every call, outside of the timed part: compiled graphs do not allow
a second pass, and a graph that is kept holds memory that training gives back.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from maedfer.kernels import functional

_COLD_BYTES = {"cpu": 64 * 2**20, "cuda": 256 * 2**20}
# Overwrites before a call; 0.1 ms each at 2.5 TB/s give the host its lead.
_COLD_WRITES = {"cpu": 1, "cuda": 4}
_LEAST_CALLS, _MOST_CALLS = 3, 200


@dataclass(frozen=True)
class Timed:
    """A call to time.

    Attributes:
        run: what is timed; takes what `prepare` returned.
        prepare: done before each call, outside of its time.
    """

    run: Callable[[Any], Any]
    prepare: Callable[[], Any] = lambda: None


@dataclass(frozen=True)
class Spread:
    """Milliseconds of several calls: median and the 20th and 80th percentiles."""

    ms: float
    p20: float
    p80: float
    calls: int


def spread(times: Sequence[float]) -> Spread:
    """Summarise times in milliseconds."""
    return Spread(statistics.median(times), percentile(times, 0.2), percentile(times, 0.8), len(times))


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which a share of the values lies, between two neighbours in proportion."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


class Clock:
    """Times single calls on a device.

    Args:
        device: where the calls run.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._cold = torch.empty(_COLD_BYTES[device.type], dtype=torch.int8, device=device)

    def once(self, timed: Timed) -> float:
        """Milliseconds of one call."""
        state = timed.prepare()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        for _ in range(_COLD_WRITES[self.device.type]):
            self._cold.zero_()
        return self._time_cuda(timed, state) if self.device.type == "cuda" else self._time_cpu(timed, state)

    def _time_cpu(self, timed: Timed, state: Any) -> float:
        started = time.perf_counter()
        timed.run(state)
        return 1e3 * (time.perf_counter() - started)

    def _time_cuda(self, timed: Timed, state: Any) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        timed.run(state)
        end.record()
        torch.cuda.synchronize(self.device)
        return start.elapsed_time(end)


def interleave(
    calls: Mapping[str, Timed], clock: Clock, seconds: float, deadline: float = float("inf")
) -> dict[str, Spread | Exception]:
    """Time several calls in turn, round after round, so that a machine that slows down slows all of them.

    Args:
        calls: what to time, by name.
        clock: of their device.
        seconds: for each call with what surrounds it, after its warm-up; a slow call is still timed three times.
        deadline: on time.monotonic(); after it no more rounds than are needed for three times.

    Returns:
        The spread of each, or what a call raised; the others go on.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    spent = dict.fromkeys(calls, 0.0)
    raised: dict[str, Exception] = {}
    # The first round warms up.
    warm = False
    while True:
        late = time.monotonic() > deadline
        running = [
            name
            for name in calls
            if name not in raised and _wants_more(len(times[name]), late or spent[name] > seconds)
        ]
        if not running:
            break
        for name in running:
            started = time.monotonic()
            try:
                taken = clock.once(calls[name])
            except Exception as error:
                raised[name] = error
                continue
            if warm:
                times[name].append(taken)
                spent[name] += time.monotonic() - started
        warm = True
    return {name: raised[name] if name in raised else spread(times[name]) for name in calls}


def _wants_more(done: int, enough: bool) -> bool:
    return done < _LEAST_CALLS or (done < _MOST_CALLS and not enough)


def peak_memory(timed: Timed, device: torch.device) -> int | None:
    """Bytes that one call (with its preparation) takes at most, beyond what was there; None where nobody counts."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    timed.run(timed.prepare())
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


class _Moved(TorchDispatchMode):
    """Adds up the bytes of the tensors that every operation reads and writes; views move nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        read = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        written = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        places = {x.untyped_storage().data_ptr() for x in read}
        changes = any(argument.alias_info and argument.alias_info.is_write for argument in func._schema.arguments)
        if changes or not written or any(x.untyped_storage().data_ptr() not in places for x in written):
            self.bytes += sum(x.nbytes for x in (*read, *written))
        return result


def moved_bytes(timed: Timed) -> int:
    """Bytes of the inputs and outputs of all operations of PyTorch in one call; a fused operation is one of them."""
    prepared = timed.prepare()
    with _Moved() as moved:
        timed.run(prepared)
    return moved.bytes


def measure_floors(clock: Clock, dtype: torch.dtype, seconds: float, small: bool = False) -> dict[str, float]:
    """What the device reaches at best: bytes a second of a large copy, operations a second of a large matrix product.

    A copy's bytes are those read and those written, a product's operations two a multiply-add. Random values: products
    of zeros are faster than those of data. The 20th percentile of their times counts: a floor is what is reached
    undisturbed.

    Returns:
        "copy_bytes_per_s" and "product_flops_per_s".
    """
    cuda = clock.device.type == "cuda"
    numbers, side = (2**28, 8192) if cuda else (2**26, 2048)
    if small:
        numbers, side = 2**20, 256
    else:
        # Everything is held against these.
        seconds = max(seconds, 1.0)
    source = torch.randn(numbers, device=clock.device)
    target = torch.empty_like(source)
    a, b = (torch.randn(side, side, device=clock.device).to(dtype) for _ in range(2))
    calls = {
        "copy": Timed(lambda _: target.copy_(source)),
        "product": Timed(lambda _: F.linear(a, b)),
        # On some processors another library is the faster one, and the floor is that of the faster.
        "our product": Timed(lambda _: functional.linear(a, (b, None))),
    }
    best: dict[str, float] = {}
    for name, taken in interleave(calls, clock, seconds).items():
        if isinstance(taken, Exception):
            raise taken
        best[name] = taken.p20 * 1e-3
    return {
        "copy_bytes_per_s": 2 * source.nbytes / best["copy"],
        "product_flops_per_s": 2 * side**3 / min(best["product"], best["our product"]),
    }
