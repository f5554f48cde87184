"""How fast a processor multiplies, at the shapes of a model: what its time is held against."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from maedfer.kernels import functional
from maedfer.models import LGIFormerConfig

_LEAST_CALLS = 3

_Call = Callable[[], Any]


def product_rate(
    config: LGIFormerConfig,
    dtype: torch.dtype,
    batch: int,
    seconds: float = 0.1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Measure the products of a block by every way to multiply that there is, each shape by its fastest one.

    Args:
        config: of the model.
        dtype: of the operands.
        batch: clips at once.
        seconds: for each way and shape.
        clock: gives seconds.

    Returns:
        "flops_per_s", two operations a multiply-add, over all shapes; "shapes", for each [rows, from, to] the fastest
        way and its rate. The least of the times counts, with operands in the caches: what is reached undisturbed.
    """
    rows = batch * (config.num_tokens + config.num_regions)
    dim, hidden = config.embed_dim, int(config.embed_dim * config.mlp_ratio)
    total, work, shapes = 0.0, 0, []
    for inner, outer in ((dim, 3 * dim), (dim, dim), (dim, hidden), (hidden, dim)):
        flops = 2 * rows * inner * outer
        way, best = _fastest(rows, inner, outer, dtype, seconds, clock)
        shapes.append({"shape": [rows, inner, outer], "way": way, "flops_per_s": flops / best})
        total, work = total + best, work + flops
    return {"flops_per_s": work / total, "shapes": shapes}


def _fastest(
    rows: int, inner: int, outer: int, dtype: torch.dtype, seconds: float, clock: Callable[[], float]
) -> tuple[str, float]:
    x, weight = torch.randn(rows, inner).to(dtype), torch.randn(outer, inner).to(dtype)
    with torch.no_grad():
        ways = _ways(x, weight)
        times: dict[str, list[float]] = {way: [] for way in ways}
        # The first round warms up.
        for call in ways.values():
            call()
        spent = 0.0
        while spent < seconds * len(ways) or len(times["linear"]) < _LEAST_CALLS:
            for way, call in ways.items():
                started = clock()
                call()
                times[way].append(clock() - started)
                spent += times[way][-1]
    best = min(times, key=lambda way: min(times[way]))
    return best, min(times[best])


def _ways(x: Tensor, weight: Tensor) -> dict[str, _Call]:
    """Ways to x weight^T: PyTorch's own with and without oneDNN, what our models take, and with packed weights."""

    def without_onednn() -> Tensor:
        torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
        try:
            return F.linear(x, weight)
        finally:
            torch.backends.mkldnn.enabled = True  # type: ignore[assignment]

    ways: dict[str, _Call] = {
        "linear": lambda: F.linear(x, weight),
        "linear without oneDNN": without_onednn,
        "maedfer": lambda: functional.linear(x, (weight, None)),
    }
    try:
        # As torch.compile packs weights that it may freeze.
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.to_mkldnn(), len(x))
        torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")
    except (AttributeError, RuntimeError):
        return ways
    return {**ways, "oneDNN, packed": lambda: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")}
