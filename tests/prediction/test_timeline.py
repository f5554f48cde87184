"""Windows of a scene against what brute force makes of all its frames at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from maedfer.faces.crop import crop_square
from maedfer.faces.follow import Follower
from maedfer.faces.frame import Frame
from maedfer.prediction import timeline as timeline_module
from maedfer.prediction.options import PredictionOptions, options_from
from maedfer.prediction.rows import Status, Window
from maedfer.prediction.timeline import Timeline
from maedfer.prediction.windows import ModelInput, window_count
from tests.prediction.scenes import SIZE, Knowing, Scene, still

MODEL = ModelInput(8, (12, 12), stride=4)
WINDOW = 8 * 4 / 25
STEADY = np.arange(150) / 25
VARYING = 0.2 + np.cumsum(np.random.default_rng(5).uniform(0.01, 0.07, 150))

SCENES = {
    "one who stays": Scene(STEADY, [still(20, 14)]),
    "two, one leaves and comes back": Scene(STEADY, [still(4, 12), still(34, 16, (2.0, 4.5))]),
    "a short absence, varying rate": Scene(VARYING, [still(8, 20, (1.8, 2.3), speed=2.0)]),
    "late and early, at the border": Scene(VARYING, [still(-6, 16, (0, 1.6)), still(52, 20, (3.0, 99))]),
    "nobody": Scene(STEADY, []),
    "away for most of the time": Scene(STEADY, [still(20, 14, (1.0, 5.0))]),
    "shorter than a window": Scene(np.arange(20) / 25, [still(20, 14)]),
    "three frames": Scene(np.arange(3) / 25, [still(20, 14)]),
    "one frame": Scene(np.array([7.5]), [still(20, 14)]),
    "twelve a second": Scene(np.arange(70) / 12, [still(4, 12), still(34, 16)]),
}


def follower(scene: Scene, live: bool = False) -> Follower:
    return Follower(Knowing(scene), every=5, live=live)


def end_of(scene: Scene) -> float:
    steps = np.diff(scene.times)
    return float(scene.times[-1]) + (float(np.median(steps)) if len(steps) else 0.04)


def run(
    scene: Scene, options: PredictionOptions, known: bool = True, crop: bool = True, **more: Any
) -> tuple[list[Window], Timeline]:
    duration = end_of(scene) - float(scene.times[0]) if known else None
    made = Timeline(follower(scene) if crop else None, MODEL, options, duration=duration, **more)
    found = []
    for frame in scene.frames():
        found += made.push(frame)
    return found + made.finish(), made


def brute_force(scene: Scene, options: PredictionOptions, crop: bool = True) -> list[Window]:
    """All frames, all pictures and all tracks at once."""
    tracks = []
    if crop:
        whole = follower(scene)
        for frame in scene.frames():
            whole.push(frame)
        whole.finish()
        tracks = whole.tracks()
    times, end = scene.times, end_of(scene)
    seconds = options.window or WINDOW
    rows: list[Window] = []
    for number in range(window_count(end - times[0], seconds, options.hop)):
        start = times[0] + number * options.hop
        samples = start + np.arange(8) * seconds / 8
        frames = [int(np.flatnonzero(abs(times - t) <= abs(times - t).min() + 2e-6)[0]) for t in samples]
        there = [place for place in range(8) if place == 0 or samples[place] < end - 1e-6]
        shown = [*times, end]
        nearest = min(range(len(shown)), key=lambda n: (round(abs(shown[n] - start - seconds), 6), n))
        span = times[frames[0]], shown[max(nearest, frames[-1] + 1)], times[frames[len(there) // 2]]
        if not crop:
            rows.append(
                Window(number, *span, 1, (0, 0, SIZE[1], SIZE[0]), None, len(there),
                       "ok" if len(there) == 8 else "partial")
            )  # fmt: skip
            continue
        found = []
        for track in tracks:
            present = [p for p in there if track.present(times[[frames[p]]])[0]]
            if not present or len(present) < options.coverage * len(there) - 1e-9:
                continue
            boxes = {p: track.boxes_at(times[[frames[p]]])[0] for p in present}
            clip = [
                crop_square(scene.picture(frames[q]), boxes[q], 12, options.margin)
                for p in range(8)
                for q in [min(present, key=lambda q: (abs(q - p), q))]
            ]
            mean = np.mean([boxes[p].astype(float) for p in present], 0)
            area = np.mean([float(boxes[p][2]) * float(boxes[p][3]) for p in present])
            score = float(np.mean([float(track.scores_at(times[[frames[p]]])[0]) for p in present]))
            status: Status = "ok" if len(present) == 8 else "partial"
            row = Window(number, *span, track.face, tuple(mean), score, len(present), status)
            found.append((-area, dataclasses.replace(row, clip=np.stack(clip)[None])))
        most = {"all": 99, "largest": 1}.get(str(options.faces)) or int(options.faces)
        kept = sorted(found, key=lambda one: one[0])[:most]
        rows += sorted((row for _, row in kept), key=lambda row: row.face or 0)
        if not kept:
            rows.append(Window(number, *span, None, None, None, 0, "no_face"))
    return rows


def assert_same(found: list[Window], expected: list[Window], clips: bool = True) -> None:
    assert [(row.number, row.face, row.frames, row.status) for row in found] == [
        (row.number, row.face, row.frames, row.status) for row in expected
    ]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(
            [one.start, one.end, one.time], [other.start, other.end, other.time], rtol=0, atol=1e-9
        )
        assert (one.box is None, one.detection is None) == (other.box is None, other.detection is None)
        if one.box is not None and other.box is not None:
            np.testing.assert_allclose(one.box, other.box, rtol=1e-6, atol=1e-6)
        assert one.detection == (None if other.detection is None else pytest.approx(other.detection))
        if clips:
            assert (one.clip is None) == (other.clip is None)
            if one.clip is not None and other.clip is not None:
                np.testing.assert_array_equal(one.clip, other.clip)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"hop": 0.3, "window": 0.9, "faces": "largest", "margin": 2.0},
        {"coverage": 1.0, "hop": 1.28},
        {"coverage": 0.01, "faces": 1, "hop": 3.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", SCENES)
def test_windows_are_those_of_brute_force(name: str, options: dict[str, Any]) -> None:
    made = options_from(**options)
    expected = brute_force(SCENES[name], made)
    assert_same(run(SCENES[name], made)[0], expected)
    # Not knowing when the video ends makes no difference but in time.
    assert_same(run(SCENES[name], made, known=False)[0], expected)


def test_scenes_show_what_they_are_to_show() -> None:
    rows = brute_force(SCENES["two, one leaves and comes back"], PredictionOptions())
    assert {row.face for row in rows} == {1, 2, 3} and {row.status for row in rows} == {"ok", "partial"}
    rows = brute_force(SCENES["away for most of the time"], PredictionOptions())
    assert {row.status for row in rows} == {"partial", "no_face"} and {row.face for row in rows} >= {1, None}
    for name in ("shorter than a window", "three frames", "one frame"):
        (row,) = brute_force(SCENES[name], PredictionOptions())
        assert row.face == 1 and row.status == "partial" and row.end == end_of(SCENES[name])


@pytest.mark.parametrize("name", ["one who stays", "a short absence, varying rate", "three frames", "one frame"])
def test_without_crops_the_whole_frame_is_seen(name: str) -> None:
    scene, options = SCENES[name], options_from(crop=False, hop=0.7)
    found, _ = run(scene, options, crop=False)
    assert_same(found, brute_force(scene, options, crop=False), clips=False)
    for row in found:
        assert row.clip is not None and row.clip.shape == (1, 8, 12, 12, 3)
        # Stretched to size: the mean of the picture stays.
        sample = int(np.flatnonzero(abs(scene.times - row.start) <= abs(scene.times - row.start).min() + 2e-6)[0])
        assert abs(row.clip[0, 0].mean() - scene.picture(sample).mean()) < 1


@pytest.mark.parametrize("crop", [True, False])
def test_scored_windows_need_no_pictures(crop: bool) -> None:
    scene = SCENES["two, one leaves and comes back"]
    options = options_from(hop=0.4)
    whole, _ = run(scene, options, crop=crop)
    last = (whole[9].number, whole[9].face or 0)
    read: list[int] = []

    def scored(number: int, face: int | None) -> bool:
        return (number, face or 0) <= last

    def again(index: int) -> np.ndarray:
        read.append(index)
        return scene.picture(index)

    made = Timeline(follower(scene) if crop else None, MODEL, options, scored,
                    duration=end_of(scene), size=SIZE, read=again)  # fmt: skip
    found = []
    for frame in scene.frames():
        found += made.push(frame if crop or frame.time >= whole[9].start else Frame(frame.index, frame.time, None))
    found += made.finish()
    assert [row.clip is None for row in found] == [number <= 9 for number in range(len(whole))]
    expected = [dataclasses.replace(row, clip=None) if n <= 9 else row for n, row in enumerate(whole)]
    assert_same(found, expected)
    assert len(read) < 20


def test_pictures_beyond_what_memory_may_hold_are_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = SCENES["two, one leaves and comes back"]
    expected, _ = run(scene, PredictionOptions())
    monkeypatch.setattr(timeline_module, "_MOST_HELD", 5 * scene.picture(0).nbytes)
    most = [0]

    def again(index: int) -> np.ndarray:
        most[0] = max(most[0], index)
        return scene.picture(index)

    found, made = run(scene, PredictionOptions(), read=again)
    assert_same(found, expected)
    assert most[0] > 100 and made._held == 0


def test_what_is_held_does_not_grow_with_the_video() -> None:
    times = np.arange(1000) / 25
    scene = Scene(times, [still(4, 12), still(34, 16, (20.0, 25.0))])
    made = Timeline(follower(scene), MODEL, PredictionOptions(), duration=40.0)
    block = np.full((4, *SIZE, 3), 80, np.uint8)
    most = {"pictures": 0, "crops": 0, "times": 0, "windows": 0}
    count = 0
    for index, time in enumerate(times.tolist()):
        if index % 4 == 0:
            # Parts of a block that was read at once: none of them may keep it.
            block = block.copy()
        count += len(made.push(Frame(index, time, block[index % 4])))
        most["pictures"] = max(most["pictures"], len(made._pictures))
        most["crops"] = max(most["crops"], len(made._crops))
        most["times"] = max(most["times"], len(made._times))
        most["windows"] = max(most["windows"], len(made._closed) + len(made.grid.open))
        assert all(frame.picture is None or frame.picture.base is None for frame in made._pictures)
    count += len(made.finish())
    assert count > 60
    # Two seconds until faces are certain, and the windows of as long.
    assert most["pictures"] <= 2.2 * 25 and most["crops"] <= 60 and most["times"] <= 100 and most["windows"] <= 6
    assert not made._pictures and not made._closed and not made._crops


@pytest.mark.parametrize("name", ["two, one leaves and comes back", "a short absence, varying rate"])
def test_live_windows_close_as_soon_as_the_next_frame_is_looked_at(name: str) -> None:
    scene = SCENES[name]
    made = Timeline(follower(scene, live=True), MODEL, options_from(hop=0.5))
    delays, rows = [], []
    for frame in scene.frames():
        for row in made.push(frame):
            delays.append(frame.time - row.end)
            rows.append(row)
    rows += made.finish()
    offline = brute_force(scene, options_from(hop=0.5))
    assert sorted({row.start for row in rows}) == pytest.approx(sorted({row.start for row in offline}))
    assert max(delays) < 0.5 and len(delays) > 5
    assert all(row.clip is not None for row in rows if row.face is not None)


def test_a_frame_without_its_picture_is_told_of() -> None:
    made: Callable[..., Timeline] = Timeline
    windows = made(None, MODEL, PredictionOptions(), size=SIZE)
    windows.push(Frame(0, 0.0, None))
    with pytest.raises(ValueError, match="frame 0 is needed and came without its picture"):
        windows.push(Frame(1, 0.04, None))
