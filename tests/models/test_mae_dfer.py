"""The autoencoder: which tokens it sees, where it puts them, what it is trained on."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from maedfer.errors import InputError
from maedfer.kernels import reference as ops
from maedfer.kernels.cubes import cubes
from maedfer.models import MAEDFER, normalize_frames, to_published
from tests.helpers import randomize, relative_error, small, small_mae


def batch(model: MAEDFER, size: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    frames = torch.randint(0, 256, (size, 3, *model.config.encoder.clip_size), dtype=torch.uint8)
    return frames, model.random_masks(size)[0]


@pytest.mark.parametrize("architecture", ["lgi", "vit"])
def test_hidden_cubes_do_not_reach_the_prediction(architecture: str) -> None:
    model = MAEDFER(small_mae(encoder=small(architecture=architecture))).eval()
    randomize(model)
    frames, mask = batch(model)
    video = normalize_frames(frames)
    changed = video.clone()
    view = cubes(changed, model.config.encoder.patch_size)
    view[mask.reshape(2, *model.config.encoder.grid)] = 9.0
    numbers = model.token_numbers(mask)
    assert torch.equal(model(video, *numbers), model(changed, *numbers))
    view[(~mask).reshape(2, *model.config.encoder.grid)] += 0.5
    assert not torch.equal(model(video, *numbers), model(changed, *numbers))


def test_region_order_does_not_matter_when_decoder_order_is_aligned() -> None:
    """Without attention in the encoder, a token's code must come out at its own place for any region shape."""
    outputs = []
    for region in ((2, 2, 2), (1, 4, 4), (4, 2, 4)):
        config = small_mae(encoder=small(region_size=region, depth=1, inter_region=False, interaction="none"))
        torch.manual_seed(1)
        model = MAEDFER(config).eval()
        projection = model.get_parameter("encoder.blocks.0.intra_attention.proj.weight")
        torch.nn.init.zeros_(projection)
        torch.manual_seed(2)
        shared = {n: torch.randn_like(p) * 0.3 for n, p in model.named_parameters() if "representative" not in n}
        model.load_state_dict({**shared, "encoder.representative_tokens": model.encoder.representative_tokens})
        torch.nn.init.zeros_(projection)
        mask = torch.zeros(1, 64, dtype=torch.bool)
        mask.view(4, 4, 4)[:, ::2, :] = True
        torch.manual_seed(3)
        outputs.append(model(torch.randn(1, 3, 8, 32, 32), *model.token_numbers(mask)))
    assert relative_error(outputs[1], outputs[0]) < 1e-5
    assert relative_error(outputs[2], outputs[0]) < 1e-5


def test_published_decoder_order_misplaces_half_of_the_visible_tokens() -> None:
    model = MAEDFER(small_mae(encoder=small(clip_size=(8, 32, 32), region_size=(2, 2, 4))))
    numbers = model.token_numbers(model.random_masks(1)[0])
    visible = numbers[0].flatten(1)
    published = visible.sort(dim=1).values
    assert float((visible != published).float().mean()) == 0.5
    aligned, other = model, MAEDFER(small_mae(encoder=model.config.encoder, decoder_order="published"))
    randomize(aligned)
    other.load_state_dict(aligned.state_dict())
    video = torch.randn(1, 3, 8, 32, 32)
    assert relative_error(other(video, *numbers), aligned(video, *numbers)) > 1e-3


@pytest.mark.parametrize(
    ("target", "weight", "expected"),
    [
        ("joint", 0.5, lambda a, m: 0.5 * a + 0.5 * m),
        ("joint", 0.8, lambda a, m: 0.8 * a + 0.2 * m),
        ("appearance", 0.5, lambda a, m: a),
        ("motion", 0.5, lambda a, m: m),
        ("pixels", 0.5, lambda a, m: 0.5 * a + 0.5 * m),
    ],
)
def test_objective_weighs_appearance_and_motion(target: str, weight: float, expected) -> None:
    model = MAEDFER(small_mae(target=target, appearance_weight=weight))
    frames, mask = batch(model)
    numbers = model.token_numbers(mask)
    parts = model.training_loss(frames, *numbers)
    assert relative_error(parts["loss"], expected(parts["appearance"], parts["motion"])) < 1e-6
    index = mask.nonzero()[:, 1].reshape(2, -1)
    aim = ops.reconstruction_target(frames, index, patch_size=(2, 8, 8), motion=target != "pixels").flatten(2)
    error = (model(normalize_frames(frames), *numbers) - aim).square()
    assert relative_error(parts["motion"], error[..., 192:].mean()) < 1e-5


def test_decoder_masking_reconstructs_a_subset_with_the_same_code() -> None:
    model = MAEDFER(small_mae(decoder_keep=0.5)).eval()
    frames, _ = batch(model)
    hidden, decoded = model.random_masks(2)
    assert decoded is not None and int(decoded.sum(1)[0]) == int(hidden.sum(1)[0]) // 2
    numbers = model.token_numbers(hidden, decoded)
    prediction = model(normalize_frames(frames), *numbers)
    assert prediction.shape == (2, int(decoded[0].sum()), 384)
    parts = model.training_loss(frames, *numbers)
    index = decoded.nonzero()[:, 1].reshape(2, -1)
    aim = ops.reconstruction_target(frames, index, patch_size=(2, 8, 8)).flatten(2)
    assert relative_error(parts["appearance"], (prediction - aim)[..., :192].square().mean()) < 1e-5


class Step(nn.Module):
    """What a trainer compiles, or wraps for several processes."""

    def __init__(self, model: MAEDFER) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: torch.Tensor, visible: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        return self.model.training_loss(frames, visible, wanted)["loss"]


@pytest.mark.parametrize("keep", [1.0, 0.5])
def test_a_training_step_is_one_graph(keep: float) -> None:
    torch.manual_seed(0)
    model = MAEDFER(small_mae(decoder_keep=keep))
    randomize(model)
    frames = torch.randint(0, 256, (2, 3, 8, 32, 32), dtype=torch.uint8)
    numbers = model.token_numbers(*model.random_masks(2))
    want = Step(model)(frames, *numbers)
    gradients = torch.autograd.grad(want, list(model.parameters()))
    got = torch.compile(Step(model), backend="aot_eager", fullgraph=True)(frames, *numbers)
    assert relative_error(got, want) <= 1e-6
    ours = torch.autograd.grad(got, list(model.parameters()))
    assert all(relative_error(one, other) <= 1e-5 for one, other in zip(ours, gradients, strict=True))


def test_masks_in_place_of_numbers_are_refused() -> None:
    model = MAEDFER(small_mae())
    frames, hidden = batch(model)
    with pytest.raises(InputError, match=r"int64 \[B, M, V\] and \[B, n\], got torch.bool .*token_numbers makes them"):
        model(frames, hidden, hidden)
    visible, _ = model.token_numbers(hidden)
    with pytest.raises(InputError, match="got torch.int64 .* and torch.bool"):
        model.training_loss(frames, visible, hidden)


def test_uneven_masks_are_refused() -> None:
    model = MAEDFER(small_mae())
    hidden = model.random_masks(2)[0]
    uneven = hidden.clone()
    uneven[0, int(hidden[0].nonzero()[0])] = False
    with pytest.raises(InputError, match="same number of visible tokens"):
        model.token_numbers(uneven)
    with pytest.raises(InputError, match=r"bool of shape \[B, 64\], got torch.bool of shape \[2, 32\]"):
        model.token_numbers(hidden[:, :32])
    with pytest.raises(InputError, match="same number of tokens to reconstruct"):
        model.token_numbers(hidden, uneven)


def test_reconstruction_pictures() -> None:
    model = MAEDFER(small_mae()).eval()
    frames, mask = batch(model)
    pictures = model.reconstruct(frames, mask)
    clip = frames.float() / 255
    assert set(pictures) == {"masked", "appearance", "motion", "full", "original"}
    assert all(picture.shape == clip.shape for picture in pictures.values())
    assert torch.equal(pictures["original"], clip)
    hidden = mask.view(2, 1, 4, 4, 4).repeat_interleave(2, 2).repeat_interleave(8, 3).repeat_interleave(8, 4)
    hidden = hidden.expand_as(clip)
    assert (pictures["masked"][hidden] == 0.5).all()
    for name in ("masked", "full"):
        assert torch.equal(pictures[name][~hidden], clip[~hidden])
    assert torch.allclose(pictures["motion"][:, :, ::2], torch.tensor(0.5))


def test_a_perfect_prediction_reconstructs_the_clip() -> None:
    model = MAEDFER(small_mae()).eval()
    frames, mask = batch(model)
    index = mask.nonzero()[:, 1].reshape(2, -1)
    target = ops.reconstruction_target(frames, index, patch_size=(2, 8, 8)).flatten(2)
    model._decode = lambda *_: target  # type: ignore[method-assign]
    assert relative_error(model.reconstruct(frames, mask)["full"], frames.float() / 255) < 1e-4


def test_spectrograms_are_clips_without_time() -> None:
    encoder = small(clip_size=(64, 32), patch_size=(8, 8), region_size=(4, 4), in_channels=1)
    model = MAEDFER(small_mae(encoder=encoder, target="pixels"))
    numbers = model.token_numbers(*model.random_masks(3))
    parts = model.training_loss(torch.rand(3, 1, 64, 32), *numbers)
    assert torch.isfinite(parts["loss"]) and relative_error(parts["loss"], parts["appearance"]) < 1e-6


def test_normalize_frames() -> None:
    frames = torch.tensor([0, 255], dtype=torch.uint8).expand(1, 3, 2)
    out = normalize_frames(frames)
    assert torch.allclose(out[0, :, 0], torch.tensor([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225]))
    assert torch.allclose(out[0, :, 1], torch.tensor([0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225]))
    assert torch.equal(normalize_frames(frames.float() / 255), out)


def test_initial_weights_have_the_range_of_each_published_layer() -> None:
    """Xavier's bound is that of the layers that the published code has, not of those that they are joined in here."""
    torch.manual_seed(0)
    for config, split in ((small_mae(), True), (small_mae(encoder=small(architecture="vit")), False)):
        state = to_published(MAEDFER(config))
        weights = {name: weight for name, weight in state.items() if name.endswith((".q.weight", "kv.weight"))}
        assert any(name.endswith(".q.weight") for name in weights) == split
        for name, weight in weights.items():
            bound = math.sqrt(6 / sum(weight.shape))
            assert 0.97 * bound < weight.abs().max() <= bound, name
            assert float(weight.std()) == pytest.approx(bound / math.sqrt(3), rel=0.05), name
