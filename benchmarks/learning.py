"""Does pre-training help, and which target helps most: joint appearance and motion, or one of them alone?

    python -m benchmarks.learning --out runs/learning --results benchmarks/results

Pre-trains a small model with each target on the same generated clips with the same seed and schedule, fine-tunes each
with the same seeds and labels, and compares them with each other and with training from scratch. Writes a page into
`--out`, and into `--results` learning.json (every score, settings, versions, commit) and learning.png.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.results_file import make_place, write
from maedfer.errors import InputError, MissingDependencyError, require, unknown
from maedfer.report import write_comparison
from maedfer.report.figures import seed_comparison
from maedfer.studies.drawn import seed_jobs
from maedfer.studies.grid import Job, available_cpus, run_jobs
from maedfer.synthetic import EXPRESSIONS, write_dataset

# Condition -> settings of its pre-training; None is no pre-training.
CONDITIONS: dict[str, tuple[str, ...] | None] = {
    "scratch": None,
    "joint": ("model.target=joint",),
    "appearance": ("model.target=appearance",),
    "motion": ("model.target=motion",),
    "pixels": ("model.target=pixels",),
}

_RESULTS = ("learning.json", "learning.png")


def main() -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/learning"), help="folder for clips, runs and report")
    parser.add_argument("--results", type=Path, help="folder that takes learning.json and learning.png")
    parser.add_argument("--clips", type=int, default=1750, help="clips to generate")
    parser.add_argument("--labelled", type=int, default=1120, help="training clips that keep their label")
    parser.add_argument("--seeds", type=int, default=3, help="fine-tuning runs for each condition")
    parser.add_argument("--epochs", type=int, default=32, help="epochs of pre-training")
    parser.add_argument("--conditions", nargs="+", default=list(CONDITIONS)[:4], help=", ".join(CONDITIONS))
    args = parser.parse_args()
    try:
        learning(args.out, args.results, args.conditions, args.clips, args.labelled, args.seeds, args.epochs)
    except (InputError, MissingDependencyError) as error:
        print(f"learning: error: {error}", file=sys.stderr)
        return 2
    return 0


def learning(
    out: Path, results: Path | None, names: list[str], clips: int, labelled: int, seeds: int, epochs: int
) -> dict[str, Any]:
    """Run the conditions, compare them, and return what is written to learning.json."""
    for name in names:
        if name not in CONDITIONS:
            raise unknown("condition", name, CONDITIONS)
    # What the end needs is looked for before the hours in between.
    require("matplotlib", "train")
    for place in (out / "report.html", *((results / name for name in _RESULTS) if results else ())):
        make_place(place)
    started, cpus = time.perf_counter(), available_cpus()
    data = write_dataset(out / "data", clips=clips, seed=0, size=64, frames=40, workers=cpus)
    unlabelled, test = data / "fold_1" / "train.csv", data / "fold_1" / "test.csv"
    root = f"data.root={data}"
    pretraining = {
        name: Job(
            "pretrain",
            "synth_pretrain",
            out / f"pretrain_{name}",
            (f"data.train={unlabelled}", root, f"optim.epochs={epochs}", *settings),
        )
        for name in names
        if (settings := CONDITIONS[name]) is not None
    }
    run_jobs(list(pretraining.values()), cpus)
    few = (f"data.labels={labelled // len(EXPRESSIONS)}", "data.labels_seed=0")
    shared = (f"data.train={unlabelled}", f"data.test={test}", *few, root)
    runs = {
        name: seed_jobs(out, name, seeds, shared, pretraining[name].output if name in pretraining else None)
        for name in names
    }
    run_jobs([job for jobs in runs.values() for job in jobs], cpus)
    page = write_comparison(
        out,
        {name: [job.output for job in jobs] for name, jobs in runs.items()},
        "Targets of pre-training",
        f"{labelled} labelled clips of drawn faces, {epochs} epochs of pre-training on {clips - clips // 5} clips.",
    )
    report = json.loads(page.with_suffix(".json").read_text())
    summary = {
        "benchmark": "learning",
        "settings": {"clips": clips, "labelled": labelled, "seeds": seeds, "pretraining_epochs": epochs},
        "minutes": round((time.perf_counter() - started) / 60, 1),
        "scores": report["scores"],
        "environment": {
            key: report["environment"].get(key) for key in ("versions", "device", "git_revision", "started")
        },
    }
    if results is not None:
        write(results / _RESULTS[0], summary)
        conditions = report["scores"]["conditions"]
        scores = {
            metric.upper(): {name: conditions[name][metric]["values"] for name in names} for metric in ("uar", "war")
        }
        seed_comparison(scores, paired=True, width=10.0).savefig(results / _RESULTS[1], dpi=150)
    for difference in report["scores"]["differences"]:
        print(difference["sentence"])
    return summary


if __name__ == "__main__":
    sys.exit(main())
