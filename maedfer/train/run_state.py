"""All that the next step of a run depends on: taken from a trainer for a checkpoint, and given back to one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from maedfer.data.annotations import Clip
from maedfer.errors import InputError
from maedfer.models import MAEDFER, LGIFormer
from maedfer.train.checkpoint import load_resumable, random_state, set_random_state, way_on
from maedfer.train.checkpoint_folder import checked
from maedfer.train.conditions import changed_conditions
from maedfer.train.config import RunConfig, saved_tree
from maedfer.train.meter import Meter
from maedfer.train.optim import Ema, Schedule
from maedfer.train.parallel import Parallel
from maedfer.train.processes import Runtime
from maedfer.train.rules import RULES, changed_rules, in_present_groups
from maedfer.train.same_clips import changed_lists, changed_sizes, check_same_clips
from maedfer.train.sharded_state import destination, gathered, load_weights, parts_of
from maedfer.train.tasks import Task
from maedfer.train.watch import DeadGradients, SpikeWatch


@dataclass
class Position:
    """How far a run is: what is done, the last epoch's mean loss, the best score so far (`best_epoch` from 1).

    `ending`: the last epoch was trained, and its scores and its own checkpoint are still to come. `skipped`: steps that
    were left out so far, `in_a_row`: those of them since the last one that was not; `overflows` likewise in fp16.
    """

    epoch: int = 0
    step: int = 0
    loss: float | None = None
    best: float | None = None
    best_epoch: int = 0
    overflows: int = 0
    ending: bool = False
    skipped: int = 0
    in_a_row: int = 0


class Resumable(Protocol):
    """What of a trainer is kept in checkpoints, or held against them."""

    cfg: RunConfig
    runtime: Runtime
    task: Task
    model: LGIFormer | MAEDFER
    ema: Ema | None
    parallel: Parallel
    optimizer: torch.optim.AdamW
    scaler: torch.amp.GradScaler
    schedule: Schedule
    meter: Meter
    position: Position
    clips: dict[str, Sequence[Clip]]
    lists: dict[str, str]
    sizes: dict[str, Any]
    conditions: dict[str, Any]
    notes: list[str]
    skipped: int
    spikes: SpikeWatch
    dead: DeadGradients

    @property
    def result(self) -> LGIFormer | MAEDFER:
        """The model to score and save."""


def weights_of(trainer: Resumable) -> dict[str, Any]:
    """The model to be scored, with the settings and the place of the run."""
    return {**_head(trainer), "model": trainer.result.state_dict()}


def state_of(trainer: Resumable) -> dict[str, Any]:
    """All that a resumed run needs; every process takes part."""
    runtime = trainer.runtime
    tensors: dict[str, Any] = {
        "model": trainer.model.state_dict(),
        "ema": None if trainer.ema is None else trainer.ema.model.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
    }
    if trainer.parallel.sharded and trainer.cfg.train.checkpoint == "file":
        tensors = gathered(tensors, runtime.main)
    return {
        **_head(trainer),
        **tensors,
        "scaler": trainer.scaler.state_dict(),
        "meter": trainer.meter.state(),
        "watch": {"spikes": trainer.spikes.state(), "dead": trainer.dead.state()},
        "processes": runtime.gather(
            {
                "random": random_state(runtime.device),
                "losses": trainer.task.state_dict(),
                "skipped": trainer.skipped,
            }
        ),
        "lists": trainer.lists,
        "sizes": trainer.sizes,
        "notes": trainer.notes,
        "precision": runtime.precision,
        "global_batch": trainer.schedule.global_batch,
        "rules": RULES,
    }


def go_on_from(trainer: Resumable, path: str | Path) -> None:
    """Give a trainer what a checkpoint of the same run holds.

    Raises:
        InputError: it cannot be read, or belongs to a run with other settings or other clips to learn from.
    """
    if Path(path).is_dir():
        trainer.runtime.on_main(lambda: checked(Path(path)))
    into = destination(trainer.model, trainer.ema, trainer.optimizer)
    state = load_resumable(path, trainer.cfg, trainer.schedule.global_batch, into)
    check_same_clips(path, state["lists"], trainer.lists)
    try:
        _restore(trainer, state)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"checkpoint {str(path)!r} does not hold the state of such a run ({type(error).__name__}: "
            f"{' '.join(str(error).split())}): {way_on(path)}"
        ) from error


def _head(trainer: Resumable) -> dict[str, Any]:
    return {
        "config": saved_tree(trainer.cfg),
        "position": asdict(trainer.position),
        "conditions": trainer.conditions,
    }


def _restore(trainer: Resumable, state: dict[str, Any]) -> None:
    load_weights(trainer.model, state["model"])
    if trainer.ema is not None:
        load_weights(trainer.ema.model, state["ema"])
    state["optimizer"] = in_present_groups(state, trainer.cfg, trainer.model, trainer.optimizer)
    for group in state["optimizer"]["param_groups"]:
        group["fused"] = trainer.runtime.device.type == "cuda"
    trainer.optimizer.load_state_dict(parts_of(state["optimizer"], trainer.optimizer))
    if trainer.scaler.is_enabled():
        trainer.scaler.load_state_dict(state["scaler"])
    trainer.meter.load(state["meter"])
    trainer.position = Position(**state["position"])
    # Earlier versions did not watch.
    if "watch" in state:
        trainer.spikes.load(state["watch"]["spikes"])
        trainer.dead.load(state["watch"]["dead"])
    trainer.notes = [*state.get("notes", []), *_changes(trainer, state)]
    processes, rank = state["processes"], trainer.runtime.rank
    if len(processes) == trainer.runtime.world:
        mine = processes[rank]
        trainer.task.load_state_dict(mine["losses"])
        trainer.skipped = mine["skipped"]
    else:
        # How batches are mixed is drawn by every process for itself, and another number of them starts anew; what is
        # drawn for all of them goes on.
        mine = processes[0]
        trainer.skipped = 0 if rank else sum(one["skipped"] for one in processes)
    set_random_state(mine["random"], trainer.runtime.device)


def _changes(trainer: Resumable, state: dict[str, Any]) -> list[str]:
    """What is to be said of clips that are not those that the run had before."""
    position = trainer.position
    best = (trainer.cfg.eval.select, position.best_epoch if position.best is not None else 0)
    notes = changed_lists(state["lists"], trainer.lists, position.epoch, best)
    notes += changed_rules(state, trainer.cfg, trainer.schedule, position.step)
    notes += changed_conditions(state.get("conditions", {}), trainer.conditions, position.step)
    before, here = state.get("precision", trainer.runtime.precision), trainer.runtime.precision
    if before != here:
        notes.append(
            f"computed in {before} up to step {position.step} and in {here} from there on: train.precision=auto is "
            "decided by the device"
        )
    # Earlier versions had no other place.
    before, here = state["config"].get("augment", {}).get("device", "cpu"), trainer.cfg.augment.device
    if before != here:
        notes.append(
            f"clips were changed on {before} up to step {position.step} and on {here} from there on, where values "
            "may be other ones by one grey level after each operation"
        )
    for name, before in state.get("sizes", {}).items():
        if name in trainer.sizes and state["lists"].get(name) == trainer.lists[name]:
            notes += changed_sizes(name, trainer.clips[name], before, trainer.sizes[name], position.epoch)
    return notes
