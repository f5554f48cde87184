"""The short form of `make soak`: each fault once, and that the harness sees what is wrong."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from maedfer.train import checkpoints
from tests.soak import faults, latest
from tests.soak.compare import differences
from tests.soak.flat import growth
from tests.soak.job import SHARDED, Job
from tests.soak.soak import Wanted, soak


def _happened(counts: Counter[str], *names: str) -> dict[str, int]:
    return {name: counts[name] for name in names if counts[name] != 1}


def test_a_run_comes_to_the_same_whatever_happens_to_it(tmp_path: Path) -> None:
    job = Job("finetune", 8, workers=1)
    kinds, passing, damages = faults.possible(1, 1), faults.PASSING, ("cut", "edited")
    story = soak(job, tmp_path, 3, Wanted(kinds, passing, 2, damages))
    assert not story.wrong
    assert not _happened(story.counts, *kinds, *passing, *(f"checkpoint {how}" for how in damages))
    assert story.counts["fallbacks"] >= len(damages)
    # That another course of things would have been seen.
    runs, history = (tmp_path / "faults" / "run", tmp_path / "clean" / "run"), story.history
    assert not differences(job, *runs, (history, history), True)
    last = job.steps - 1
    other = [{**history[0], last: replace(history[0][last], weights="")}]
    assert "other weights" in "".join(differences(job, *runs, (other, history), True))
    shorter = [{number: step for number, step in history[0].items() if number != last}]
    assert "47 of 48 steps" in "".join(differences(job, *runs, (shorter, history), True))
    (runs[0] / "checkpoints" / "last.pt").write_bytes((runs[0] / "checkpoints" / "previous.pt").read_bytes())
    log = runs[0] / "log.jsonl"
    log.write_text(log.read_text() + log.read_text().splitlines()[-2] + "\n")
    found = "".join(differences(job, *runs, (history, history), True))
    assert "last.pt: position" in found and "come twice" in found


def test_two_processes_come_to_the_same(tmp_path: Path) -> None:
    """Folders, written while steps go on; `make soak` has weights in parts too, where a step takes thrice as long."""
    job = Job("pretrain", 4, world=2, accumulate=2, more=(*SHARDED[1:], "model.encoder.depth=1"))
    kinds = ["kill_writing", "rank_killed"]
    story = soak(job, tmp_path, 1, Wanted(kinds, ["clip_damaged"], 1))
    assert not story.wrong
    assert not _happened(story.counts, *kinds, "clip_damaged")
    assert story.counts["kills in the middle of a save"]
    # Whatever is done to such a folder, our own reading and the package's find the one before.
    folder = tmp_path / "faults" / "run" / "checkpoints"
    whole, before = latest.find(folder.parent), latest.find(folder.parent, [latest.fingerprint(folder / "last")])
    assert whole and before and (whole.path.name, before.path.name, whole.step) == ("last", "previous", job.steps)
    for seed, how in enumerate(faults.DAMAGES_OF_FOLDERS * 3):
        copy = tmp_path / f"damaged_{seed}"
        shutil.copytree(folder, copy / "checkpoints")
        latest.damage(copy, how, random.Random(seed))
        ours, theirs = latest.find(copy), checkpoints.latest(copy)
        assert ours and theirs and ours.path == theirs.path == copy / "checkpoints" / "previous", (seed, how)
        assert (ours.step, ours.weights) == (before.step, before.weights)


@pytest.mark.parametrize(
    ("name", "each"), [("memory", 8 << 10), ("loader", 8 << 10), ("files", 0.02), ("threads", 0.01)]
)
def test_what_grows_is_found(name: str, each: float) -> None:
    flat = {"memory": 500 << 20, "loader": 400 << 20, "files": 20, "threads": 3, "children": 1, "shared": 0}
    # A look every tenth step; every tenth one meets something that takes more for a moment.
    looks = [{key: value + (value // 9) * (look % 10 == 3) for key, value in flat.items()} for look in range(100)]
    assert not growth(looks)
    # Memory: 8 KB a step. Others: one in a hundred steps.
    each = 80 << 10 if flat[name] > 1000 else 0.1
    growing = [{**look, name: look[name] + int(number * each)} for number, look in enumerate(looks)]
    assert [line.split()[0] for line in growth(growing)] == [name]
