"""What the published training functions give: frames, learning rates of every step, groups of parameters."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from maedfer.data import sampling
from maedfer.models import build_model, published_gradients
from maedfer.models.published.arguments import read_arguments
from maedfer.train.config import OptimConfig
from maedfer.train.optim import Schedule, parameter_groups
from tests.helpers import REPOSITORY

_FILE = REPOSITORY.parent / "shared" / "golden" / "training.json"
if not _FILE.is_file():
    pytest.skip("needs shared/golden/training.json beside the repository", allow_module_level=True)
PUBLISHED: dict[str, Any] = json.loads(_FILE.read_text())

FRAMES = 16
# The script's: the list of pre-training clips does not say how far frames are apart.
PRETRAIN_STRIDE = 4
# What the file's models leave to the defaults of the published constructors.
DEFAULTS = {
    "in_chans": 3,
    "encoder_in_chans": 3,
    "drop_path_rate": 0.0,
    "use_learnable_pos_emb": False,
    "lg_attn_param_sharing_first_third": False,
    "lg_attn_param_sharing_all": False,
    "_feedback": "none",
    "mask_ratio": 0.9,
    "target_diff_weight": None,
    "normlize_target": True,
    "use_frame_diff_as_target": True,
}


@pytest.fixture
def drawn(monkeypatch):
    """Let a test say what is drawn; it must be what can be."""

    def draw(value: int | None) -> None:
        def _draw(low: int, high: int, generator: torch.Generator | None) -> int:
            if value is None:
                pytest.fail("something is drawn where the published code draws nothing")
            assert low <= value < high, f"{value} is never drawn, which is from {low} to {high - 1}"
            return value

        monkeypatch.setattr(sampling, "_draw", _draw)

    return draw


def test_every_part_of_the_file_is_compared():
    parts = "finetune_train_frames test_views pretrain_frames schedule finetune_groups pretrain_groups"
    assert set(PUBLISHED) == set(parts.split())


def test_frames_of_fine_tuning(drawn):
    for case in PUBLISHED["finetune_train_frames"]:
        drawn(case.get("end"))
        found = sampling.train_indices(case["n"], FRAMES, case["stride"])
        assert found.tolist() == case["frames"], case


def test_views_of_testing():
    for case in PUBLISHED["test_views"]:
        found = sampling.view_indices(case["n"], FRAMES, case["stride"], len(case["views"]))
        assert [view.tolist() for view in found] == case["views"], case


def test_frames_of_pre_training(drawn):
    for case in PUBLISHED["pretrain_frames"]:
        drawn(case["start"])
        found = sampling.pretrain_indices(case["n"], FRAMES, PRETRAIN_STRIDE)
        assert found.tolist() == case["frames"], case


def test_learning_rates_of_every_step():
    for case in PUBLISHED["schedule"]:
        names = ("lr", "min_lr", "epochs", "warmup_epochs")
        schedule = Schedule(
            OptimConfig(lr_batch=256, **{name: case[name] for name in names}), case["batch"], case["steps_per_epoch"]
        )
        assert schedule.total == len(case["values"])
        found = [schedule(step) for step in range(schedule.total)]
        np.testing.assert_allclose(found, case["values"], rtol=1e-12, atol=0, err_msg=str(case["task"]))


@pytest.mark.parametrize("task", ["finetune", "pretrain"])
def test_weight_decay_and_scale_of_every_parameter(task):
    case = PUBLISHED[f"{task}_groups"]
    config = read_arguments({**DEFAULTS, **case["args"]}, task, _FILE.name)
    model = build_model(config)
    depth = case["args"]["depth" if task == "finetune" else "encoder_depth"]
    groups = parameter_groups(
        model, case["weight_decay"], case.get("layer_decay", 1.0), model.layer_index, depth, model.no_weight_decay()
    )
    # A gradient that holds the number of its group comes out under published names, some of which are parts of ours.
    for number, group in enumerate(groups):
        for parameter in group["params"]:
            parameter.grad = torch.full_like(parameter, number)
    found = {}
    for name, values in published_gradients(model).items():
        (number,) = values.unique().tolist()
        found[name] = [groups[int(number)]["weight_decay"], groups[int(number)]["lr_scale"]]
    assert found.keys() == case["groups"].keys()
    for name, pair in case["groups"].items():
        assert found[name] == pytest.approx(pair, rel=1e-12), name
