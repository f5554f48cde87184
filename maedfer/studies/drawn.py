"""What studies on the drawn faces share: lists with few labels, runs of a condition."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from maedfer._files import atomic_path
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


def few_labels(source: Path, count: int, target: Path) -> Path:
    """Write the first `count` lines of an annotation file to `target`, as many of each class as of any other.

    A target that holds them already stays as it is, so that runs on it are known to be done.
    """
    by_class: dict[str, list[str]] = {}
    for line in source.read_text(encoding="utf-8").splitlines():
        by_class.setdefault(line.rsplit(" ", 1)[1], []).append(line)
    chosen = [line for lines in by_class.values() for line in lines[: count // len(by_class)]]
    text = "".join(f"{line}\n" for line in chosen)
    if not target.is_file() or target.read_text(encoding="utf-8") != text:
        with atomic_path(target) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return target
