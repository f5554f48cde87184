from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from maedfer.errors import InputError
from maedfer.prediction import Prediction, PredictionOptions, Row, Window
from maedfer.prediction.segments import Segment
from maedfer.prediction.table import read_table

CLASSES = ("happy", "sad")


def words_of(figure: Any) -> set[str]:
    return {text.get_text() for text in figure.findobj(matplotlib.text.Text)}


@pytest.fixture
def prediction() -> Prediction:
    def row(start: int, face: int | None, *chances: float) -> Row:
        box = (1.5, 2.25, 30.0, 40.12) if face else None
        window = Window(start, start, start + 2, start + 1, face, box, 0.75 if face else None, 16 if face else 0,
                        "ok" if face else "no_face")  # fmt: skip
        return Row("a b.mp4", window, np.array(chances) if chances else None)

    return Prediction([row(0, 1, 0.25, 0.75), row(0, 2, 0.5, 0.5), row(1, 1, 0.125, 0.875), row(2, None)], CLASSES,
                      "a b.mp4")  # fmt: skip


def test_table_of_pandas_is_that_of_the_file(prediction: Prediction, tmp_path: Path) -> None:
    frame = prediction.to_pandas()
    path = prediction.save(tmp_path / "out")
    read = pd.read_csv(path)
    assert list(frame.columns) == list(read.columns) and len(frame) == len(prediction) == 4
    for name in frame.columns:
        if name in ("video", "status", "prediction"):
            assert frame[name].fillna("").tolist() == read[name].fillna("").tolist()
        else:
            values = frame[name].to_numpy(float, na_value=np.nan)
            assert np.allclose(values, read[name].to_numpy(float), equal_nan=True), name
    assert str(frame["face"].dtype) == "Int64" and frame["face"].isna().tolist() == [False, False, False, True]
    assert Prediction([], CLASSES, "a.mp4").to_pandas().columns.tolist() == list(frame.columns)


def test_what_is_saved_is_loaded(prediction: Prediction, tmp_path: Path) -> None:
    path = prediction.save(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a b.csv", "a b.json", "a b.png"]
    again = Prediction.load(path)
    assert again.classes == CLASSES and again.video == "a b.mp4" and again.summary == prediction.summary
    for one, other in zip(prediction.rows, again.rows, strict=True):
        assert one.window == other.window
        if one.probabilities is None or other.probabilities is None:
            assert one.probabilities is other.probabilities
        else:
            assert np.allclose(one.probabilities, other.probabilities)
    assert again.record is None and again.options == PredictionOptions()
    # Saving it once more leaves the same.
    content = path.read_bytes()
    assert again.save(tmp_path).read_bytes() == content
    assert list(read_table(path)[1])[3].window.status == "no_face"


def test_options_and_boxes_are_found_beside_the_table(prediction: Prediction, tmp_path: Path) -> None:
    path = prediction.save(tmp_path)
    assert Prediction.load(path).options == PredictionOptions()
    settings = {"fps": 12.5, "margin": 2.0, "between": [1.0, 2.0], "every": 3, "boxes": None, "weights_sha256": "ab"}
    path.with_suffix(".json").write_text(json.dumps({"settings": settings}))
    path.with_suffix(".boxes.csv").write_text("")
    again = Prediction.load(path, video="elsewhere.mp4")
    assert again.options == PredictionOptions(fps=12.5, margin=2.0, between=(1.0, 2.0), every=3)
    assert again.record == path.with_suffix(".boxes.csv") and again.video == "elsewhere.mp4"
    again.record.write_text("boxes")
    elsewhere = Prediction.load(again.save(tmp_path / "other"))
    assert elsewhere.record is not None and elsewhere.record.read_text() == "boxes"
    path.with_suffix(".json").write_text('{"settings": {"margin": "wide"}}')
    with pytest.raises(InputError, match=r"a b\.json: its settings .* margin"):
        Prediction.load(path)
    path.with_suffix(".json").write_text("[")
    with pytest.raises(InputError, match="cannot be read"):
        Prediction.load(path)
    with pytest.raises(InputError, match=r"absent\.csv"):
        Prediction.load(tmp_path / "absent.csv")


def test_words_and_pictures_of_a_prediction(prediction: Prediction, tmp_path: Path) -> None:
    assert repr(prediction) == "<Prediction of a b.mp4: 4 rows, 2 faces: sad 67%, happy 33%>"
    assert repr(Prediction([], CLASSES, "")) == "<Prediction of : 0 rows, 0 faces>"
    assert prediction._repr_png_().startswith(b"\x89PNG")
    words = words_of(prediction.plot(tmp_path / "a.png"))
    assert any("uncalibrated" in text for text in words) and "a b.mp4" in words
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width == 2000
    prediction.summary |= {"calibration": "told otherwise", "minutes": 0.1}
    words = words_of(prediction.plot())
    assert "Told otherwise." in words and any(text.startswith("0:06.0 · 2 faces") for text in words)


def test_segments_of_a_prediction(prediction: Prediction, tmp_path: Path) -> None:
    (tmp_path / "turns.csv").write_text("start,end,label\n0,0:03,all\n")
    found = prediction.segments(tmp_path / "turns.csv", tmp_path / "out.csv")
    again = prediction.segments([Segment(0.0, 3.0, "all")])
    assert [row.face for row in found] == [row.face for row in again] == [1, 2]
    # Both windows of face 1 have two seconds in it.
    assert found[0].probabilities is not None and np.allclose(found[0].probabilities, [0.1875, 0.8125])
    assert pd.read_csv(tmp_path / "out.csv")["label"].tolist() == ["all", "all"]
