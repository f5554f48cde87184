"""Starting from the weights of another model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

import maedfer
from maedfer.errors import InputError
from maedfer.models import MAEDFER, LGIFormer, LGIFormerConfig, MAEDFERConfig, to_published
from maedfer.models.published.checkpoints import published_file
from maedfer.train.weights import brief, initialise

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


@pytest.mark.parametrize("impl", ["auto", "reference", "torch"])
def test_who_computes_is_a_choice_of_the_run(pretrained: Path, impl: Any) -> None:
    autoencoder = changed({"impl": impl, "full_attention": "xformers"})
    assert not initialise(autoencoder, pretrained).fresh and autoencoder.config.encoder.impl == impl
    classifier = LGIFormer(dataclasses.replace(ENCODER, impl=impl, num_classes=3))
    assert initialise(classifier, pretrained).used and classifier.config.impl == impl


def test_weights_that_are_not_finite_are_no_start(tmp_path: Path) -> None:
    model = MAEDFER(CONFIG)
    torch.nn.init.constant_(model.encoder_norm.bias, float("nan"))
    model.save_pretrained(tmp_path / "diverged")
    for run in (MAEDFER(CONFIG), LGIFormer(ENCODER)):
        with pytest.raises(InputError, match=r"not finite numbers, in encoder_norm\.bias"):
            initialise(run, tmp_path / "diverged")


def test_what_was_assumed_of_the_source_is_told(tmp_path: Path) -> None:
    encoder = LGIFormerConfig(embed_dim=192, depth=1, num_heads=3, mlp_ratio=0.1, num_classes=2)
    torch.save(to_published(LGIFormer(encoder)), tmp_path / "w.pt")
    report = initialise(LGIFormer(encoder), tmp_path / "w.pt")
    assert report.assumed == ("num_heads", "img_size", "all_frames", "lg_region_size", "lg_classify_token_type")
    assert "assumed, as nothing with the weights tells: num_heads=3, img_size=160" in brief(report)
    # A hidden width of 19 is what 0.1 of 192 is rounded to, and what 19 / 192 gives.
    assert maedfer.load(tmp_path / "w.pt").config.mlp_ratio != encoder.mlp_ratio  # type: ignore[union-attr]
    torch.save(published_file(LGIFormer(encoder)), tmp_path / "w.pt")
    assert "assumed" not in brief(initialise(LGIFormer(encoder), tmp_path / "w.pt"))
