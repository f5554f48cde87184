"""What a prediction will come to, without writing anything: frames, windows, hours and disk."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from maedfer._progress import counted, duration
from maedfer.data.video.base import shown
from maedfer.errors import InputError
from maedfer.prediction.batch import Wanted, default_workers, headlines
from maedfer.prediction.find import describe, find_windows
from maedfer.prediction.inputs import NamedVideo
from maedfer.prediction.options import PredictionOptions
from maedfer.prediction.predictor import Predictor
from maedfer.prediction.rows import Row, Window
from maedfer.prediction.sources import FileSource, open_source
from maedfer.prediction.table import TableFormat
from maedfer.prediction.workers import WindowTask

# Seconds that are measured, at least one window.
_MEASURED = 8.0
# Bytes of the files that do not grow with the video; of a row on record a frame that is looked at; of a second of
# annotated video.
_FIXED, _RECORD, _ANNOTATED = 300_000, 70, 250_000


@dataclass(frozen=True)
class MeasuredPace:
    """How fast this machine is: seconds of work a second of video for finding windows, seconds a window of one face for
    scoring it, and faces in a window."""

    finding: float
    scoring: float
    faces: float

    def seconds(self, video: float, windows: int, workers: int) -> float:
        """Seconds that so much video takes."""
        finding, scoring = self.finding * video, self.scoring * windows * self.faces
        return max(finding / workers, scoring) if workers else finding + scoring


def dry_run(
    videos: Sequence[NamedVideo],
    predictor: Predictor,
    options: PredictionOptions,
    wanted: Wanted,
    workers: int | None = None,
    say: Callable[[str], None] = print,
) -> int:
    """Say what there is to do, and how long it is likely to take and how much disk; see `predict_videos`.

    Returns:
        How many videos cannot be read.
    """
    for line in headlines(predictor, options):
        say(line)
    failed = 0
    readable: list[tuple[NamedVideo, dict[str, Any]]] = []
    for video in videos:
        if video.live:
            say(f"{shown(video.path)}: goes on until it ends")
            continue
        try:
            with open_source(video.path, options) as source:
                assert isinstance(source, FileSource)
                known = describe(source, predictor.input, options)
        except InputError as error:
            failed += 1
            say(f"{shown(video.path)}: fails: {error}")
            continue
        say(
            f"{shown(video.path)}: {duration(known['seconds'])}, {counted(known['frames'], 'frame')}, "
            f"{counted(known['windows'], 'window')} for each face"
        )
        readable.append((video, known))
    # The first one is measured; those before it turned out to fail.
    pace: MeasuredPace | None = None
    while readable and pace is None:
        measured = readable[0][0]
        try:
            pace = measure(measured, predictor, options)
        except InputError as error:
            failed += 1
            say(f"{shown(measured.path)}: fails: {error}")
            del readable[0]
    if pace is None:
        return failed
    seconds, windows, frames = (sum(known[name] for _, known in readable) for name in ("seconds", "windows", "frames"))
    count = default_workers(len(videos), predictor.device.type) if workers is None else min(workers, len(videos))
    row = len(",".join(TableFormat(predictor.classes, wanted.columns).fields(_row(measured.path, predictor)))) + 2
    rows = windows * max(1.0, pace.faces)
    size = len(videos) * _FIXED + rows * row + frames / options.every * _RECORD * max(1.0, pace.faces)
    size += rows * (4 * predictor.config.embed_dim + 32) * wanted.features
    size += seconds * _ANNOTATED * wanted.products.annotate
    whole = pace.seconds(seconds, windows, count)
    say(
        f"{counted(len(videos) - failed, 'video')}, {duration(seconds)}, {counted(windows, 'window')} for each face: "
        f"about {duration(whole)} here with {counted(count, 'worker')}, {seconds / max(whole, 1e-9):.1f} times real "
        f"time as measured on {shown(measured.path)} with {pace.faces:.1f} faces in a window, and "
        f"{max(size / 1e6, 0.1):.1f} MB of disk"
    )
    return failed


def measure(video: NamedVideo, predictor: Predictor, options: PredictionOptions) -> MeasuredPace:
    """Look at the first seconds of a video, and score what is there; without a face, score noise.

    Where one score a clip is wanted windows are looked at instead: the first of the others comes at the end only.

    Raises:
        InputError: the video, or the file of its boxes, cannot be read.
    """
    finding = scoring = 0.0
    found: list[Window] = []
    events: Iterator[tuple[Any, Any]] = find_windows(
        WindowTask(0, video.path, dataclasses.replace(options, whole=False), predictor.input)
    )
    begun = time.monotonic()
    # The first window waits for frames that all of them wait for: what comes after it is the pace.
    first: float | None = None
    for kind, content in events:
        finding += time.monotonic() - begun
        if kind == "window":
            found.append(content)
            first = finding if first is None else first
        if kind == "window" and finding >= _MEASURED:
            break
        begun = time.monotonic()
    clips = [window.clip for window in found if window.clip is not None][: predictor.batch_size]
    if not clips:
        clips = [np.zeros((1, predictor.input.frames, *predictor.input.size, 3), np.uint8)]
    if options.whole:
        clips = [np.repeat(clip[:1], predictor.input.views, axis=0) for clip in clips]
    for _ in range(2):
        begun = time.monotonic()
        predictor.score(np.stack(clips))
        scoring = (time.monotonic() - begun) / len(clips)
    windows = found[-1].number + 1 if found else 0
    faces = sum(window.clip is not None for window in found) / max(1, windows)
    if windows > 1:
        return MeasuredPace((finding - (first or 0.0)) / ((windows - 1) * options.hop), scoring, faces)
    past = max(found[-1].end - found[0].start, 1e-3) if found else 1.0
    return MeasuredPace(finding / past, scoring, faces)


def _row(video: str, predictor: Predictor) -> Row:
    """A row as long as most."""
    window = Window(0, 1000.0, 1000.0, 1000.0, 1, (100.0,) * 4, 0.9, predictor.input.frames, "partial")
    return Row(video, window, np.full(len(predictor.classes), 1 / len(predictor.classes)))
