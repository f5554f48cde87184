"""Blocks in which weights do not change: the same results, and what is prepared once."""

from __future__ import annotations

import pytest
import torch

import maedfer
from maedfer._native import MODULES
from maedfer.kernels import _packed_weights
from maedfer.models import LGIFormer
from maedfer.models.fixed_weights import packed_weights
from tests.helpers import randomize, small

pytestmark = pytest.mark.skipif(MODULES["cpu"] is None, reason="csrc was not compiled")


@pytest.fixture
def packings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of weights, one for each time that one is packed."""
    made: list[tuple[int, ...]] = []
    plain = _packed_weights.pack

    def pack(weight: torch.Tensor, *rest: object, **others: object) -> torch.Tensor:
        made.append(tuple(weight.shape))
        return plain(weight, *rest, **others)  # type: ignore[arg-type]

    monkeypatch.setattr(_packed_weights, "pack", pack)
    return made


def classifier() -> tuple[LGIFormer, torch.Tensor]:
    torch.manual_seed(0)
    model = LGIFormer(small(impl="native", depth=1))
    randomize(model)
    return model.eval(), torch.randn(2, 3, *model.config.clip_size)


@pytest.mark.parametrize("autocast", [False, True])
def test_inference_is_the_same_and_packs_once(autocast: bool, packings: list[tuple[int, ...]]) -> None:
    model, clips = classifier()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        want = model(clips)
        each = len(packings)
        with maedfer.fixed_weights(model):
            assert torch.equal(model(clips), want) and len(packings) == 2 * each
            assert torch.equal(model(clips), want) and len(packings) == 2 * each
        assert torch.equal(model(clips), want) and len(packings) == 3 * each


def test_a_training_step_sees_the_weights_that_the_last_one_left() -> None:
    losses = []
    for held in (False, True):
        model, clips = classifier()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(3):
            with maedfer.fixed_weights(model) if held else torch.enable_grad():
                loss = model(clips).square().mean()
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
    assert losses[:3] == losses[3:] and len(set(losses)) == 3


def test_a_model_has_one_block_until_its_parameters_are_others() -> None:
    model, clips = classifier()
    block = packed_weights(model)
    assert packed_weights(model) is block
    with block:
        before = model(clips)
    model.reset_head(3)
    assert packed_weights(model) is not block
    with packed_weights(model):
        assert model(clips).shape == (2, 3) and before.shape == (2, 5)
