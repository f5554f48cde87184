"""Settings in words."""

from __future__ import annotations

import pytest

from maedfer.dataclass_tree import walk
from maedfer.errors import InputError
from maedfer.train import load_config
from maedfer.train.config import config_tree
from maedfer.train.describe import describe, find, shown
from maedfer.train.settings import RunConfig

DESCRIBED = {item.key: item for section in describe() for item in section.settings}


def leaves(tree: dict, path: str = "") -> dict:
    found: dict = {}
    for key, value in tree.items():
        found |= leaves(value, f"{path}{key}.") if isinstance(value, dict) else {f"{path}{key}": value}
    return found


def test_every_field_is_described_under_the_key_that_users_write() -> None:
    fields = {key.replace("model_name", "model.name").replace("model.encoder.", "model.") for key, _ in walk(RunConfig)}
    assert set(DESCRIBED) == fields


@pytest.mark.parametrize("task", ["pretrain", "finetune", "evaluate"])
def test_defaults_are_those_of_a_run_without_a_recipe(task: str) -> None:
    tree = leaves(config_tree(load_config(task, check=False)))
    for key, value in tree.items():
        item = DESCRIBED[key.replace("model.encoder.", "model.") if task == "pretrain" else key]
        # What an output folder is called, which task it is, and the sizes of a named model are no defaults.
        if key in ("task", "output") or (key.startswith("model.encoder.") and key.endswith("num_classes")):
            continue
        assert item.by_task.get(task, item.default) == shown(value), key


def test_values_are_told_by_type_and_range() -> None:
    told = {key: item.values for key, item in DESCRIBED.items()}
    assert told["data.classes"] == "a list of texts"
    assert told["data.fit"] == "stretch, crop"
    assert told["train.compile"] == "auto, true, false"
    assert told["optim.epochs"] == "a whole number between 1 and 1000000"
    assert told["optim.clip_grad"] == "a number above 0 and at most 1000000, or null"
    assert told["augment.crop"] == "4 whole numbers, each between 0 and 65536, or null"
    assert told["model.clip_size"] == "a list of whole numbers, each between 1 and 65536"


def test_finding_a_section_or_a_key() -> None:
    assert [section.name for section in find("model")] == ["model", "model"]
    assert [item.key for section in find("model.encoder.impl") for item in section.settings] == ["model.impl"]
    (encoder,) = find("model.encoder")
    assert encoder.settings[0].key == "model.encoder.clip_size"
    with pytest.raises(
        InputError, match=r"^setting 'model\.encoder\.encoder' is now called 'model\.encoder\.architecture'"
    ):
        find("model.encoder.encoder")
    with pytest.raises(InputError, match="unknown setting 'optm': did you mean 'optim'"):
        find("optm")
