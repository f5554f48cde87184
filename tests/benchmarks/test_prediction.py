from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import prediction
from benchmarks.__main__ import main
from maedfer.models import MAEDFER, LGIFormer, create_model


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"clip_size": (4, 32, 32), "region_size": (1, 2, 2), "embed_dim": 24, "num_heads": 2, "depth": 1}

    def build(name: str, num_classes: int) -> LGIFormer | MAEDFER:
        return create_model(name, num_classes=num_classes, **small if name.startswith("lgi_former") else {})

    scene = prediction.write_scene
    monkeypatch.setattr(prediction, "create_model", build)
    monkeypatch.setattr(prediction, "write_scene", lambda path: scene(path, seconds=3.4))


def test_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "predict.json"
    command = ["predict", "--model", "lgi_former_tiny", "--batch", "1", "3", "--rounds", "2", "--seconds", "0"]
    assert main([*command, "--precision", "fp32", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    (row,) = found["videos"]
    assert (row["frames"], row["rounds"], row["precision"]) == (85, 2, "fp32")
    # Windows of 4 frames at stride 4 last 0.64 s; two people are there in each of the three that begin in time.
    assert row["rows"] == row["scored"] == 6
    assert row["length_s"] == pytest.approx(3.4)
    assert row["frames_per_s"] == pytest.approx(85 / row["seconds"])
    assert row["times_real"] == pytest.approx(3.4 / row["seconds"])
    assert row["fastest_s"] <= row["seconds"] <= row["slowest_s"]
    assert sum(row["stages_s"].values()) == pytest.approx(row["seconds"])
    assert [*row["shares"]] == [*prediction.STAGES] and all(share > 0 for share in row["shares"].values())
    assert [(each["precision"], each["batch"]) for each in found["windows"]] == [("fp32", 1), ("fp32", 3)]
    for each in found["windows"]:
        assert each["windows_per_s"] == pytest.approx(1e3 * each["batch"] / each["ms"])
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 3 and "frames/s" in printed[0] and "3 at once" in printed[2]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--video", "nowhere.mp4"], "nowhere.mp4: no such file"),
        (["--rounds", "0"], "--rounds must be positive, got 0"),
        (["--threads", "0"], "--threads must be positive, got 0"),
        (["--batch", "2", "0"], "--batch must be positive, got 0"),
        (["--checkpoint", "nowhere"], "nowhere"),
        (["--model", "mae_dfer_tiny"], "--model mae_dfer_tiny is a masked autoencoder"),
    ],
)
def test_what_cannot_be_measured(options: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "--model", "lgi_former_tiny", *options]) == 2
    assert sentence in capsys.readouterr().err
