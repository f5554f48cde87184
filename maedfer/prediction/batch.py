"""Whole folders of videos from the command line: checked, predicted, and told about."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maedfer._progress import ProgressLine, counted, duration, is_terminal
from maedfer.data.video.base import shown
from maedfer.errors import InputError
from maedfer.prediction.find import find_windows, streams_end
from maedfer.prediction.inputs import NamedVideo, check_name, hold, settings_of
from maedfer.prediction.many import FAILED_FILE, SUMMARY_FILE, VideoJob, predict_jobs, size_of
from maedfer.prediction.one_video import detector_of
from maedfer.prediction.options import PredictionOptions
from maedfer.prediction.predictor import Predictor
from maedfer.prediction.products import Products
from maedfer.prediction.rows import Row
from maedfer.prediction.run import PredictionFiles
from maedfer.prediction.summary import NOT_A_LABEL, calibration
from maedfer.prediction.table import Columns, OutputError, TableFormat
from maedfer.prediction.workers import WindowTask

# Processors that one process keeps busy which finds windows, where the model needs the others.
_ON_CPU = 4
_MOST_WORKERS = 16


@dataclass(frozen=True)
class Wanted:
    """What is to be written.

    Args:
        out: folder of the results.
        columns: whose names the columns of the tables have.
        features: whether the windows' features are kept.
        products: what is made of each whole table.
        overwrite: whether what earlier commands left goes.
    """

    out: Path
    columns: Columns = "maedfer"
    features: bool = False
    products: Products = field(default_factory=Products)
    overwrite: bool = False


def default_workers(videos: int, device: str) -> int:
    """How many processes find windows where nobody says: none where the model needs all processors."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    free = processors // _ON_CPU if device == "cpu" else processors - 1
    return max(0, min(videos, free, _MOST_WORKERS))


def headlines(predictor: Predictor, options: PredictionOptions) -> list[str]:
    """What computes, in lines for whoever waits."""
    model = predictor.config
    if not options.crop:
        faces = "faces: none are looked for, frames are face crops already"
    elif options.boxes is not None:
        faces = f"faces: boxes of {shown(options.boxes)}"
    else:
        detector = detector_of(options)
        assert detector is not None
        faces = f"faces: {detector.name}, every {counted(options.every, 'frame')}; {detector.note}"
    return [
        f"model: {shown(predictor.checkpoint)}, {model.clip_size[0]} frames of {model.clip_size[1]} x "
        f"{model.clip_size[2]}, on {predictor.device} in {predictor.precision_why}",
        f"classes: {', '.join(map(shown, predictor.classes))}",
        faces,
        calibration(predictor.temperature),
    ]


def predict_videos(
    videos: Sequence[NamedVideo],
    predictor: Predictor,
    options: PredictionOptions,
    wanted: Wanted,
    workers: int | None = None,
    say: Callable[[str], None] = print,
) -> int:
    """Predict videos into a folder.

    Args:
        videos: which.
        predictor: the model.
        options: how they are looked at.
        wanted: what is written.
        workers: processes that find windows; None = as many as this machine has processors for.
        say: takes lines for whoever waits.

    Returns:
        How many failed.

    Raises:
        InputError: results of other settings are in the folder, or it cannot be written to.
    """
    for line in headlines(predictor, options):
        say(line)
    with hold(wanted.out):
        jobs = make_jobs(videos, predictor, options, wanted)
        before = sum(job.before for job in jobs)
        if before:
            say(f"{before} of {counted(len(jobs), 'video')} done already")
        told = _Console(jobs, say)
        rest = sum(not job.before for job in jobs)
        count = default_workers(rest, predictor.device.type) if workers is None else min(workers, rest)
        with _interrupt_ends_streams() if told.live else contextlib.nullcontext():
            predict_jobs(
                jobs,
                predictor,
                find=find_windows,
                folder=wanted.out,
                common=common(predictor),
                workers=0 if told.live else count,
                told=told,
            )
    return told.close(wanted.out)


@contextlib.contextmanager
def _interrupt_ends_streams() -> Iterator[None]:
    """Let the first Ctrl-C end a stream after the frame that comes next, so that its files are completed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: Any) -> None:
        streams_end.set()
        # The second one is as any other: perhaps no frame comes.
        signal.signal(signal.SIGINT, before)

    streams_end.clear()
    before = signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def common(predictor: Predictor) -> dict[str, Any]:
    """What every NAME.json says beside its video's own numbers."""
    return {
        "calibration": calibration(predictor.temperature),
        "what_a_label_is": NOT_A_LABEL,
        "model": predictor.about,
    }


def make_jobs(
    videos: Sequence[NamedVideo], predictor: Predictor, options: PredictionOptions, wanted: Wanted
) -> list[VideoJob]:
    """What is to be done for each video, and what was done already.

    Raises:
        InputError: results of other settings are in the folder.
    """
    about = predictor.about
    model = {name: about[name] for name in ("weights_sha256", "classes", "precision", "temperature", "clip")}
    # A GPU, and whoever else multiplies, gives other last digits.
    model |= {"device": predictor.device.type, "products": about["products"]}
    model |= {"columns": wanted.columns, "features": wanted.features}
    format = TableFormat(predictor.classes, wanted.columns)
    channels = predictor.config.embed_dim if wanted.features else None
    jobs = []
    for number, video in enumerate(videos):
        failure = None
        try:
            check_name(wanted.out, video)
            settings = settings_of(video, options, model)
            weight = 1.0 if video.live else size_of(video.path)
        except (InputError, OSError) as error:
            # A line of a list whose file is not there does not keep the others waiting.
            failure = str(error) if isinstance(error, InputError) else f"{shown(video.path)}: {error.strerror}"
            settings, weight = {}, 1.0
        files = PredictionFiles(wanted.out, video.name, video.told, settings, format, channels)
        task = WindowTask(
            number,
            video.path,
            options,
            predictor.input,
            record=None if options.boxes is not None else str(files.paths["boxes"]),
            live=video.live,
            annotate=wanted.products.annotate,
        )
        job = VideoJob(files, task, weight, wanted.products.make, failure)
        jobs.append(job)
        if failure is not None:
            continue
        if wanted.overwrite:
            files.remove()
        state = files.state()
        if video.live and state != "new":
            raise InputError(
                f"{shown(files.paths['table'])}: holds what came of a stream before, which nobody can go on with: "
                "choose another --out, or --overwrite"
            )
        if state == "done":
            job.before, job.summary = True, files.read_summary()
            try:
                # What is wanted now and was not wanted then.
                wanted.products.make(job, missing=True)
            except OutputError:
                raise
            except InputError as error:
                job.failure = str(error)
    return jobs


class _Console:
    """Tells how it goes, on standard output."""

    def __init__(self, jobs: Sequence[VideoJob], say: Callable[[str], None]) -> None:
        self.jobs, self.say = jobs, say
        self.live = any(job.task.live for job in jobs)
        self.line = ProgressLine()
        self.started = time.monotonic()

    def row(self, row: Row) -> None:
        if not (self.live and is_terminal(sys.stdout)):
            return
        window, sure = row.window, row.probabilities
        at = f"{window.time:9.2f} s"
        if sure is None:
            self.say(f"{at}  nobody")
            return
        classes = self.jobs[0].files.format.classes
        best = sure.argsort()[::-1][:3]
        self.say(f"{at}  face {window.face}  " + "  ".join(f"{classes[index]} {sure[index]:.2f}" for index in best))

    def ended(self, job: VideoJob) -> None:
        self.line.clear()
        name = shown(job.files.video)
        if job.failure is not None:
            self.say(f"{name}: failed: {job.failure}")
            return
        found = job.summary
        people, windows = counted(len(found["faces"]), "face"), counted(found["windows"], "window")
        self.say(
            f"{name}: {duration(60 * (found['minutes'] or 0))}, {people}, {windows}, "
            f"{found['speed']['times_real_time']:g} times real time: {shown(job.files.paths['table'])}"
        )

    def progress(self, share: float, speed: float) -> None:
        if self.live:
            return
        done = sum(bool(job.summary) or job.failure is not None for job in self.jobs)
        self.line.what = f"{done} of {counted(len(self.jobs), 'video')}, {speed:.1f} times real time"
        self.line(share)

    def close(self, out: Path) -> int:
        """Say what came of everything; returns how many failed."""
        self.line.clear()
        failed = [job for job in self.jobs if job.failure is not None]
        minutes = sum(job.summary.get("minutes") or 0.0 for job in self.jobs)
        past = duration(time.monotonic() - self.started)
        done = counted(len(self.jobs) - len(failed), "video")
        self.say(f"{done}, {duration(60 * minutes)}, in {past}: {shown(out / SUMMARY_FILE)}")
        if failed:
            verb = "has" if len(failed) == 1 else "have"
            self.say(f"{counted(len(failed), 'video')} {verb} failed: {shown(out / FAILED_FILE)} says why")
        return len(failed)
