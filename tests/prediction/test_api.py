"""From Python: one call, one model for many videos, and what is mistyped."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import maedfer
from maedfer.errors import InputError
from maedfer.faces.record import DetectionRecord
from maedfer.models import ClipSettings
from maedfer.prediction import PredictionOptions, Predictor, one_video
from maedfer.prediction.one_video import rows_of_file
from maedfer.prediction.options import options_from
from maedfer.prediction.sources import FileSource
from tests.data.media import pictures, write_video
from tests.prediction.models import CLASSES, classifier
from tests.prediction.scenes import Knowing, Scene, still


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "a b.mp4", pictures(100))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    return classifier(settings=ClipSettings(classes=CLASSES, stride=2, temperature=1.5)).save_pretrained(folder)


def test_a_call_gives_the_rows_of_a_video(video: Path, saved: Path) -> None:
    told: list[float] = []
    found = maedfer.predict(video, saved, crop=False, hop=0.5, device="cpu", progress=told.append)
    assert isinstance(found, maedfer.Prediction)
    predictor = maedfer.open_predictor(str(saved), device="cpu")
    with FileSource(video) as source:
        rows, _ = rows_of_file(predictor, source, options_from(crop=False, hop=0.5))
    assert found.classes == CLASSES and found.video == str(video) and len(found.rows) == len(rows) == 8
    for one, other in zip(found.rows, rows, strict=True):
        assert one.window == other.window
        np.testing.assert_array_equal(one.probabilities, other.probabilities)
    assert told[-1] == 1.0
    again = predictor.predict(str(video), crop=False, hop=0.5)
    assert [row.window for row in again.rows] == [row.window for row in rows]
    assert again.options == PredictionOptions(crop=False, hop=0.5)


def test_what_was_found_in_frames_is_kept_with_the_prediction(
    video: Path, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Scene(np.arange(100) / 25, [still(20, 14)])
    monkeypatch.setattr(one_video, "detector_of", lambda options, source=None, threads=0: Knowing(made))
    found = maedfer.predict(video, saved, device="cpu")
    assert [row.window.face for row in found.rows] == [1] * 4 and found.summary["detector"] == "the scene's own"
    record = found.record
    assert record is not None
    with DetectionRecord(record, ended=True) as known:
        assert (known.first_index, known.last_index) == (0, 99)
    del found
    gc.collect()
    assert not record.parent.exists()


def test_a_summary_says_what_was_computed_by_what(video: Path, saved: Path) -> None:
    found = maedfer.predict(video, saved, crop=False, device="cpu").summary
    assert found["minutes"] == pytest.approx(4 / 60, abs=1e-4) and found["windows"] == 4
    assert found["model"]["temperature"] == 1.5 and "temperature 1.5" in found["calibration"]
    assert found["model"]["checkpoint"] == str(saved) and len(found["model"]["weights_sha256"]) == 64
    assert found["model"]["precision"] == "fp32" and found["detector"] is None
    assert sum(found["shares"].values()) == pytest.approx(1)
    assert found["settings"]["crop"] is False
    plain = maedfer.predict(video, saved, crop=False, device="cpu", calibrate=False)
    assert plain.summary["model"]["temperature"] is None and "uncalibrated" in plain.summary["calibration"]


def test_a_window_stands_for_a_hop_up_to_the_end_of_the_video(video: Path, saved: Path) -> None:
    found = maedfer.predict(video, saved, crop=False, device="cpu", hop=1.5, window=0.5, between=(0.5, 3.0))
    # Windows at 0.52 and 2.02 seconds, the second between two frames; frames up to the one at 3 seconds.
    assert [round(row.window.start, 2) for row in found.rows] == [0.52, 2.0]
    assert found.summary["minutes_with_a_face"] == pytest.approx((3.0 - 0.52) / 60, abs=1e-4)
    assert found.summary["video_stream"]["start"] == pytest.approx(0.52)
    assert found._end() == pytest.approx(3.0, abs=0.01)
    assert maedfer.Prediction(found.rows, CLASSES, video, options=found.options).summary["minutes_with_a_face"] == (
        pytest.approx((1.5 + 0.5) / 60, abs=1e-4)
    )


def test_one_predictor_serves_many_videos(video: Path) -> None:
    predictor = maedfer.open_predictor(classifier(), device="cpu")
    assert isinstance(predictor, Predictor)
    one, other = (maedfer.predict(video, predictor, crop=False, whole=True) for _ in range(2))
    assert len(one.rows) == 1 and one.rows[0].window.status == "ok"
    np.testing.assert_array_equal(one.rows[0].probabilities, other.rows[0].probabilities)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hopp": 1}, "unknown key 'hopp': did you mean 'hop'"),
        ({"hop": -1}, "hop must be above 0, got -1"),
        ({"faces": "largst"}, "unknown value for faces: 'largst': did you mean 'largest'"),
        ({"faces": 0}, "faces must be all, largest, or how many"),
        ({"between": (3,)}, "between must be a list of 2 values"),
        ({"between": (3, 2)}, "the earlier one first, got 3 and 2"),
        ({"crop": False, "between": (10, 20)}, r"a b.mp4: has no frame between 10 and 20 seconds"),
        ({"whole": True, "hop": 0.5}, "whole and hop do not go together: leave one of them out"),
        ({"crop": False, "margin": 1.5}, "crop=False and margin do not go together"),
        ({"boxes": "absent.csv", "every": 2}, "boxes and every do not go together"),
        ({"hop": 0.0001}, "hop must be 0.001 s at least, got 0.0001"),
        ({"precision": "fp8"}, "unknown value for precision: 'fp8'"),
        ({"device": "abacus"}, "device must be auto, cpu"),
        ({"classes": ["a"]}, "classes has"),
    ],
)
def test_what_is_mistyped_is_named(video: Path, saved: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        maedfer.predict(video, saved, **{"device": "cpu", **options})


def test_what_belongs_to_the_model_is_said_when_it_is_loaded(video: Path) -> None:
    predictor = maedfer.open_predictor(classifier(), device="cpu")
    options: dict[str, Any]
    for options in ({"precision": "bf16"}, {"batch_size": 2}, {"classes": CLASSES}, {"calibrate": False}):
        name = next(iter(options))
        with pytest.raises(InputError, match=f"{name} is chosen when a model is loaded: give it to open_predictor"):
            maedfer.predict(video, predictor, **options)
    with pytest.raises(InputError, match="device is chosen when a model is loaded"):
        predictor.predict(video, device="cpu")


def test_streams_are_for_stream(saved: Path) -> None:
    with pytest.raises(InputError, match=r"rtsp://camera: .*Predictor.stream"):
        maedfer.predict("rtsp://camera", saved, device="cpu")
