"""From a video, or from frames as they come, to scored rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from maedfer.errors import InputError
from maedfer.faces.boxes import read_boxes
from maedfer.faces.detector import open_detector
from maedfer.faces.follow import Follower
from maedfer.faces.frame import Detector, Frame
from maedfer.faces.record import DetectionRecord
from maedfer.prediction.options import PredictionOptions
from maedfer.prediction.rows import Row, Window, score_windows
from maedfer.prediction.sources import FileSource, LiveSource
from maedfer.prediction.timeline import Timeline, windows_of
from maedfer.prediction.windows import ModelInput


class ClipScorer(Protocol):
    """What scores windows: a `maedfer.prediction.Predictor`."""

    input: ModelInput
    batch_size: int

    def score(self, clips: np.ndarray) -> Any:
        """Probabilities and features of clips."""
        ...


def detector_of(
    options: PredictionOptions, source: FileSource | LiveSource | None = None, threads: int = 0
) -> Detector | None:
    """Who finds faces: a detector, a file of boxes, or nobody where frames are face crops already.

    Args:
        options: `crop`, `detector`, `boxes` and `threshold` of them.
        source: the video, which a file of boxes may name, and whose times it may speak of.
        threads: of the detector; 0 = as many as there are processors.

    Raises:
        InputError: a file cannot be read.
    """
    if not options.crop:
        return None
    if options.boxes is not None:
        times = source.all_times if isinstance(source, FileSource) else None
        return read_boxes(options.boxes, None if source is None else source.name, times)
    return open_detector(options.detector, threshold=options.threshold, threads=threads)


def follower_of(
    detector: Detector | None, options: PredictionOptions, *, live: bool = False, record: DetectionRecord | None = None
) -> Follower | None:
    """Who follows the faces that a detector finds; None where there is none."""
    return None if detector is None else Follower(detector, every=options.every, live=live, record=record)


def scored_rows(scorer: ClipScorer, windows: Iterable[Window], video: str) -> Iterator[tuple[Row, np.ndarray | None]]:
    """Score windows as they come, `batch_size` of them at once.

    Args:
        scorer: the model.
        windows: in the order of the rows.
        video: name of the video in the rows.

    Returns:
        Rows in the same order, each with the features of its window, float32 [C], None where it has no clip.
    """
    waiting: list[Window] = []
    count = 0
    for window in windows:
        waiting.append(window)
        count += window.clip is not None
        # Windows without a clip wait for nobody.
        if count in (0, scorer.batch_size):
            yield from _score(scorer, waiting, video)
            waiting, count = [], 0
    yield from _score(scorer, waiting, video)


def rows_of_file(
    scorer: ClipScorer,
    source: FileSource,
    options: PredictionOptions,
    progress: Callable[[float], None] | None = None,
    record: str | Path | None = None,
) -> tuple[list[Row], Detector | None]:
    """All rows of a video, and who found the faces in it.

    Args:
        scorer: the model.
        source: the video.
        options: how it is looked at.
        progress: is told the share of the video that has been looked at.
        record: file to be made, of what the detector finds.

    Raises:
        InputError: it cannot be read to its end.
    """
    detector = detector_of(options, source)
    length = max(source.end_time - source.first_time, 1e-9)

    def tell(time: float) -> None:
        if progress is not None:
            progress(min(1.0, (time - source.first_time) / length))

    with DetectionRecord(None if detector is None or not detector.needs_pictures else record) as kept:
        windows = windows_of(source, follower_of(detector, options, record=kept), scorer.input, options, progress=tell)
        rows = [row for row, _ in scored_rows(scorer, windows, source.name)]
    if progress is not None:
        progress(1.0)
    return rows, detector


def stream_rows(
    scorer: ClipScorer,
    frames: Iterable[Frame | tuple[float, np.ndarray]],
    options: PredictionOptions,
    *,
    name: str = "",
    live: bool = True,
) -> Iterator[Row]:
    """Rows of frames as they come, each as soon as its window has closed.

    Args:
        scorer: the model.
        frames: frames, or times in seconds with pictures uint8 [H, W, 3], RGB.
        options: how they are looked at.
        name: of the video in the rows.
        live: whether boxes must not wait for what is to come; otherwise rows come about two seconds later, and are
            those of a file.

    Raises:
        InputError: options that streams cannot have; on the way, times that do not rise, or what is no picture.
    """
    for option in ("whole", "between", "fps"):
        if getattr(options, option):
            raise InputError(f"{option} is for files: a stream is looked at in windows, from its first frame on")
    timeline = Timeline(follower_of(detector_of(options), options, live=live), scorer.input, options)

    def rows() -> Iterator[Row]:
        for frame in checked_frames(frames):
            yield from (row for row, _ in _score(scorer, timeline.push(frame), name))
        yield from (row for row, _ in _score(scorer, timeline.finish(), name))

    return rows()


def checked_frames(frames: Iterable[Frame | tuple[float, np.ndarray]]) -> Iterator[Frame]:
    """Frames, numbered from 0.

    Raises:
        InputError: times that do not rise, or what is no picture or not of the size of the first one.
    """
    last, shape = -np.inf, None
    for index, given in enumerate(frames):
        time, picture = (given.time, given.picture) if isinstance(given, Frame) else given
        time = float(time)
        if not np.isfinite(time) or time <= last:
            raise InputError(f"frame {index} is at {time:.6g} s and the one before at {last:.6g} s: times must rise")
        if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.ndim != 3:
            what = (
                f"{picture.dtype} {list(picture.shape)}" if isinstance(picture, np.ndarray) else type(picture).__name__
            )
            raise InputError(f"frame {index} must be a picture, uint8 [H, W, 3] in RGB, got {what}")
        shape = picture.shape if shape is None else shape
        if picture.shape != shape or shape[2] != 3 or 0 in shape:
            raise InputError(
                f"frame {index} must be a picture, uint8 [H, W, 3] in RGB, as large as the first one "
                f"{list(shape)}, got {list(picture.shape)}"
            )
        yield Frame(index, time, picture)
        last = time


def _score(scorer: ClipScorer, windows: list[Window], video: str) -> Iterator[tuple[Row, np.ndarray | None]]:
    for window, probabilities, features in score_windows(scorer.score, windows):
        yield Row(video, window, probabilities), features
