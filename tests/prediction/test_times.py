"""Times in tables are presentation times of the video, read here by PyAV alone."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import pandas
import pytest

import maedfer
from maedfer.cli import main
from maedfer.prediction import open_predictor
from maedfer.prediction.predictor import Predictor
from tests.data.media import pictures, write_video
from tests.prediction.models import CONFIG, classifier

# Rates vary in all of them, or are not what their headers say.
REAL = [
    "pyfeat/face_noface.mov",
    "pyfeat/noface_face.mov",
    "pliers/obama_speech.mp4",
    "video_retalking/1.mp4",
    "pyfeat/no_face.mp4",
    "containers/single_face_flv1.flv",
]
WINDOW = CONFIG.clip_size[0] * 2 / 25


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return open_predictor(classifier(), device="cpu", precision="fp32")


def shown_at(path: Path) -> list[float]:
    """When frames are shown, and when the last one has been."""
    with av.open(str(path)) as file:
        start = (file.start_time or 0) / 1e6
        frames = list(file.decode(video=0))
        times = [float(frame.time or 0) - start for frame in frames]
        last = float((frames[-1].duration or 0) * (frames[-1].time_base or 0))
    return [*times, times[-1] + (last or float(np.median(np.diff(times))))]


def expected(shown: Sequence[float], hop: float, window: float = WINDOW, frames: int = 4) -> list[tuple[float, ...]]:
    """Start, end and time of each window: of the frames nearest to its beginning, end and middle."""

    def nearest(moment: float, least: int = 0) -> int:
        return max(least, min(range(len(shown)), key=lambda n: (round(abs(shown[n] - moment), 6), n)))

    found: list[tuple[float, ...]] = []
    for number in itertools.count():
        start = shown[0] + number * hop
        if number and start + window > shown[-1] + hop * 1e-6:
            return found
        last = nearest(start + window * (frames - 1) / frames)
        found.append(
            (shown[nearest(start)], shown[nearest(start + window, last + 1)], shown[nearest(start + window / 2)])
        )
    return found


def near(moments: Sequence[float], shown: Sequence[float]) -> bool:
    """Whether each of them is one of the times at which frames are shown, to a millisecond."""
    return bool((np.abs(np.subtract.outer(moments, shown)).min(1) <= 1e-3).all())


@pytest.mark.parametrize("name", REAL)
def test_times_of_real_clips_are_presentation_times(
    clips: Path, predictor: Predictor, name: str, tmp_path: Path
) -> None:
    shown = shown_at(clips / name)
    boxes = tmp_path / "boxes.csv"
    # Nobody, one face, two of them.
    lines = [f"{time},{face},{20 * face},8,40,40" for face in (1, 2) for time in shown[20 * face : -1]]
    boxes.write_text("\n".join(["time,face,x,y,width,height", *lines]))
    found = predictor.predict(clips / name, boxes=str(boxes), hop=0.3)
    assert {row.window.face for row in found.rows} == {None, 1, 2}
    spans = {row.window.number: (row.window.start, row.window.end, row.window.time) for row in found.rows}
    np.testing.assert_allclose(list(spans.values()), expected(shown, 0.3), rtol=0, atol=1e-3)
    assert list(spans) == list(range(len(spans)))
    read = maedfer.Prediction.load(found.save(tmp_path))
    for row, again in zip(found.rows, read.rows, strict=True):
        assert (row.window.number, row.window.face) == (again.window.number, again.window.face)
        assert near([again.window.start, again.window.end, again.window.time], shown)
        assert again.window.start <= again.window.time < again.window.end


@pytest.mark.parametrize("hop", [0.5, 0.02])
def test_rows_of_a_varying_rate_lie_on_its_frames(predictor: Predictor, hop: float, tmp_path: Path) -> None:
    """By the command, in a table that is torn and gone on with; pauses are longer than windows, frames than hops."""
    steps = np.random.default_rng(4).integers(12, 90, 90)
    steps[[30, 60]] = 700
    times = (40 + np.cumsum(steps)).tolist()
    video = write_video(tmp_path / "a.mkv", pictures(len(times)), rate=1000, times=times)
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("frame,face,x,y,width,height\n" + "".join(f"{n},{n // 45 + 1},8,8,40,40\n" for n in range(20, 90)))
    classifier().save_pretrained(tmp_path / "model")
    shown, out = shown_at(video), tmp_path / "out"
    command = ["predict", video, "--checkpoint", tmp_path / "model", "--out", out, "--boxes", boxes, "--hop", hop,
               "--precision", "fp32", "--no-plot"]  # fmt: skip
    assert main([str(word) for word in command]) == 0
    whole = (out / "a.csv").read_bytes()
    table = pandas.read_csv(out / "a.csv")
    assert near(table[["start", "end", "time"]].to_numpy().ravel(), shown)
    assert (table["start"] < table["end"]).all() and table["start"].is_monotonic_increasing
    spans = expected(shown, hop)
    assert table["face"].nunique() == 2 and table["face"].isna().any()
    # In some windows there are both faces.
    rows = predictor.predict(video, boxes=str(boxes), hop=hop).rows
    assert [row.window.face for row in rows] == [None if np.isnan(face) else face for face in table["face"]]
    np.testing.assert_allclose(
        table[["start", "end", "time"]], [spans[row.window.number] for row in rows], rtol=0, atol=1e-3
    )
    assert rows[-1].window.number == len(spans) - 1
    summary = (out / "a.json").read_text()
    assert f'"windows": {len(spans)},' in summary
    with open(out / "a.part.json", "w") as file:
        file.write('{"settings": ' + summary.partition('"settings": ')[2])
    (out / "a.json").unlink()
    (out / "a.csv").write_bytes(whole[: len(whole) * 2 // 3])
    assert main([str(word) for word in command]) == 0 and (out / "a.csv").read_bytes() == whole


def test_one_score_a_clip_spans_the_frames_of_its_face(predictor: Predictor, tmp_path: Path) -> None:
    times = np.cumsum(np.random.default_rng(5).integers(12, 90, 40)).tolist()
    video = write_video(tmp_path / "a.mkv", pictures(len(times)), rate=1000, times=times)
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("frame,face,x,y,width,height\n" + "".join(f"{n},1,8,8,40,40\n" for n in range(10, 31)))
    shown = shown_at(video)
    (row,) = predictor.predict(video, boxes=str(boxes), whole=True).rows
    assert (row.window.start, row.window.end, row.window.time) == pytest.approx((shown[10], shown[31], shown[20]))
    # What is looked at ends between two frames: the last one is shown for longer.
    (row,) = predictor.predict(video, crop=False, whole=True, between=(shown[5], shown[20] + 0.001)).rows
    assert (row.window.start, row.window.end, row.window.time) == pytest.approx((shown[5], shown[21], shown[13]))
    (row,) = predictor.predict(video, crop=False, window=9.0, between=(shown[5], shown[20] + 0.001)).rows
    assert (row.window.start, row.window.end) == pytest.approx((shown[5], shown[21]))


def test_a_table_of_other_times_is_not_gone_on_with(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mkv", pictures(60), rate=1000, times=[47 * n for n in range(60)])
    classifier().save_pretrained(tmp_path / "model")
    out = tmp_path / "out"
    command = ["predict", video, "--checkpoint", tmp_path / "model", "--out", out, "--no-crop", "--no-plot",
               "--precision", "fp32", "--hop", 0.5]  # fmt: skip
    assert main([str(word) for word in command]) == 0
    content, (row, *_) = (out / "a.csv").read_text(), pandas.read_csv(out / "a.csv").itertuples()
    settings = (out / "a.json").read_text().partition('"settings": ')[2]
    (out / "a.part.json").write_text('{"settings": ' + settings)
    (out / "a.json").unlink()
    # As if it ended where no frame does.
    (out / "a.csv").write_text(content.replace(f"{row.end:.3f}", "0.320", 1))
    assert main([str(word) for word in command]) != 0
    assert "its row at 0.000 s is not what comes now" in (out / "failed.csv").read_text()
