"""Rules of training that no setting tells, and what becomes of a run that goes on under newer ones than it began with.

A checkpoint has the number of the rules that it was made by. 2 are the published ones. Under 1, which files without a
number have, the learning rate reached its peak one step after the warm-up; in pre-training, samples could hold the last
frame of their clip, and representative tokens took no weight decay.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from maedfer.models import MAEDFER, LGIFormer
from maedfer.train.optim import Schedule, groups_of
from maedfer.train.settings import RunConfig

RULES = 2


def changed_rules(state: Mapping[str, Any], cfg: RunConfig, schedule: Schedule, step: int) -> list[str]:
    """Sentences about rules that are other ones than a run had before.

    Args:
        state: its checkpoint.
        cfg, schedule: of the run.
        step: after which it goes on.
    """
    if state.get("rules", 1) >= RULES:
        return []
    notes = []
    # Step 0 has a rate of 0 under both, and after the warm-up there is no difference.
    first = max(step, 1)
    if first < schedule.warmup:
        notes.append(
            "the warm-up reaches its peak one step earlier than it did when the run began, as published: learning "
            f"rates of steps {first + 1} to {schedule.warmup} are {1 / (schedule.warmup - 1):.1%} higher"
        )
    if cfg.task == "pretrain":
        frames, stride = cfg.clip_model.clip_size[0], cfg.data.stride
        which = f"clips of up to {(frames - 1) * stride + 1} frames" if stride > 1 else "clips"
        notes.append(
            f"from step {step + 1} on, samples of {which} hold the frame before where they would reach the last one, "
            "and representative tokens take weight decay, both as published"
        )
    return notes


def in_present_groups(
    state: Mapping[str, Any], cfg: RunConfig, model: LGIFormer | MAEDFER, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """The state of a checkpoint's optimiser, sorted by the groups that parameters belong to now.

    Args:
        state: the checkpoint.
        cfg, model, optimizer: of the run that goes on.
    """
    kept: dict[str, Any] = state["optimizer"]
    if state.get("rules", 1) >= RULES or not isinstance(model, MAEDFER):
        return kept
    exempt = {*model.no_weight_decay(), "encoder.representative_tokens"}
    former = [id(p) for group in groups_of(model, cfg, exempt) for p in group["params"]]
    present = [id(p) for group in optimizer.param_groups for p in group["params"]]
    places = {former.index(parameter): place for place, parameter in enumerate(present)}
    moments = {places[place]: moment for place, moment in kept["state"].items()}
    return {"state": moments, "param_groups": optimizer.state_dict()["param_groups"]}
