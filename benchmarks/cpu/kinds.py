"""Where a call's time goes, by kind of operation."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile

# Kind -> names of its operations; the first that is found counts. Products that do more have their names, too.
KINDS = {
    "attention": r"attention|interaction",
    "products": r"linear|mm\b|convolution|matmul|feed_forward|product",
    "norms": r"layer_norm",
    "GELU": r"gelu",
    "softmax": r"softmax",
    "compiled loops": r"CompiledFxGraph|cpp_fused",
    "copies": r"copy|cat\b|clone|index|contiguous|stack|fill_|zero",
    "rest": r"",
}

_MOST_CALLS = 3


def kinds(call: Callable[[], Any], seconds: float) -> dict[str, float]:
    """Milliseconds of a call by kind, from the profiler: the mean of up to three calls.

    An operation's own time counts, without that of operations inside it; what Python does between operations is in no
    kind.

    Args:
        call: warmed up.
        seconds: that one call takes, so that long ones are made once only.
    """
    calls = max(1, min(_MOST_CALLS, int(2 / seconds)))
    with profile(activities=[ProfilerActivity.CPU]) as taken:
        for _ in range(calls):
            call()
    found = dict.fromkeys(KINDS, 0.0)
    for event in taken.key_averages():
        found[kind_of(event.key)] += event.self_cpu_time_total / 1e3 / calls
    return found


def kind_of(name: str) -> str:
    """The kind of an operation.

    Args:
        name: as the profiler has it.
    """
    if name.startswith("autograd::engine"):
        return "rest"
    return next(kind for kind, pattern in KINDS.items() if re.search(pattern, name, re.IGNORECASE))
