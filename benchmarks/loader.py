"""Where the loader's time goes: reading a clip's frames, and changing them by PyTorch or by csrc.

    python -m benchmarks.loader CLIP [CLIP ...] --results benchmarks/results

CLIP is a video file or a folder of frames. Each is loaded as in fine-tuning (RandAugment, random resized crop, flip,
erasing) and as in pre-training (multi-scale crop) in one thread, 16 frames of 160 x 160; both ways change the same
frames by the same random numbers, in turn. Times are those that the thread worked, without what the machine did for
others between. Before that every operation by itself; both ways must give the same bytes.
Writes loader_cpu.json.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.machine import machine
from benchmarks.results_file import make_place, write
from maedfer._programs import Interpolation
from maedfer.data.augment.operations import Impl, operations_by
from maedfer.data.augment.rand_augment import OPERATIONS, apply_operation
from maedfer.data.augment.transforms import PretrainAugment, TrainAugment
from maedfer.data.sampling import pretrain_indices, train_indices
from maedfer.data.video.readers import open_video
from maedfer.errors import InputError

SIZE = 160
IMPLS: tuple[Impl, ...] = ("torch", "native")


def main() -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("clips", nargs="+", type=Path, help="video files or folders of frames")
    parser.add_argument("--rounds", type=int, default=60, help="samples of each clip")
    parser.add_argument("--results", type=Path, help="folder that takes loader_cpu.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    try:
        out = make_place(args.results / "loader_cpu.json") if args.results else None
        single = measure_operations(args.clips[0], args.rounds)
        rows = [row for clip in args.clips for row in measure(clip, args.rounds)]
        print("\n".join(lines(rows, single)))
        if out is not None:
            write(out, {"machine": machine("cpu"), "rows": rows, "operations": single})
    except InputError as error:
        print(f"loader: error: {error}", file=sys.stderr)
        return 2
    return 0


def lines(rows: Sequence[dict[str, Any]], single: Sequence[dict[str, Any]]) -> list[str]:
    """What was measured, for people: a line for each row of `measure` and of `measure_operations`."""
    found = []
    for row in rows:
        changing = ", ".join(
            f"{by['impl']} {by['transform_ms']:.1f} ms ({by['transform_share']:.0%}), {by['clips_per_s']:.1f} clips/s"
            for by in row["by"]
        )
        found.append(f"{row['clip']:22} {row['task']:9} reading {row['reading_ms']:.1f} ms; {changing}")
    for row in single:
        found.append(f"{row['operation']:14} torch {row['torch_ms']:.2f} ms, native {row['native_ms']:.2f} ms")
    return found


def measure(clip: Path, rounds: int) -> Sequence[dict[str, Any]]:
    """A row for each task, means over samples that are drawn anew.

    Raises:
        InputError: the clip cannot be read, or csrc was not compiled.
    """
    rows = []
    finetuning: dict[str, Any] = {impl: TrainAugment(SIZE, impl=impl) for impl in IMPLS}
    pretraining: dict[str, Any] = {"torch": PretrainAugment(SIZE)}
    for task, transforms, rule in (
        ("finetune", finetuning, train_indices),
        ("pretrain", pretraining, pretrain_indices),
    ):
        torch.manual_seed(0)
        generator = torch.Generator().manual_seed(0)
        reading: list[float] = []
        changing: dict[str, list[float]] = {impl: [] for impl in transforms}
        shape = None
        for number in range(rounds + 2):
            started = time.thread_time()
            pictures = _read(clip, rule, generator)
            read, shape = 1e3 * (time.thread_time() - started), [*pictures.shape]
            state = torch.get_rng_state()
            # The first two warm up.
            if number > 1:
                reading.append(read)
            for impl in list(transforms)[:: 1 if number % 2 else -1]:
                torch.set_rng_state(state)
                milliseconds = _time(partial(_sample, transforms[impl], pictures))
                if number > 1:
                    changing[impl].append(milliseconds)
        # Operations of RandAugment differ by a factor of ten, so that their mean counts.
        first = statistics.mean(reading)
        means = {impl: statistics.mean(each) for impl, each in changing.items()}
        by = [
            {"impl": impl, "transform_ms": ms, "transform_share": ms / (first + ms), "clips_per_s": 1e3 / (first + ms)}
            for impl, ms in means.items()
        ]
        rows.append({"clip": clip.name, "task": task, "last_shape": shape, "reading_ms": first, "by": by})
    return rows


def measure_operations(clip: Path, rounds: int) -> Sequence[dict[str, Any]]:
    """A row for each operation of RandAugment, for a resized crop after them, and for resizing what was read: medians.

    Raises:
        InputError: the clip cannot be read, csrc was not compiled, or both ways do not agree.
    """
    pictures = _read(clip, train_indices, torch.Generator().manual_seed(0))
    frames = TrainAugment(SIZE).fit(pictures)
    # Between operations, each way has frames as its own results lie in memory.
    given = {impl: operations_by(impl).resize(frames, (SIZE, SIZE)) for impl in IMPLS}

    def crop(impl: Impl) -> Tensor:
        return operations_by(impl).resize(given[impl][..., 10:130, 20:150], (SIZE, SIZE), mirror=True, planar=True)

    def first(impl: Impl) -> Tensor:
        return operations_by(impl).resize(pictures, (SIZE, SIZE), planar=True)

    def apply(name: str, interpolation: Interpolation, impl: Impl) -> Tensor:
        return apply_operation(given[impl], name, 7.0, impl=impl, interpolation=interpolation)

    cases: dict[str, Callable[[Impl], Tensor]] = {name: partial(apply, name, "bicubic") for name in OPERATIONS}
    moving = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
    cases |= {f"{name}_bilinear": partial(apply, name, "bilinear") for name in moving}
    rows = []
    for name, change in {**cases, "resized_crop": crop, "resize_as_read": first}.items():
        one, other = (change(impl).int() for impl in IMPLS)
        if not torch.equal(one, other):
            raise InputError(f"{name}: PyTorch and csrc differ by {int((one - other).abs().max())}, not timed")
        times: dict[str, list[float]] = {impl: [] for impl in IMPLS}
        for number in range(rounds + 2):
            for impl in IMPLS[:: 1 if number % 2 else -1]:
                milliseconds = _time(partial(change, impl))
                if number > 1:
                    times[impl].append(milliseconds)
        medians = {f"{impl}_ms": statistics.median(times[impl]) for impl in IMPLS}
        rows.append({"operation": name, **medians})
    return rows


def _read(clip: Path, rule: Callable[..., Any], generator: torch.Generator) -> Tensor:
    with open_video(clip) as reader:
        frames = reader.read(sorted(set(rule(len(reader), 16, 4, generator).tolist())))
    return torch.from_numpy(frames).permute(0, 3, 1, 2)


def _sample(change: Callable[[Tensor], Tensor], pictures: Tensor) -> Tensor:
    """What a data set makes of a clip's frames."""
    return change(pictures).transpose(0, 1).contiguous()


def _time(function: Callable[[], object]) -> float:
    started = time.thread_time()
    function()
    return 1e3 * (time.thread_time() - started)


if __name__ == "__main__":
    raise SystemExit(main())
