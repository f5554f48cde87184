"""The main job on generated clips: pre-train, fine-tune with and without it, evaluate, report.

    python examples/demo.py --out runs/demo

Writes h264 clips of drawn faces, pre-trains a small MAE-DFER on them without labels, fine-tunes a classifier on few
labelled clips of other people than it is tested on, from the pre-trained weights and from scratch, each with several
seeds, and puts everything into one page.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from maedfer.data.synthetic import contact_sheet, write_dataset
from maedfer.errors import InputError, MissingDependencyError
from maedfer.train.report_compare import write_comparison
from maedfer.train.study import Job, available_cpus, run_jobs


def main() -> int:
    """Run the demo; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder for clips, runs and report")
    parser.add_argument("--clips", type=int, default=700, help="clips to generate")
    parser.add_argument("--labelled", type=int, default=140, help="training clips that keep their label")
    parser.add_argument("--seeds", type=int, default=3, help="fine-tuning runs for each condition")
    args = parser.parse_args()
    try:
        demo(args.out, args.clips, args.labelled, args.seeds)
    except (InputError, MissingDependencyError) as error:
        print(f"demo: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("demo: stopped; run it again to go on", file=sys.stderr)
        return 130
    return 0


def demo(out: Path, clips: int, labelled: int, seeds: int) -> None:
    """Do all steps into `out`; what an earlier, interrupted call completed is kept."""
    started = time.perf_counter()

    def say(text: str) -> None:
        print(f"[{time.perf_counter() - started:4.0f} s] {text}", flush=True)

    cpus = available_cpus()
    say(f"1/5 {clips} clips of drawn faces, as h264 files")
    data = write_dataset(out / "data", clips=clips, seed=0, workers=cpus)
    faces = contact_sheet(out / "faces.png")
    few = few_labels(data / "fold_1" / "train.csv", labelled, out / "labelled.csv")

    say("2/5 pre-training without labels, on the people of the training fold")
    unlabelled = data / "fold_1" / "train.csv"
    pretraining = Job(
        "pretrain", "synth_pretrain", out / "pretrain", (f"data.train={unlabelled}", f"data.root={data}")
    )
    run_jobs([pretraining], 1, say)

    say(f"3/5 fine-tuning on {labelled} labelled clips, {seeds} seeds, from pre-trained weights and from scratch")
    runs: dict[str, list[Path]] = {"from scratch": [], "pre-trained": []}
    jobs = []
    for seed in range(seeds):
        for condition, folder in (("from scratch", "scratch"), ("pre-trained", "pretrained")):
            output = out / f"{folder}_{seed}"
            settings = (
                *(f"seed={seed}", f"data.train={few}", f"data.test={data / 'fold_1' / 'test.csv'}"),
                *(f"data.root={data}", "eval.save_features=true"),
            )
            if condition == "pre-trained":
                settings += (f"train.init={pretraining.output}",)
            jobs.append(Job("finetune", "synth_finetune", output, settings))
            runs[condition].append(output)
    run_jobs(jobs, cpus, say)

    say("4/5 evaluating one saved model again, from its folder")
    check = Job(
        "evaluate",
        "synth_finetune",
        out / "evaluation",
        (f"eval.checkpoint={runs['pre-trained'][0]}", f"data.test={data / 'fold_1' / 'test.csv'}", f"data.root={data}"),
    )
    run_jobs([check], 1, say)

    say("5/5 report")
    note = (
        f"{labelled} labelled training clips; pre-training saw the {len(unlabelled.read_text().splitlines())} clips of "
        "the training fold without labels. Test clips show other people. The clips are drawn: this shows that the "
        "machinery works, not how well the method does on real faces."
    )
    page = write_comparison(
        out, runs, "Pre-training against training from scratch", note, pretraining=pretraining.output, pictures={"The seven classes; the two of a pair show the same faces in another order.": faces}
    )
    print((out / "report.txt").read_text() if (out / "report.txt").is_file() else "", end="")
    say(f"done: open {page}")


def few_labels(source: Path, count: int, target: Path) -> Path:
    """Write the first `count` lines of an annotation file, as many of each class as of any other."""
    by_class: dict[str, list[str]] = {}
    for line in source.read_text().splitlines():
        by_class.setdefault(line.rsplit(" ", 1)[1], []).append(line)
    chosen = [line for lines in by_class.values() for line in lines[: count // len(by_class)]]
    target.write_text("".join(f"{line}\n" for line in chosen))
    return target


if __name__ == "__main__":
    sys.exit(main())
