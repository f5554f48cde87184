"""A tiny classifier for predictions."""

from __future__ import annotations

import torch
from torch import nn

from maedfer.models import ClipSettings, LGIFormer, LGIFormerConfig

CLASSES = ("calm", "glad", "cross")
CONFIG = LGIFormerConfig(
    clip_size=(4, 16, 16), patch_size=(2, 4, 4), region_size=(1, 2, 4), embed_dim=16, depth=2, num_heads=2,
    num_classes=3, init_scale=1.0,
)  # fmt: skip


def classifier(config: LGIFormerConfig = CONFIG, settings: ClipSettings | None = None) -> LGIFormer:
    """A classifier whose answers differ from clip to clip; it names its classes, unless `settings` say otherwise."""
    torch.manual_seed(0)
    model = LGIFormer(config).eval()
    with torch.no_grad():
        model.encoder.embedding.weight.mul_(3)
        head(model).weight.mul_(10)
    model.clip_settings = ClipSettings(classes=CLASSES, stride=2) if settings is None else settings
    return model


def head(model: LGIFormer) -> nn.Linear:
    """The last layer."""
    assert isinstance(model.head, nn.Linear)
    return model.head
