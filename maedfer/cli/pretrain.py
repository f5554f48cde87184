"""`maedfer pretrain`: train a masked autoencoder."""

from __future__ import annotations

import argparse
from typing import Any

from maedfer.cli._runs import add_run, finish, resolve_settings


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    add_run(
        commands,
        "pretrain",
        run,
        "pre-train a masked autoencoder on unlabelled clips",
        "Pre-train a masked autoencoder on unlabelled clips.",
        "maedfer pretrain voxceleb2_pretrain data.train=voxceleb2.txt --dry-run",
        "maedfer pretrain voxceleb2_pretrain data.train=voxceleb2.txt output=runs/voxceleb2",
        "torchrun --nproc-per-node 4 -m maedfer pretrain voxceleb2_pretrain data.train=voxceleb2.txt \\",
        "    train.batch_size=32",
        "maedfer pretrain model.name=mae_dfer_tiny model.encoder.region_size=[2,2,10] data.train=clips.txt",
    )


def run(args: argparse.Namespace) -> int:
    """Carry out, print or check a run."""
    cfg = resolve_settings(args)
    if cfg is None:
        return 0
    from maedfer.train.pretrain import run_pretrain

    return finish(cfg, run_pretrain(cfg))
