"""Changes to training clips are Pillow's to one grey level, and the command that measures it says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

# decord brings libraries of its own: PyAV, which is loaded first, must not take its encoders from them.
pytest.importorskip("av")
pytest.importorskip("decord")

from benchmarks import differences


def picture(height: int, width: int) -> np.ndarray:
    """Smooth with some noise."""
    random = np.random.default_rng(0)
    small = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return (smooth + random.integers(-5, 6, smooth.shape)).clip(0, 255).astype(np.uint8)


def test_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(differences, "CHAINS", 30)
    monkeypatch.setattr(differences, "CROPS", 3)
    found = dict(differences.measure([picture(256, 256), picture(200, 200)]))
    alone = {name: row for name, row in found.items() if "bilinear" not in name and "chains" not in name}
    assert len(alone) == 17
    # Weights of Pillow have more bits, which noise shows.
    assert alone.pop("resized to the model's size").largest <= 2
    assert max(row.largest for row in alone.values()) <= 1
    assert found["rotate, bilinear"].mean > 1 > 20 * found["rotate, bicubic"].mean
    assert found["chains of operations, bilinear"].mean > 10 * found["chains of operations, bicubic"].mean


def test_difference() -> None:
    one, other = np.array([1, 2, 200, 7], np.uint8), np.array([1, 3, 190, 7], np.uint8)
    assert differences.difference([(one, other)]) == (10, 11 / 4, 0.5, 0.25)


def test_noise_is_nearly_normal() -> None:
    mean, deviation, cut = differences.noise()
    assert abs(mean) < 0.02 and 0.95 < deviation < 1 and 0.02 < cut < 0.05


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        Image.fromarray(picture(40, 50)).save(tmp_path / f"{number}.png")
    monkeypatch.setattr(
        differences, "measure", lambda pictures: [(str(len(pictures)), differences.Difference(1, 2, 0.5, 0))]
    )
    assert differences.main([str(tmp_path)]) == 0
    assert "2  " in capsys.readouterr().out.splitlines()[0]
