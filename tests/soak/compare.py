"""A run that nothing happens to, on the clips that another one has learned from, and whether both came to the same."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tests.soak import latest
from tests.soak.attempt import Step, attempt
from tests.soak.inside import Plan
from tests.soak.job import Job

# Of log.jsonl, what must be the same: records by kind, and which of their values.
_LOGGED = {
    "step": ("step", "epoch", "loss", "lr", "grad_norm"),
    "epoch": ("step", "epoch", "loss"),
    "eval": ("step", "epoch", "loss", "uar", "war"),
    "skipped_step": ("step",),
}
_SCORES = ("uar", "war", "loss", "confusion")


def run_clean(
    job: Job, folder: Path, data: Path, poisoned: dict[int, tuple[int, str]], replayed: list[dict[int, list[int]]]
) -> tuple[list[dict[int, Step]], list[str]]:
    """The run in one go, without loader processes; its folder is "run".

    Args:
        job: the run.
        folder: to work in.
        data: the clips as they were in the beginning.
        poisoned: steps whose loss or gradient is no number.
        replayed: the clips that each process takes in steps in which others broke while the run went.

    Returns:
        What each process did in every step, and what is wrong.
    """
    plan = Plan(job.task, job.settings(data, folder / "run", workers=0), str(data), [], poisoned, replayed)
    ended = attempt(plan, folder / "attempt", job.world)
    history = [{step.number: step for step in ended.steps(rank)} for rank in range(job.world)]
    return history, [f"{job}: the clean run ends with {ended.codes}: {ended.text[-600:]}"] if any(ended.codes) else []


def to_replay(history: list[dict[int, Step]], job: Job, broke: Collection[int]) -> list[dict[int, list[int]]]:
    """What each process learned from in those steps that passed over a clip which broke while the run went."""
    return [
        {number: step.clips for number, step in steps.items() if job.passed(number, rank, step.clips) & set(broke)}
        for rank, steps in enumerate(history)
    ]


def differences(
    job: Job, left: Path, right: Path, histories: tuple[list[dict[int, Step]], list[dict[int, Step]]], told: bool
) -> list[str]:
    """What two runs, that with faults first, have not come to alike; a sentence each.

    Args:
        job: both.
        left, right: run folders.
        histories: what each did.
        told: whether all records could be written.
    """
    wrong = []
    for rank, (one, other) in enumerate(zip(*histories, strict=True)):
        if sorted(one) != list(range(job.steps)):
            wrong.append(f"process {rank} has done {len(one)} of {job.steps} steps")
        for what in ("clips", "weights"):
            apart = [n for n in sorted(one) if n not in other or getattr(one[n], what) != getattr(other[n], what)]
            if apart:
                n = apart[0]
                wrong.append(f"process {rank}: other {what} from step {n} on: {one[n]}, {other.get(n)}")
    wrong += _of_checkpoints(left, right) + _of_logs(left, right, told)
    models = [load_file(run / "model" / "model.safetensors") for run in (left, right)]
    wrong += [f"model: {name} differs" for name in models[0] if not torch.equal(models[0][name], models[1][name])][:1]
    scores = [json.loads(path.read_text()) for run in (left, right) if (path := run / "metrics.json").is_file()]
    if scores and any(scores[0][name] != scores[1][name] for name in _SCORES):
        wrong.append("metrics.json: other scores")
    return [f"{job}: {line}" for line in wrong]


def _of_checkpoints(left: Path, right: Path) -> list[str]:
    last = latest.path_of(left)
    one, other = latest.content(last), latest.content(right / last.relative_to(left))
    tensors = ("model", "ema", "optimizer") if "model" in one else ("tensors", "param_groups")
    wrong = [_apart(one[name], other[name], name)[:1] for name in (*tensors, "position", "meter")]
    for rank, states in enumerate(zip(one["processes"], other["processes"], strict=True)):
        wrong += [_apart(states[0][name], states[1][name], f"{name} of {rank}")[:1] for name in ("random", "losses")]
    return [f"{last.name}: {name} differs" for names in wrong for name in names]


def _of_logs(left: Path, right: Path, told: bool) -> list[str]:
    logs = [[json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()] for run in (left, right)]
    wrong = []
    for kind, keys in _LOGGED.items():
        one, other = ([tuple(map(record.get, keys)) for record in log if record["kind"] == kind] for log in logs)
        if len(set(one)) != len(one):
            wrong.append(f"log.jsonl: records of kind {kind} come twice")
        if (told and len(one) != len(other)) or not set(one) <= set(other):
            apart = sorted(set(one) ^ set(other), key=str)[:2]
            wrong.append(f"log.jsonl: {len(one)} and {len(other)} records of kind {kind} differ: {apart}")
    return wrong


def _apart(left: Any, right: Any, name: str) -> list[str]:
    """Where two trees of values differ in a bit."""
    if isinstance(left, dict) and isinstance(right, dict) and left.keys() == right.keys():
        return [found for key in left for found in _apart(left[key], right[key], f"{name}.{key}")]
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)) and len(left) == len(right):
        return [found for n in range(len(left)) for found in _apart(left[n], right[n], f"{name}[{n}]")]
    if isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor):
        return [] if left.dtype == right.dtype and torch.equal(left, right) else [name]
    return [] if left == right or (left != left and right != right) else [name]
