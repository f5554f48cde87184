from __future__ import annotations

import numpy as np
import pytest

from maedfer.errors import InputError
from maedfer.evaluation.class_map import ClassMap
from maedfer.evaluation.predictions import Predictions, Skipped

MODEL = ("happy", "angry", "disgusted", "fear", "neutral")
DATASET = ("calm", "joy", "negative", "contempt", "surprise")
TARGETS = {"happy": "joy", "angry": "negative", "disgusted": "negative", "neutral": "calm"}
PROBABILITIES = np.array(
    [
        [0.40, 0.10, 0.20, 0.20, 0.10],
        [0.30, 0.25, 0.15, 0.20, 0.10],
        [0.00, 0.00, 0.00, 1.00, 0.00],
        [0.10, 0.10, 0.10, 0.10, 0.60],
        [0.10, 0.20, 0.30, 0.10, 0.30],
    ],
    np.float32,
)


def said(labels: list[int]) -> Predictions:
    return Predictions(
        list("vwxyz"), np.array(labels), PROBABILITIES, MODEL, features=np.arange(10.0).reshape(5, 2),
        skipped=(Skipped("s", 2, "broken"), Skipped("t", 3, "broken")), subjects=tuple("ABCDE"),
    )  # fmt: skip


def test_probabilities_of_classes_that_go_to_one_are_added_up() -> None:
    mapped, facts, notes = ClassMap(MODEL, DATASET, TARGETS, "map.yaml").apply(said([1, 2, 0, 3, 2]))
    # Classes and labels are those of the data set that are reached, in its order; the clip of contempt is left out.
    assert mapped.classes == ("calm", "joy", "negative")
    assert mapped.names == ["v", "w", "x", "z"] and mapped.labels.tolist() == [1, 2, 0, 2]
    wanted = np.array([[0.1, 0.4, 0.3], [0.1, 0.3, 0.4], [0.8 / 3] * 3, [0.3, 0.1, 0.5]])
    wanted /= wanted.sum(1, keepdims=True)
    np.testing.assert_allclose(mapped.probabilities, wanted, rtol=1e-6)
    # The second clip is right as both of its classes together, and would be wrong by the largest one alone.
    assert mapped.predicted.tolist() == [1, 2, 0, 2]
    assert mapped.features is not None
    assert mapped.subjects == ("A", "B", "C", "E") and mapped.features[:, 0].tolist() == [0, 2, 4, 8]
    assert mapped.skipped == (Skipped("s", 2, "broken"),)
    assert facts == {
        "map": TARGETS,
        "model_classes_left_out": ["fear"],
        "probability_left_out": pytest.approx((0.2 + 0.2 + 1 + 0.1) / 4),
        "dataset_classes_left_out": {"contempt": 1, "surprise": 0},
        "clips_left_out": 1,
    }
    assert notes == [
        "scored in 3 classes of the data set, by map.yaml",
        "probabilities are added up: angry + disgusted as negative",
        "no class of the model stands for contempt (1 clip), surprise (0 clips): these clips are left out",
        "the data set has no class for the model's fear: left out, 37.5% of the probability on average",
        "no probability is left of 1 clip for any class of the data set: all count alike there",
    ]
    assert mapped.metrics()["recall"] == [1.0, 1.0, 1.0]


def test_the_same_classes_in_another_order_change_names_alone() -> None:
    names = tuple(reversed(MODEL))
    mapped, facts, notes = ClassMap(MODEL, names, {name: name for name in MODEL}, "map.yaml").apply(
        said([4, 0, 1, 2, 3])
    )
    np.testing.assert_array_equal(mapped.probabilities, PROBABILITIES[:, ::-1])
    assert mapped.classes == names and mapped.labels.tolist() == [4, 0, 1, 2, 3]
    assert len(notes) == 1 and facts["clips_left_out"] == 0 and facts["probability_left_out"] == 0


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ({}, "^map.yaml names no class: write a line"),
        ({"hapy": "joy"}, "class of the model 'hapy' in map.yaml: did you mean 'happy'"),
        ({"happy": "joi"}, r"class of the data set 'joi' in map.yaml \(see data.classes\): did you mean 'joy'"),
        ({"happy": "joy", "fear": "joy"}, "all go to one class of the data set, 'joy'"),
    ],
)
def test_maps_that_cannot_be_are_refused(targets: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ClassMap(MODEL, DATASET, targets, "map.yaml")


def test_a_data_set_without_a_class_that_is_reached_is_refused() -> None:
    with pytest.raises(InputError, match="no clip of data.test is of a class that the model's classes go to"):
        ClassMap(MODEL, DATASET, TARGETS, "map.yaml").apply(said([3, 4, 3, 4, 3]))
