"""From a video, or from frames as they come, to scored rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maedfer.data.video import open_video
from maedfer.errors import InputError
from maedfer.faces.boxes import read_boxes
from maedfer.faces.frame import Detections, Frame
from maedfer.faces.record import DetectionRecord
from maedfer.prediction import one_video
from maedfer.prediction.one_video import checked_frames, detector_of, follower_of, rows_of_file, scored_rows
from maedfer.prediction.options import PredictionOptions, options_from
from maedfer.prediction.predictor import Predictor, open_predictor
from maedfer.prediction.rows import Row, Window
from maedfer.prediction.sources import FileSource
from maedfer.prediction.timeline import windows_of
from maedfer.synthetic import write_scene
from tests.prediction.models import CONFIG, classifier
from tests.prediction.scenes import Knowing, Scene, still

SECONDS = 15.0


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A video of two people, one of whom is away from the ninth second to the thirteenth; and the truth about it."""
    video = tmp_path_factory.mktemp("scene") / "two.mp4"
    return video, write_scene(video, SECONDS)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return open_predictor(classifier(), device="cpu")


def same(one: Row, other: Row) -> bool:
    """Whether two rows are the same, bit for bit."""
    alike = (one.probabilities is None) == (other.probabilities is None)
    if one.probabilities is not None and other.probabilities is not None:
        alike = one.probabilities.tobytes() == other.probabilities.tobytes()
    return alike and one.window == other.window and one.video == other.video


def test_rows_of_a_video(scene: tuple[Path, Path], predictor: Predictor) -> None:
    options = options_from(boxes=str(scene[1]), window=2.56)
    told: list[float] = []
    with FileSource(scene[0]) as source:
        rows, detector = rows_of_file(predictor, source, options, told.append)
    assert detector is not None and not detector.needs_pictures
    starts = sorted({row.window.start for row in rows})
    assert starts == pytest.approx(np.arange(13))
    faces = {start: [row.window.face for row in rows if row.window.start == start] for start in starts}
    # The second one is away, and comes back under the number that the file gives.
    assert faces[0] == [1, 2] and faces[10] == [1] and faces[12] == [1, 2]
    assert all(row.probabilities is not None and row.window.clip is None for row in rows)
    assert told == sorted(told) and told[-1] == 1.0 and len(told) > 300
    rows_again, _ = rows_of_file(predictor, FileSource(scene[0]), options)
    assert all(same(one, other) for one, other in zip(rows, rows_again, strict=True))


@pytest.mark.parametrize("batch_size", [3, 50])
def test_rows_do_not_depend_on_batches(scene: tuple[Path, Path], predictor: Predictor, batch_size: int) -> None:
    options = options_from(boxes=str(scene[1]))
    rows, _ = rows_of_file(predictor, FileSource(scene[0]), options)
    together = open_predictor(classifier(), device="cpu", batch_size=batch_size)
    others, _ = rows_of_file(together, FileSource(scene[0]), options)
    assert all(same(one, other) for one, other in zip(rows, others, strict=True))


def test_a_stream_that_may_wait_has_the_rows_of_a_file(scene: tuple[Path, Path], predictor: Predictor) -> None:
    with open_video(scene[0]) as reader:
        times, pictures = reader.times, reader.read(range(len(reader)))
    rows, _ = rows_of_file(predictor, FileSource(scene[0]), options_from(boxes=str(scene[1])))
    given = zip(times.tolist(), pictures, strict=True)
    streamed = list(predictor.stream(given, live=False, name=str(scene[0]), boxes=str(scene[1])))
    assert len(rows) == len(streamed) > 20
    assert all(same(one, other) for one, other in zip(rows, streamed, strict=True))
    frames = (
        Frame(index + 7, time, picture) for index, (time, picture) in enumerate(zip(times, pictures, strict=True))
    )
    whole_frames = list(predictor.stream(frames, crop=False))
    without, _ = rows_of_file(predictor, FileSource(scene[0]), options_from(crop=False))
    assert [row.window for row in whole_frames] == [row.window for row in without]


def test_a_live_stream_gives_rows_as_windows_close(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Scene(np.arange(100) / 25, [still(4, 12), still(34, 16, (2.0, 9.0))])
    monkeypatch.setattr(one_video, "detector_of", lambda options, source=None, threads=0: Knowing(made))
    given: list[float] = []

    def camera() -> Any:
        for frame in made.frames():
            given.append(frame.time)
            yield frame.time, frame.picture

    delays = []
    for row in predictor.stream(camera(), hop=0.5, window=0.8):
        assert row.window.face is not None and row.probabilities is not None
        delays.append(given[-1] - row.window.end)
    assert len(delays) > 8 and max(delays) <= 0.28


@pytest.mark.parametrize("batch_size", [1, 2, 10])
def test_windows_are_scored_in_batches_and_come_in_their_order(batch_size: int) -> None:
    class Scorer:
        input = None
        sizes: list[int] = []  # noqa: RUF012

        def __init__(self) -> None:
            self.batch_size, self.sizes = batch_size, []

        def score(self, clips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            self.sizes.append(len(clips))
            return clips.reshape(len(clips), -1)[:, :2] / 10, clips.reshape(len(clips), -1)[:, :3]

    def window(number: int, empty: bool) -> Window:
        clip = None if empty else np.full((1, 1, 1, 1, 3), number, np.uint8)
        return Window(number, number, number + 1, number + 0.5, None if empty else 1, None, None, 0, "ok", clip)

    windows = [window(number, empty=number % 3 == 0) for number in range(20)]
    scorer = Scorer()
    found = list(scored_rows(scorer, windows, "name"))  # type: ignore[arg-type]
    assert [row.window.start for row, _ in found] == list(range(20))
    assert sum(scorer.sizes) == 13 and max(scorer.sizes) == min(batch_size, 13)
    for number, (row, features) in enumerate(found):
        assert row.window.clip is None and row.video == "name"
        assert (row.probabilities is None) == (features is None) == (number % 3 == 0)
        assert row.probabilities is None or row.probabilities.tolist() == [number / 10] * 2


def test_nothing_is_kept_waiting_by_windows_without_a_face(predictor: Predictor) -> None:
    taken: list[int] = []

    def windows() -> Any:
        for number in range(5):
            taken.append(number)
            yield Window(number, number, 1, 1, None, None, None, 0, "no_face")

    rows = scored_rows(predictor, windows(), "")
    next(rows)
    assert taken == [0]


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([(0.0, 1), (0.0, 1)], "frame 1 is at 0 s and the one before at 0 s: times must rise"),
        ([(0.0, 1), (-1.0, 1)], "frame 1 is at -1 s and the one before at 0 s"),
        ([(float("nan"), 1)], "frame 0 is at nan s"),
        ([(0.0, None)], r"frame 0 must be a picture, uint8 \[H, W, 3\] in RGB, got NoneType"),
        ([(0.0, np.zeros((4, 4, 3)))], r"frame 0 must be a picture, .* got float64 \[4, 4, 3\]"),
        ([(0.0, np.zeros((4, 4, 4), np.uint8))], r"frame 0 must be a picture, .*\[4, 4, 4\]"),
        ([(0.0, 1), (1.0, np.zeros((4, 5, 3), np.uint8))], r"as large as the first one \[4, 4, 3\], got \[4, 5, 3\]"),
    ],
)
def test_frames_that_are_none_are_told_of(frames: list[tuple[float, Any]], message: str) -> None:
    picture = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(InputError, match=message):
        list(checked_frames([(time, picture if isinstance(one, int) else one) for time, one in frames]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"whole": True}, "whole is for files"),
        ({"between": (0, 1)}, "between is for files"),
        ({"fps": 25}, "fps is for files"),
        ({"hopp": 1}, "unknown key 'hopp': did you mean 'hop'?"),
        ({"hop": 0}, "hop must be above 0, got 0"),
        ({"precision": "fp32"}, "precision is chosen when a model is loaded: give it to open_predictor"),
        ({"crop": False, "detector": "a.onnx"}, "crop=False and detector do not go together: leave one"),
        ({"boxes": "a.csv", "detector": "a.onnx"}, "boxes and detector do not go together: leave one"),
        ({"boxes": "absent.csv"}, "absent.csv"),
    ],
)
def test_options_that_streams_cannot_have_are_told_of_at_once(
    predictor: Predictor, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        predictor.stream([], **options)


def test_nobody_finds_faces_where_there_are_crops() -> None:
    assert detector_of(options_from(crop=False)) is None
    made: Callable[..., PredictionOptions] = options_from
    assert made(PredictionOptions(hop=0.5), faces=2) == PredictionOptions(hop=0.5, faces=2)


def test_a_stream_without_frames_has_no_rows(predictor: Predictor) -> None:
    assert list(predictor.stream([], crop=False)) == []
    size = CONFIG.clip_size
    (row,) = predictor.stream([(3.0, np.zeros((size[1], size[2], 3), np.uint8))], crop=False)
    assert (row.window.start, row.window.end, row.window.frames, row.window.status) == (3.0, 3.04, 1, "partial")


class Truth:
    """A detector that knows the truth about a video, and counts the frames that it was shown."""

    name, note, needs_pictures = "truth", "", True

    def __init__(self, file: Path) -> None:
        self.boxes, self.seen = read_boxes(file), 0

    def detect(self, frames: Sequence[Frame]) -> list[Detections]:
        self.seen += len(frames)
        assert all(frame.picture is not None for frame in frames)
        return [Detections(found.boxes, found.scores) for found in self.boxes.detect(frames)]


@pytest.mark.parametrize("until", [1, 17])
def test_a_run_that_was_killed_goes_on_with_the_same_windows(
    scene: tuple[Path, Path], predictor: Predictor, tmp_path: Path, until: int
) -> None:
    options = options_from(every=5)

    def windows(record: Path, scored: Callable[[float, int | None], bool], most: int) -> tuple[list[Window], int, int]:
        """Windows up to some number of them; frames that were looked at; pictures that were read."""
        detector, read = Truth(scene[1]), [0]
        with FileSource(scene[0]) as source, DetectionRecord(record) as kept:
            original = source.reader.read
            source.reader.read = lambda indices: (read.__setitem__(0, read[0] + len(indices)), original(indices))[1]  # type: ignore[method-assign, func-returns-value]
            follower = follower_of(detector, options, record=kept)
            found = []
            for window in windows_of(source, follower, predictor.input, options, scored):
                found.append(window)
                kept.flush()
                if len(found) == most:
                    break
        return found, detector.seen, read[0]

    whole, seen, _ = windows(tmp_path / "whole.csv", lambda number, face: False, 99)
    assert len(whole) > 22 and {window.face for window in whole} == {1, 2, 3}
    windows(tmp_path / "part.csv", lambda number, face: False, until)
    last = (whole[until - 1].number, whole[until - 1].face or 0)
    again, seen_again, read = windows(tmp_path / "part.csv", lambda number, face: (number, face or 0) <= last, 99)
    for number, (one, other) in enumerate(zip(whole, again, strict=True)):
        assert dataclasses.replace(one, clip=None) == dataclasses.replace(other, clip=None)
        assert (other.clip is None) == (number < until)
        if number >= until:
            np.testing.assert_array_equal(one.clip, other.clip)
    assert (tmp_path / "whole.csv").read_bytes() == (tmp_path / "part.csv").read_bytes()
    # What was looked at before is neither looked at nor read again.
    frames = last[0] * 25
    assert seen_again <= seen - frames / 5 and read <= 375 - frames + 20
