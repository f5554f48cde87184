"""The command `python -m benchmarks static`."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.results_file import make_place

RESULTS = Path(__file__).resolve().parent.parent / "results" / "static.json"

_DTYPES = ("bfloat16", "float16", "float32")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--arch", type=int, default=90, help="what is compiled for (90)")
    parser.add_argument("--dtype", choices=_DTYPES, default="bfloat16", help="of the products (bfloat16)")
    parser.add_argument(
        "--cases", nargs="+", default=[""], metavar="NAME", help="those whose names begin so (all); block and steps too"
    )
    parser.add_argument("--base", metavar="REV", help="also count this revision, and say what changed")
    parser.add_argument("--against", type=Path, metavar="FILE", help="say what changed since this results file")
    parser.add_argument("--out", type=Path, help="results file (benchmarks/results/static.json for all, else none)")
    parser.add_argument("--fail", action="store_true", help="exit with 1 when something is worse")


def run(args: argparse.Namespace, strict: bool = True) -> int:
    """Count, write and compare; returns the exit code.

    Args:
        args: of `add_options`.
        strict: whether there must be a case of each name.

    Raises:
        InputError: no such case, architecture or revision, or the results cannot be written.
    """
    # Needs Triton.
    import torch

    from benchmarks.static.difference import count_revision, table, worse
    from benchmarks.static.results import read, static, write

    whole = args.cases == [""] and (args.arch, args.dtype) == (90, "bfloat16")
    out = args.out or (RESULTS if whole else None)
    if out is not None:
        make_place(out)
    options = ["--arch", str(args.arch), "--dtype", args.dtype, "--cases", *args.cases]
    before = read(args.against) if args.against else None
    if args.base:
        print(f"counting {args.base}", flush=True)
        before = count_revision(args.base, options)
        print("counting this checkout", flush=True)
    dtype = getattr(torch, args.dtype)
    after = static(args.arch, dtype, args.cases, lambda line: print(line, flush=True), strict)
    if out is not None:
        write(after, out)
        print(f"wrote {out}")
    if before is None:
        return 0
    found = worse(before, after)
    print("\n".join(["", *table(before, after), "", *(f"worse: {line}" for line in found or ["nothing"])]))
    return 1 if args.fail and found else 0


def main(argv: list[str] | None = None) -> int:
    """The command alone, in another revision's folder, which need not have all cases."""
    parser = argparse.ArgumentParser(prog="benchmarks.static")
    add_options(parser)
    return run(parser.parse_args(argv), strict=False)
