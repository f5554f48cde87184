"""What studies on the drawn faces share: runs of a condition."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from maedfer.studies.grid import Job


def seed_jobs(out: Path, name: str, seeds: int, overrides: Sequence[str], init: Path | None) -> list[Job]:
    """Fine-tuning runs of one condition on generated clips, one a seed.

    Args:
        out: folder that the runs' folders <name>_<seed> are in.
        name: of the condition.
        seeds: how many.
        overrides: settings that all conditions share.
        init: pre-training run to start from; None starts from random weights, which train best with one lower rate
            for all layers (3e-4; 1e-3 was tried).
    """
    own = ("optim.layer_decay=1", "optim.lr=3e-4") if init is None else (f"train.init={init}",)
    return [
        Job("finetune", "synth_finetune", out / f"{name}_{seed}", (f"seed={seed}", *overrides, *own))
        for seed in range(seeds)
    ]
