"""The run folder: whether it may be used, what is written into it at the start and in the end."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from maedfer.errors import InputError
from maedfer.train.checkpoint import remove_leftovers
from maedfer.train.config import RunConfig, differing_keys, read_config, save_config
from maedfer.train.environment import environment, now
from maedfer.train.log import RunLog, write_json
from maedfer.train.processes import Runtime


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


def check_run(cfg: RunConfig) -> Path | None:
    """Look whether a training run may use its folder; nothing is written.

    Returns:
        The checkpoint to go on from, None for a new run.

    Raises:
        InputError: the folder belongs to a run with other settings, or to any run when `train.resume` is "none".
    """
    output, resume = Path(cfg.output), cfg.train.resume
    last = output / "checkpoints" / "last.pt"
    if output.exists() and not output.is_dir():
        raise InputError(f"output {cfg.output!r} is a file: give a folder")
    if resume == "none" and output.is_dir() and any(output.iterdir()):
        raise InputError(
            f"output folder {cfg.output!r} is not empty: give another one, or resume with train.resume=auto"
        )
    if resume not in ("auto", "none") and not Path(resume).is_file():
        raise InputError(f"train.resume must be auto, none or a checkpoint file, and {resume!r} does not exist")
    known = output / "config.yaml"
    # A run that failed before its first checkpoint leaves nothing to protect.
    if known.is_file() and (last.is_file() or (output / "model").is_dir()):
        keys = differing_keys(read_config(known), cfg)
        if keys:
            raise InputError(
                f"{cfg.output!r} holds a run with other settings: {'; '.join(keys)}: use the same ones to resume it, "
                "or another output folder for a new run"
            )
    if resume not in ("auto", "none"):
        return Path(resume)
    return last if last.is_file() else None


def open_run(cfg: RunConfig) -> Path | None:
    """Make the folder of a training run, or find what is in it.

    Returns:
        The checkpoint to go on from, None for a new run.

    Raises:
        InputError: see `check_run`, or the folder cannot be made.
    """
    checkpoint = check_run(cfg)
    _make(Path(cfg.output) / "checkpoints")
    remove_leftovers(Path(cfg.output) / "checkpoints")
    return checkpoint


def check_evaluation(cfg: RunConfig) -> None:
    """Look whether an evaluation may use its folder; nothing is written.

    Raises:
        InputError: it is the folder of a training run, whose own settings and scores must stay.
    """
    output = Path(cfg.output)
    if (output / "config.yaml").is_file() and read_config(output / "config.yaml").task != "evaluate":
        raise InputError(f"output {cfg.output!r} is the folder of a training run: give the evaluation one of its own")


def open_evaluation(cfg: RunConfig) -> None:
    """Make the folder of an evaluation.

    Raises:
        InputError: see `check_evaluation`, or the folder cannot be made.
    """
    check_evaluation(cfg)
    _make(Path(cfg.output))


@contextlib.contextmanager
def recording(cfg: RunConfig, runtime: Runtime, total: int = 0, step: int = 0) -> Iterator[RunLog]:
    """Write config.yaml and environment.json, keep the log open, and note when and how the run ended."""
    output = Path(cfg.output)
    facts = environment(runtime)
    path = output / "environment.json"
    if runtime.main:
        facts["earlier"] = _earlier(path) if step else []
        save_config(cfg, output / "config.yaml")
        write_json(path, facts)
    log = RunLog(output, runtime.main, total, step, cfg.train.tensorboard and cfg.task != "evaluate")
    outcome = "stopped"
    try:
        yield log
        outcome = "complete"
    finally:
        log.close()
        if runtime.main:
            # On a full disk this fails as well, and must not hide the error that says so.
            with contextlib.suppress(InputError) if outcome == "stopped" else contextlib.nullcontext():
                write_json(path, {**facts, "ended": now(), "outcome": outcome})


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the output folder {str(folder)!r}: {error.strerror}") from error


def _earlier(path: Path) -> list[dict[str, Any]]:
    # A run that was resumed keeps a short note of where its earlier parts ran.
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    note = {key: facts.get(key) for key in ("started", "ended", "host", "device", "processes", "git_revision")}
    return [*facts.get("earlier", []), note]
