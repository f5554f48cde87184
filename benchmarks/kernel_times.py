"""Where a GPU's time goes, kernel by kernel: of one call of a model, by PyTorch's profiler.

    python -m benchmarks.kernel_times                                      # steps and inference, ours and the reference
    python -m benchmarks.kernel_times inference:ours --batch 8
    python -m benchmarks.kernel_times --out benchmarks/results/gpu_kernels.json

A call is WORKLOAD:PROVIDER of `python -m benchmarks run --list`, at the first of its sizes. The sum of all kernels is
what a call takes where nothing waits for the host, as in a CUDA graph; beside it stands what the call takes as it is
run, and how long the host is busy with launching it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.machine import machine
from benchmarks.results_file import make_place, write
from benchmarks.run import select
from benchmarks.workload import Settings
from maedfer.errors import InputError, unknown

_CALLS = [
    f"{workload}:{provider}"
    for workload in ("finetune_step", "pretrain_step", "inference")
    for provider in ("ours", "reference")
]
_WARM_UP, _TIMED, _SHOWN = 4, 3, 12


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("calls", nargs="*", default=_CALLS, metavar="WORKLOAD:PROVIDER", help="what is looked at")
    parser.add_argument("--batch", type=int, default=64, help="clips at once; pre-training takes twice as many")
    parser.add_argument("--out", type=Path, help="results file")
    args = parser.parse_args(argv)
    try:
        if not torch.cuda.is_available():
            raise InputError("PyTorch finds no CUDA device here")
        if args.out is not None:
            make_place(args.out)
        settings = Settings("cuda", torch.bfloat16, args.batch)
        rows = []
        for call in args.calls:
            rows.append({"call": call, **measure(call, settings)})
            print("\n".join(lines(rows[-1])), flush=True)
            torch.cuda.empty_cache()
        if args.out is not None:
            write(args.out, {"machine": machine("cuda"), "batch": args.batch, "dtype": "bfloat16", "calls": rows})
    except InputError as error:
        print(f"kernel_times: error: {error}", file=sys.stderr)
        return 2
    return 0


def measure(call: str, settings: Settings) -> dict[str, Any]:
    """Time a call, then profile it once more.

    Args:
        call: WORKLOAD:PROVIDER.
        settings: of the workload, on a GPU.

    Returns:
        Milliseconds "ms" of a call, "host_ms" until it is launched and "kernels_ms" of its kernels together; and
        "kernels", rows of name, milliseconds and launches, the longest first.

    Raises:
        InputError: no such workload or provider.
    """
    name, _, provider = call.partition(":")
    (workload,) = select([name], sweep=True)
    builders = workload.prepare(settings, next(iter(workload.sizes(settings).values())))
    if provider not in builders:
        raise unknown("provider", provider, builders)
    timed = next(iter(builders[provider]().timed.values()))
    for _ in range(_WARM_UP):
        timed.run(timed.prepare())
    states = [timed.prepare() for _ in range(_TIMED)]
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    began = time.perf_counter()
    for state in states:
        timed.run(state)
    host = time.perf_counter() - began
    end.record()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        timed.run(timed.prepare())
        torch.cuda.synchronize()
    kernels = by_kernel(profiled.events() or [])
    return {
        "ms": start.elapsed_time(end) / _TIMED,
        "host_ms": 1e3 * host / _TIMED,
        "kernels_ms": sum(row["ms"] for row in kernels),
        "kernels": kernels,
    }


def by_kernel(events: Iterable[Any]) -> list[dict[str, Any]]:
    """Add up what ran on the GPU, by name: rows of name, milliseconds and launches, the longest first."""
    found: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
    for event in events:
        # Ranges that somebody named are there beside the kernels within them.
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation:
            found[event.name][0] += event.self_device_time_total / 1e3
            found[event.name][1] += 1
    rows = [{"name": name, "ms": ms, "launches": int(launches)} for name, (ms, launches) in found.items()]
    return sorted(rows, key=lambda row: -row["ms"])


def lines(row: dict[str, Any]) -> list[str]:
    """A call for people."""
    kernels = row["kernels"]
    launches = sum(kernel["launches"] for kernel in kernels)
    return [
        f"{row['call']}: {row['ms']:.2f} ms, the host busy for {row['host_ms']:.2f}; {launches} kernels, "
        f"{row['kernels_ms']:.2f} ms",
        *(f"  {one['ms']:8.3f} ms {one['launches']:5d} x {one['name'][:90]}" for one in kernels[:_SHOWN]),
    ]


if __name__ == "__main__":
    sys.exit(main())
