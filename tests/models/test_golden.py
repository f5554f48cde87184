"""Outputs, losses and gradients of the published implementation, case by case."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from maedfer.kernels import Impl, use_impl
from maedfer.kernels import reference as ops
from maedfer.models import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    MAEDFER,
    LGIFormer,
    load_published,
    published_gradients,
    to_published,
)
from tests.helpers import ASSETS, IMPLEMENTATIONS, Golden, device_of, golden_files, load_golden, relative_error

OUTPUT_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-4

CASES = {path.stem: path for path in [*sorted(ASSETS.glob("*.safetensors")), *golden_files()]}


def check_gradients(gradients: dict[str, torch.Tensor], tensors: dict[str, torch.Tensor]) -> None:
    expected = {key[5:] for key in tensors if key.startswith("grad.")}
    norms = {key[9:] for key in tensors if key.startswith("gradnorm.")}
    assert expected, "a golden case without gradients"
    for name in expected:
        want = tensors[f"grad.{name}"]
        got = gradients.get(name, torch.zeros_like(want))
        assert relative_error(got, want) <= GRADIENT_TOLERANCE, name
    for name in norms:
        norm = float(tensors[f"gradnorm.{name}"])
        found = float(gradients[name].norm()) if name in gradients else 0.0
        assert abs(found - norm) <= GRADIENT_TOLERANCE * norm, name
    # A parameter that the published code gives no gradient must not get one here.
    for name in gradients.keys() - expected - norms:
        assert not gradients[name].any(), name


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("path", CASES.values(), ids=CASES)
def test_golden_case(path: Path, impl: Impl) -> None:
    golden, device = load_golden(path), device_of(impl)
    tensors = {name: tensor.to(device) for name, tensor in golden.tensors.items()}
    model = load_published(golden.state, golden.meta["task"], golden.args).to(device)
    with use_impl(impl):
        check_case(golden, model, tensors)


def check_case(golden: Golden, model: LGIFormer | MAEDFER, tensors: dict[str, torch.Tensor]) -> None:
    video = tensors["video"].float()
    if isinstance(model, LGIFormer):
        logits = model(video)
        assert relative_error(logits, tensors["logits"]) <= OUTPUT_TOLERANCE
        assert relative_error(model.forward_features(video), tensors["feature"]) <= OUTPUT_TOLERANCE
        loss = F.cross_entropy(logits, tensors["label"])
    else:
        shape = (1, 3, 1, 1, 1)
        visible, index = model.token_numbers(tensors["mask"])
        assert relative_error(model.encode(video, visible), tensors["encoded"]) <= OUTPUT_TOLERANCE
        few = tensors["prediction"].shape[1]
        assert relative_error(model(video, visible, index)[:, :few], tensors["prediction"]) <= OUTPUT_TOLERANCE
        frames = video * video.new_tensor(IMAGENET_STD).view(shape) + video.new_tensor(IMAGENET_MEAN).view(shape)
        target = ops.reconstruction_target(
            frames,
            index,
            patch_size=model.config.encoder.patch_size,
            motion=golden.meta["use_frame_diff_as_target"],
            normalize=golden.meta["normlize_target"],
        )
        assert relative_error(target.flatten(2)[:, :few], tensors["target"]) <= OUTPUT_TOLERANCE
        loss = model.training_loss(frames, visible, index)["loss"]
    assert relative_error(loss, tensors["loss"]) <= OUTPUT_TOLERANCE
    loss.backward()
    check_gradients(published_gradients(model), tensors)


@pytest.mark.parametrize("path", CASES.values(), ids=CASES)
def test_published_names_round_trip_bit_for_bit(path: Path) -> None:
    golden = load_golden(path)
    state = to_published(load_published(golden.state, golden.meta["task"], golden.args))
    assert state.keys() == golden.state.keys()
    assert all(torch.equal(state[key], value) for key, value in golden.state.items())
