"""The command `python -m benchmarks cpu`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from benchmarks.cpu.peer import load_peer
from benchmarks.cpu.session import CLOCKS, Plan, measure
from benchmarks.cpu.sides import INFERENCE, PROVIDERS, TRAINING
from benchmarks.cpu.table import tables
from benchmarks.machine import machine
from benchmarks.results_file import make_place, write
from benchmarks.workload import Settings
from maedfer.errors import InputError
from maedfer.studies.grid import available_cpus

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# What has to be the same for rows to stand in one file.
_SAME = ("processor", "instructions", "torch", "commit", "csrc")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "--peer",
        metavar="FILE.py:FUNCTION",
        help="what ours is held against: the function builds a torch.nn.Module that takes normalised float32 clips "
        "[B, 3, frames, height, width] and gives logits; its weights are taken over where they are published ones",
    )
    parser.add_argument("--op", nargs="+", choices=(INFERENCE, TRAINING), default=[INFERENCE, TRAINING])
    parser.add_argument("--dtype", nargs="+", choices=_DTYPES, default=list(_DTYPES))
    parser.add_argument("--threads", nargs="+", type=int, help="CPU threads, such as 1 2 (PyTorch's default)")
    parser.add_argument("--batch", nargs="+", type=int, default=[1], help="clips at once in inference (1)")
    parser.add_argument("--training-batch", type=int, default=2, help="clips of a training step (2)")
    parser.add_argument(
        "--providers", nargs="+", choices=PROVIDERS, default=[], metavar="NAME", help=f"only these of {list(PROVIDERS)}"
    )
    parser.add_argument(
        "--compile", choices=("with", "without", "only"), default="with", help="what torch.compile makes (slow)"
    )
    parser.add_argument("--rounds", type=int, default=7, help="timings of each side (7)")
    parser.add_argument("--seconds", type=float, default=60.0, help="after which three rounds are enough (60)")
    parser.add_argument(
        "--profile", nargs="*", choices=PROVIDERS, metavar="NAME", help="tell where the time of these goes (ours)"
    )
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="time that passes (wall), or that one thread works (processor)"
    )
    parser.add_argument("--clip", nargs=3, type=int, default=[16, 160, 160], metavar=("FRAMES", "HEIGHT", "WIDTH"))
    parser.add_argument("--region", nargs=3, type=int, default=[2, 5, 10], help="tokens of a region (2 5 10)")
    parser.add_argument("--out", type=Path, help="results file, written anew with every row")
    parser.add_argument("--add", action="store_true", help="keep what --out holds of other works")


def run(args: argparse.Namespace) -> int:
    """Measure, write and print; returns the exit code: 1 when a side failed.

    Raises:
        InputError: a number is out of range, the peer cannot be used, or the results cannot be written.
    """
    plan = _plan(args)
    if args.add and args.out is None:
        raise InputError("--add goes with --out: it says which file is added to")
    results: dict[str, Any] = {}
    if args.out is not None:
        make_place(args.out)
        if args.add and args.out.exists():
            results = _earlier(args.out, args.clock)
    peer = load_peer(args.peer, args.clip, args.region)
    if peer.apart is not None:
        print(f"the peer's weights cannot be taken over, and results are not compared: {peer.apart}", flush=True)
    results = measure(peer, plan, results, lambda found: None if args.out is None else write(args.out, found))
    print("\n".join(["", *tables(results)]))
    return 1 if any("failed" in row for row in results["rows"]) else 0


def _plan(args: argparse.Namespace) -> Plan:
    cpus = available_cpus()
    threads = args.threads or [torch.get_num_threads()]
    for option, values in (
        ("threads", threads),
        ("batch", args.batch),
        ("training-batch", [args.training_batch]),
        ("rounds", [args.rounds]),
        ("clip", args.clip),
        ("region", args.region),
    ):
        if min(values) < 1:
            raise InputError(f"--{option} must be positive, got {min(values)}")
    if args.clock == "processor" and max(threads) > 1:
        raise InputError("--clock processor adds up what all threads work: give --threads 1")
    if max(threads) > cpus:
        raise InputError(f"--threads {max(threads)}: this process may use {cpus} processors, so that more wait in turn")
    return Plan(
        ops=list(dict.fromkeys(args.op)),
        dtypes=[_DTYPES[name] for name in dict.fromkeys(args.dtype)],
        threads=list(dict.fromkeys(threads)),
        batches=list(dict.fromkeys(args.batch)),
        training_batch=args.training_batch,
        settings=Settings(providers=tuple(args.providers), compiled=args.compile),
        rounds=args.rounds,
        seconds=args.seconds,
        clock=args.clock,
        profiled=() if args.profile is None else args.profile or ("ours",),
    )


def _earlier(path: Path, clock: str) -> dict[str, Any]:
    """What a file holds of this machine, this code and this clock.

    Raises:
        InputError: it cannot be read, or is of others.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        there = {**{key: found["machine"][key] for key in _SAME}, "clock": found["settings"]["clock"]}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"--add: {str(path)!r} holds no results of this command: give another --out") from error
    here = {**machine("cpu"), "clock": clock}
    for key in there:
        if there[key] != here[key]:
            raise InputError(
                f"--add: {str(path)!r} has results of {key} {there[key]!r}, this is {here[key]!r}: give another --out"
            )
    return found
