"""Masked appearance-motion loss straight from frames and token numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from maedfer.kernels import reference
from maedfer.kernels._dispatch import interpreting
from maedfer.kernels._operators import operator
from maedfer.kernels.loss.triton import TritonLoss, _reads_words, not_supported_reasons
from tests.kernels.oracle import DTYPES, check, expanded_like, randn

Loss = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

FRAME_DTYPES = [torch.uint8, *DTYPES]
GRID = (2, 2, 3)
PATCH = (2, 4, 4)


def fast(index: Tensor, patch_size: tuple[int, ...] = PATCH, motion: bool = True, normalize: bool = True) -> Loss:
    return lambda prediction, frames: TritonLoss.apply(prediction, frames, index, patch_size, motion, normalize)


def plain(index: Tensor, patch_size: tuple[int, ...] = PATCH, motion: bool = True, normalize: bool = True) -> Loss:
    """The specification on exactly converted frames, in float32, or in float64 with the prediction."""

    def loss(prediction: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(prediction.dtype, torch.float32)
        pixels = frames.to(wide) / 255 if frames.dtype == torch.uint8 else frames.to(wide)
        how: dict[str, Any] = {"patch_size": patch_size, "motion": motion, "normalize": normalize}
        return reference.masked_appearance_motion_loss(prediction, pixels, index, **how)

    return loss


def only(part: int, loss: Loss) -> Callable[[Tensor, Tensor], Tensor]:
    """One of the two losses; the other one gets no gradient."""
    return lambda prediction, frames: loss(prediction, frames)[part]


def video(
    patch_size: tuple[int, ...], channels: int, device: torch.device, dtype: torch.dtype = torch.uint8, batch: int = 2
) -> Tensor:
    """A clip whose grid of cubes is GRID."""
    size = [number * length for number, length in zip(GRID, patch_size, strict=True)]
    frames = torch.randint(0, 256, (batch, channels, *size), dtype=torch.uint8)
    return (frames if dtype == torch.uint8 else (frames / 255).to(dtype)).to(device)


def tokens(device: torch.device, batch: int = 2, number: int = 3) -> Tensor:
    """Different tokens for every clip, in no order."""
    rows = [torch.randperm(math.prod(GRID))[:number] for _ in range(batch)]
    return torch.stack(rows).to(device) if rows else torch.empty(0, number, dtype=torch.int64, device=device)


def predicted(
    frames: Tensor, index: Tensor, patch_size: tuple[int, ...] = PATCH, dtype: torch.dtype = torch.float32
) -> Tensor:
    return randn(*index.shape, math.prod(patch_size) * frames.shape[1], dtype=dtype, device=frames.device)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("frames_dtype", FRAME_DTYPES, ids=str)
def test_dtypes(dtype: torch.dtype, frames_dtype: torch.dtype, device: torch.device) -> None:
    index, frames = tokens(device), video(PATCH, 3, device, frames_dtype)
    check(fast(index), plain(index), [predicted(frames, index, dtype=dtype), frames])


@pytest.mark.parametrize("normalize", [True, False], ids=["normalised", "raw"])
@pytest.mark.parametrize("motion", [True, False], ids=["motion", "pixels"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("patch_size", [(2, 16, 16), (3, 7, 5)], ids=str)
def test_targets(
    patch_size: tuple[int, ...], dtype: torch.dtype, motion: bool, normalize: bool, device: torch.device
) -> None:
    index, frames = tokens(device), video(patch_size, 3, device)
    choice = (index, patch_size, motion, normalize)
    check(fast(*choice), plain(*choice), [predicted(frames, index, patch_size, dtype), frames])


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(
    "patch_size", [(2, 8, 8), (2, 1, 8), (3, 2, 32), (4, 4, 4), (2, 7, 5), (3, 1, 2), (2, 1, 1)], ids=str
)
def test_patch_sizes_and_channels(patch_size: tuple[int, ...], channels: int, device: torch.device) -> None:
    index, frames = tokens(device), video(patch_size, channels, device)
    check(fast(index, patch_size), plain(index, patch_size), [predicted(frames, index, patch_size), frames])


@pytest.mark.parametrize("normalize", [True, False], ids=["normalised", "raw"])
@pytest.mark.parametrize("patch_size", [(1, 4, 4), (1, 7, 5)], ids=str)
def test_cubes_of_one_frame_have_no_motion(patch_size: tuple[int, ...], normalize: bool, device: torch.device) -> None:
    index, frames = tokens(device), video(patch_size, 3, device)
    prediction = predicted(frames, index, patch_size)
    choice = (index, patch_size, False, normalize)
    assert fast(*choice)(prediction, frames)[1].isnan()
    assert plain(*choice)(prediction, frames)[1].isnan()
    check(only(0, fast(*choice)), only(0, plain(*choice)), [prediction, frames])


@pytest.mark.parametrize("batch", [0, 1, 5], ids="{} clips".format)
def test_batches(batch: int, device: torch.device) -> None:
    index, frames = tokens(device, batch), video(PATCH, 3, device, batch=batch)
    prediction = predicted(frames, index)
    if batch:
        check(fast(index), plain(index), [prediction, frames])
        return
    losses = fast(index)(prediction, frames)
    assert all(loss.isnan() for loss in losses)
    (gradient,) = torch.autograd.grad(torch.stack([*losses]).sum(), prediction)
    assert gradient.shape == prediction.shape


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32], ids=str)
def test_frames_are_read_in_place(dtype: torch.dtype, device: torch.device) -> None:
    index = tokens(device)
    frames = video(PATCH, 3, device, dtype)
    batch, channels, length, height, width = frames.shape
    wide = video((6, 9, 10), 4, device, dtype)
    views = [
        frames.to(memory_format=torch.channels_last_3d),
        frames.permute(0, 2, 3, 4, 1).contiguous().permute(0, 4, 1, 2, 3),
        frames.transpose(1, 2).contiguous().transpose(1, 2),
        frames.transpose(2, 4).contiguous().transpose(2, 4),
        wide[:, :channels, :length, 3 : 3 + height, 5 : 5 + width],
        wide[:, 1 : 1 + channels, : 2 * length : 2, : 2 * height : 2, : 2 * width : 2],
        wide[:, ::2, :length, :height, :width],
        frames[:1, :1].expand(batch, channels, -1, -1, -1),
    ]
    for view in views:
        check(fast(index), plain(index), [predicted(view, index), view])


def test_words_are_read_in_place(device: torch.device) -> None:
    patch = (2, 8, 8)
    index, frames = tokens(device), video(patch, 3, device)
    wide = video((6, 16, 24), 4, device)
    words = [
        frames.transpose(1, 2).contiguous().transpose(1, 2),
        wide[:, 1:, :4, 3:19, 16:40],
        wide[:, :3, 4:8, :32:2, 48:],
        frames[:1, :1].expand(2, 3, -1, -1, -1),
    ]
    others = [
        wide[:, :3, :4, :16, 4:28],
        wide[:, :3, :4, :16, :48:2],
        frames.transpose(2, 4).contiguous().transpose(2, 4),
    ]
    for view in (*words, *others):
        assert _reads_words(view, patch) == any(view is one for one in words)
        check(fast(index, patch), plain(index, patch), [predicted(view, index, patch), view])
    assert not _reads_words(video((2, 8, 24), 3, device), (2, 8, 24))


@pytest.mark.parametrize("patch_size", [PATCH, (2, 4, 8)], ids=str)
def test_predictions_are_read_in_place(patch_size: tuple[int, ...], device: torch.device) -> None:
    index, frames = tokens(device), video(patch_size, 3, device)
    values = math.prod(patch_size) * 3
    wide = randn(4, 12, 2 * values + 5, dtype=torch.float32, device=device, grad=False)
    for prediction in (
        wide[:2, -3:, :values],
        wide[::2, 1:10:3, 5 : 5 + values],
        wide[:2, :3, : 2 * values : 2],
        wide[:3, :2, :values].transpose(0, 1),
        wide[:1, :3, :values].expand(2, -1, -1),
    ):
        check(fast(index, patch_size), plain(index, patch_size), [prediction.requires_grad_(), frames])
        prediction.requires_grad_(False)
    tail = randn(2, 12, values, dtype=torch.float32, device=device)
    ours, theirs = fast(index, patch_size), plain(index, patch_size)
    check(lambda x, y: ours(x[:, -3:], y), lambda x, y: theirs(x[:, -3:], y), [tail, frames])


@pytest.mark.parametrize("patch_size", [PATCH, (2, 4, 8)], ids=str)
def test_indices_are_read_in_place_and_wrap_around(patch_size: tuple[int, ...], device: torch.device) -> None:
    frames = video(patch_size, 3, device)
    wide = tokens(device, 4, 8)
    outside = torch.tensor([[-1, -13, 12], [25, 3, -7]], device=device)
    for index in (wide[:2, 1:4], wide[::2, ::3], wide[:3, :2].T, wide[:1, :3].expand(2, -1), outside):
        check(fast(index, patch_size), plain(index, patch_size), [predicted(frames, index, patch_size), frames])


@pytest.mark.parametrize("patch_size", [PATCH, (2, 4, 8)], ids=str)
@pytest.mark.parametrize("far", range(4), ids=["clip", "channel", "frame", "row"])
def test_offsets_past_two_to_the_31(far: int, patch_size: tuple[int, ...], device: torch.device) -> None:
    shape = [1, 1, *(number * length for number, length in zip(GRID, patch_size, strict=True))]
    shape[far] = max(3, shape[far])
    strides = [4096, 1024, shape[3] * shape[4], shape[4], 1]
    # The stride itself fits 32 bits, only its last multiple does not.
    strides[far] = (2**31 // (shape[far] - 1) // 8 + 2) * 8
    storage = torch.empty(2**31 + 16384, dtype=torch.uint8, device=device)
    frames = storage.as_strided(shape, strides)
    frames.copy_(torch.randint(0, 256, shape, dtype=torch.uint8))
    index = torch.tensor([[0, 11, 7]], device=device).expand(shape[0], -1)
    check(fast(index, patch_size), plain(index, patch_size), [predicted(frames, index, patch_size), frames])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_upstream_gradients(dtype: torch.dtype, device: torch.device) -> None:
    index, frames = tokens(device), video(PATCH, 3, device)
    inputs = [predicted(frames, index, dtype=dtype), frames]
    # A gradient scaler's factor, in which 2 / count alone would have lost its bits in float16.
    check(fast(index), plain(index), inputs, lambda loss: torch.full_like(loss, 4096.0))
    check(fast(index), plain(index), inputs, expanded_like)
    for part in (0, 1):
        check(only(part, fast(index)), only(part, plain(index)), inputs)


def test_nothing_is_kept_without_a_gradient(device: torch.device) -> None:
    index, frames = tokens(device), video(PATCH, 3, device)
    prediction = predicted(frames, index).detach()
    for want_gradient in (False, True):
        losses = operator("reconstruction_loss_fwd")(prediction, frames, index, PATCH, True, True, want_gradient)
        assert losses[2].shape == (prediction.shape if want_gradient else (0,))
    check(fast(index), plain(index), [prediction, frames])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32], ids=str)
@pytest.mark.parametrize("patch_size", [PATCH, (2, 7, 5), (2, 4, 8)], ids=str)
def test_flat_cubes_have_a_target_of_zero(
    patch_size: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> None:
    index, frames = tokens(device), video(patch_size, 3, device, dtype)
    frames[:] = 200 if dtype == torch.uint8 else 0.3
    prediction = predicted(frames, index, patch_size)
    losses = fast(index, patch_size)(prediction, frames)
    (gradient,) = torch.autograd.grad(torch.stack([*losses]).sum(), prediction)
    halves = prediction.detach().unflatten(2, (2, -1))
    count = halves[:, :, 0].numel()
    torch.testing.assert_close(torch.stack(losses), halves.square().mean((0, 1, 3)))
    torch.testing.assert_close(gradient, prediction.detach() * 2 / count)


@pytest.mark.parametrize("patch_size", [(2, 7, 5), (2, 16, 16)], ids=str)
def test_nearly_flat_cubes(patch_size: tuple[int, ...], device: torch.device) -> None:
    index, frames = tokens(device), video(patch_size, 3, device)
    frames[:] = 200
    frames[..., :: patch_size[2]] += 1
    check(fast(index, patch_size), plain(index, patch_size), [predicted(frames, index, patch_size), frames])


@pytest.mark.parametrize("patch_size", [PATCH, (2, 4, 8)], ids=str)
def test_results_repeat_bit_for_bit(patch_size: tuple[int, ...], device: torch.device) -> None:
    index, frames = tokens(device, number=9), video(patch_size, 3, device)
    prediction = predicted(frames, index, patch_size)
    runs = []
    for _ in range(2):
        losses = fast(index, patch_size)(prediction, frames)
        runs.append([*losses, *torch.autograd.grad(torch.stack([*losses]).sum(), prediction)])
    assert all(torch.equal(first, second) for first, second in zip(*runs, strict=True))


@pytest.mark.skipif(not interpreting(), reason="float64 exists under the interpreter only")
def test_gradcheck() -> None:
    device = torch.device("cpu")
    index, frames = tokens(device, number=1), video((2, 1, 3), 1, device)
    prediction = predicted(frames, index, (2, 1, 3), torch.float64)
    assert torch.autograd.gradcheck(lambda x: fast(index, (2, 1, 3))(x, frames), [prediction])


@pytest.mark.parametrize("want_gradient", [True, False])
def test_operators_are_registered_as_they_behave(want_gradient: bool, device: torch.device) -> None:
    index, frames = tokens(device), video(PATCH, 3, device)
    prediction = predicted(frames, index, dtype=torch.float16).detach()
    inputs = (prediction, frames, index, list(PATCH), True, True, want_gradient)
    torch.library.opcheck(operator("reconstruction_loss_fwd"), inputs)
    scalar = torch.ones((), device=device)
    for upstream in ((scalar, scalar), (scalar, None), (None, scalar), (None, None)):
        torch.library.opcheck(operator("reconstruction_loss_bwd"), (*upstream, prediction, PATCH[0]))


def test_compiles_into_one_graph(device: torch.device) -> None:
    index, frames = tokens(device), video(PATCH, 3, device)
    compiled = torch.compile(fast(index), fullgraph=True, backend="aot_eager")
    check(compiled, plain(index), [predicted(frames, index), frames])


def test_limits_are_told() -> None:
    assert not not_supported_reasons((2, 16, 16), 3)
    assert not not_supported_reasons((1, 7, 5), 12)
    assert "17 frames" in not_supported_reasons((17, 4, 4), 3)[0]
    assert "65536 values" in not_supported_reasons((2, 65, 64), 3)[0]
    assert "2 dimensions" in not_supported_reasons((16, 16), 3)[0]
