from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pytest

from maedfer.synthetic.acting import EXPRESSIONS, POSE, Performance, draw_track
from maedfer.synthetic.canvas import add_noise
from maedfer.synthetic.casting import UNITS, FaceStyle
from maedfer.synthetic.faces import render_track

STILL = FaceStyle(pose=0.0, talk=0.0, light=0.0, noise=0.0, blur=0.0, identity=0.0, variation=0.0)


def posed(subject: int = 0, **values: float) -> Performance:
    """One frame of a subject at rest, facing the camera, with some units or pose values set."""
    track = draw_track(0, "neutral", subject, 1, STILL)
    units = np.array([[values.get(name, 0.0) for name in UNITS]])
    rest = dict.fromkeys(POSE, 0.0) | {"scale": 0.75, "light": 1.0}
    pose = np.array([[values.get(name, rest[name]) for name in POSE]])
    return dataclasses.replace(track, units=units, pose=pose, scene=dataclasses.replace(track.scene, blobs=()))


def picture(subject: int = 0, **values: float) -> np.ndarray:
    return render_track(posed(subject, **values), 96)[0].astype(int)


def changed(subject: int = 0, **values: float) -> np.ndarray:
    """Rows and columns, in head coordinates, of the pixels that some units or pose values change by 12 or more."""
    where = np.abs(picture(subject, **values) - picture(subject)).max(-1) >= 12
    assert where.any(), values
    return (np.argwhere(where) * 2 + 1 - 96) / 96 / 0.75


def bare_subject() -> int:
    """A subject without glasses, whose fringe is high."""
    return next(s for s in range(100) if not (p := posed(s).person).glasses and p.hairline < -0.65 and p.hair_end < 0.2)


@pytest.mark.parametrize("values", [{}, {"corner": 1.0, "jaw": 0.8}, {"brow_inner": -1.0, "nose": 1.0, "blink": 0.5}])
def test_a_level_face_is_its_own_mirror_image(values):
    """A flip must not change the class: all actions are symmetric, hair and shading aside."""
    subject = bare_subject()
    track = posed(subject, **values)
    person = dataclasses.replace(track.person, parting=0.0, fringe=0.0)
    frame = render_track(dataclasses.replace(track, person=person), 96)[0].astype(int)
    gap = np.abs(frame - frame[:, ::-1]).max(-1)
    # Eyes carry a highlight and the nose a shaded flank; everything else is symmetric to rounding.
    assert (gap > 3).mean() < 0.04


@pytest.mark.parametrize(
    ("unit", "top", "bottom"),
    [
        ("brow_inner", -0.75, -0.05),
        ("brow_outer", -0.75, -0.05),
        ("lid_upper", -0.35, 0.15),
        ("corner", 0.1, 0.9),
        ("stretch", 0.3, 0.75),
        ("jaw", 0.05, 1.2),
    ],
)
def test_each_action_moves_its_own_part_of_the_face(unit, top, bottom):
    rows = changed(bare_subject(), **{unit: 1.0})[:, 0]
    assert top < rows.min() and rows.max() < bottom


def test_a_smile_lifts_the_corners_and_a_frown_lowers_them():
    subject = bare_subject()
    mouth_y, half = posed(subject).person.mouth_y, posed(subject).person.mouth_w

    def corner_height(corner: float) -> float:
        rest, moved = picture(subject, corner=0.0), picture(subject, corner=corner)
        column = int((0.75 * half * 0.9 + 1) * 48)
        dark = (rest - moved)[:, column].sum(-1)
        return float(dark[50:90].argmax())

    assert corner_height(1.0) < (mouth_y * 0.75 + 1) * 48 - 50 < corner_height(-1.0)


def test_pose_moves_the_face():
    subject = bare_subject()
    shifted = picture(subject, x=16 / 48)
    assert np.abs(shifted - picture(subject)).mean() > 5
    # A shift by whole pixels moves the inner face exactly.
    inner = np.s_[36:70, 34:50]
    moved = np.s_[36:70, 50:66]
    assert np.abs(picture(subject)[inner] - shifted[moved]).max() <= 1
    assert not np.array_equal(picture(subject, yaw=0.3), picture(subject, yaw=-0.3))


def test_frames_do_not_depend_on_their_neighbours():
    """Painting in groups is an implementation detail: any subset of frames gives the same pixels."""
    track = draw_track(5, "happy", 3, 19, FaceStyle())
    whole = render_track(track, 48)
    for part in (slice(3, 4), slice(5, 18)):
        some = dataclasses.replace(track, units=track.units[part], pose=track.pose[part])
        assert np.array_equal(render_track(some, 48), whole[part])


def test_a_small_picture_is_the_large_one_shrunk():
    track = draw_track(5, "angry", 8, 3, FaceStyle(blur=0.0))
    large = render_track(track, 192).reshape(3, 64, 3, 64, 3, 3).mean((2, 4))
    assert np.abs(render_track(track, 64) - large).mean() < 3


@pytest.mark.parametrize("size", [16, 33, 80, 112])
def test_sizes(size):
    frames = render_track(draw_track(0, "fear", 0, 2, FaceStyle()), size)
    assert frames.shape == (2, size, size, 3) and frames.dtype == np.uint8


def test_people_of_all_kinds_can_be_painted_in_extreme_poses():
    style = FaceStyle(pose=3.0, amplitude=(2.0, 2.0), identity=2.0, light=2.0)
    digests = set()
    for subject in range(40):
        frames = render_track(draw_track(subject, subject % len(EXPRESSIONS), subject, 3, style), 32)
        assert frames.std() > 5
        digests.add(hashlib.sha256(frames.tobytes()).hexdigest())
    assert len(digests) == 40


def test_noise():
    grey = np.full((7, 33, 31, 3), 128, np.uint8)
    noisy = add_noise(grey, 4.0, 1, 2)
    assert np.array_equal(noisy, add_noise(grey, 4.0, 1, 2))
    assert not np.array_equal(noisy, add_noise(grey, 4.0, 1, 3))
    assert noisy.mean() == pytest.approx(128, abs=0.2) and noisy.std() == pytest.approx(4.0, abs=0.15)
    flat = noisy.astype(float).ravel() - noisy.mean()
    assert abs((flat[1:] * flat[:-1]).mean()) < 0.5
    assert add_noise(grey, 0.0, 1) is grey
