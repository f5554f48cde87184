from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from maedfer.errors import InputError
from maedfer.synthetic import render_parameters
from maedfer.synthetic.acting import EXPRESSIONS, TWINS, Performance
from maedfer.synthetic.casting import UNITS, FaceStyle

CLIPS = 400


def everything(track: Performance) -> np.ndarray:
    return np.concatenate([track.shapes(), track.pose], axis=1)


def nearest_neighbour_accuracy(features: np.ndarray, labels: np.ndarray, people: np.ndarray) -> float:
    """Accuracy of 5 nearest neighbours on subjects outside of the reference half."""
    features = (features - features.mean(0)) / (features.std(0) + 1e-9)
    known = people % 2 == 0
    distance = ((features[~known, None] - features[None, known]) ** 2).sum(-1)
    votes = labels[known][np.argsort(distance, axis=1)[:, :5]].mean(1) > 0.5
    return float((votes == labels[~known]).mean())


@pytest.fixture(scope="module", params=TWINS, ids="-".join)
def pair(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Independent clips of the two classes: tracks [n, T, features], labels [n], subjects [n]."""
    people = np.arange(CLIPS) // 4
    labels = np.arange(CLIPS) % 2
    tracks = [
        render_parameters((7, i), request.param[label], (7, int(person)))
        for i, (label, person) in enumerate(zip(labels, people, strict=True))
    ]
    return np.stack([everything(t) for t in tracks]), labels, people


@pytest.mark.parametrize("frames", [48, 33])
def test_fear_is_surprise_backwards(frames):
    for seed in range(5):
        surprise = render_parameters(seed, "surprise", 3, frames)
        fear = render_parameters(seed, "fear", 3, frames)
        assert np.array_equal(everything(fear), everything(surprise)[::-1])
        assert fear.scene == surprise.scene


@pytest.mark.parametrize("frames", [48, 33])
def test_disgust_is_anger_in_another_order(frames):
    def ordered(units: np.ndarray) -> np.ndarray:
        return units[np.lexsort(units.T)]

    for seed in range(5):
        angry, disgust = (render_parameters(seed, name, 3, frames) for name in ("angry", "disgust"))
        assert not np.array_equal(angry.units, disgust.units)
        assert np.array_equal(ordered(angry.units), ordered(disgust.units))
        assert np.array_equal(angry.pose, disgust.pose)


@pytest.mark.parametrize("position", [0, 12, 24, 40])
def test_a_single_frame_does_not_tell_a_pair_apart(pair, position):
    tracks, labels, people = pair
    accuracy = nearest_neighbour_accuracy(tracks[:, position], labels, people)
    # 200 tests at one half each: four deviations.
    assert abs(accuracy - 0.5) < 4 * 0.5 / np.sqrt(CLIPS / 2)


@pytest.mark.parametrize("names", TWINS, ids="-".join)
def test_clips_that_begin_at_rest_give_a_pair_away(names):
    """What any_start is for, and that the test above would notice."""
    labels, people = np.arange(CLIPS) % 2, np.arange(CLIPS) // 4
    style = FaceStyle(any_start=False)
    tracks = [render_parameters((7, i), names[i % 2], (7, i // 4), 48, style) for i in range(CLIPS)]
    frames = np.stack([track.units[10] for track in tracks])
    assert nearest_neighbour_accuracy(frames, labels, people) > 0.8


def test_frames_of_a_pair_have_the_same_distribution(pair):
    tracks, labels, _ = pair
    face = tracks[:, :, : len(UNITS)].reshape(CLIPS, -1, len(UNITS))
    for k in range(len(UNITS)):
        one, other = (np.sort(face[labels == label, ::8, k].ravel()) for label in (0, 1))
        grid = np.concatenate([one, other])
        gap = np.searchsorted(one, grid, "right") / len(one) - np.searchsorted(other, grid, "right") / len(other)
        # Frames of one clip depend on each other: about one independent draw a clip, Kolmogorov-Smirnov at 1e-4.
        assert np.abs(gap).max() < 2.2 * np.sqrt(2 / (CLIPS / 2))


def test_motion_tells_a_pair_apart(pair):
    tracks, labels, people = pair
    speed = np.diff(tracks[:, :, : len(UNITS)], axis=1)
    # The fastest movement each way, in relation to the spread of the face.
    spread = tracks[:, :, : len(UNITS)].std(1) + 1e-6
    features = np.concatenate([speed.max(1) / spread, speed.min(1) / spread], axis=1)
    assert nearest_neighbour_accuracy(features, labels, people) > 0.95


def test_every_moment_may_come_first():
    """The apex falls anywhere in the clip, unless clips are asked to begin at rest."""
    jaw = UNITS.index("jaw")

    def peaks(style: FaceStyle) -> np.ndarray:
        return np.array([render_parameters(i, "surprise", 0, 48, style).units[:, jaw].argmax() for i in range(200)])

    assert np.histogram(peaks(FaceStyle()), bins=4, range=(0, 48))[0].min() > 25
    assert peaks(FaceStyle(any_start=False)).max() < 24


def test_courses_return_to_rest():
    style = FaceStyle(any_start=False)
    for name in EXPRESSIONS:
        for seed in range(50):
            units = render_parameters(seed, name, 1, 48, style).units
            assert np.abs(units[[0, -1]]).max() < 0.05, name


def test_without_pulse_twin_disgust_has_its_own_face():
    style = FaceStyle(pulse_twin=False, variation=0.0)
    apex = {name: render_parameters(0, name, 0, 48, style).units for name in ("angry", "disgust")}
    nose, brow = UNITS.index("nose"), UNITS.index("brow_inner")
    assert apex["disgust"][:, nose].max() > apex["angry"][:, nose].max()
    assert apex["disgust"][:, brow].min() > apex["angry"][:, brow].min()


def test_labels_by_name_and_index_agree():
    for index, name in enumerate(EXPRESSIONS):
        assert np.array_equal(render_parameters(1, index, 2).units, render_parameters(1, name, 2).units)


def test_subjects_differ_in_looks_and_clips_in_course():
    one, other = render_parameters(0, "happy", 0), render_parameters(0, "happy", 1)
    assert one.person != other.person
    assert np.array_equal(one.pose, other.pose)
    again = render_parameters(1, "happy", 0)
    assert dataclasses.astuple(again.person)[1:] == dataclasses.astuple(one.person)[1:]
    assert not np.array_equal(one.units, again.units)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, "hapy", 0), "did you mean 'happy'"),
        ((0, 7, 0), "label 7 is out of range"),
        ((-1, 0, 0), "integers from 0"),
        ((0, 0, ()), "integers from 0"),
        ((0, 0, 0, 0), "at least one frame"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        render_parameters(*arguments)
