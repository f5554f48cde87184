from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from maedfer.errors import InputError
from maedfer.models import LGIFormer
from maedfer.studies.feature_store import LOG_FILE, FeatureSet, FeatureStore, weights_digest
from tests.helpers import randomize, small

SHAPES = {"pooled-1": (3,), "tokens-1-x": (2, 3)}


def rows(first: int, count: int) -> dict[str, np.ndarray]:
    numbers = np.arange(first, first + count, dtype=np.float32)
    return {"pooled-1": numbers[:, None] + np.zeros(3), "tokens-1-x": numbers[:, None, None] + np.zeros((2, 3))}


def test_rows_come_back_as_they_are(tmp_path: Path) -> None:
    one = FeatureSet(tmp_path / "set", {"a": 1}, SHAPES, 5)
    one.append(rows(0, 3), {1: "torn"}, (0.0, 2.0))
    one.append(rows(3, 2), {}, (0.08, 6.0))
    one.close()
    again = FeatureSet.read(tmp_path / "set")
    assert again is not None and again.whole and again.about == {"a": 1} and again.broken == {1: "torn"}
    assert again.rounding == pytest.approx(0.1) and again.bytes == 5 * (12 + 12)
    assert again.array("pooled-1").dtype == np.float32 and again.array("tokens-1-x").dtype == np.float16
    np.testing.assert_array_equal(again.array("pooled-1"), rows(0, 5)["pooled-1"])
    np.testing.assert_array_equal(again.array("tokens-1-x"), rows(0, 5)["tokens-1-x"])


@pytest.mark.parametrize("cut", ["an array", "half a row more", "half a line", "a line too many"])
def test_what_a_kill_leaves_is_gone_on_with(tmp_path: Path, cut: str) -> None:
    one = FeatureSet(tmp_path / "set", {}, SHAPES, 6)
    one.append(rows(0, 2), {})
    one.append(rows(2, 2), {3: "torn"})
    one.close()
    pooled, log = tmp_path / "set" / "pooled-1.float32", tmp_path / "set" / LOG_FILE
    there = 4
    if cut == "an array":
        pooled.write_bytes(pooled.read_bytes()[:-5])
        there = 2
    elif cut == "half a row more":
        pooled.write_bytes(pooled.read_bytes() + b"1234567")
    elif cut == "half a line":
        log.write_bytes(log.read_bytes()[:-4])
        there = 2
    else:
        log.write_bytes(log.read_bytes() + json.dumps({"done": 6, "broken": {}, "lost": [0, 0]}).encode() + b"\n")
    again = FeatureSet.read(tmp_path / "set")
    assert again is not None and again.done == there and again.broken == ({3: "torn"} if there == 4 else {})
    again.append(rows(there, 6 - there), {})
    again.close()
    last = FeatureSet.read(tmp_path / "set")
    assert last is not None and last.whole
    for name, expected in rows(0, 6).items():
        np.testing.assert_array_equal(last.array(name), expected)


def test_sets_of_other_things_are_removed_and_told(tmp_path: Path) -> None:
    def filled(about: dict[str, int]) -> FeatureStore:
        store = FeatureStore(tmp_path, "model-train", about)
        one = store.open({"pooled-1": (3,)}, 2)
        one.append({"pooled-1": np.zeros((2, 3))}, {})
        one.close()
        return store

    assert filled({"weights": 1, "views": 2}).changed == []
    same = FeatureStore(tmp_path, "model-train", {"weights": 1, "views": 2})
    # Other arrays of the same clips stay beside it.
    assert set(same.whole(SHAPES)) == {"pooled-1"} and same.changed == []
    same.open({"tokens-1-x": (2, 3)}, 2).close()
    assert len(same.sets()) == 2 and set(same.whole(SHAPES)) == {"pooled-1"}
    # Another list's are not looked at.
    FeatureStore(tmp_path, "random-train", {"weights": 5})
    assert len(same.sets()) == 2
    # What is no set, as a kill may leave it, is removed without a word.
    (tmp_path / "model-train-0").mkdir()
    assert FeatureStore(tmp_path, "model-train", {"weights": 1, "views": 2}).changed == []
    assert FeatureStore(tmp_path, "model-train", {"weights": 3, "views": 2}).changed == ["weights"]
    assert not any(tmp_path.iterdir())


def test_a_full_disk_is_told_before(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, "model-train", {})
    with pytest.raises(InputError, match=r"features of data.train take .* GB and .* has .* GB left: ask for fewer"):
        store.open({"tokens-1-x": (10**9, 10**6)}, 10)


def test_weights_tell_models_apart() -> None:
    first, second = LGIFormer(small()), LGIFormer(small(drop_path=0.3))
    second.load_state_dict(first.state_dict())
    # The head is not looked at, nor who computes.
    randomize(second.head)
    assert weights_digest(first) == weights_digest(second)
    second.head_norm.bias.data[0] += 1e-3
    assert weights_digest(first) != weights_digest(second)
    assert weights_digest(first) != weights_digest(LGIFormer(small(share_attention="none", region_size=(1, 2, 4))))
