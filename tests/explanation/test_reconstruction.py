"""Reconstructions, against the model's own output and the loss of pre-training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from maedfer.errors import InputError
from maedfer.explanation import reconstruct
from maedfer.models import MAEDFER, MAEDFERConfig, normalize_frames
from tests.explanation.test_attention import clip_for, model_of
from tests.helpers import randomize, small


def autoencoder(**changes: Any) -> MAEDFER:
    torch.manual_seed(0)
    config = MAEDFERConfig(
        encoder=small(num_classes=0), decoder_dim=16, decoder_depth=1, decoder_heads=2, **{"mask_ratio": 0.75} | changes
    )
    model = MAEDFER(config).eval()
    randomize(model)
    return model


def test_hidden_cubes_are_what_the_model_predicts() -> None:
    model = autoencoder()
    clip = clip_for(model.config.encoder)
    found = reconstruct(model, clip, seeds=(4, 9))
    assert found.hidden.shape == (2, 4, 4, 4) and found.hidden.mean() == 0.75
    np.testing.assert_allclose(found.original, clip / 255, atol=1e-6)
    frames = torch.from_numpy(clip).permute(3, 0, 1, 2)[None]
    for place in range(2):
        hidden = torch.from_numpy(found.hidden[place]).reshape(1, -1)
        visible, wanted = model.token_numbers(hidden)
        with torch.no_grad():
            prediction = model(normalize_frames(frames), visible, wanted)[0]
            losses = model.training_loss(frames, visible, wanted)
        assert found.loss[place] == pytest.approx(float(losses["loss"]), rel=1e-4)
        assert found.motion_loss[place] == pytest.approx(float(losses["motion"]), rel=1e-4)
        assert found.loss[place] == pytest.approx((found.appearance_loss[place] + found.motion_loss[place]) / 2)
        for number in (0, 17, len(prediction) - 1):
            t, h, w = np.unravel_index(int(wanted[0, number]), (4, 4, 4))
            box = (slice(2 * t, 2 * t + 2), slice(8 * h, 8 * h + 8), slice(8 * w, 8 * w + 8))
            true = clip[box].reshape(-1, 3) / 255
            # Values of a cube come in the order frame, row, column, channel.
            values = prediction[number].reshape(2, 8, 8, 3).numpy()
            spread = true.std(0, ddof=1) + 1e-6
            first = values[0] * spread + true.mean(0)
            np.testing.assert_allclose(found.full[place][box][0], np.clip(first, 0, 1), atol=2e-5)
            np.testing.assert_allclose(found.full[place][box][1], np.clip(first + values[1] * spread, 0, 1), atol=2e-5)
            np.testing.assert_allclose(found.masked[place][box], 0.5)
        seen = ~found.hidden[place].repeat(2, 0).repeat(8, 1).repeat(8, 2)
        np.testing.assert_allclose(found.full[place][seen], found.original[seen])
        np.testing.assert_allclose(found.masked[place][seen], found.original[seen])
    difference = clip[1::2].astype(float) - clip[::2]
    np.testing.assert_allclose(found.true_motion[1::2], np.clip(difference / 255 + 0.5, 0, 1), atol=1e-6)
    assert (found.true_motion[::2] == 0.5).all()


def test_masks_are_those_of_their_seeds() -> None:
    model = autoencoder()
    clip = clip_for(model.config.encoder)
    first, second = reconstruct(model, clip, seeds=(1, 2)), reconstruct(model, clip, seeds=(2,))
    np.testing.assert_array_equal(first.hidden[1], second.hidden[0])
    np.testing.assert_array_equal(first.full[1], second.full[0])
    assert (first.hidden[0] != first.hidden[1]).any()
    half = reconstruct(model, clip, seeds=(1,), mask_ratio=0.5)
    assert half.mask_ratio == 0.5 and half.hidden.mean() == 0.5
    figure: Any = first.plot()
    labels = [text.get_text() for text in figure.texts]
    assert labels[:3] == ["original", "masked\n(seed 1)", f"reconstruction\nloss {first.loss[0]:.3f}"]
    assert labels[-1] == "predicted\n(seed 2)"
    figure = reconstruct(autoencoder(target="pixels"), clip, seeds=(0,)).plot()
    assert len(figure.texts) == 3


def test_what_cannot_be_reconstructed_is_told() -> None:
    model = autoencoder()
    clip = clip_for(model.config.encoder)
    classifier: Any = model_of()
    with pytest.raises(InputError, match="needs a model of pre-training with its decoder, got a classifier"):
        reconstruct(classifier, clip)
    with pytest.raises(InputError, match="seeds must be whole numbers"):
        reconstruct(model, clip, seeds=())
    with pytest.raises(InputError, match="mask_ratio 0.1 hides 0 of the 4"):
        reconstruct(model, clip, mask_ratio=0.1)
