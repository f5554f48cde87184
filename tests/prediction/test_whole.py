"""One score a clip: the frames and the probabilities of an evaluation, and those of a face."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from maedfer.data import read_annotations
from maedfer.data.augment.transforms import EvalTransform
from maedfer.data.dataset import ClipDataset
from maedfer.data.sampling import view_indices
from maedfer.evaluation.predictions import read_predictions
from maedfer.faces.boxes import read_boxes
from maedfer.faces.crop import crop_square
from maedfer.faces.follow import Follower
from maedfer.models import ClipSettings
from maedfer.prediction.one_video import scored_rows
from maedfer.prediction.options import PredictionOptions, options_from
from maedfer.prediction.predictor import open_predictor
from maedfer.prediction.rows import Window
from maedfer.prediction.sources import FileSource, open_source
from maedfer.prediction.timeline import windows_of
from maedfer.prediction.windows import ModelInput
from maedfer.train import load_config, run_evaluate
from tests.data.media import pictures, write_video
from tests.prediction.models import CLASSES, classifier
from tests.prediction.scenes import Knowing, Scene, still

WHOLE = options_from(whole=True, crop=False)
LENGTHS = {"one": 1, "three": 3, "short": 13, "long": 57}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for name, count in LENGTHS.items():
        # Taller than wide, odd sides.
        write_video(folder / f"{name}.mp4", pictures(count, 50, 38))
    times = np.cumsum(np.random.default_rng(0).integers(10, 90, 40)).tolist()
    write_video(folder / "varying.mkv", pictures(40), rate=1000, times=times)
    rows = [*(f"{name}.mp4 {number % 3}" for number, name in enumerate(LENGTHS)), "varying.mkv 1"]
    (folder / "list.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.mark.parametrize(("fit", "views"), [("stretch", 2), ("crop", 3), ("stretch", 1)])
def test_the_model_sees_what_an_evaluation_shows_it(videos: Path, fit: Literal["stretch", "crop"], views: int) -> None:
    model = ModelInput(4, (16, 20), stride=2, fit=fit, views=views)
    entries = read_annotations(videos / "list.csv")
    dataset = ClipDataset(entries, "views", 4, 2, EvalTransform((16, 20), fit), views=views)
    for number, entry in enumerate(entries):
        with FileSource(entry.path) as source:
            (found,) = windows_of(source, None, model, WHOLE)
            assert (found.face, found.status, found.frames, found.detection) == (1, "ok", 4, None)
            assert (found.start, found.end) == (source.first_time, source.end_time)
            assert found.box == (0, 0, source.size[1], source.size[0])
        assert found.clip is not None
        expected = dataset[number]["frames"].permute(0, 2, 3, 4, 1).numpy()
        np.testing.assert_array_equal(found.clip, expected)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_probabilities_are_those_of_evaluate(videos: Path, tmp_path: Path, precision: Literal["fp32", "bf16"]) -> None:
    model = classifier(settings=ClipSettings(classes=CLASSES, stride=3, fit="crop", views=3))
    model.save_pretrained(tmp_path / "model")
    settings = [f"eval.checkpoint={tmp_path / 'model'}", f"data.test={videos / 'list.csv'}", "data.workers=0"]
    settings += [f"output={tmp_path / 'scores'}", "train.device=cpu", f"train.precision={precision}", "report=false"]
    run_evaluate(load_config("evaluate", None, [*settings, "train.tensorboard=false"]))
    expected = read_predictions(tmp_path / "scores" / "pred.csv")
    predictor = open_predictor(tmp_path / "model", device="cpu", precision=precision)
    for name, probabilities in zip(expected.names, expected.probabilities, strict=True):
        with open_source(videos / name, WHOLE) as source:
            assert isinstance(source, FileSource)
            ((row, features),) = scored_rows(predictor, windows_of(source, None, predictor.input, WHOLE), name)
        assert row.video == name and row.window.clip is None and features is not None
        assert row.probabilities is not None
        np.testing.assert_allclose(row.probabilities, probabilities, rtol=0, atol=1e-6)
    assert np.ptp(expected.probabilities, 0).max() > 0.02


class InMemory(FileSource):
    """A scene as a file."""

    def __init__(self, scene: Scene) -> None:
        self.name, self.scene, self.first = "scene", scene, 0
        self.times = self.all_times = scene.times
        self.first_time, self.end_time = float(scene.times[0]), float(scene.times[-1]) + 0.04
        self.shown_until = self.end_time
        self.size = scene.picture(0).shape[0], scene.picture(0).shape[1]
        self.frames = scene.frames  # type: ignore[method-assign, assignment]

    def read(self, indices: object) -> np.ndarray:
        return np.stack([self.scene.picture(int(index)) for index in indices])  # type: ignore[attr-defined]

    def close(self) -> None: ...


def whole(scene: Scene, options: PredictionOptions, **more: object) -> list[Window]:
    follower = Follower(Knowing(scene), every=5)
    return list(windows_of(InMemory(scene), follower, ModelInput(4, (12, 12), 3, views=2), options, **more))  # type: ignore[arg-type]


def test_each_face_is_a_clip_of_the_frames_in_which_it_is() -> None:
    scene = Scene(np.arange(150) / 25, [still(4, 12), still(34, 16, (2.0, 4.5))])
    rows = whole(scene, options_from(whole=True))
    spans = [(0, 150), (0, 50), (113, 150)]
    assert [(row.face, row.frames, row.status) for row in rows] == [(1, 4, "ok"), (2, 4, "ok"), (3, 4, "ok")]
    tracks = Follower(Knowing(scene))
    for frame in scene.frames():
        tracks.push(frame)
    tracks.finish()
    for row, (first, stop), track in zip(rows, spans, tracks.tracks(), strict=True):
        assert (row.start, row.end, row.time) == pytest.approx((first / 25, stop / 25, (first + stop) // 2 / 25))
        views = [first + view for view in view_indices(stop - first, 4, 3, 2)]
        boxes = [[track.boxes_at(scene.times[[index]])[0] for index in view.tolist()] for view in views]
        expected = [
            [crop_square(scene.picture(index), box, 12, 1.3) for index, box in zip(view.tolist(), some, strict=True)]
            for view, some in zip(views, boxes, strict=True)
        ]
        np.testing.assert_array_equal(row.clip, expected)
        assert row.box == pytest.approx(np.array(boxes, np.float64).mean((0, 1)).tolist(), rel=1e-6)
        assert row.detection == pytest.approx(0.9 if row.face == 1 else 0.8, abs=1e-6)


def test_the_largest_face_nobody_and_what_is_scored() -> None:
    scene = Scene(np.arange(150) / 25, [still(4, 12), still(34, 16, (2.0, 4.5))])
    assert [row.face for row in whole(scene, options_from(whole=True, faces="largest"))] == [2]
    assert [row.face for row in whole(scene, options_from(whole=True, faces=2))] == [2, 3]
    nobody = Scene(np.arange(20) / 25, [])
    assert whole(nobody, options_from(whole=True)) == [Window(0, 0.0, 0.8, 0.4, None, None, None, 0, "no_face")]
    full = whole(scene, options_from(whole=True))
    left = whole(scene, options_from(whole=True), scored=lambda number, face: face in (1, 2))
    assert [row.clip is None for row in left] == [True, True, False]
    assert [dataclasses.replace(row, clip=None) for row in left] == [
        dataclasses.replace(row, clip=None) for row in full
    ]
    np.testing.assert_array_equal(left[2].clip, full[2].clip)


def test_rows_come_in_the_order_in_which_faces_appear(tmp_path: Path) -> None:
    scene = Scene(np.arange(50) / 25, [])
    lines = [f"{frame},{face},4,4,20,20" for frame in range(50) for face in (2, 5, 1) if frame >= 10 * (face == 1)]
    (tmp_path / "boxes.csv").write_text("\n".join(["frame,face,x,y,width,height", *lines]))
    follower = Follower(read_boxes(tmp_path / "boxes.csv"))
    found = list(windows_of(InMemory(scene), follower, ModelInput(4, (12, 12), 3), WHOLE))
    assert [(row.start, row.face) for row in found] == [(0.0, 2), (0.0, 5), (0.4, 1)]
