"""Starting from the weights of another model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from maedfer.errors import InputError
from maedfer.models import MAEDFER, LGIFormer, LGIFormerConfig, MAEDFERConfig
from maedfer.train.weights import initialise

ENCODER = LGIFormerConfig(
    clip_size=(4, 16, 16), patch_size=(2, 4, 4), region_size=(1, 2, 4), embed_dim=16, depth=1, num_heads=2
)
CONFIG = MAEDFERConfig(encoder=ENCODER, decoder_dim=16, decoder_depth=1, decoder_heads=2, mask_ratio=0.5)


@pytest.fixture
def pretrained(tmp_path: Path) -> Path:
    return MAEDFER(CONFIG).save_pretrained(tmp_path / "pretrained")


def changed(encoder: dict[str, Any] | None = None, **changes: Any) -> MAEDFER:
    return MAEDFER(dataclasses.replace(CONFIG, encoder=dataclasses.replace(ENCODER, **(encoder or {})), **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"mask_ratio": 0.75, "target": "appearance", "appearance_weight": 0.3},
        {"encoder": {"impl": "torch", "checkpoint_blocks": True, "drop_path": 0.2}},
    ],
)
def test_pretraining_goes_on_with_other_settings_of_results_and_machine(pretrained: Path, changes: dict) -> None:
    model = changed(**changes)
    report = initialise(model, pretrained)
    weights = dict(model.named_parameters())
    assert set(report.used) == set(weights)
    source = dict(MAEDFER.from_pretrained(pretrained).named_parameters())
    assert all(torch.equal(weights[name], source[name]) for name in weights)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        # Weights of the same shapes that mean something else.
        ({"decoder_order": "published"}, r"decoder_order \('aligned' there, 'published' here\)"),
        ({"encoder": {"num_heads": 4}}, r"encoder\.num_heads \(2 there, 4 here\)"),
        ({"decoder_heads": 4}, r"decoder_heads \(2 there, 4 here\)"),
    ],
)
def test_pretraining_does_not_go_on_with_another_architecture(pretrained: Path, changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=f"was pre-trained with another architecture: {message}: set these keys"):
        initialise(changed(**changes), pretrained)


def test_a_classifier_takes_the_encoder_and_gives_nothing_back(pretrained: Path, tmp_path: Path) -> None:
    classifier = LGIFormer(dataclasses.replace(ENCODER, num_classes=3))
    assert "head.weight" in initialise(classifier, pretrained).fresh
    saved = classifier.save_pretrained(tmp_path / "classifier")
    with pytest.raises(InputError, match="holds a classifier: to pre-train, start from a masked autoencoder"):
        initialise(MAEDFER(CONFIG), saved)
