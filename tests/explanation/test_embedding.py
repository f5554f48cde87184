"""Features in the plane."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maedfer.errors import InputError, MissingDependencyError
from maedfer.evaluation.features import Features
from maedfer.explanation import feature_map


def groups(count: int = 40, subjects: int = 2) -> tuple[Features, list[str]]:
    """Three classes far from each other."""
    draw = np.random.default_rng(0)
    labels = np.arange(count) % 3
    vectors = (8 * np.eye(16)[labels] + draw.normal(0, 0.3, (count, 16))).astype(np.float32)
    who = [f"s{number // 3 % subjects}" for number in range(count)]
    return Features([f"clip {number}" for number in range(count)], labels, vectors), who


def test_neighbours_stay_neighbours_and_the_table_has_every_clip(tmp_path: Path) -> None:
    features, who = groups()
    found = feature_map(features, classes=("calm", "glad", "cross"), subjects=who, method="tsne")
    assert found.points.shape == (40, 2) and found.method == "t-SNE, perplexity 10"
    distance = np.linalg.norm(found.points[:, None] - found.points[None], axis=2) + 1e9 * np.eye(40)
    assert (features.labels[distance.argmin(1)] == features.labels).all()
    again = feature_map(features, subjects=who, method="tsne")
    np.testing.assert_array_equal(again.points, found.points)
    found.write(tmp_path / "features.csv")
    with open(tmp_path / "features.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[4].values())[:4] == ["clip 4", "1", "glad", "s1"] and len(rows) == 40
    assert float(rows[4]["x"]) == pytest.approx(found.points[4, 0], rel=1e-5)
    figure: Any = found.plot()
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == ["calm", "glad", "cross", "s0", "s1"]
    drawn = np.concatenate([points.get_offsets() for points in figure.axes[0].collections])
    assert len(drawn) == 40 and {*map(tuple, drawn.tolist())} == {*map(tuple, found.points.tolist())}


def test_more_people_than_shapes_have_none() -> None:
    features, who = groups(subjects=13)
    found = feature_map(features, subjects=who, method="tsne")
    assert len({*found.subjects}) == 13 and not found.shapes
    figure: Any = found.plot()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["class 0", "class 1", "class 2"]
    assert feature_map(features, subjects=[""] * 40, method="tsne").subjects == ()


def test_what_cannot_be_laid_out_is_told() -> None:
    features, who = groups()
    few = Features(features.names[:7], features.labels[:7], features.vectors[:7])
    same = Features(features.names, features.labels, np.ones((40, 4), np.float32))
    views = Features(features.names, features.labels, features.vectors[:, None])
    for wrong, more, message in (
        (few, {}, "8 clips at least, got 7 clips"),
        (same, {}, "the same for all clips"),
        (views, {}, r"one vector a clip, \[n, C\], got \[40, 1, 16\]"),
        (features, {"subjects": who[1:]}, "39 subjects of 40 clips"),
        (features, {"method": "pca"}, "unknown method 'pca'"),
    ):
        arguments: Any = more
        with pytest.raises(InputError, match=message):
            feature_map(wrong, **arguments)


@pytest.mark.skipif(importlib.util.find_spec("umap") is not None, reason="umap-learn is installed")
def test_umap_names_what_to_install() -> None:
    features, _ = groups()
    with pytest.raises(MissingDependencyError, match="umap-learn"):
        feature_map(features, method="umap")


def test_umap_keeps_neighbours() -> None:
    pytest.importorskip("umap", reason="umap-learn is too large for the continuous tests")
    features, _ = groups()
    found = feature_map(features)
    assert found.method == "UMAP, 15 neighbours"
    distance = np.linalg.norm(found.points[:, None] - found.points[None], axis=2) + 1e9 * np.eye(40)
    assert (features.labels[distance.argmin(1)] == features.labels).all()
