"""From a video to what a model looks at in it over time: the windows of one face, with a map each."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from maedfer.data.video.base import shown
from maedfer.errors import InputError
from maedfer.evaluation.calibration import calibrated
from maedfer.explanation.attention import attention_maps
from maedfer.explanation.clips import as_batch, encoder_config, evaluating
from maedfer.faces.record import DetectionRecord
from maedfer.models import MAEDFER, ClipSettings, LGIFormer
from maedfer.prediction.annotate import box_source
from maedfer.prediction.one_video import detector_of, follower_of
from maedfer.prediction.options import PredictionOptions
from maedfer.prediction.overlay import Box
from maedfer.prediction.rows import Row, Window
from maedfer.prediction.sources import FileSource
from maedfer.prediction.timeline import windows_of
from maedfer.prediction.windows import EPSILON, ModelInput, sample_times, window_seconds

# Windows that reconstructions are kept of for a film.
_FILMED = 60


@dataclass(frozen=True)
class Moment:
    """A window of one face, and where the model looked in it.

    Args:
        window: times, box and status, without its clip.
        times: float64 [T], when the frames that the model was shown are shown; where the face is away in one of them,
            the nearest one in which it is stands in for it.
        grids: float32 [*grid] of each kind of map.
        probabilities: float64 [classes]; None for a model without classes.
    """

    window: Window
    times: np.ndarray
    grids: dict[str, np.ndarray]
    probabilities: np.ndarray | None = None


@dataclass
class FaceCourse:
    """A face of a video over time.

    Args:
        face: its number.
        moments: its windows, by time.
        best: the one that pictures are made of, and its clip, uint8 [T, H, W, 3].
        clips: clips of windows that do not overlap, with their times, for a film of reconstructions.
        boxes: by number of the frame, where it is in every frame; None in the place of a box where frames are crops.
    """

    face: int
    moments: list[Moment] = field(default_factory=list)
    best: tuple[Moment, np.ndarray] | None = None
    clips: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    boxes: dict[int, Box | None] = field(default_factory=dict)

    def at(self, kind: str, time: float) -> np.ndarray | None:
        """The map of a kind at a moment: float32 [h, w]; None where no window tells of it.

        Within a window it is linear in time between the middles of cubes; where windows overlap, each counts the more
        the nearer the moment is to its middle.
        """
        total, weight = None, 0.0
        for moment in self.moments:
            start, end = moment.window.start, max(moment.window.end, float(moment.times[-1]))
            if not start - EPSILON <= time <= end + EPSILON:
                continue
            half = max((end - start) / 2, EPSILON)
            share = max(1e-3, 1 - abs(time - (start + end) / 2) / half)
            grid = moment.grids[kind]
            middles = moment.times.reshape(len(grid), -1).mean(1)
            value = _between(middles, grid, time)
            total = share * value if total is None else total + share * value
            weight += share
        return None if total is None else (total / weight).astype(np.float32)

    def probabilities_at(self, time: float) -> np.ndarray | None:
        """Class probabilities of the window whose middle is nearest: float64 [classes]."""
        nearest = min(self.moments, key=lambda moment: abs(moment.window.time - time))
        return nearest.probabilities


def model_input(model: LGIFormer | MAEDFER) -> ModelInput:
    """What clips a model takes, and how they are read."""
    frames, height, width = encoder_config(model).clip_size
    settings = model.clip_settings or ClipSettings()
    return ModelInput(frames, (height, width), settings.stride, settings.fit, settings.views)


def look_at_video(
    model: LGIFormer | MAEDFER,
    video: str | Path,
    options: PredictionOptions,
    *,
    block: int | None = None,
    head: int | None = None,
    at: float | None = None,
    maps: bool = True,
    keep_clips: bool = False,
    progress: Callable[[float], None] | None = None,
) -> tuple[list[FaceCourse], np.ndarray]:
    """Find the faces of a video as a prediction does, and look at what a model looks at in each window of them.

    Args:
        model: a classifier or an autoencoder, of frames in three channels.
        video: a file, or a folder of frames.
        options: how it is looked at; with faces="largest" the face that has the most windows is kept.
        block, head: of the intra-region map (a ViT's attention); the last block, and the mean over heads, when None.
        at: seconds at which a window is wanted for pictures; when None, the one whose class is the most probable, or
            the one in the middle for a model without classes.
        maps: whether there are to be attention maps.
        keep_clips: whether clips of windows are kept, of the first 60 that do not overlap.
        progress: is told the share of the video that has been looked at.

    Returns:
        The faces, with a window at least each; and when the frames of the file are shown, float64, in seconds.

    Raises:
        InputError: the video cannot be read to its end, or no face is found in it.
    """
    takes = model_input(model)
    with contextlib.ExitStack() as opened:
        folder = opened.enter_context(tempfile.TemporaryDirectory(prefix="maedfer-"))
        source = opened.enter_context(FileSource(video, options.fps, options.between))
        detector = detector_of(options, source)
        record = Path(folder, "boxes.csv") if detector is not None and detector.needs_pictures else None
        seconds = max(source.end_time - source.first_time, EPSILON)
        wanted = at if at is not None or _has_classes(model) else (source.first_time + source.end_time) / 2
        faces: dict[int, FaceCourse] = {}

        def tell(time: float) -> None:
            if progress is not None:
                progress(min(1.0, (time - source.first_time) / seconds))

        with DetectionRecord(record) as kept:
            follower = follower_of(detector, options, record=kept)
            everybody = dataclasses.replace(options, faces="all") if options.faces == "largest" else options
            for window in windows_of(source, follower, takes, everybody, progress=tell):
                if window.clip is None or window.face is None:
                    continue
                clip = window.clip[0]
                times = _sample_times(window, source.times, takes, options)
                moment = _look(model, window, clip, times, block, head, maps)
                _keep(faces.setdefault(window.face, FaceCourse(window.face)), moment, clip, wanted, keep_clips)
        chosen = _chosen(list(faces.values()), options)
        if not chosen:
            where = "" if options.between is None else " between {:g} and {:g} seconds".format(*options.between)
            raise InputError(
                f"{shown(video)}: no face was found in it{where}: give --no-crop if its frames are crops of a face "
                "already, --boxes FILE if you know where it is, or a lower --threshold"
            )
        rows = [Row(str(video), moment.window, None) for one in chosen for moment in one.moments]
        boxes = box_source(rows, video, source.all_times, options, record, opened)
        for index, time in enumerate(source.times.tolist(), source.first):
            there = boxes.at(index, time)
            for one in chosen:
                if one.face in there:
                    one.boxes[index] = there[one.face]
        return chosen, source.all_times


def _look(
    model: LGIFormer | MAEDFER,
    window: Window,
    clip: np.ndarray,
    times: np.ndarray,
    block: int | None,
    head: int | None,
    maps: bool,
) -> Moment:
    grids = {}
    if maps:
        found = attention_maps(model, clip, blocks=[block or encoder_config(model).depth])
        for kind in main_kinds(model):
            grids[kind] = found.map(kind, None, head=None if kind == "rollout" else head) / found.even(kind)
    return Moment(dataclasses.replace(window, clip=None), times, grids, probabilities_of(model, clip))


def main_kinds(model: LGIFormer | MAEDFER) -> tuple[str, str]:
    """The maps that are followed over time."""
    return ("attention" if encoder_config(model).architecture == "vit" else "intra_region", "rollout")


def probabilities_of(model: LGIFormer | MAEDFER, clip: np.ndarray) -> np.ndarray | None:
    """Class probabilities of a clip, calibrated where the model holds a temperature: float64 [classes]."""
    if not _has_classes(model):
        return None
    with evaluating(model):
        logits = model(as_batch(model, clip)).float().cpu()
    settings = model.clip_settings or ClipSettings()
    found: np.ndarray = calibrated(logits[:, None].numpy(), settings.temperature or 1.0)[0]
    return found


def _has_classes(model: LGIFormer | MAEDFER) -> bool:
    return isinstance(model, LGIFormer) and model.config.num_classes > 0


def _keep(course: FaceCourse, moment: Moment, clip: np.ndarray, wanted: float | None, keep_clip: bool) -> None:
    course.moments.append(moment)
    best = course.best
    if best is None or _rank(moment, wanted) > _rank(best[0], wanted):
        course.best = (moment, clip)
    after = not course.clips or moment.times[0] > course.clips[-1][1][-1]
    if keep_clip and after and len(course.clips) < _FILMED:
        course.clips.append((clip, moment.times))


def _rank(moment: Moment, wanted: float | None) -> tuple[bool, float]:
    """What a window is worth for pictures: whole ones first."""
    whole = moment.window.status == "ok"
    if wanted is None:
        assert moment.probabilities is not None
        return whole, float(moment.probabilities.max())
    return whole, -abs(moment.window.time - wanted)


def _chosen(faces: Sequence[FaceCourse], options: PredictionOptions) -> list[FaceCourse]:
    if options.faces == "largest":
        # The one that is the largest in most windows is not always there: who is seen longest, and is large.
        faces = sorted(faces, key=lambda one: -sum(_area(moment) for moment in one.moments))[:1]
    return sorted(faces, key=lambda one: one.face)


def _area(moment: Moment) -> float:
    box = moment.window.box
    return 0.0 if box is None else box[2] * box[3]


def _sample_times(window: Window, times: np.ndarray, model: ModelInput, options: PredictionOptions) -> np.ndarray:
    """When the frames of a window are shown: those nearest to its samples, the earlier one of two."""
    length = options.window or window_seconds(model.frames, model.stride)
    samples = sample_times(float(times[0]) + window.number * options.hop, length, model.frames)
    middles = (times[:-1] + times[1:]) / 2 + EPSILON
    return np.asarray(times[np.searchsorted(middles, samples)])


def _between(middles: np.ndarray, grid: np.ndarray, time: float) -> np.ndarray:
    """The map [t, h, w] at a time, linear between the middles of cubes and constant beyond them."""
    after = int(np.searchsorted(middles, time))
    if after == 0 or after == len(middles):
        return np.asarray(grid[min(after, len(grid) - 1)], np.float64)
    span = middles[after] - middles[after - 1]
    share = (time - middles[after - 1]) / span if span > 0 else 0.0
    return (1 - share) * grid[after - 1] + share * grid[after]
