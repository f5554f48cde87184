"""What is known of the faces in real recordings, found by the defaults: the published detector, every fifth frame."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from maedfer.data import open_video
from maedfer.faces import FaceTrack, find_tracks, open_detector
from maedfer.faces.detector import PictureDetector
from maedfer.faces.find import read_frames

# Frames in which somebody is, of how many; of clips that are alike (one speaker, other containers) one stands for all.
ONE_FACE = {
    "pyfeat/single_face.mp4": (range(72), 72),
    "pyfeat/face_noface.mov": (range(72), 169),
    "pyfeat/noface_face.mov": (range(96, 168), 169),
    "pyfeat/WolfgangLanger_Pexels.mp4": (range(472), 472),
    "lipnet_grid/bbaf2n.mpg": (range(75), 75),
    "lipnet_grid/id2_vcd_swwp2s.mpg": (range(75), 75),
    "sadtalker/WDA_AlexandriaOcasioCortez_000.mp4": (range(200), 200),
    "video_retalking/1.mp4": (range(135), 135),
    "video_retalking/3.mp4": (range(125), 125),
    "containers/single_face_flv1.flv": (range(72), 72),
}


@pytest.fixture(scope="module")
def detector() -> PictureDetector:
    return open_detector()


@lru_cache
def _times(path: Path) -> np.ndarray:
    with open_video(path) as reader:
        return reader.times


def _present(track: FaceTrack, path: Path) -> list[int]:
    return np.flatnonzero(track.present(_times(path))).tolist()


@pytest.mark.parametrize("name", ONE_FACE)
def test_one_face_is_there_in_these_frames_and_in_no_other(clips: Path, detector: PictureDetector, name: str) -> None:
    there, count = ONE_FACE[name]
    (track,) = find_tracks(clips / name, detector)
    assert len(_times(clips / name)) == count
    assert track.face == 1 and _present(track, clips / name) == [*there]
    assert track.scores_at(_times(clips / name)).min() > 0.5


def test_where_nobody_is_nobody_is_found(clips: Path, detector: PictureDetector) -> None:
    assert find_tracks(clips / "pyfeat/no_face.mp4", detector) == []


def test_two_people_are_two_and_stay_themselves(clips: Path, detector: PictureDetector) -> None:
    path = clips / "pliers/obama_speech.mp4"
    tracks = find_tracks(path, detector)
    assert [track.face for track in tracks] == [1, 2]
    assert [_present(track, path) for track in tracks] == [[*range(105)]] * 2
    left, right = (track.boxes_at(_times(path)) for track in tracks)
    assert (left[:, 0] + left[:, 2] < right[:, 0]).all()


def test_boxes_between_are_those_that_looking_at_every_frame_finds(clips: Path, detector: PictureDetector) -> None:
    path = clips / "pyfeat/single_face.mp4"
    (track,) = find_tracks(path, detector)
    with open_video(path) as reader:
        found = detector.detect([*read_frames(reader, reader.times)])
    given = track.boxes_at(_times(path))
    looked = np.concatenate([each.boxes for each in found])
    sides = np.minimum(given[:, :2] + given[:, 2:], looked[:, :2] + looked[:, 2:]) - np.maximum(
        given[:, :2], looked[:, :2]
    )
    shared = sides.clip(0).prod(-1)
    overlap = shared / (given[:, 2:].prod(-1) + looked[:, 2:].prod(-1) - shared)
    assert overlap.mean() > 0.95 and overlap.min() > 0.85
