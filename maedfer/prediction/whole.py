"""One score a clip: the frames that an evaluation would show a model, of the whole clip or of each face in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from maedfer.data.sampling import view_indices
from maedfer.faces.follow import Follower
from maedfer.prediction.clips import Cutter, Found, IsScored, chosen, nobody, whole_frame
from maedfer.prediction.options import PredictionOptions
from maedfer.prediction.rows import Span, Window, number_after
from maedfer.prediction.sources import FileSource
from maedfer.prediction.windows import ModelInput

# Pictures that are read at once.
_AT_ONCE = 8


def whole_windows(
    source: FileSource,
    follower: Follower | None,
    model: ModelInput,
    options: PredictionOptions,
    scored: IsScored,
    progress: Callable[[float], None] | None = None,
) -> Iterator[Window]:
    """One window for each face of a clip, in the order in which they appear, from its first frame to its last.

    Frames are sampled as `maedfer evaluate` samples them (`maedfer.data.sampling.view_indices`), of those in which the
    face is. Without a follower the clip is one face, and what the model sees is what an evaluation shows it.

    Args: as of `windows_of`.

    Raises:
        InputError: the video cannot be read to its end.
    """
    faces, where = [], {}
    before: Window | None = None
    for face, found, frames in _everybody(source, follower, model, progress):
        faces.append(found)
        where[face] = frames
    cutter = Cutter(model, options)
    # A file of boxes may number faces otherwise; tables have rows at rising times, and are gone on with by these.
    for found in sorted(chosen(faces, options.faces), key=lambda one: (where[one.face][0], one.face)):
        frames = where[found.face]
        span = _span(source, frames)
        number = number_after(before, span.start, span.end, found.face)
        if not scored(number, found.face):
            found.clip = _clip(source, frames[_views(len(frames), model)], found.boxes, follower is not None, cutter)
        before = found.window(number, span, "ok")
        yield before
    if not faces:
        yield nobody(0, _span(source, np.arange(len(source.times))))


def _everybody(
    source: FileSource, follower: Follower | None, model: ModelInput, progress: Callable[[float], None] | None
) -> Iterator[tuple[int, Found, np.ndarray]]:
    """Everybody with their boxes in the frames that are sampled, and the frames in which they are."""
    count = len(source.times)
    if follower is None:
        samples = _views(count, model).size
        yield 1, Found(1, np.tile(whole_frame(source.size), (samples, 1)), None, model.frames), np.arange(count)
        return
    for frame in source.frames(follower.needs_picture):
        follower.push(frame)
        if progress is not None:
            progress(frame.time)
    follower.finish()
    for track in follower.tracks():
        frames = np.flatnonzero(track.present(source.times))
        if len(frames):
            times = source.times[frames[_views(len(frames), model)].reshape(-1)]
            boxes = track.boxes_at(times).astype(np.float64)
            yield track.face, Found(track.face, boxes, track.scores_at(times), model.frames), frames


def _span(source: FileSource, frames: np.ndarray) -> Span:
    """From the first to the last of some frames, and the one in the middle."""
    after = frames[-1] + 1
    end = float(source.times[after]) if after < len(source.times) else source.shown_until
    return Span(float(source.times[frames[0]]), end, float(source.times[frames[len(frames) // 2]]))


def _views(count: int, model: ModelInput) -> np.ndarray:
    """Which of some frames are sampled: int64 [V, T]."""
    return np.stack(view_indices(count, model.frames, model.stride, model.views))


def _clip(source: FileSource, places: np.ndarray, boxes: np.ndarray, cut: bool, cutter: Cutter) -> np.ndarray:
    """What the model sees: uint8 [V, T, H, W, 3], of frames [V, T] with their boxes [V * T, 4]."""
    flat, first = np.unique(places, return_index=True)
    crops = {}
    for at in range(0, len(flat), _AT_ONCE):
        some = flat[at : at + _AT_ONCE]
        for place, picture, row in zip(some.tolist(), source.read(source.first + some), first[at:], strict=False):
            crops[place] = cutter(picture, boxes[row] if cut else None)
    return np.stack([np.stack([crops[place] for place in view]) for view in places.tolist()])
