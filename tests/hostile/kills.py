"""Runs that are killed at any moment, several times over, and go on: their weights are those of one that was not."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.train.runs import in_process, overrides, write_clips

# Everything that draws numbers or remembers something, and a checkpoint after each step.
_SETTINGS = """train.ema=0.9 train.accumulate=2 train.batch_size=2 train.save_steps=1 optim.clip_grad=1.0
data.repeats=2""".split()
_OF_TASK = {"finetune": ["model.drop_path=0.2", "eval.select=test"], "pretrain": ["model.encoder.drop_path=0.2"]}
# Kills in a row before a run is left alone.
_CHAIN = 4

# The process kills itself, so that it may be anywhere: the clock starts where the run does.
_BEFORE = """
import os, signal, threading
timer = threading.Timer({seconds}, os.kill, (os.getpid(), signal.SIGKILL))
timer.daemon = True
timer.start()
"""


@dataclass(frozen=True)
class Kills:
    """What came of it.

    Args:
        done: processes that were killed before they had ended.
        wrong: what did not go as it should, a sentence each.
    """

    done: int
    wrong: list[str]


def kill(folder: Path, kills: int, seed: int, seen: Callable[[], None] = lambda: None) -> Kills:
    """Kill runs in the folder so many times in all, and compare each in the end with one that was left alone.

    Args:
        folder: to work in.
        kills: number of them.
        seed: of their moments.
        seen: called after each.
    """
    draw = random.Random(seed)
    data = write_clips(folder / "clips")
    whole, seconds = {}, {}
    for task in _OF_TASK:
        started = time.monotonic()
        done = in_process(task, _settings(task, data, folder / task))
        seconds[task] = time.monotonic() - started
        if not done.ok:
            return Kills(0, [f"{task} does not run: {done.text[-500:]}"])
        whole[task] = load_file(folder / task / "model" / "model.safetensors")
    wrong: list[str] = []
    count = number = 0
    while count < kills and len(wrong) < kills:
        task, number = ("finetune", "pretrain")[number % 2], number + 1
        output = folder / f"killed_{number}"
        settings = _settings(task, data, output)
        moments: list[float] = []
        for _ in range(min(_CHAIN, kills - count)):
            moments.append(round(draw.uniform(0, seconds[task]), 3))
            done = in_process(task, settings, _BEFORE.format(seconds=moments[-1]))
            if done.codes != [-signal.SIGKILL]:
                break
            count += 1
            seen()
        what = f"{task} killed after {', '.join(map(str, moments))} s"
        if done.codes == [-signal.SIGKILL]:
            done = in_process(task, settings)
        if not done.ok:
            wrong.append(f"{what} ends with {done.codes}: {done.text[-500:]}")
            continue
        weights = load_file(output / "model" / "model.safetensors")
        if weights.keys() != whole[task].keys():
            wrong.append(f"{what} has other weights")
        elif not all(torch.equal(value, whole[task][name]) for name, value in weights.items()):
            wrong.append(f"{what} has weights of other values")
        left = [path.name for path in output.rglob("*") if path.name.endswith(".tmp")]
        if left:
            wrong.append(f"{what} leaves {', '.join(left)}")
    return Kills(count, wrong)


def _settings(task: str, data: Path, output: Path) -> list[str]:
    return [*overrides(task, data, output), *_SETTINGS, *_OF_TASK[task]]
