"""What the executed plan gains on a CPU: inference and training step of the base classifier against the published plan.

    python -m benchmarks.plan --results benchmarks/results

Both sides run the same weights on the same clips in float32, in turn, in one process, after their outputs have been
compared. The published plan (published_plan.py) has separate query and key-value products, attention matrices in full,
nothing folded or pruned, and its copies. Writes plan_cpu.json.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.machine import machine
from benchmarks.published_plan import PublishedPlan
from benchmarks.results_file import make_place, write
from maedfer.errors import InputError
from maedfer.kernels import use_impl
from maedfer.models import LGIFormer, create_model

TOLERANCE = 1e-5


def main() -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="lgi_former_base", help="a classifier of the published design")
    parser.add_argument("--batch", type=int, default=2, help="clips at once")
    parser.add_argument("--rounds", type=int, default=7, help="timings of each side")
    parser.add_argument("--threads", type=int, help="CPU threads (PyTorch's default)")
    parser.add_argument("--results", type=Path, help="folder that takes plan_cpu.json")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        out = make_place(args.results / "plan_cpu.json") if args.results else None
        results = plan(args.model, args.batch, args.rounds)
        if out is not None:
            write(out, results)
    except InputError as error:
        print(f"plan: error: {error}", file=sys.stderr)
        return 2
    return 0


def plan(name: str, batch: int, rounds: int) -> dict[str, Any]:
    """Compare, time, print and return what is written to plan_cpu.json.

    Raises:
        InputError: no such model, or the two sides do not agree.
    """
    torch.manual_seed(0)
    # Weights of the head at their usual size, so that logits can be compared.
    model = create_model(name, init_scale=1.0).eval()
    if not isinstance(model, LGIFormer):
        raise InputError(f"{name} is no classifier: give an lgi_former_*")
    published = PublishedPlan(model)
    video = torch.randn(batch, 3, *model.config.clip_size)
    sides: dict[str, Callable[[Tensor], Tensor]] = {
        "published plan": published,
        "executed plan, PyTorch's default products": _without_onednn(model),
        "executed plan": model,
    }
    error = compare(sides, model, video)
    results: dict[str, Any] = {"model": name, "batch": batch, "dtype": "float32", "relative_error": error, **machine()}
    for work, run in (("inference", infer), ("training step", step)):
        times: dict[str, list[float]] = {side: [] for side in sides}
        for number in range(rounds + 1):
            for side, forward in sides.items():
                started = time.perf_counter()
                run(model, forward, video)
                # The first round warms up.
                if number:
                    times[side].append(time.perf_counter() - started)
        base = times["published plan"]
        results[work] = {}
        for side, taken in times.items():
            ratios = [one / other for one, other in zip(base, taken, strict=True)]
            results[work][side] = {
                "seconds": statistics.median(taken),
                "least": min(taken),
                "most": max(taken),
                "ratio": statistics.median(ratios),
            }
            row = results[work][side]
            print(f"{work}, {side}: {row['seconds']:.3f} s, {row['ratio']:.2f} times the speed of the published plan")
    return results


def compare(sides: dict[str, Callable[[Tensor], Tensor]], model: LGIFormer, video: Tensor) -> dict[str, float]:
    """Largest difference of each side's logits to the reference implementation's, relative to its largest logit."""
    with torch.no_grad():
        with use_impl("reference"):
            want = model(video)
        errors = {side: float((run(video) - want).abs().max() / want.abs().max()) for side, run in sides.items()}
    for side, error in errors.items():
        if error > TOLERANCE:
            raise InputError(f"{side} differs from the reference by {error:.2g}: nothing is timed")
    return errors


def infer(model: LGIFormer, forward: Callable[[Tensor], Tensor], video: Tensor) -> None:
    """One forward pass."""
    with torch.no_grad():
        forward(video)


def step(model: LGIFormer, forward: Callable[[Tensor], Tensor], video: Tensor) -> None:
    """Forward and backward pass."""
    model.zero_grad(set_to_none=True)
    forward(video).square().mean().backward()


def _without_onednn(model: LGIFormer) -> Callable[[Tensor], Tensor]:
    def run(video: Tensor) -> Tensor:
        torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
        try:
            return model(video)
        finally:
            torch.backends.mkldnn.enabled = True  # type: ignore[assignment]

    return run


if __name__ == "__main__":
    raise SystemExit(main())
