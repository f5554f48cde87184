"""The command `python -m benchmarks predict`: from a video to rows, end to end, and windows alone.

A video is predicted as `maedfer.predict` does it, by one process: frames are decoded, faces looked for in every fifth
one and followed, crops cut out, and windows scored as they come. Each stage is timed where it is called; what remains
(following, cuts between scenes, choosing frames) is called rest. Opening the video counts, as it is read through for
that; loading the model and the detector does not, nor does writing the table.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import numpy as np
import torch

from benchmarks.machine import machine
from benchmarks.measure import spread
from benchmarks.results_file import make_place, write
from maedfer.errors import InputError
from maedfer.models import LGIFormer, create_model
from maedfer.prediction.clips import Cutter
from maedfer.prediction.one_video import detector_of, follower_of, scored_rows
from maedfer.prediction.options import PredictionOptions
from maedfer.prediction.predictor import Predictor, open_predictor
from maedfer.prediction.sources import FileSource
from maedfer.prediction.timeline import windows_of
from maedfer.synthetic import write_scene

PRECISIONS = ("fp32", "bf16", "fp16")
STAGES = ("decoding", "detection", "cropping", "model", "rest")
_Result = TypeVar("_Result")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--video", type=Path, help="a video file (a generated one of two people, 20 s)")
    parser.add_argument(
        "--checkpoint", help="a classifier, as for maedfer predict (one of --model, with fresh weights)"
    )
    parser.add_argument("--model", default="lgi_former_base", metavar="NAME", help="without a checkpoint (%(default)s)")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=["fp32", "bf16"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 2, 4, 8], help="windows at once (1 2 4 8)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 (%(default)s)")
    parser.add_argument("--threads", type=int, help="CPU threads of model and detector (PyTorch's default)")
    parser.add_argument("--rounds", type=int, default=3, help="times that the video is predicted (%(default)s)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of scoring windows alone, each batch size (5)")
    parser.add_argument("--out", type=Path, help="results file, written anew with every row")


def run(args: argparse.Namespace) -> int:
    """Measure, write and print; returns the exit code.

    Raises:
        InputError: a number is out of range, video or checkpoint cannot be used, or the results cannot be written.
    """
    threads = 1 if args.threads is None else args.threads
    for option, value in (("threads", threads), ("rounds", args.rounds), ("batch", min(args.batch))):
        if value < 1:
            raise InputError(f"--{option} must be positive, got {value}")
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.out is not None:
        make_place(args.out)
    results: dict[str, Any] = {"machine": machine("cuda" if args.device.startswith("cuda") else "cpu")}
    results |= {"model": args.checkpoint or args.model, "videos": [], "windows": []}

    def add(kind: str, row: dict[str, Any]) -> None:
        results[kind].append(row)
        if args.out is not None:
            write(args.out, results)
        print(_video_line(row) if kind == "videos" else _windows_line(row), flush=True)

    with tempfile.TemporaryDirectory() as folder:
        video = args.video
        if video is None:
            video = Path(folder) / "scene.mp4"
            write_scene(video)
        for precision in args.precision:
            predictor = _open(args, precision, batch_size=None)
            add("videos", measure_video(predictor, video, args.rounds))
        for precision in args.precision:
            for size in args.batch:
                add("windows", measure_windows(_open(args, precision, size), args.seconds))
    return 0


def measure_video(predictor: Predictor, video: Path, rounds: int) -> dict[str, Any]:
    """Predict a video some times; gives the round of middle length, and how far rounds are apart.

    Raises:
        InputError: the video cannot be read.
    """
    found = sorted((_predict(predictor, video) for _ in range(rounds)), key=lambda row: row["seconds"])
    seconds = [row["seconds"] for row in found]
    return {**found[(len(found) - 1) // 2], "rounds": rounds, "fastest_s": seconds[0], "slowest_s": seconds[-1]}


def measure_windows(predictor: Predictor, seconds: float) -> dict[str, Any]:
    """Score batches of windows that are there already, for so long and five times at least."""
    size = (predictor.batch_size, 1, *predictor.model.config.clip_size, 3)
    clips = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    for _ in range(3):
        predictor.score(clips)
    times: list[float] = []
    ends = time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < ends:
        started = time.perf_counter()
        predictor.score(clips)
        times.append(1e3 * (time.perf_counter() - started))
    return {
        "precision": predictor.precision,
        "batch": predictor.batch_size,
        "windows_per_s": 1e3 * len(clips) / statistics.median(times),
        **asdict(spread(times)),
    }


def _predict(predictor: Predictor, video: Path) -> dict[str, Any]:
    """Predict a video, and time its stages."""
    spent = dict.fromkeys(STAGES, 0.0)

    def timed(stage: str, function: Callable[..., _Result]) -> Callable[..., _Result]:
        @functools.wraps(function)
        def run(*args: Any, **options: Any) -> _Result:
            started = time.perf_counter()
            try:
                return function(*args, **options)
            finally:
                spent[stage] += time.perf_counter() - started

        return run

    options = PredictionOptions()
    detector = detector_of(options, threads=torch.get_num_threads())
    assert detector is not None
    started = time.perf_counter()
    with timed("decoding", FileSource)(video) as source:
        with (
            mock.patch.object(source.reader, "read", timed("decoding", source.reader.read)),
            mock.patch.object(detector, "detect", timed("detection", detector.detect)),
            mock.patch.object(Cutter, "__call__", timed("cropping", Cutter.__call__)),
            mock.patch.object(predictor, "score", timed("model", predictor.score)),
        ):
            windows = windows_of(source, follower_of(detector, options), predictor.input, options)
            rows = [row for row, _ in scored_rows(predictor, windows, source.name)]
        seconds = time.perf_counter() - started
        spent["rest"] = seconds - sum(spent.values())
        frames, length = len(source.times), source.end_time - source.first_time
    return {
        "video": video.name,
        "size": [*source.size],
        "frames": frames,
        "length_s": length,
        "rows": len(rows),
        "scored": sum(row.probabilities is not None for row in rows),
        "precision": predictor.precision,
        "batch": predictor.batch_size,
        "seconds": seconds,
        "frames_per_s": frames / seconds,
        "times_real": length / seconds,
        "stages_s": spent,
        "shares": {stage: part / seconds for stage, part in spent.items()},
    }


def _open(args: argparse.Namespace, precision: Any, batch_size: int | None) -> Predictor:
    if args.checkpoint:
        return open_predictor(args.checkpoint, precision=precision, device=args.device, batch_size=batch_size)
    torch.manual_seed(0)
    model = create_model(args.model, num_classes=7)
    if not isinstance(model, LGIFormer):
        raise InputError(f"--model {args.model} is a masked autoencoder: only a classifier gives expressions")
    classes = [f"class {number}" for number in range(7)]
    return open_predictor(model, classes=classes, precision=precision, device=args.device, batch_size=batch_size)


def _video_line(row: dict[str, Any]) -> str:
    shares = ", ".join(f"{stage} {share:.0%}" for stage, share in row["shares"].items())
    return (
        f"{row['video']} {row['precision']}: {row['frames_per_s']:.1f} frames/s, {row['times_real']:.2f} of real time, "
        f"{row['scored']} windows scored ({row['seconds']:.1f} s: {shares})"
    )


def _windows_line(row: dict[str, Any]) -> str:
    return f"windows {row['precision']}, {row['batch']} at once: {row['windows_per_s']:.2f} a second"
