"""The run folder: whether it may be used, what is written into it at the start and in the end."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from maedfer._files import parse_json
from maedfer.errors import InputError, Stopped, some
from maedfer.train.checkpoint import remove_leftovers
from maedfer.train.checkpoints import LatestCheckpoint, existing, latest
from maedfer.train.conditions import conditions
from maedfer.train.config import (
    RunConfig,
    differing_evaluation,
    differing_keys,
    read_config,
    save_config,
    saved_tree,
)
from maedfer.train.environment import environment, now
from maedfer.train.hooks import IDS_FILE, Hook, Hooks, open_hooks
from maedfer.train.lock import LOCK_FILE
from maedfer.train.log import RunLog, write_json
from maedfer.train.processes import Runtime
from maedfer.train.quarantine import QUARANTINE_FILE

# Files of a run, or of one that was killed, that are there before any result of its work.
# What is noted of the earlier parts of a run.
_OF_EARLIER = ("started", "ended", "host", "device", "processes", "precision", "git_revision", "git_changes")
_BEFORE_A_CHECKPOINT = (
    LOCK_FILE,
    IDS_FILE,
    QUARANTINE_FILE,
    "config.yaml",
    "environment.json",
    "labels.csv",
    "log.jsonl",
    "reconstructions_start.npz",
    "tensorboard",
    "wandb",
)


@dataclasses.dataclass(frozen=True)
class RunResult:
    """What a run came to.

    Args:
        output: the run folder.
        steps: optimiser steps done.
        loss: mean training loss of the last epoch.
        metrics: contents of metrics.json, where clips were scored.
    """

    output: Path
    steps: int = 0
    loss: float | None = None
    metrics: dict[str, Any] | None = None


def check_run(cfg: RunConfig) -> LatestCheckpoint | None:
    """Look whether a training run may use its folder; nothing is written.

    Returns:
        The checkpoint to go on from, None for a new run.

    Raises:
        InputError: the folder belongs to a run with other settings, or to any run when `train.resume` is "none", or to
            one whose checkpoints are all damaged.
    """
    output, resume = Path(cfg.output), cfg.train.resume
    if resume == "none" and output.is_dir() and not all(map(_counts_for_nothing, output.iterdir())):
        raise InputError(
            f"output folder {cfg.output!r} is not empty: give another one, or resume with train.resume=auto"
        )
    if resume not in ("auto", "none") and not Path(resume).exists():
        raise InputError(f"train.resume must be auto, none or a checkpoint file, and {resume!r} does not exist")
    known = output / "config.yaml"
    # A run that failed before its first checkpoint leaves nothing to protect.
    if known.is_file() and (existing(output) or (output / "model").is_dir()):
        there = read_config(known)
        if there.task != cfg.task:
            raise InputError(
                f"{cfg.output!r} holds a run of {there.task}: give this {cfg.task} run another output folder"
            )
        keys = differing_keys(there, cfg)
        if keys:
            raise InputError(
                f"{cfg.output!r} holds a run with other settings: {some(keys, 8, '; ')}: use the same ones to resume "
                "it, or another output folder for a new run"
            )
    if resume not in ("auto", "none"):
        return LatestCheckpoint(Path(resume))
    return latest(output)


def open_run(cfg: RunConfig) -> LatestCheckpoint | None:
    """Look what is in the folder of a training run, which this process holds, and tidy it up.

    Returns:
        The checkpoint to go on from, None for a new run.

    Raises:
        InputError: see `check_run`.
    """
    checkpoint = check_run(cfg)
    remove_leftovers(cfg.output)
    return checkpoint


def check_evaluation(cfg: RunConfig) -> None:
    """Look whether an evaluation may use its folder; nothing is written.

    Raises:
        InputError: it is the folder of a training run, or holds the scores of another evaluation; those must stay.
    """
    output = Path(cfg.output)
    if not (output / "config.yaml").is_file():
        return
    known = read_config(output / "config.yaml")
    if known.task != "evaluate":
        raise InputError(f"output {cfg.output!r} is the folder of a training run: give the evaluation one of its own")
    keys = differing_evaluation(known, cfg, output)
    if keys and (output / "metrics.json").is_file():
        raise InputError(
            f"output {cfg.output!r} holds the scores of another evaluation: {'; '.join(keys)}: give another folder"
        )


def open_evaluation(cfg: RunConfig) -> None:
    """Look what is in the folder of an evaluation, which this process holds, and tidy it up.

    Raises:
        InputError: see `check_evaluation`.
    """
    check_evaluation(cfg)
    remove_leftovers(cfg.output)


@contextlib.contextmanager
def recording(
    cfg: RunConfig,
    runtime: Runtime,
    total: int = 0,
    step: int = 0,
    unscored: bool = False,
    hooks: Hooks | None = None,
    clips: Mapping[str, str] | None = None,
) -> Iterator[RunLog]:
    """Write config.yaml and environment.json, keep the log open, and note when and how the run ended.

    Args:
        cfg: the run.
        runtime: its processes.
        total, step, unscored, hooks: as for `RunLog`.
        clips: as for `conditions`.
    """
    output = Path(cfg.output)
    facts = environment(runtime) | conditions(cfg, runtime, clips or {})
    path = output / "environment.json"
    if runtime.main:
        facts["earlier"] = _earlier(path) if step else []
        save_config(cfg, output / "config.yaml")
        write_json(path, facts)
    log = RunLog(output, runtime.main, total, step, hooks=hooks, unscored=unscored)
    outcome = "stopped"
    try:
        log.tell("start", step=step, task=cfg.task, output=str(output.absolute()), total=total, config=saved_tree(cfg))
        yield log
        outcome = "complete"
    except Stopped as stop:
        facts["signal"] = signal.Signals(stop.signal).name
        raise
    finally:
        log.close(outcome)
        if runtime.main:
            try:
                write_json(path, {**facts, "ended": now(), "outcome": outcome})
            except InputError as error:
                # On a full disk this fails as well, and must neither hide the error that says so nor be one.
                if outcome == "complete":
                    log.say(f"{error}; the run itself is complete")


def hooks_of_run(cfg: RunConfig, runtime: Runtime, given: Sequence[Hook] = ()) -> Hooks:
    """The hooks of a training run, those that are `given` beside those that its settings name; the main process's.

    Raises:
        InputError: one of them is none; every process raises it.
        MissingDependencyError: a package is not installed.
    """
    found = [Hooks({})]
    runtime.on_main(lambda: found.append(open_hooks(cfg.train.log_to, given, cfg.train.tensorboard)))
    return found[-1]


def _counts_for_nothing(path: Path) -> bool:
    # What a run leaves that failed before its first checkpoint, and an empty folder.
    return path.name in _BEFORE_A_CHECKPOINT or (path.is_dir() and not any(path.iterdir()))


def _earlier(path: Path) -> list[dict[str, Any]]:
    # A run that was resumed keeps a short note of where its earlier parts ran.
    try:
        facts = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    if not isinstance(facts, dict):
        return []
    note = {key: facts.get(key) for key in _OF_EARLIER}
    return [*facts.get("earlier", []), note]
