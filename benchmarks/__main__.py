"""Measure operations, blocks and models, and compare measurements.

python -m benchmarks run                                   # on this machine's GPU, else its processor
python -m benchmarks run --op region_attention --dtype float32
python -m benchmarks compare before.json after.json
python -m benchmarks compare --base HEAD~1 --op block      # measures both
python -m benchmarks cpu --peer FILE.py:FUNCTION           # ours beside a model that the function builds
python -m benchmarks ahead-of-time                         # compiles all kernels and holds them to their budgets
python -m benchmarks static --base HEAD~1                  # counts what kernels and steps take, without a GPU
python -m benchmarks predict --video FILE                  # from a video to rows: frames/s, and where the time goes
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from benchmarks import goals, prediction
from benchmarks.compare import THRESHOLD, compare_revisions, read, regressions, table
from benchmarks.cpu import command as cpu
from benchmarks.plots import draw
from benchmarks.results_file import make_place
from benchmarks.run import WORKLOADS, DeviceLost, run, select
from benchmarks.static import command as static
from benchmarks.workload import Settings
from maedfer.errors import InputError, MissingDependencyError

RESULTS = Path(__file__).with_name("results")
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("run", help="measure and write a results file")
    _add_run_options(measuring)
    measuring.add_argument("--out", type=Path, help="results file (benchmarks/results/micro_<device>_<dtype>.json)")
    measuring.add_argument("--list", action="store_true", help="print what can be measured and stop")
    comparing = commands.add_parser("compare", help="compare two results files, or two revisions")
    comparing.add_argument("files", nargs="*", type=Path, metavar="FILE", help="before and after")
    comparing.add_argument("--base", metavar="REV", help="measure this revision and this checkout, in turns")
    comparing.add_argument("--threshold", type=float, default=THRESHOLD, help="least change that counts")
    comparing.add_argument("--fail", action="store_true", help="exit with 1 when something is slower")
    _add_run_options(comparing)
    beside = commands.add_parser("cpu", help="inference and training on the processor, beside another model")
    cpu.add_options(beside)
    compiling = commands.add_parser("ahead-of-time", help="compile every shipped kernel and hold it to its budget")
    compiling.add_argument("--cases", nargs="+", default=[""], metavar="NAME", help="those whose names begin so (all)")
    compiling.add_argument("--arch", type=int, nargs="+", help="only these, such as 80 90 100")
    counting = commands.add_parser("static", help="count registers, barriers, widths, launches and bytes without a GPU")
    static.add_options(counting)
    predicting = commands.add_parser("predict", help="a video end to end, and windows by batch size and precision")
    prediction.add_options(predicting)
    args = parser.parse_args(argv)
    running = {
        "run": _run,
        "compare": _compare,
        "cpu": cpu.run,
        "ahead-of-time": _ahead_of_time,
        "static": static.run,
        "predict": prediction.run,
    }
    try:
        return running[args.command](args)
    except InputError as error:
        print(f"benchmarks: error: {error}", file=sys.stderr)
        return 2
    except DeviceLost as error:
        print(f"benchmarks: the GPU is lost to this process ({error}); what was measured is kept", file=sys.stderr)
        return 3


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--op", nargs="+", default=[], metavar="NAME", help="what to measure (all; see run --list)")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="where (a GPU if there is one)")
    parser.add_argument("--dtype", choices=_DTYPES, help="bfloat16 on a GPU, else float32")
    parser.add_argument("--batch", type=int, help="clips at once (64 on a GPU, else 1); pre-training takes two times")
    parser.add_argument("--providers", nargs="+", default=[], metavar="NAME", help="only these, such as ours sdpa")
    parser.add_argument(
        "--compile",
        choices=("with", "without", "only"),
        default="with",
        help="what torch.compile makes (slow)",
    )
    parser.add_argument("--sweep", action="store_true", help="also over batch, clip length, resolution, region size")
    parser.add_argument("--small", action="store_true", help="tiny sizes: a check of the machinery, no measurement")
    parser.add_argument("--seconds", type=float, default=0.5, help="timing of each call")
    parser.add_argument("--budget", type=float, default=float("inf"), metavar="SECONDS", help="for the whole run")
    parser.add_argument("--threads", type=int, help="CPU threads (PyTorch's default)")


def _run(args: argparse.Namespace) -> int:
    if args.list:
        for workload in WORKLOADS:
            print(workload.name + (" (with --sweep)" if workload.in_sweep else ""))
        return 0
    settings = _settings(args)
    dtype = str(settings.dtype).removeprefix("torch.")
    workloads = select(args.op, args.sweep)
    out = make_place(args.out or RESULTS / f"micro_{settings.device}_{dtype}.json")
    results = run(workloads, settings, out, args.budget)
    if settings.device == "cuda":
        print("\n".join(["", "goals", *goals.lines(results["goals"])]))
    print(f"wrote {out}")
    try:
        for path in draw(results, out):
            print(f"wrote {path}")
    except MissingDependencyError as error:
        print(f"no plots: {error}", file=sys.stderr)
    return 0


def _settings(args: argparse.Namespace) -> Settings:
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: PyTorch finds no CUDA device here")
    if args.batch is not None and args.batch < 1:
        raise InputError(f"--batch must be positive, got {args.batch}")
    if args.threads:
        torch.set_num_threads(args.threads)
    return Settings(
        device=device,
        dtype=_DTYPES[args.dtype or ("bfloat16" if device == "cuda" else "float32")],
        batch=args.batch or (64 if device == "cuda" else 1),
        seconds=args.seconds,
        small=args.small,
        sweep=args.sweep,
        providers=tuple(args.providers),
        compiled=args.compile,
    )


def _compare(args: argparse.Namespace) -> int:
    if args.base:
        if args.files:
            raise InputError("give two results files or --base REV, not both")
        before, after = compare_revisions(args.base, _passed_on(args))
    elif len(args.files) == 2:
        before, after = map(read, args.files)
    else:
        raise InputError("give two results files, or --base REV")
    print("\n".join(table(before, after, args.threshold)))
    slower = regressions(before, after, args.threshold)
    return 1 if args.fail and slower else 0


def _ahead_of_time(args: argparse.Namespace) -> int:
    # Needs Triton, which the rest does not.
    from benchmarks.budgets import sweep

    return 1 if sweep(args.cases, args.arch) else 0


def _passed_on(args: argparse.Namespace) -> list[str]:
    """The options of `run` again, for other processes."""
    options: list[str] = []
    for name in ("device", "dtype", "batch", "threads", "compile"):
        if getattr(args, name) is not None:
            options += [f"--{name}", str(getattr(args, name))]
    options += ["--seconds", str(args.seconds), "--budget", str(args.budget)]
    for name in ("op", "providers"):
        if getattr(args, name):
            options += [f"--{name}", *getattr(args, name)]
    return options + [f"--{name}" for name in ("sweep", "small") if getattr(args, name)]


if __name__ == "__main__":
    sys.exit(main())
