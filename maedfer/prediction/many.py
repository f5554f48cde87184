"""Many videos with one model: windows are found for several, scored in batches, and written for each as they come."""

from __future__ import annotations

import collections
import csv
import dataclasses
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from maedfer._files import atomic_path
from maedfer.data.video.base import shown
from maedfer.errors import InputError
from maedfer.prediction.rows import Row, Window, score_windows
from maedfer.prediction.run import PredictionFiles
from maedfer.prediction.summary import summarize
from maedfer.prediction.table import OutputError, read_table
from maedfer.prediction.workers import Event, Find, WindowTask, Workers, find_here

SUMMARY_FILE, FAILED_FILE = "summary.csv", "failed.csv"
# Names that no video can have in the folder of results.
RESERVED = frozenset(Path(name).stem for name in (SUMMARY_FILE, FAILED_FILE))
# Most windows that are waited for, those without a face included.
_MOST_PENDING = 256
# Seconds between two writings of the tables of all videos.
_TABLES_EVERY = 30.0


class Scorer(Protocol):
    """What scores windows: a `maedfer.prediction.predictor.Predictor`."""

    batch_size: int
    classes: tuple[str, ...]

    def score(self, clips: np.ndarray) -> Any:
        """Probabilities and features of clips."""
        ...


class Told(Protocol):
    """Who is told how it goes; the methods here tell nobody."""

    def row(self, row: Row) -> None:
        """A row was scored."""

    def ended(self, job: VideoJob) -> None:
        """A video is done, or has failed."""

    def progress(self, share: float, speed: float) -> None:
        """So much of everything is done, at this multiple of real time."""


@dataclass
class VideoJob:
    """A video to predict.

    Args:
        files: where its results go.
        task: for whoever finds its windows.
        weight: how much of the work it is likely to be, in any unit; bytes of the file.
        finish: makes what is made of a whole table (timeline, annotated video, turns), before the video is done.
        failure: why it could not be read, or could not be completed.
        before: whether an earlier run had completed it.
        summary: what its NAME.json holds.
    """

    files: PredictionFiles
    task: WindowTask
    weight: float = 1.0
    finish: Callable[[VideoJob], None] = lambda job: None
    failure: str | None = None
    before: bool = False
    summary: dict[str, Any] = field(default_factory=dict)
    # Of the video what was told when it was opened and when it ended; its windows that are not scored yet; where and
    # when this process began to score it; how far it has come, and by how many windows.
    about: dict[str, Any] = field(default_factory=dict)
    waiting: int = 0
    has_ended: bool = False
    began: float = 0.0
    first: float | None = None
    reached: float = 0.0
    windows: int = 0

    @property
    def known(self) -> dict[str, Any]:
        """What NAME.json says of the video itself: how long it is, and its stream."""
        if self.before:
            return {key: self.summary.get(key) for key in ("minutes", "video_stream")}
        seconds = self.about.get("seconds")
        return {
            "minutes": None if seconds is None else round(seconds / 60, 4),
            "video_stream": {key: value for key, value in self.about.items() if key != "seconds"},
        }

    @property
    def share(self) -> float:
        """How much of it is done, as far as that is known."""
        if self.summary or self.failure is not None:
            return 1.0
        duration, start = self.about.get("seconds"), self.about.get("start", 0.0)
        return min(1.0, max(0.0, self.reached - start) / duration) if duration else 0.0


def predict_jobs(
    jobs: Sequence[VideoJob],
    scorer: Scorer,
    *,
    find: Find,
    folder: Path,
    common: Mapping[str, Any],
    workers: int = 0,
    told: Told,
) -> None:
    """Predict videos; what goes wrong with one is noted in it and does not stop the others.

    Args:
        jobs: the videos; those that are done already are passed over.
        scorer: the model.
        find: finds windows; see `maedfer.prediction.workers.Find`.
        folder: of the results, where summary.csv and failed.csv go.
        common: what every NAME.json says beside its video's own numbers.
        workers: processes that find windows; 0 = this one does.
        told: who is told how it goes.

    Raises:
        OutputError: results cannot be written.
        InputError: the model gives what is no probability.
    """
    _Run(jobs, scorer, folder, common, told).run(find, workers)


class _Run:
    def __init__(
        self, jobs: Sequence[VideoJob], scorer: Scorer, folder: Path, common: Mapping[str, Any], told: Told
    ) -> None:
        self.jobs, self.scorer, self.folder, self.common, self.told = jobs, scorer, folder, common, told
        self.by_number = {job.task.number: job for job in jobs}
        # Windows in the order in which they came, and how many of them are to be scored.
        self.pending: collections.deque[tuple[VideoJob, Window]] = collections.deque()
        self.clips = 0
        self.started = self.written = time.monotonic()
        self.seconds = 0.0

    def run(self, find: Find, workers: int) -> None:
        try:
            if workers:
                # Each has a processor; more threads would be in the way of the others.
                with Workers(workers, find) as pool:
                    self._follow(pool.find(self._tasks(threads=1)))
            else:
                self._follow(find_here(find, self._tasks(), lambda task: self.by_number[task].failure is None))
        except KeyboardInterrupt:
            write_tables(self.folder, self.jobs, self.scorer.classes)
            raise
        finally:
            for job in self.jobs:
                job.files.close()
        write_tables(self.folder, self.jobs, self.scorer.classes)

    def _tasks(self, threads: int = 0) -> Iterator[WindowTask]:
        """What is still to be done; a video's files are opened when its turn comes."""
        for job in self.jobs:
            if job.before:
                # A process may have ended between the last file of a video and this.
                job.files.remove_parts()
            if job.failure is not None or job.before:
                continue
            try:
                job.files.open()
            except OutputError:
                raise
            except InputError as error:
                self._fail(job, str(error))
                continue
            job.began = time.monotonic()
            yield dataclasses.replace(job.task, last=job.files.last, threads=threads)

    def _follow(self, events: Iterable[Event]) -> None:
        for event in events:
            job = self.by_number[event.task]
            if event.kind == "stop":
                raise OutputError(event.content)
            if event.kind == "failed":
                self._score()
                self._fail(job, event.content)
            elif event.kind == "window":
                self._take(job, event.content)
            else:
                job.about |= event.content
                job.has_ended = event.kind == "ended"
                self._complete(job)
        self._score()

    def _take(self, job: VideoJob, window: Window) -> None:
        if job.failure is not None:
            return
        self.pending.append((job, window))
        job.waiting += 1
        self.clips += window.clip is not None
        full = self.clips >= self.scorer.batch_size or len(self.pending) >= _MOST_PENDING
        if full or not self.clips or job.task.live:
            self._score()

    def _score(self) -> None:
        """Score what is waiting, and write it."""
        self.clips = 0
        touched: dict[int, VideoJob] = {}
        for window, probabilities, features in score_windows(self.scorer.score, [one for _, one in self.pending]):
            job, _ = self.pending.popleft()
            job.waiting -= 1
            if job.failure is not None:
                continue
            try:
                row = job.files.take(window, probabilities, features)
                if row is not None:
                    if job.task.live:
                        job.files.flush()
                    self.told.row(row)
            except OutputError:
                raise
            except InputError as error:
                self._fail(job, str(error))
                continue
            if row is not None:
                job.first = window.start if job.first is None else job.first
                self.seconds += max(0.0, window.start - max(job.first, job.reached))
            job.reached, job.windows = max(job.reached, window.start), window.number + 1
            touched[job.task.number] = job
        for job in touched.values():
            self._complete(job)
        self._tell()

    def _complete(self, job: VideoJob) -> None:
        """Finish a video of which everything has come and is scored."""
        if not job.has_ended or job.waiting or job.failure is not None or job.summary:
            return
        try:
            job.files.complete_table()
            past = max(time.monotonic() - job.began, 1e-3)
            job.finish(job)
            self._summarize(job, past)
        except OutputError:
            raise
        except InputError as error:
            self._fail(job, str(error))
            return
        self.told.ended(job)
        self._tables()

    def _summarize(self, job: VideoJob, past: float) -> None:
        classes = self.scorer.classes
        seconds = job.about.get("seconds")
        end = job.reached if seconds is None else job.about.get("start", 0.0) + seconds
        done = 0.0 if job.first is None else end - job.first
        options = job.task.options
        hop = 0.0 if options.whole else options.hop
        rows = read_table(job.files.paths["table"])[1]
        found = summarize(rows, classes, hop, float("inf") if seconds is None else end, job.windows)
        summary = {
            "video": shown(job.files.video),
            **job.known,
            **found,
            **self.common,
            "speed": {"times_real_time": round(done / past, 2), "seconds": round(past, 2)},
        }
        job.files.complete(summary)
        job.summary = summary

    def _fail(self, job: VideoJob, reason: str) -> None:
        job.failure = reason
        job.files.give_up()
        self.told.ended(job)
        self._tables()

    def _tell(self) -> None:
        whole = sum(job.weight for job in self.jobs) or 1.0
        share = sum(job.weight * (1.0 if job.before else job.share) for job in self.jobs) / whole
        self.told.progress(share, self.seconds / max(time.monotonic() - self.started, 1e-3))

    def _tables(self) -> None:
        if time.monotonic() - self.written >= _TABLES_EVERY:
            write_tables(self.folder, self.jobs, self.scorer.classes)
            self.written = time.monotonic()


def write_tables(folder: Path, jobs: Sequence[VideoJob], classes: Sequence[str]) -> None:
    """Write summary.csv, a line for each video that is done, and failed.csv, which is absent where none has failed.

    Lines that earlier commands wrote for other videos stay, before those of this one.

    Raises:
        OutputError: they cannot be written.
    """
    head = [
        *"name video minutes minutes_with_a_face faces windows scored mean_confidence".split(),
        *(f"share_{name}" for name in classes),
        "times_real_time",
    ]
    mine = {job.files.name for job in jobs}
    lines = [line for line in _lines(folder / SUMMARY_FILE, head) if line[0] not in mine]
    for job in jobs:
        found = job.summary
        if not found:
            continue
        values = [job.files.name, job.files.video, found["minutes"], found["minutes_with_a_face"], len(found["faces"])]
        values += [found["windows"], found["scored"], found["mean_confidence"]]
        values += [found["shares"].get(name) for name in classes]
        lines.append(["" if value is None else str(value) for value in [*values, found["speed"]["times_real_time"]]])
    _write_table(folder / SUMMARY_FILE, head, lines)
    head, given = ["input", "reason"], {job.files.video for job in jobs}
    failures = [line for line in _lines(folder / FAILED_FILE, head) if line[0] not in given]
    failures += [[job.files.video, job.failure] for job in jobs if job.failure is not None]
    if failures:
        _write_table(folder / FAILED_FILE, head, failures)
    else:
        (folder / FAILED_FILE).unlink(missing_ok=True)


def _lines(path: Path, head: Sequence[str]) -> list[list[str]]:
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        first, *lines = list(csv.reader(file)) or [[]]
    # A table of other classes cannot be in the same file.
    return [line for line in lines if len(line) == len(head)] if first == list(head) else []


def _write_table(path: Path, head: Sequence[str], lines: Iterable[Sequence[object]]) -> None:
    try:
        with (
            atomic_path(path) as temporary,
            open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(head)
            writer.writerows(lines)
    except InputError as error:
        raise OutputError(str(error)) from error


def size_of(path: str) -> float:
    """How much of the work a video is likely to be: bytes of its file; of a folder, as many as its entries may have."""
    return len(os.listdir(path)) * 10_000.0 if os.path.isdir(path) else float(os.path.getsize(path))
