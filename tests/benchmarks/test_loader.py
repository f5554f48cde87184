from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import loader
from maedfer._native import build_record
from maedfer.data.augment import native_pictures
from maedfer.data.augment.rand_augment import OPERATIONS

# Both ways are timed side by side.
needs_csrc = pytest.mark.skipif(not build_record()["cpu"]["built"], reason=str(build_record()["cpu"].get("why")))


@needs_csrc
def test_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clip = tmp_path / "clip"
    clip.mkdir()
    for number in range(20):
        picture = np.random.default_rng(number).integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(picture).save(clip / f"{number:03d}.png")
    monkeypatch.setattr("sys.argv", ["loader", str(clip), "--rounds", "2", "--results", str(tmp_path)])
    assert loader.main() == 0
    found = json.loads((tmp_path / "loader_cpu.json").read_text())
    assert [(row["task"], [by["impl"] for by in row["by"]]) for row in found["rows"]] == [
        ("finetune", ["torch", "native"]),
        ("pretrain", ["torch"]),
    ]
    for row in found["rows"]:
        for by in row["by"]:
            both = row["reading_ms"] + by["transform_ms"]
            assert by["clips_per_s"] == pytest.approx(1e3 / both)
            assert by["transform_share"] == pytest.approx(by["transform_ms"] / both)
    moving = [f"{name}_bilinear" for name in OPERATIONS if name.startswith(("rotate", "shear", "translate"))]
    operations = [*OPERATIONS, *moving, "resized_crop", "resize_as_read"]
    assert [row["operation"] for row in found["operations"]] == operations
    assert "clips/s" in capsys.readouterr().out


@needs_csrc
def test_what_does_not_agree_is_not_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (48, 40)).save(tmp_path / "000.png")
    monkeypatch.setattr(native_pictures, "saturate", lambda pictures, factor: pictures + 2)
    monkeypatch.setattr("sys.argv", ["loader", str(tmp_path), "--rounds", "2"])
    assert loader.main() == 2
    assert "color: PyTorch and csrc differ by 2, not timed" in capsys.readouterr().err


@needs_csrc
def test_a_clip_that_is_not_there(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["loader", "nowhere.mp4"])
    assert loader.main() == 2
    assert "nowhere.mp4" in capsys.readouterr().err
