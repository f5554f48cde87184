"""A cross-validation that is killed as a whole at any moment, and goes on: its tables are those of one that was not."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.helpers import REPOSITORY
from tests.hostile.kills import Kills
from tests.train.runs import overrides, write_clips

# Kills in a row before a study is left alone.
_CHAIN = 3
_OWN = ("output=", "seed=", "data.train=", "data.test=")


def kill_studies(folder: Path, kills: int, seed: int, seen: Callable[[], None] = lambda: None) -> Kills:
    """Kill studies in the folder so many times in all, and compare each in the end with one that was left alone.

    Args:
        folder: to work in.
        kills: number of them.
        seed: of their moments.
        seen: called after each.
    """
    draw = random.Random(seed)
    data = write_clips(folder / "clips")
    settings = [line for line in overrides("finetune", data, folder) if not line.startswith(_OWN)]
    settings += [f"data.train={data / 'train.csv'}", "train.save_steps=1"]

    def start(out: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "maedfer", "crossval", *settings, "--folds", "2", "--out", str(out)]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        return subprocess.Popen([*command, "--devices", "cpu,cpu"], stdout=subprocess.DEVNULL, env=environment)

    started = time.monotonic()
    if start(folder / "whole").wait():
        return Kills(0, ["a study does not run"])
    seconds, whole = time.monotonic() - started, _tables(folder / "whole")
    count = number = 0
    wrong: list[str] = []
    while count < kills and len(wrong) < kills:
        number += 1
        out = folder / f"killed_{number}"
        moments: list[float] = []
        for _ in range(min(_CHAIN, kills - count)):
            moments.append(round(draw.uniform(0, seconds), 3))
            process = start(out)
            try:
                process.wait(moments[-1])
                break
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                count += 1
                seen()
        what = f"a study killed after {', '.join(map(str, moments))} s"
        status = start(out).wait()
        if status:
            wrong.append(f"{what} ends with {status}")
        elif _tables(out) != whole:
            wrong.append(f"{what} has other tables")
    return Kills(count, wrong)


def _tables(out: Path) -> dict[str, str]:
    files = [*out.glob("table.*"), *out.glob("seed_*/pooled/pred.csv")]
    return {str(file.relative_to(out)): file.read_text(encoding="utf-8") for file in files}
