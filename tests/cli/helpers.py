"""Settings small enough to train with in a second, and what a command comes to."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Outcome(NamedTuple):
    """What a command came to."""

    status: int
    out: str
    err: str


Call = Callable[..., Outcome]

# A classifier and an autoencoder that train in a moment, as overrides.
SMALL = ["clip_size=[4,16,16]", "patch_size=[2,4,4]", "region_size=[1,2,4]", "embed_dim=16", "depth=2", "num_heads=2"]
FINETUNE = [
    *(f"model.{item}" for item in SMALL),
    "data.classes=[calm,moved]",
    "data.stride=1",
    "data.workers=0",
    "augment.randaugment=",
    "train.batch_size=4",
    "optim.epochs=2",
    "optim.warmup_epochs=1",
    "train.tensorboard=false",
    "report=false",
]
PRETRAIN = [
    *(f"model.encoder.{item}" for item in SMALL),
    "model.decoder_dim=16",
    "model.decoder_depth=1",
    "model.decoder_heads=2",
    "model.mask_ratio=0.75",
    *(item for item in FINETUNE if not item.startswith(("model.", "data.classes"))),
]
