"""`maedfer plan`: what a run takes and costs on so many GPUs, before any of them is rented."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import json
import textwrap
from typing import Any

from maedfer._values import number, whole_number
from maedfer.cli._parser import add_command, examples, path, split_items
from maedfer.errors import InputError

_MOST_GPUS = 1_000_000


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    parser = add_command(
        commands,
        "plan",
        run,
        "say what a run takes and costs on so many GPUs: hours, reading, links, memory, failures, price",
        "Plan the run of a RECIPE, with overrides as for the run itself, on so many GPUs. Nothing is run: a step is\n"
        "what was measured on one GPU, where anything was, and all else is assumed. Every assumption is printed with\n"
        "where it is from and the option that changes it. docs/plan.md has two runs planned, and what the model is.\n\n"
        "The global batch is that of the recipe as one process runs it (train.batch_size x train.accumulate, or\n"
        "train.global_batch), and is shared out to the GPUs, so that schedule and learning rate stay the recipe's.",
        examples(
            "maedfer plan voxceleb2_pretrain --gpus 1,8,64",
            "maedfer plan voxceleb2_pretrain train.batch_size=4096 --gpus 8,64,512 --clips 10920090",
            "maedfer plan dfew --gpus 4 --gpu a100 --price 1.5",
            "maedfer plan mine.yaml data.train=train.csv --gpus 2 --gpu l40s --gpus-per-node 2 --clips-per-s 310 \\",
            "    --source videos --cores 32 --disk 150 --csv plan.csv",
        ),
    )
    parser.usage = "maedfer plan RECIPE [key=value ...] --gpus N[,N...] [options]"
    parser.add_argument("items", nargs="*", metavar="RECIPE, key=value", help="recipe and overrides")
    parser.add_argument(
        "--gpus", metavar="N[,N...]", type=_counts, required=True, help="numbers of GPUs, a column each"
    )
    parser.add_argument(
        "--gpu", metavar="NAME", default="h100", help="a100, b200, h100, h200, l40s, rtx4090 (default: h100)"
    )
    parser.add_argument("--clips", metavar="N", type=_count, help="clips to learn from (default: data.train, or known)")
    parser.add_argument("--scored", metavar="N", type=_count_or_none, help="clips scored after an epoch")
    parser.add_argument("--clips-per-s", metavar="X", type=_rate, help="what one GPU trains with the recipe's batch")
    parser.add_argument("--cpu-clips-per-s-core", metavar="X", type=_rate, help="what one processor core loads")
    parser.add_argument(
        "--source",
        choices=("shards", "raw", "videos", "frames"),
        help="what clips are read from (default: shards)",
        default="shards",
    )
    for field, words in _OPTIONS.items():
        parser.add_argument(f"--{field.replace('_', '-')}", metavar="X", type=_number, help=words)
    parser.add_argument("--brief", action="store_true", help="do not print what is assumed")
    parser.add_argument("--csv", metavar="FILE", type=path, help="also write the plans as a table, a row each")
    parser.add_argument("--json", metavar="FILE", type=path, help="also write plans, assumptions and sentences")


# Fields of `maedfer.planning.Machine`, which is not imported to print help.
_OPTIONS = {
    "speed": "speed of a GPU's kernels, as a multiple of an H100's",
    "memory": "GB of a GPU",
    "gpus_per_node": "GPUs of a machine",
    "cores": "processor cores of a machine",
    "link": "GB/s from a GPU to another one of its machine",
    "network": "GB/s from a machine to another one",
    "reached": "share of these that an all-reduce reaches",
    "latency": "microseconds of a message to another GPU",
    "overlap": "share of the backward pass in which gradients travel",
    "disk": "MB/s that a machine reads from its own disk",
    "store": "MB/s that all machines read from one store, in place of own disks",
    "frames": "frames of a clip in shards",
    "write": "MB/s written of a checkpoint",
    "save_every": "minutes between checkpoints, beside those after epochs",
    "mtbf": "hours of one GPU between failures that end a run",
    "restart": "minutes from a failure to the first new step",
    "price": "of a GPU and hour",
}


def run(args: argparse.Namespace) -> int:
    """Print the plan, and write it where it is asked for."""
    recipe, overrides = split_items(args.items, "recipe")
    if recipe is None:
        raise InputError("plan needs a RECIPE: a YAML file, or the name of one that comes with the package")
    from maedfer.planning import Machine, plan_run, training_job, with_core_rate
    from maedfer.planning.words import assumptions, head, sentences, table

    given = {field: getattr(args, field) for field in _OPTIONS if getattr(args, field) is not None}
    machine = Machine.of_gpu(args.gpu, given)
    job = training_job(recipe, overrides, args.clips, args.scored, args.clips_per_s)
    if args.cpu_clips_per_s_core is not None:
        job = with_core_rate(job, args.source, args.cpu_clips_per_s_core)
    plans = [plan_run(job, machine, gpus, args.source) for gpus in args.gpus]
    said = sentences(job, machine, plans, args.source)
    parts = [head(job, machine), table(job, machine, plans, args.source), "\n".join(map(_wrapped, said))]
    if not args.brief:
        parts += [assumptions(job, machine, args.source), "\n".join(map(_wrapped, job.notes))]
    rows = [dataclasses.asdict(plan) for plan in plans]
    if args.csv:
        _write_csv(args.csv, rows)
    if args.json:
        facts = {
            "recipe": job.recipe,
            "model": job.model,
            "clips": job.clips,
            "source": args.source,
            "gpu": machine.gpu,
            "assumptions": {
                option: {"value": known.value, "unit": known.unit, "meaning": known.meaning, "source": known.source}
                for option, known in machine.assumptions()
            },
            "notes": list(job.notes),
            "plans": rows,
            "sentences": said,
        }
        _write(args.json, json.dumps(facts, indent=2) + "\n")
    print("\n\n".join(parts))
    return 0


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 112, subsequent_indent="  ")


def _write_csv(file: str, rows: list[dict[str, Any]]) -> None:
    flat = []
    for row in rows:
        shares = {f"share_{name}": share for name, share in row["parts"].items()}
        flat.append({name: value for name, value in row.items() if name != "parts"} | shares)
    text = io.StringIO(newline="")
    names = list(dict.fromkeys(name for row in flat for name in row))
    writer = csv.DictWriter(text, names, restval=0.0)
    writer.writeheader()
    writer.writerows(flat)
    _write(file, text.getvalue())


def _write(file: str, text: str) -> None:
    from maedfer._files import atomic_path

    with atomic_path(file) as temporary:
        temporary.write_bytes(text.encode())


def _count(text: str) -> int:
    found = whole_number(text)
    if found is None or not 0 < found <= 10**12:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, got {text!r}")
    return found


def _count_or_none(text: str) -> int:
    return 0 if whole_number(text) == 0 else _count(text)


def _counts(text: str) -> list[int]:
    found = [whole_number(part.strip()) for part in text.split(",")]
    numbers = [count for count in found if count is not None and 0 < count <= _MOST_GPUS]
    if len(numbers) != len(found):
        raise argparse.ArgumentTypeError(
            f"must be whole numbers from 1 to {_MOST_GPUS} with commas between, got {text!r}"
        )
    return list(dict.fromkeys(numbers))


def _number(text: str) -> float:
    found = number(text)
    if found is None or not 0 <= found < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number that is not negative, got {text!r}")
    return found


def _rate(text: str) -> float:
    found = _number(text)
    if not found:
        raise argparse.ArgumentTypeError(f"must be above 0, got {text!r}")
    return found
