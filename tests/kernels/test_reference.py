"""The specification against formulas written out in NumPy-like loreference."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from maedfer.kernels import reference
from maedfer.kernels.cubes import gather_cubes
from tests.helpers import relative_error


@pytest.mark.parametrize("shape", [(5, 8), (3, 5, 8), (2, 3, 5, 8), (0, 5, 8)], ids=str)
def test_attention_is_softmax_of_scaled_products(shape: tuple[int, ...]) -> None:
    q = torch.randn(*shape, dtype=torch.float64)
    k, v = torch.randn(2, *shape[:-2], 7, 8, dtype=torch.float64)
    out = reference.attention(q, k, v, num_heads=2)
    expected = torch.cat(
        [
            torch.softmax(q[..., part] @ k[..., part].transpose(-1, -2) / 2.0, dim=-1) @ v[..., part]
            for part in (slice(0, 4), slice(4, 8))
        ],
        dim=-1,
    )
    assert out.shape == shape
    assert torch.allclose(out, expected, atol=1e-12)
    if len(shape) > 2:
        weights = reference.attention_weights(q, k, num_heads=2)
        assert weights.shape == (*shape[:-2], 2, 5, 7)
        assert torch.allclose((weights[..., 1, :, :] @ v[..., 4:]), expected[..., 4:], atol=1e-12)


def test_attention_passes_gradcheck() -> None:
    q, k, v = (torch.randn(2, rows, 4, dtype=torch.float64, requires_grad=True) for rows in (3, 5, 5))
    assert torch.autograd.gradcheck(lambda *args: reference.attention(*args, num_heads=2), (q, k, v))


def test_drop_path_factors_keep_the_mean() -> None:
    factors = reference.drop_path_factors((1000, 4), 0.25, torch.device("cpu"))
    assert (
        factors.shape == (1000, 4)
        and factors.dtype == torch.float32
        and factors.unique().tolist() == pytest.approx([0.0, 4 / 3])
    )
    assert abs(float(factors.mean()) - 1.0) < 0.05


def test_gather_cubes_cuts_the_named_cubes() -> None:
    video = torch.randn(2, 3, 4, 6, 8)
    index = torch.tensor([[0, 17], [5, 9]])  # grid (2, 3, 4)
    out = gather_cubes(video, (2, 2, 2), index)
    assert out.shape == (2, 2, 3, 2, 2, 2)
    for clip in range(2):
        for place, token in enumerate(index[clip].tolist()):
            t, h, w = token // 12 * 2, token // 4 % 3 * 2, token % 4 * 2
            assert torch.equal(out[clip, place], video[clip, :, t : t + 2, h : h + 2, w : w + 2])
    strided = video.transpose(3, 4).contiguous().transpose(3, 4)
    assert torch.equal(gather_cubes(strided, (2, 2, 2), index), out)
    assert torch.equal(gather_cubes(video, (2, 2, 2), index[0])[1], gather_cubes(video[1:], (2, 2, 2), index[0])[0])


def plain_target(clip: torch.Tensor, token: int, motion: bool, normalize: bool) -> torch.Tensor:
    """One cube of 2 x 4 x 4 on a grid of (2, 2, 2), values in the order (frame, row, column, channel)."""
    t, h, w = token // 4 * 2, token // 2 % 2 * 4, token % 2 * 4
    cube = clip[:, t : t + 2, h : h + 4, w : w + 4].clone()
    if normalize:
        for channel in range(3):
            values = cube[channel]
            cube[channel] = (values - values.mean()) / (values.std(unbiased=True) + 1e-6)
    if motion:
        cube[:, 1] = cube[:, 1] - cube[:, 0]
    return cube.permute(1, 2, 3, 0).flatten()


@pytest.mark.parametrize("motion", [True, False])
@pytest.mark.parametrize("normalize", [True, False])
def test_reconstruction_target(motion: bool, normalize: bool) -> None:
    frames = torch.randint(0, 256, (2, 3, 4, 8, 8), dtype=torch.uint8)
    index = torch.tensor([[0, 3, 7], [2, 5, 6]])
    target = reference.reconstruction_target(frames, index, patch_size=(2, 4, 4), motion=motion, normalize=normalize)
    assert target.shape == (2, 3, 2, 48)
    for clip in range(2):
        for place, token in enumerate(index[clip].tolist()):
            expected = plain_target(frames[clip].double() / 255, token, motion, normalize)
            assert relative_error(target[clip, place].flatten().double(), expected) < 2e-5


def test_flat_cubes_have_a_zero_target() -> None:
    frames = torch.full((1, 3, 4, 8, 8), 77, dtype=torch.uint8)
    target = reference.reconstruction_target(frames, torch.arange(8)[None], patch_size=(2, 4, 4))
    assert torch.isfinite(target).all() and float(target.abs().max()) < 1e-2


def test_loss_is_the_mean_square_of_each_half() -> None:
    frames = torch.rand(2, 3, 4, 8, 8)
    index = torch.tensor([[1, 2], [0, 7]])
    prediction = torch.randn(2, 2, 96, requires_grad=True)
    appearance, motion = reference.masked_appearance_motion_loss(prediction, frames, index, patch_size=(2, 4, 4))
    target = reference.reconstruction_target(frames, index, patch_size=(2, 4, 4)).flatten(2)
    assert relative_error(appearance, F.mse_loss(prediction[..., :48], target[..., :48])) < 1e-6
    assert relative_error(motion, F.mse_loss(prediction[..., 48:], target[..., 48:])) < 1e-6
    motion.backward()
    assert prediction.grad is not None
    assert not prediction.grad[..., :48].any() and prediction.grad[..., 48:].any()
