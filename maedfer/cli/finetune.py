"""`maedfer finetune`: train a classifier."""

from __future__ import annotations

import argparse
from typing import Any

from maedfer.cli._runs import add_run, finish, resolve_settings


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    add_run(
        commands,
        "finetune",
        run,
        "train a classifier on labelled clips, from pre-trained or random weights",
        "Train a classifier on labelled clips, from pre-trained weights (train.init=...) or random ones.",
        "maedfer finetune dfew data.train=train.csv data.test=test.csv train.init=runs/voxceleb2 --dry-run",
        "maedfer finetune dfew data.train=train.csv data.test=test.csv train.init=runs/voxceleb2",
        "maedfer finetune my_recipe.yaml optim.lr=3e-4 seed=1 output=runs/seed1",
        "maedfer finetune dfew --print-config > my_recipe.yaml",
    )


def run(args: argparse.Namespace) -> int:
    """Carry out, print or check a run."""
    cfg = resolve_settings(args)
    if cfg is None:
        return 0
    from maedfer.train.finetune import run_finetune

    return finish(cfg, run_finetune(cfg))
