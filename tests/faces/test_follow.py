"""Following faces of which it is known where they are."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from maedfer.faces.boxes import read_boxes
from maedfer.faces.follow import Follower
from maedfer.faces.frame import Detections, Detector, Frame
from maedfer.faces.record import DetectionRecord
from maedfer.faces.track import FaceTrack, Tracker
from tests.faces.acted import RATE, Actor, KnowingDetector, frames_of, still


def follow(detector: Detector, frames: Iterable[Frame], **options: object) -> list[FaceTrack]:
    follower = Follower(detector, **options)  # type: ignore[arg-type]
    for frame in frames:
        follower.push(frame)
    follower.finish()
    assert follower.settled == math.inf
    return follower.tracks()


def present(track: FaceTrack, count: int) -> list[int]:
    return np.flatnonzero(track.present(np.arange(count) / RATE)).tolist()


def same(a: list[FaceTrack], b: list[FaceTrack]) -> bool:
    return len(a) == len(b) and all(
        one.face == two.face
        and one.start == two.start
        and all(
            np.array_equal(getattr(one, name), getattr(two, name)) for name in ("times", "boxes", "scores", "stretches")
        )
        for one, two in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("every", [1, 2, 5, 7])
@pytest.mark.parametrize(("first", "last"), [(0, 99), (1, 60), (33, 98), (40, 80), (44, 76)])
def test_beginnings_and_ends_are_exact_to_the_frame(first: int, last: int, every: int) -> None:
    detector = KnowingDetector([Actor(first, last, still(100))])
    (track,) = follow(detector, frames_of(100), every=every)
    assert track.face == 1 and present(track, 100) == list(range(first, last + 1))
    assert (track.start, track.end) == (first / RATE, last / RATE)


def test_only_where_something_changes_every_frame_is_looked_at() -> None:
    detector = KnowingDetector([Actor(0, 42, still(100)), Actor(0, 99, still(200))])
    follow(detector, frames_of(100))
    assert sorted(detector.asked) == [*range(0, 41, 5), 41, 42, 43, 44, *range(45, 100, 5), 99]


def test_two_faces_that_pass_each_other_stay_who_they_are() -> None:
    # The second one is larger, below, and overlaps the first one on its way.
    actors = [
        Actor(0, 120, lambda t: (20 + 60 * t, 40, 40, 50)),
        Actor(0, 120, lambda t: (300 - 60 * t, 70, 60, 70)),
    ]
    tracks = follow(KnowingDetector(actors, noise=0.5), frames_of(121))
    times = np.arange(121) / RATE
    assert [track.face for track in tracks] == [1, 2]
    for track, actor in zip(tracks, actors, strict=True):
        truth = np.array([actor.box(time) for time in times])
        assert np.abs(track.boxes_at(times) - truth).max() < 2.5
        assert track.present(times).all()


@pytest.mark.parametrize("speed", [200, 400, 800])
def test_a_fast_face_stays_one(speed: int) -> None:
    """There and back, with no overlap from one frame that is looked at in any case to the next."""
    path = Actor(0, 149, lambda t: (100 + abs((t * speed) % 800 - 400), 40, 50, 60))
    (track,) = follow(KnowingDetector([path], noise=0.5), frames_of(150))
    assert present(track, 150) == list(range(150))


def test_gaps_are_interpolated_and_longer_absences_make_another_face() -> None:
    moving = lambda t: (50 + 20 * t, 40, 50, 60)  # noqa: E731
    gap = Actor(0, 149, moving, missed=frozenset(range(40, 64)))
    (track,) = follow(KnowingDetector([gap]), frames_of(150))
    assert present(track, 150) == list(range(150))
    assert np.allclose(track.boxes_at(np.array([2.0])), [[90, 40, 50, 60]], atol=0.1)
    away = Actor(0, 149, moving, missed=frozenset(range(40, 67)))
    tracks = follow(KnowingDetector([away]), frames_of(150))
    assert [track.face for track in tracks] == [1, 2]
    assert [present(track, 150) for track in tracks] == [list(range(40)), list(range(67, 150))]


def test_what_is_there_for_too_short_a_time_is_no_face() -> None:
    actors = [Actor(0, 99, still(100)), Actor(50, 60, still(300)), Actor(90, 99, still(200))]
    (track,) = follow(KnowingDetector(actors), frames_of(100))
    assert track.boxes[0][0] == 100


@pytest.mark.parametrize("count", [1, 2, 3, 8, 12])
def test_a_video_that_is_shorter_than_that_keeps_its_faces(count: int) -> None:
    tracks = follow(KnowingDetector([Actor(0, count - 1, still(100)), Actor(0, 0, still(300))]), frames_of(count))
    assert present(tracks[0], count) == list(range(count))
    assert len(tracks) == (2 if count == 1 else 1)


def test_faces_are_numbered_as_they_appear_and_from_left_to_right() -> None:
    actors = [
        Actor(12, 99, still(400)),
        Actor(10, 99, still(200)),
        Actor(12, 99, still(100)),
        Actor(11, 17, still(300)),
    ]
    tracks = follow(KnowingDetector(actors), frames_of(100))
    assert [(track.face, track.boxes[0][0]) for track in tracks] == [(1, 200), (2, 100), (3, 400)]


@pytest.mark.parametrize("cut", [1, 30, 31, 34, 99])
def test_a_cut_ends_every_track_at_its_frame(cut: int) -> None:
    detector = KnowingDetector([Actor(0, 99, still(100)), Actor(0, 99, still(200))])
    tracks = follow(detector, frames_of(100, scenes={cut: 1}))
    spans = [list(range(cut)), list(range(cut, 100))]
    assert [present(track, 100) for track in tracks] == [spans[0], spans[0], spans[1], spans[1]]
    assert [track.face for track in tracks] == [1, 2, 3, 4]


def test_a_scene_must_show_a_face_for_half_of_it() -> None:
    # A scene of 12 frames, 0.44 seconds.
    actors = [Actor(0, 29, still(100)), Actor(30, 36, still(200)), Actor(30, 33, still(300)), Actor(42, 99, still(100))]
    tracks = follow(KnowingDetector(actors), frames_of(100, scenes={30: 1, 42: 2}))
    assert [(track.face, track.boxes[0][0]) for track in tracks] == [(1, 100), (2, 200), (3, 100)]


def test_frames_that_are_far_apart_are_followed() -> None:
    """Pictures of one every two seconds, a face in each."""
    times = [2.0 * index for index in range(20)]
    (track,) = follow(KnowingDetector([Actor(0, 19, still(100))]), frames_of(20, times))
    assert track.present(np.array(times)).all()


def script(noise: float = 1.0) -> KnowingDetector:
    return KnowingDetector(
        [
            Actor(3, 118, lambda t: (60 + 9 * t, 40 + 5 * math.sin(3 * t), 50, 60), missed=frozenset(range(40, 52))),
            Actor(17, 77, still(200)),
            Actor(30, 36, still(300)),
            Actor(90, 149, still(300), missed=frozenset({101, 105, 106})),
            Actor(120, 149, still(60)),
        ],
        noise=noise,
    )


@pytest.mark.parametrize("shortest", [0.0, 0.5, 1.5])
def test_what_is_settled_does_not_change(shortest: float) -> None:
    frames = list(frames_of(150, scenes={80: 1}))
    times = np.array([frame.time for frame in frames])
    final = {track.face: track for track in follow(script(), frames, shortest=shortest)}
    follower = Follower(script(), shortest=shortest)
    settled, late = -math.inf, 0.0
    for frame in frames:
        follower.push(frame)
        assert follower.settled >= settled
        settled = follower.settled
        late = max(late, frame.time - settled)
        known = times[times <= settled]
        there = {track.face: track for track in follower.tracks()}
        for face, track in final.items():
            now = there[face].present(known) if face in there else np.zeros(len(known), bool)
            assert np.array_equal(now, track.present(known))
            seen = known[now]
            if len(seen):
                assert np.array_equal(there[face].boxes_at(seen), track.boxes_at(seen))
                assert np.array_equal(there[face].scores_at(seen), track.scores_at(seen))
    assert late < max(1.0, shortest) + 1.0


def test_what_is_forgotten_makes_no_difference() -> None:
    frames = list(frames_of(150, scenes={80: 1}))
    final = {track.face: track for track in follow(script(), frames)}
    follower = Follower(script())
    most = 0
    for frame in frames:
        follower.push(frame)
        if not math.isfinite(follower.settled):
            continue
        seen = np.array([follower.settled - 0.11, follower.settled])
        follower.forget(float(seen[0]))
        most = max([most, *(len(track.times) for track in follower.tracks())])
        for track in follower.tracks():
            there = seen[(seen >= 0) & track.present(seen)]
            assert np.array_equal(track.boxes_at(there), final[track.face].boxes_at(there))
            assert final[track.face].present(there).all() and track.start == final[track.face].start
    assert most < 30


def test_a_named_face_that_was_forgotten_keeps_its_start() -> None:
    tracker = Tracker(gap=1.0, shortest=0.5, live=False)
    box = np.array([[1, 2, 30, 40]], np.float32)
    somebody = Detections(box, np.ones(1, np.float32), np.array([7]))
    nobody = Detections(box[:0], np.ones(0, np.float32), np.array([], np.int64))
    for time in np.arange(0.0, 8.0, 0.5).tolist():
        tracker.step(time, nobody if 2.0 <= time < 6.0 else somebody)
        tracker.forget(time - 1.0)
    (track,) = tracker.tracks()
    assert (track.face, track.start, track.times[0] >= 6.0) == (7, 0.0, True)


@pytest.mark.parametrize("stop", [0, 1, 37, 50, 80, 93, 149])
def test_a_record_gives_the_same_tracks_without_pictures(stop: int, tmp_path: Path) -> None:
    frames = list(frames_of(150, scenes={80: 1, 93: 2}))
    whole, begun = tmp_path / "whole.csv", tmp_path / "begun.csv"
    with DetectionRecord(whole) as record:
        final = follow(script(), frames, record=record)
    head, *lines = whole.read_text().splitlines(keepends=True)
    assert {int(line.split(",")[0]) for line in lines if line.endswith(",1\n")} == {80, 93}
    # As a run that was killed left it, in the middle of a block of frames maybe, and in that of a line.
    begun.write_text("".join([head, *(line for line in lines if int(line.split(",")[0]) <= stop)])[:-1])
    detector = script()
    with DetectionRecord(begun) as record:
        last = record.last_index
        follower = Follower(detector, record=record)
        spared = 0
        for frame in frames:
            bare = not follower.needs_picture(frame.index)
            spared += bare
            follower.push(replace(frame, picture=None) if bare else frame)
        follower.finish()
    assert same(follower.tracks(), final)
    assert spared == max(0, last - 4) and not [index for index in detector.asked if index <= last]
    assert begun.read_bytes() == whole.read_bytes()


def test_boxes_from_elsewhere_are_asked_for_in_every_frame() -> None:
    detector = KnowingDetector([Actor(7, 91, still(100), missed=frozenset({20, 21}))], needs_pictures=False)
    (track,) = follow(detector, (replace(frame, picture=None) for frame in frames_of(100)))
    assert detector.asked == list(range(100))
    assert present(track, 100) == list(range(7, 92))
    # Whether pictures come along makes no difference.
    (same_track,) = follow(detector, frames_of(100, scenes={50: 1}))
    assert same([track], [same_track])


def test_given_numbers_make_the_tracks() -> None:
    # They jump about, one leaves for long, one is there for a moment: whoever numbered them knows.
    actors = [
        Actor(0, 149, lambda t: (50 + 200 * (int(t) % 2), 40, 50, 60), missed=frozenset(range(60, 100))),
        Actor(31, 33, still(400)),
        Actor(0, 149, still(500)),
    ]
    detector = KnowingDetector(actors, needs_pictures=False, named=True)
    frames = (replace(frame, picture=None) for frame in frames_of(150))
    tracks = follow(detector, frames)
    assert [track.face for track in tracks] == [7, 17, 27]
    assert present(tracks[0], 150) == [*range(60), *range(100, 150)]
    assert present(tracks[1], 150) == [31, 32, 33] and present(tracks[2], 150) == list(range(150))
    # No box of before the hole has a part in those after it.
    assert np.array_equal(tracks[0].boxes_at(np.array([4.0]))[0], actors[0].box(4.0))


def test_live_tracks_wait_for_nothing() -> None:
    detector = script(noise=0.3)
    follower = Follower(detector, live=True)
    for frame in frames_of(150):
        follower.push(frame)
        if frame.index % 5 == 0:
            assert follower.settled == frame.time
            boxes = {
                float(track.boxes_at(np.array([frame.time]))[0][0])
                for track in follower.tracks()
                if track.present(np.array([frame.time]))[0]
            }
            found = detector.detect([frame])[0].boxes
            assert len(boxes) == len(found)
            assert all(min(abs(box - other) for other in found[:, 0]) < 5 for box in boxes)
    assert detector.asked[:3] == [0, 0, 5]
    # Away for 12 frames of the hole: the same face, not there in between.
    track = next(track for track in follower.tracks() if track.times[0] == 5 / RATE)
    assert track.times[-1] == 115 / RATE and not track.present(np.array([45 / RATE]))[0]


def test_impossible_options_and_lacking_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="every is 1 or more"):
        Follower(script(), every=0)
    follower = Follower(script())
    with pytest.raises(ValueError, match="frame 0 came without its picture"):
        follower.push(Frame(0, 0.0, None))


def test_nothing_is_followed_through_nothing() -> None:
    assert follow(script(), []) == []
    assert follow(KnowingDetector([]), frames_of(30)) == []


@pytest.mark.parametrize("cut", [50, 53])
def test_the_file_of_a_run_gives_its_tracks(cut: int, tmp_path: Path) -> None:
    """Two people in one place, a scene each: without the cut they are one face."""
    actors = [Actor(7, cut - 1, still(100)), Actor(cut, 99, still(102)), Actor(cut + 2, 80, still(250))]
    with DetectionRecord(tmp_path / "boxes.csv") as record:
        seen = follow(KnowingDetector(actors), frames_of(100, scenes={cut: 1}), record=record)
    assert [present(track, 100)[0] for track in seen] == [7, cut, cut + 2]
    for pictures in (True, False):
        frames = [frame if pictures else replace(frame, picture=None) for frame in frames_of(100, scenes={cut: 1})]
        again = follow(read_boxes(tmp_path / "boxes.csv"), frames)
        assert same(again, seen)
