"""The main job on generated clips: pre-train, fine-tune with and without it, evaluate, predict, report.

    python examples/demo.py --out runs/demo

Writes h264 clips of drawn faces, pre-trains a small MAE-DFER on them without labels, fine-tunes a classifier on some of
them with labels, from the pre-trained weights and from scratch, each with several seeds, scores it on other people,
predicts what two people show in a video, and puts everything into one page.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from maedfer._progress import ProgressLine, duration
from maedfer.data import read_annotations
from maedfer.data.shards.options import ShardOptions
from maedfer.data.shards.write import write_shards
from maedfer.errors import InputError, MissingDependencyError
from maedfer.faces import open_detector
from maedfer.prediction import open_predictor
from maedfer.report import write_comparison
from maedfer.studies.drawn import seed_jobs
from maedfer.studies.grid import Job, available_cpus, run_jobs
from maedfer.synthetic import EXPRESSIONS, contact_sheet, write_dataset, write_scene

# Seconds of each step on two cores, by which the time left of those to come is told.
SECONDS = {"drawing": 60, "pre-training": 210, "fine-tuning": 300, "evaluating": 10, "predicting": 15, "report": 20}
# For so many seconds of a step, what was known before counts as much as what is seen: a start tells little.
PRIOR = 30.0


class DemoLine(ProgressLine):
    """The line of progress of a step, followed by the time left of the whole demo."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.expected = dict(SECONDS)
        # How many times as long as expected things take: another machine, other options.
        self.before = self.pace = 1.0
        super().__init__("", stream)

    def step(self, name: str, what: str = "") -> None:
        """Begin a step; `what` says more of it."""
        self.name, self.before = name, self.pace
        self.start(f"{name}{what}")

    def rest(self, share: float) -> str:
        """The time left of the step, and with the steps after it."""
        expected = self.expected[self.name]
        done = expected * (share - (share if self.first is None else self.first))
        self.pace = (self.before * PRIOR + time.monotonic() - self.started) / (PRIOR + done)
        left = self.pace * expected * (1 - share)
        names = list(self.expected)
        later = self.pace * sum(self.expected[name] for name in names[names.index(self.name) + 1 :])
        return f", {duration(left)} left; the demo takes {duration(left + later)} more"


def main() -> int:
    """Run the demo; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder for clips, runs and report")
    parser.add_argument("--clips", type=int, default=1750, help="clips to generate")
    parser.add_argument("--labelled", type=int, default=1120, help="training clips that keep their label")
    parser.add_argument("--seeds", type=int, default=3, help="fine-tuning runs for each condition")
    parser.add_argument("--shards", choices=("jpeg", "raw"), help="train and score from shards of the clips")
    args = parser.parse_args()
    line = DemoLine()
    try:
        demo(args.out, args.clips, args.labelled, args.seeds, line, args.shards)
        return 0
    except (InputError, MissingDependencyError) as error:
        message, status = f"error: {error}", 2
    except KeyboardInterrupt:
        message, status = "stopped; run it again to go on", 130
    line.clear()
    print(f"demo: {message}", file=sys.stderr)
    return status


def demo(out: Path, clips: int, labelled: int, seeds: int, line: DemoLine, shards: Any = None) -> None:
    """Do all steps into `out`; what an earlier, interrupted call completed is kept.

    Args:
        out: takes everything.
        clips, labelled, seeds: how many there are.
        line: of progress.
        shards: "jpeg" or "raw": clips are read from shards of that kind; None = from their h264 files.
    """
    started = time.perf_counter()

    def say(text: str) -> None:
        line.clear()
        print(f"[{time.perf_counter() - started:4.0f} s] {text}", flush=True)

    cpus = available_cpus()
    say(
        f"this takes some {round(sum(SECONDS.values()) / 60)} minutes on two idle cores (here: {cpus}), and less where "
        "an earlier call was interrupted: the same command goes on"
    )
    say(f"1/6 {clips} clips of drawn faces, as h264 files")
    line.step("drawing")
    data = write_dataset(
        out / "data", clips=clips, seed=0, size=64, frames=40, workers=cpus, progress=lambda n, of: line(n / of)
    )
    line.clear()
    faces = contact_sheet(out / "faces.png")
    unlabelled, test = data / "fold_1" / "train.csv", data / "fold_1" / "test.csv"
    count = len(unlabelled.read_text().splitlines())
    if shards is not None:
        unlabelled, test = (in_shards(out, file, data, shards, cpus) for file in (unlabelled, test))

    say("2/6 pre-training without labels, on the people of the training fold")
    line.step("pre-training")
    # The line of progress follows the runs' own.
    common = (f"data.root={data}", "train.log_every=5")
    pretraining = Job("pretrain", "synth_pretrain", out / "pretrain", (f"data.train={unlabelled}", *common))
    run_jobs([pretraining], 1, say, line)

    say(f"3/6 fine-tuning on {labelled} labelled clips, {seeds} seeds, from pre-trained weights and from scratch")
    line.step("fine-tuning", f", {2 * seeds} runs")
    few = (f"data.labels={labelled // len(EXPRESSIONS)}", "data.labels_seed=0")
    shared = (f"data.train={unlabelled}", f"data.test={test}", *few, *common, "eval.save_features=true")
    conditions = {
        "from scratch": seed_jobs(out, "scratch", seeds, shared, None),
        "pre-trained": seed_jobs(out, "pretrained", seeds, shared, pretraining.output),
    }
    run_jobs([job for jobs in conditions.values() for job in jobs], cpus, say, line)

    say("4/6 evaluating one saved model again, from its folder")
    saved = conditions["pre-trained"][0].output
    check = Job(
        "evaluate", "synth_finetune", out / "evaluation", (f"eval.checkpoint={saved}", f"data.test={test}", *common)
    )
    line.step("evaluating")
    run_jobs([check], 1, say, line)

    say("5/6 predicting what two people show in a generated video")
    line.step("predicting")
    timeline, caption = predict_scene(out, saved, line)

    say("6/6 report")
    note = (
        f"{labelled} labelled training clips; pre-training saw the {count} clips of "
        "the training fold without labels. Test clips show other people. The clips are drawn: this shows that the "
        "machinery works, not how well the method does on real faces."
    )
    page = write_comparison(
        out,
        {label: [job.output for job in jobs] for label, jobs in conditions.items()},
        "Pre-training against training from scratch",
        note,
        pretraining=pretraining.output,
        pictures={
            "The seven classes; the two of a pair show the same faces in another order.": faces,
            caption: timeline,
        },
    )
    for difference in json.loads(page.with_suffix(".json").read_text())["scores"]["differences"]:
        print(f"  {difference['sentence']}")
    say(f"done: open {page}")


def in_shards(out: Path, file: Path, root: Path, kind: Any, workers: int) -> Path:
    """Write the clips of a list to shards into `out`, unless an earlier call has done so; returns their folder."""
    folder = out / f"{file.stem}_{kind}"
    write_shards(read_annotations(file, root), folder, ShardOptions(format=kind), workers=workers)
    return folder


def predict_scene(out: Path, checkpoint: Path, line: DemoLine) -> tuple[Path, str]:
    """Write a video of two people into `out`, and predict it; returns the picture of the timeline and what it shows."""
    scene = out / "scene.mp4"
    truth = write_scene(scene)
    # The clips that the model knows show less around a face than others do.
    options: dict[str, Any] = {"hop": 0.5, "margin": 0.85}
    try:
        found = f"its faces were found by {open_detector().name}, and who comes back has a new number."
    except MissingDependencyError as error:
        # The demo runs without [faces]; a video of one's own does not.
        options["boxes"] = str(truth)
        found = f"where its faces are was taken from how it was drawn, as no detector is installed ({error})."
    prediction = open_predictor(checkpoint).predict(scene, progress=line, **options)
    line.clear()
    prediction.plot(out / "timeline.png")
    acts = ", ".join(dict.fromkeys(row["expression"] for row in csv.DictReader(truth.open(newline=""))))
    return out / "timeline.png", (
        f"A generated video of two people, one of whom leaves and comes back, as the first pre-trained model sees it; "
        f"they act {acts}; {found}"
    )


if __name__ == "__main__":
    sys.exit(main())
