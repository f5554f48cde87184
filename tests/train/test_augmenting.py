"""Runs whose clips are changed on the device: plain PyTorch on a CPU stands in for it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maedfer.errors import InputError
from maedfer.train import RunConfig, augmenting, run_finetune, run_pretrain
from maedfer.train.config import read_config
from maedfer.train.dry_run import dry_run
from maedfer.train.loader import train_dataset, travelling_size
from maedfer.train.sources import read_clips
from maedfer.train.trainer import Trainer
from tests.train.runs import records, tiny, write_clips

AUGMENT = "augment.randaugment=rand-m9-n2-mstd1-inc1-p0.8 augment.erase=0.5".split()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augmenting, "_where", lambda cfg, device: "cuda")


def run(cfg: RunConfig) -> dict[str, Any]:
    """What a run came to: its losses, the weights in the end."""
    (run_pretrain if cfg.task == "pretrain" else run_finetune)(cfg)
    output = Path(cfg.output)
    weights = torch.load(output / "checkpoints" / "last.pt", weights_only=True)["model"]
    return {"losses": [record["loss"] for record in records(output, "step")], **weights}


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one["losses"] == other["losses"] and len(one["losses"]) > 3
    assert all(torch.equal(one[key], other[key]) for key in one if key != "losses")


# Decided once


def test_what_auto_comes_to(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = tiny("finetune", data, tmp_path)
    cpu, gpu = torch.device("cpu"), torch.device("cuda", 0)
    assert cfg.augment.device == "auto"
    assert augmenting.settled(cfg, cpu).augment.device == "cpu"
    computes = {"auto": "triton", "torch": "torch"}
    monkeypatch.setattr(augmenting, "choose", lambda impl, device: computes[impl])
    assert augmenting.settled(cfg, gpu).augment.device == "cuda"
    plain = tiny("finetune", data, tmp_path, "model.impl=torch")
    assert augmenting.settled(plain, gpu).augment.device == "cpu"
    asked = tiny("finetune", data, tmp_path, "augment.device=cuda", "model.impl=torch")
    assert augmenting.settled(asked, gpu).augment.device == "cuda"
    assert augmenting.settled(tiny("finetune", data, tmp_path, "augment.device=cpu"), gpu).augment.device == "cpu"
    # Nothing is changed at random where clips are scored: settings of a run on a GPU do on a CPU.
    scoring = dataclasses.replace(asked, task="evaluate")
    assert augmenting.settled(scoring, cpu) == scoring


@pytest.mark.parametrize("task", ["finetune", "pretrain"])
def test_a_gpu_that_does_not_train_is_refused(task: str, data: Path, tmp_path: Path) -> None:
    cfg = tiny(task, data, tmp_path / "run", "augment.device=cuda")
    with pytest.raises(InputError, match="augment.device is 'cuda', and the run trains on cpu: leave it out, or set"):
        run(cfg)
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="augment.device is 'cuda'"):
        dry_run(cfg, print)


# The same runs


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("task", ["finetune", "pretrain"])
def test_a_run_is_the_same(
    task: str, workers: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = [*(AUGMENT if task == "finetune" else []), "data.repeats=2"]
    want = run(tiny(task, data, tmp_path / "here", *changes))
    monkeypatch.setattr(augmenting, "_where", lambda cfg, device: "cuda")
    same(run(tiny(task, data, tmp_path / "away", *changes, f"data.workers={workers}")), want)
    # What was decided is written.
    assert read_config(tmp_path / "here" / "config.yaml").augment.device == "cpu"
    assert read_config(tmp_path / "away" / "config.yaml").augment.device == "cuda"
    if task == "pretrain":
        for name in ("reconstructions_start.npz", "reconstructions.npz"):
            one, other = (np.load(tmp_path / side / name) for side in ("here", "away"))
            assert all(np.array_equal(one[key], other[key]) for key in one.files)


def test_a_run_may_go_on_elsewhere(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    want = run(tiny("finetune", data, tmp_path / "whole", *AUGMENT))
    # Ended inside of the second epoch.
    changes = [*AUGMENT, "train.save_steps=1"]
    cfg, steps = tiny("finetune", data, tmp_path / "parts", *changes), []

    def stop(self: Any, batches: Any) -> Any:
        steps.append(1)
        if len(steps) == 6:
            raise KeyboardInterrupt
        return step(self, batches)

    step = Trainer._step
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", stop)
        with pytest.raises(KeyboardInterrupt):
            run(cfg)
    monkeypatch.setattr(augmenting, "_where", lambda cfg, device: "cuda")
    got = run(cfg)
    assert all(torch.equal(got[key], want[key]) for key in want if key != "losses")
    assert read_config(tmp_path / "parts" / "config.yaml").augment.device == "cuda"
    notes = json.loads((tmp_path / "parts" / "metrics.json").read_text())["notes"]
    assert any("changed on cpu up to step 5 and on cuda from there on" in note for note in notes)


def test_a_dry_run_says_where(data: Path, tmp_path: Path, on_device: None) -> None:
    lines: list[str] = []
    dry_run(tiny("finetune", data, tmp_path / "run", *AUGMENT), lines.append)
    assert "augment      clips are changed on the device, in batches" in lines
    assert any("batch 2 x 3 x 4 x 16 x 16" in line for line in lines)


def test_room_for_frames_as_they_travel(data: Path, tmp_path: Path) -> None:
    away = augmenting.settled(tiny("finetune", data, tmp_path), torch.device("cpu"))
    away = dataclasses.replace(away, augment=dataclasses.replace(away.augment, device="cuda"))
    clips = read_clips(away, away.data.train)
    assert travelling_size(train_dataset(away, clips)) == (20, 20)
    here = dataclasses.replace(away, augment=dataclasses.replace(away.augment, device="cpu"))
    assert travelling_size(train_dataset(here, clips)) is None


@pytest.mark.gpu
@pytest.mark.parametrize("task", ["finetune", "pretrain"])
def test_a_run_on_a_gpu_is_the_same(task: str, data: Path, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    common = [
        "train.device=cuda",
        "train.precision=fp32",
        "train.compile=false",
        *(AUGMENT if task == "finetune" else []),
    ]
    here = run(tiny(task, data, tmp_path / "here", *common, "augment.device=cpu"))
    away = run(tiny(task, data, tmp_path / "away", *common, "data.workers=1"))
    assert read_config(tmp_path / "away" / "config.yaml").augment.device == "cuda"
    assert away["losses"] == pytest.approx(here["losses"], rel=1e-3)
