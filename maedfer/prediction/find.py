"""From the path of a video to its windows, in whatever process: opens what reads it and what finds faces in it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch

from maedfer.faces.follow import Follower
from maedfer.faces.record import DetectionRecord
from maedfer.prediction.annotate import check_size
from maedfer.prediction.one_video import detector_of, follower_of
from maedfer.prediction.options import PredictionOptions
from maedfer.prediction.rows import Window
from maedfer.prediction.sources import FileSource, LiveSource, open_source
from maedfer.prediction.table import Place
from maedfer.prediction.timeline import IsScored, Timeline, windows_of
from maedfer.prediction.windows import window_count, window_seconds
from maedfer.prediction.workers import WindowTask

# Set when streams are to end after the frame that comes next.
streams_end = threading.Event()


def find_windows(task: WindowTask) -> Iterator[tuple[Any, Any]]:
    """Find the windows of a video; see `maedfer.prediction.workers.Find`.

    Raises:
        InputError: the video, or the file of its boxes, cannot be read.
    """
    options = task.options
    if task.threads:
        torch.set_num_threads(task.threads)
    with contextlib.ExitStack() as opened:
        source = opened.enter_context(contextlib.closing(open_source(task.path, options)))
        if task.annotate:
            check_size(source.size, task.path)
        detector = detector_of(options, source, task.threads)
        # What was found is kept, so that nobody looks for it twice; what a file says needs no copy.
        record = None
        if task.record is not None and detector is not None and detector.needs_pictures:
            record = opened.enter_context(DetectionRecord(task.record))
        follower = follower_of(detector, options, live=task.live, record=record)
        known = {} if detector is None else {"detector": detector.name, "detector_note": detector.note}
        yield "opened", {**describe(source, task.model, options), **known}
        first: float | None = None
        last = 0.0
        for window in _windows(source, follower, task):
            if record is not None:
                record.flush()
            first, last = window.start if first is None else first, window.end
            yield "window", window
        if record is not None:
            # Before anybody takes the video for done.
            record.flush()
        if isinstance(source, FileSource):
            yield "ended", {}
            return
        start = last if first is None else first
        yield "ended", {"seconds": last - start, "start": round(start, 6), "ended": source.ended or "it was ended"}


def describe(source: FileSource | LiveSource, model: Any, options: PredictionOptions) -> dict[str, Any]:
    """What is known of a video before its frames are read: seconds, frames, size, and how many windows it has."""
    size = {"height": source.size[0], "width": source.size[1]}
    if not isinstance(source, FileSource):
        return {**size, "live": True}
    seconds = source.end_time - source.first_time
    window = options.window or window_seconds(model.frames, model.stride)
    count = 1 if options.whole else window_count(seconds, window, options.hop)
    frames = len(source.times)
    return {
        "seconds": seconds,
        "start": round(source.first_time, 6),
        "frames": frames,
        "frames_per_second": round(frames / seconds, 4) if seconds > 0 else None,
        **size,
        "windows": count,
    }


def _windows(source: FileSource | LiveSource, follower: Follower | None, task: WindowTask) -> Iterator[Window]:
    scored = is_there(task.last)
    if isinstance(source, FileSource):
        yield from windows_of(source, follower, task.model, task.options, scored)
        return
    timeline = Timeline(follower, task.model, task.options, scored)
    for frame in source.frames():
        if streams_end.is_set():
            break
        yield from timeline.push(frame)
    yield from timeline.finish()


def is_there(last: Place | None) -> IsScored:
    """Tell of a window and a face whether their row is in a table whose last row stands at `last`."""

    def scored(number: int, face: int | None) -> bool:
        if last is None:
            return False
        # Of a window, all that is there of it must be.
        return number < last[0] or (number == last[0] and face is not None and face <= last[1])

    return scored
