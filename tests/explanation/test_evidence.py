"""Evidence for a class, against clips that are occluded by hand and a model whose answer is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from maedfer.errors import InputError
from maedfer.explanation import class_evidence
from maedfer.models import MAEDFER, ClipSettings, LGIFormer, MAEDFERConfig
from tests.explanation.test_attention import clip_for, model_of
from tests.helpers import small

NOISE: Any = "noise"


def log_odds(model: LGIFormer, frames: np.ndarray, target: int) -> float:
    """From pixels in [0, 255], float [T, H, W, 3]."""
    mean, spread = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    clip = torch.from_numpy(((frames / 255 - mean) / spread).astype(np.float32)).permute(3, 0, 1, 2)[None]
    with torch.no_grad():
        p = model(clip).double().softmax(1)[0, target]
    return float(torch.log(p / (1 - p)))


@pytest.mark.parametrize("fill", ["mean", "still"])
def test_evidence_is_what_the_class_loses(fill: Any) -> None:
    model = model_of(init_scale=1.0)
    clip = clip_for(model.config)
    found = class_evidence(model, clip, 3, window=(2, 2, 1), fill=fill, batch_size=5)
    pixels = clip.astype(np.float64)
    filling = np.broadcast_to(pixels.mean((0, 1, 2) if fill == "mean" else 0), pixels.shape)
    whole = log_odds(model, pixels, 3)
    assert found.values.shape == (4, 4, 4) and found.target == 3 and found.name == "class 3"
    assert found.probability == pytest.approx(1 / (1 + np.exp(-whole)), abs=1e-5)
    for t, h, w in ((0, 0, 0), (2, 2, 3), (0, 2, 1)):
        box = (slice(2 * t, 2 * t + 4), slice(8 * h, 8 * h + 16), slice(8 * w, 8 * w + 8))
        hidden = pixels.copy()
        hidden[box] = filling[box]
        lost = whole - log_odds(model, hidden, 3)
        np.testing.assert_allclose(found.values[t : t + 2, h : h + 2, w], lost, atol=2e-5)


def test_windows_that_overlap_are_averaged_and_reach_the_end() -> None:
    model = model_of(init_scale=1.0)
    found = class_evidence(model, clip_for(model.config), window=(4, 2, 3), step=(1, 2, 2))
    assert found.windows.tolist() == [[0, h, w] for h in (0, 2) for w in (0, 1)]
    base = np.log(found.probability / (1 - found.probability))
    lost = base - found.occluded
    np.testing.assert_allclose(found.values[0, 0], [lost[0], lost[:2].mean(), lost[:2].mean(), lost[1]], atol=1e-5)
    np.testing.assert_allclose(found.values[3, 3, 3], lost[3], atol=1e-5)


def test_a_blur_leaves_what_has_no_detail() -> None:
    model = model_of(init_scale=1.0)
    flat = np.full((8, 32, 32, 3), 90, np.uint8)
    assert np.abs(class_evidence(model, flat).values).max() < 1e-4


class OneCube(LGIFormer):
    """Its class 1 is the more probable, the brighter one cube is."""

    def forward(self, clips: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        bright = clips[:, :, 2:4, 8:16, 24:32].mean((1, 2, 3, 4))
        return torch.stack([torch.zeros_like(bright), bright], 1)


def test_the_one_cube_that_counts_has_the_evidence() -> None:
    model = OneCube(small(num_classes=2))
    model.clip_settings = ClipSettings(classes=("dark", "bright"))
    clip = np.full((8, 32, 32, 3), 20, np.uint8)
    clip[2:4, 8:16, 24:32] = 220
    found = class_evidence(model, clip, "bright", window=(1, 1, 1), fill="mean")
    assert np.unravel_index(int(found.values.argmax()), (4, 4, 4)) == (1, 1, 3)
    others = np.delete(found.values.ravel(), int(found.values.argmax()))
    assert found.values.max() > 1 and np.abs(others).max() < 1e-6
    against = class_evidence(model, clip, "dark", window=(1, 1, 1), fill="mean")
    np.testing.assert_allclose(against.values, -found.values, atol=1e-5)
    figure: Any = found.plot()
    assert "bright:\nwhere and when it is seen" in [text.get_text() for text in figure.texts]
    # Through all of the time, and all of the picture for a moment.
    places = class_evidence(model, clip, "bright", fill="mean")
    assert places.window == (4, 1, 1) and (places.values[0] == places.values[3]).all()
    assert places.values[0].argmax() == 7 and places.values[0, 1, 3] == pytest.approx(found.values.max())
    when = class_evidence(model, clip, "bright", window="moments")
    assert when.window == (1, 4, 4) and when.fill == "still" and when.values[:, 0, 0].argmax() == 1
    # Of the four moments three are as dark as ever: their mean over time is a fourth of the way up.
    before, after = (value / 255 for value in (220, 20 + 200 / 4))
    spread = np.mean([1 / 0.229, 1 / 0.224, 1 / 0.225])
    assert when.values[1, 0, 0] == pytest.approx((before - after) * spread, rel=1e-4)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda m, clip: class_evidence(m, clip, "glum"), "unknown class 'glum'"),
        (lambda m, clip: class_evidence(m, clip, 5), "class 5 is out of range: the model has 5 classes"),
        (
            lambda m, clip: class_evidence(m, clip, window=(5, 1, 1)),
            r"window \[5, 1, 1\] is larger than the token grid",
        ),
        (lambda m, clip: class_evidence(m, clip, step=(0, 1, 1)), "step must be 3 whole numbers from 1 on"),
        (lambda m, clip: class_evidence(m, clip, window=NOISE), "unknown kind of window 'noise'"),
        (lambda m, clip: class_evidence(m, clip, fill=NOISE), "unknown fill 'noise'"),
        (lambda m, clip: class_evidence(m, clip.astype(np.float32).transpose(3, 0, 1, 2)), "in bytes, uint8"),
    ],
)
def test_what_has_no_evidence_is_told(ask: Any, message: str) -> None:
    model = model_of()
    with pytest.raises(InputError, match=message):
        ask(model, clip_for(model.config))


def test_only_classifiers_of_video_have_evidence() -> None:
    pre: Any = MAEDFER(MAEDFERConfig(encoder=small(num_classes=0), decoder_dim=16, decoder_depth=1, decoder_heads=2))
    with pytest.raises(InputError, match="needs a classifier"):
        class_evidence(pre, clip_for(pre.config.encoder))
    flat = LGIFormer(small(clip_size=(32, 32), patch_size=(8, 8), region_size=(2, 2)))
    with pytest.raises(InputError, match="frames, height and width in 3 channels"):
        class_evidence(flat, np.zeros((3, 32, 32), np.uint8))
