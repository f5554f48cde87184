"""One track: where its face is between the times at which it was found."""

from __future__ import annotations

import numpy as np
import pytest

from maedfer.faces.frame import Detections
from maedfer.faces.smooth import OneEuro
from maedfer.faces.track import FaceTrack, Tracker


def track(times: np.ndarray, boxes: np.ndarray, stretches: np.ndarray | None = None) -> FaceTrack:
    stretches = np.full(len(times), times[0]) if stretches is None else stretches
    scores = np.linspace(0.5, 1, len(times)).astype(np.float32)
    return FaceTrack(1, float(times[0]), times, np.asarray(boxes, np.float32), scores, stretches)


def test_smoothing_is_a_gaussian_that_shrinks_towards_the_ends() -> None:
    random = np.random.default_rng(0)
    knots = np.sort(random.uniform(1, 5, 30))
    boxes = random.uniform(20, 60, (30, 4))
    for time in (knots[0], knots[0] + 0.1, 2.0, 3.123, knots[-1] - 0.3, knots[-1]):
        half = min(0.45, time - knots[0], knots[-1] - time)
        points = np.linspace(time - half, time + half, 20_001)
        weights = np.exp(-((points - time) ** 2) / (2 * 0.15**2))
        for column in range(4):
            values = np.interp(points, knots, boxes[:, column].astype(np.float32))
            expected = (weights * values).sum() / weights.sum()
            assert track(knots, boxes).boxes_at(np.array([time]))[0, column] == pytest.approx(expected, abs=0.3)


def test_what_moves_evenly_is_not_shifted() -> None:
    times = np.arange(0, 4.1, 0.2)
    boxes = np.array([10, 20, 30, 40]) + times[:, None] * [5, -3, 2, 1]
    asked = np.linspace(0, 4, 101)
    expected = np.array([10, 20, 30, 40]) + asked[:, None] * [5, -3, 2, 1]
    assert np.allclose(track(times, boxes).boxes_at(asked), expected, atol=1e-4)
    assert track(times, boxes).boxes_at(asked).dtype == np.float32


def test_times_do_not_depend_on_others_that_are_asked_for() -> None:
    random = np.random.default_rng(1)
    times = np.sort(random.uniform(0, 9, 50))
    one = track(times, random.uniform(20, 60, (50, 4)))
    asked = random.uniform(0, 9, 40)
    together = one.boxes_at(asked)
    assert all(
        np.array_equal(one.boxes_at(np.array([time]))[0], box) for time, box in zip(asked, together, strict=True)
    )


def test_a_face_is_there_in_its_stretches_alone() -> None:
    times = np.array([1.0, 1.2, 1.4, 3.0, 3.2, 7.0])
    boxes = np.arange(6)[:, None] * np.ones(4)
    one = track(times, boxes, np.array([1.0, 1.0, 1.0, 3.0, 3.0, 7.0]))
    asked = np.array([0.9, 1.0, 1.3, 1.4, 1.5, 2.9, 3.0, 3.1, 3.3, 7.0, 7.1])
    assert one.present(asked).tolist() == [0, 1, 1, 1, 0, 0, 1, 1, 0, 1, 0]
    # Elsewhere it is where it was nearest.
    assert one.boxes_at(np.array([0.0, 1.5, 2.9, 6.0, 9.0]))[:, 0].tolist() == [0, 2, 3, 5, 5]
    assert one.scores_at(np.array([1.1, 2.0])) == pytest.approx([0.55, 0.7])


def test_one_euro_holds_still_faces_and_follows_moving_ones() -> None:
    random = np.random.default_rng(2)
    times = np.arange(100) * 0.2
    still, moving = OneEuro(), OneEuro()
    noise = random.normal(0, 1, (100, 4))
    held = np.array([still(time, 50 + shift) for time, shift in zip(times, noise, strict=True)])
    assert held[10:].std() < 0.75 * noise[10:].std()
    truth = np.array([[100 * time, 40, 50, 50] for time in times])
    followed = np.array([moving(time, box) for time, box in zip(times, truth, strict=True)])
    assert np.abs(followed - truth)[10:].max() < 5


def test_frames_that_are_shown_at_once_count_once() -> None:
    tracker = Tracker(1.0, 0.0, live=False)
    for time, x in [(0.0, 10), (0.2, 12), (0.2, 13), (0.4, 14)]:
        tracker.step(time, Detections(np.array([[x, 10, 40, 40]], np.float32), np.ones(1, np.float32)))
    tracker.end(0.4)
    (one,) = tracker.tracks()
    assert one.times.tolist() == [0.0, 0.2, 0.4] and one.boxes[:, 0].tolist() == [10, 12, 14]
