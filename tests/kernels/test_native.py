"""csrc's C++ operations against the specification, and how both parts are refused where they cannot run."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from maedfer import _native
from maedfer._native import build_record
from maedfer.errors import InputError
from maedfer.kernels import Impl, functional, reference
from maedfer.kernels._dispatch import interpreting
from maedfer.kernels._native_calls import cube_reasons
from maedfer.kernels.loss import native as native_loss
from maedfer.kernels.loss.native import NativeLoss, not_supported_reasons, reconstruction_loss
from maedfer.kernels.tubelets import native as native_tubelets
from maedfer.kernels.tubelets.native import tubelets
from maedfer.models import IMAGENET_MEAN, IMAGENET_STD, MAEDFER
from tests.helpers import relative_error, small, small_mae

pytestmark = [
    pytest.mark.skipif(interpreting(), reason="nothing here is Triton's"),
    pytest.mark.skipif(not build_record()["cpu"]["built"], reason=str(build_record()["cpu"].get("why"))),
]

CUBE = (2, 16, 16)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# Batch, channels, frames and pixels, cube.
SHAPES = [
    (2, 3, (4, 32, 48), CUBE),
    (1, 1, (6, 10, 6), (3, 5, 3)),
    (3, 4, (2, 8, 8), (1, 8, 4)),
    (2, 3, (5, 7, 20), (5, 7, 20)),
    (1, 3, (4, 4, 4), (2, 1, 1)),
]


def clips(batch: int, channels: int, size: tuple[int, ...], dtype: torch.dtype = torch.uint8) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (batch, channels, *size), dtype=torch.uint8, generator=generator)
    return frames if dtype == torch.uint8 else frames.float() / 255.0


def numbers(batch: int, size: tuple[int, ...], cube: tuple[int, ...]) -> Tensor:
    """Some tokens of each clip, in no order, one of them twice."""
    tokens = size[0] // cube[0] * (size[1] // cube[1]) * (size[2] // cube[2])
    generator = torch.Generator().manual_seed(1)
    return torch.stack([torch.randint(0, tokens, (tokens + 1,), generator=generator) for _ in range(batch)])


def layouts(frames: Tensor) -> dict[str, Tensor]:
    """The same clips in other places of the memory."""
    interleaved = frames.permute(0, 2, 3, 4, 1).contiguous().permute(0, 4, 1, 2, 3)
    wide = torch.zeros(*frames.shape[:-1], 2 * frames.shape[-1] + 1, dtype=frames.dtype)
    wide[..., 1::2] = frames
    return {
        "planar": frames,
        "interleaved": interleaved,
        "every other column": wide[..., 1::2],
        "one clip for all": frames[:1].expand_as(frames),
        "backwards": frames.flip(0).flip(0),
    }


def normalised(frames: Tensor, index: Tensor, cube: tuple[int, ...], mean: list[float], std: list[float]) -> Tensor:
    """The specification in float64."""
    exact = frames.double() / (255.0 if frames.dtype == torch.uint8 else 1.0)
    return reference.tubelets(exact, index, patch_size=cube, mean=mean, std=std)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("source", [torch.uint8, torch.float32], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_tubelets(shape: tuple, source: torch.dtype, dtype: torch.dtype) -> None:
    batch, channels, size, cube = shape
    index, mean, std = numbers(batch, size, cube), [0.4, 0.5, 0.3, 0.1][:channels], [0.2, 0.3, 0.25, 0.5][:channels]
    for layout, frames in layouts(clips(batch, channels, size, source)).items():
        want = normalised(frames, index, cube, mean, std)
        for tokens in (index, index[0], index[:, ::2], index[:1].expand(batch, -1)):
            got = tubelets(frames, tokens, cube, mean, std, dtype)
            chosen = want if tokens is index else normalised(frames, tokens, cube, mean, std)
            assert got.dtype == dtype and got.shape == chosen.shape
            error = (got.double() - chosen).abs().max()
            assert error <= 2 * torch.finfo(dtype).eps * chosen.abs().max(), layout


@pytest.mark.parametrize("normalize", [True, False], ids=["normalised", "raw"])
@pytest.mark.parametrize("motion", [True, False], ids=["motion", "pixels"])
@pytest.mark.parametrize("source", [torch.uint8, torch.float32], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_loss_and_gradient(shape: tuple, source: torch.dtype, motion: bool, normalize: bool) -> None:
    batch, channels, size, cube = shape
    if normalize and cube[0] * cube[1] * cube[2] == 1:
        pytest.skip("one value has no deviation")
    index, values = numbers(batch, size, cube), channels * cube[0] * cube[1] * cube[2]
    torch.manual_seed(2)
    predicted = torch.randn(batch, index.shape[1], values)
    weights = (0.7, 0.4) if cube[0] > 1 else (0.7, 0.0)
    for layout, frames in layouts(clips(batch, channels, size, source)).items():
        exact = frames.double() / (255.0 if source == torch.uint8 else 1.0)
        want, gradient = scored(specified, predicted.double(), exact, index, cube, motion, normalize, weights)
        for dtype in DTYPES:
            eps = torch.finfo(dtype).eps
            loss = NativeLoss.apply
            got, ours = scored(loss, predicted.to(dtype), frames, index, cube, motion, normalize, weights)
            for one, other in zip(got, want, strict=True):
                # A mean over the motion of one frame is undefined in both.
                assert one.isnan() == other.isnan() and not abs(one.double() - other) > 4 * eps * abs(other), layout
            assert ours.dtype == dtype
            # A prediction in a shorter dtype is another prediction: half its spacing, at the most.
            bound = (4 * eps) * gradient.abs().max() + eps * predicted.abs().max() * gradient_per_error(
                predicted, cube, weights
            )
            assert (ours.double() - gradient).abs().max() <= bound, layout


def specified(
    predicted: Tensor, frames: Tensor, index: Tensor, cube: tuple[int, ...], motion: bool, normalize: bool
) -> tuple[Tensor, Tensor]:
    return reference.masked_appearance_motion_loss(
        predicted, frames, index, patch_size=cube, motion=motion, normalize=normalize
    )


def scored(loss, predicted, frames, index, cube, motion, normalize, weights):
    predicted = predicted.clone().requires_grad_()
    losses = loss(predicted, frames, index, cube, motion, normalize)
    total = sum(weight * one for weight, one in zip(weights, losses, strict=True) if weight)
    return [one.detach() for one in losses], torch.autograd.grad(total, predicted)[0]


def gradient_per_error(predicted: Tensor, cube: tuple[int, ...], weights: tuple[float, float]) -> float:
    first = predicted.numel() / cube[0]
    return max(2 * weights[0] / first, 2 * weights[1] / (first * max(1, cube[0] - 1)))


def test_flat_cubes_have_targets_of_zero() -> None:
    frames = torch.full((1, 3, 2, 16, 16), 201, dtype=torch.uint8)
    losses = reconstruction_loss(torch.zeros(1, 1, 1536), frames, torch.tensor([[0]]), CUBE, True, True, True)
    assert not any(part.any() for part in losses)


def test_strided_predictions_and_numbers_outside_of_the_grid() -> None:
    frames, index = clips(2, 3, (4, 32, 48)), torch.tensor([[0, -1, 13], [12, 5, -7]])
    wide = torch.randn(2, 6, 1536 + 5)
    for predicted in (wide[:, ::2, 5:], wide[:, :3].transpose(0, 1)[:2, :1].expand(2, 3, -1)[..., :1536]):
        ours = reconstruction_loss(predicted, frames, index, CUBE, True, True, True)
        same = reconstruction_loss(predicted.contiguous(), frames, index % 12, CUBE, True, True, True)
        assert all(torch.equal(one, other) for one, other in zip(ours, same, strict=True))
    cubes = tubelets(frames, index, CUBE, IMAGENET_MEAN, IMAGENET_STD, torch.float32)
    assert torch.equal(cubes, tubelets(frames, index % 12, CUBE, IMAGENET_MEAN, IMAGENET_STD, torch.float32))


@pytest.mark.parametrize("batch", [0, 2])
def test_nothing_to_do(batch: int) -> None:
    frames, index = clips(batch, 3, (4, 32, 48)), torch.zeros(batch, 0, dtype=torch.int64)
    assert tubelets(frames, index, CUBE, IMAGENET_MEAN, IMAGENET_STD, torch.float32).shape == (batch, 0, 1536)
    losses = reconstruction_loss(torch.zeros(batch, 0, 1536), frames, index, CUBE, True, True, True)
    assert losses[0].isnan() and losses[1].isnan() and losses[2].shape == (batch, 0, 1536)


def test_the_number_of_threads_changes_no_bit() -> None:
    frames, index = clips(4, 3, (16, 64, 64)), torch.stack([torch.randperm(128) for _ in range(4)])
    predicted, before, runs = torch.randn(4, 128, 1536), torch.get_num_threads(), []
    try:
        for threads in (1, 3, 7):
            torch.set_num_threads(threads)
            losses = reconstruction_loss(predicted, frames, index, CUBE, True, True, True)
            cubes = tubelets(frames, index, CUBE, IMAGENET_MEAN, IMAGENET_STD, torch.bfloat16)
            runs.append([*losses, cubes])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for run in runs[1:] for one, other in zip(runs[0], run, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_roundings_are_pytorchs(dtype: torch.dtype) -> None:
    # Values of every exponent, ties, subnormal numbers, and what is too large.
    values = torch.cat([torch.randn(4096) * 2.0**power for power in range(-45, 40, 3)])
    exact = torch.arange(0, 2**16, dtype=torch.int32).to(torch.int16).view(dtype).float()
    ties = torch.cat([exact, (exact[1:] + exact[:-1]) / 2])
    values = torch.cat([values, ties, torch.tensor([65504.0, 65519.9, 65520.0, 1e38, 3.4e38, 0.0, -0.0])])
    values = values[values.isfinite()]
    values = torch.cat([values, torch.tensor([torch.inf, -torch.inf, torch.nan])])
    frames = values[: len(values) // 64 * 64].reshape(1, 1, -1, 8, 8)
    index = torch.arange(frames.shape[2])[None]
    cubes = tubelets(frames, index, (1, 8, 8), [0.0], [1.0], dtype)
    assert torch.equal(cubes.flatten().nan_to_num(1.5), frames.flatten().to(dtype).nan_to_num(1.5))
    # And back: a prediction without a target is its own difference.
    widened = reconstruction_loss(cubes, torch.zeros_like(frames), index, (1, 8, 8), False, False, True)[2]
    assert torch.equal(widened.nan_to_num(1.5), cubes.nan_to_num(1.5))


def test_opcheck() -> None:
    frames, index = clips(2, 3, (4, 32, 48)), numbers(2, (4, 32, 48), CUBE)
    predicted = torch.randn(2, index.shape[1], 1536)
    ops, statistics = torch.ops.maedfer, (list(IMAGENET_MEAN), list(IMAGENET_STD))
    torch.library.opcheck(ops.tubelets.default, (frames, index, list(CUBE), *statistics, torch.bfloat16))
    torch.library.opcheck(
        ops.native_reconstruction_loss_fwd.default, (predicted, frames, index, list(CUBE), True, True, True)
    )


@pytest.mark.parametrize("impl", ["auto", "native", "torch"])
def test_compiles_without_a_graph_break(impl: Impl) -> None:
    frames, index = clips(2, 3, (4, 32, 48)), numbers(2, (4, 32, 48), CUBE)
    predicted = torch.randn(2, index.shape[1], 1536)

    def step(predicted: Tensor) -> Tensor:
        cubes = functional.tubelets(frames, index, patch_size=CUBE, mean=IMAGENET_MEAN, std=IMAGENET_STD, impl=impl)
        losses = functional.masked_appearance_motion_loss(predicted, frames, index, patch_size=CUBE, impl=impl)
        return losses[0] + 2 * losses[1] + cubes.mean()

    torch._dynamo.reset()
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    results = []
    for run in (step, compiled):
        given = predicted.clone().requires_grad_()
        out = run(given)
        results.append((out.detach(), torch.autograd.grad(out, given)[0]))
    assert torch.equal(results[0][1], results[1][1]) and torch.allclose(results[0][0], results[1][0], rtol=1e-6)


def test_auto_takes_it_and_torch_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    frames, index = clips(2, 3, (4, 32, 48)), numbers(2, (4, 32, 48), CUBE)
    predicted = torch.randn(2, index.shape[1], 1536)
    called: list[str] = []

    def watch(module: ModuleType, name: str) -> None:
        original = getattr(module, name)

        def watched(*args: Any) -> Any:
            called.append(name)
            return original(*args)

        monkeypatch.setattr(module, name, watched)

    watch(native_tubelets, "tubelets")
    watch(native_loss, "reconstruction_loss")

    def run(impl: Impl) -> list[Tensor]:
        called.clear()
        cubes = functional.tubelets(frames, index, patch_size=CUBE, mean=IMAGENET_MEAN, std=IMAGENET_STD, impl=impl)
        losses = functional.masked_appearance_motion_loss(predicted, frames, index, patch_size=CUBE, impl=impl)
        return [cubes, *losses]

    native = run("native")
    assert called == ["tubelets", "reconstruction_loss"]
    assert all(torch.equal(one, other) for one, other in zip(native, run("auto"), strict=True))
    assert called == ["tubelets", "reconstruction_loss"]
    plain = run("torch")
    assert not called
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(native, plain, strict=True))
    for part in ("cpu", "cuda"):
        monkeypatch.setitem(_native.MODULES, part, None)
    assert all(torch.equal(one, other) for one, other in zip(plain, run("auto"), strict=True))
    assert not called


def test_whole_models_take_the_rest_from_pytorch() -> None:
    results = []
    for impl in ("auto", "native", "torch"):
        torch.manual_seed(0)
        model = MAEDFER(small_mae(encoder=small(impl=impl)))
        frames = clips(2, 3, model.config.encoder.clip_size)
        loss = model.training_loss(frames, *model.token_numbers(model.random_masks(2)[0]))["loss"]
        loss.backward()
        results.append([loss.detach(), *(x.grad for x in model.parameters() if x.grad is not None)])
    auto, native, plain = results
    assert all(torch.equal(one, other) for one, other in zip(auto, native, strict=True))
    assert all(relative_error(one, other) < 1e-4 for one, other in zip(native, plain, strict=True))


def test_what_cannot_run_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    frames, index = clips(1, 3, (4, 32, 48)), torch.zeros(1, 2, dtype=torch.int64)
    predicted = torch.zeros(1, 2, 1536)
    with pytest.raises(InputError, match='impl="cuda" cannot run here: tensors are on the cpu device'):
        functional.masked_appearance_motion_loss(predicted, frames, index, patch_size=CUBE, impl="cuda")
    with pytest.raises(InputError, match='impl="cuda" cannot run here: tensors are on the cpu device'):
        functional.region_attention(torch.zeros(1, 4, 24), num_heads=1, impl="cuda")
    assert cube_reasons(torch.float64, frames, CUBE) == ["torch.float64 (float32, bfloat16 and float16 are written)"]
    assert "frames of torch.float64" in cube_reasons(torch.float32, frames.double(), CUBE)[0]
    assert "patches of 2 dimensions" in cube_reasons(torch.float32, frames, (16, 16))[0]
    with pytest.raises(InputError, match='impl="native" cannot run here: torch.float64'):
        functional.masked_appearance_motion_loss(predicted.double(), frames, index, patch_size=CUBE, impl="native")
    with pytest.raises(InputError, match='impl="native" cannot run here: tensors are on the meta device'):
        on_meta = (x.to("meta") for x in (predicted, frames, index))
        functional.masked_appearance_motion_loss(*on_meta, patch_size=CUBE, impl="native")
    bad = {
        r"cubes of \(2, 16, 16\) do not divide clips of \(4, 32, 40\)": (frames[..., :40], index),
        r"frames must be \[B, I, T, H, W\]": (frames[0], index),
        r"index must be int64 \[B, n\] or \[n\] on cpu, got torch.int32": (frames, index.int()),
        "index names tokens of 3 clips, there are 1": (frames, index.expand(3, -1)),
    }
    for message, (clip, numbers_) in bad.items():
        with pytest.raises(InputError, match=message):
            tubelets(clip, numbers_, CUBE, IMAGENET_MEAN, IMAGENET_STD, torch.float32)
    monkeypatch.setitem(_native.MODULES, "cpu", None)
    monkeypatch.setattr(_native, "_RECORD", {"cpu": {"built": False, "why": "no compiler"}, "cuda": {"built": False}})
    with pytest.raises(InputError, match='impl="native" cannot run here: csrc\'s CPU part is not there .no compiler.'):
        functional.masked_appearance_motion_loss(predicted, frames, index, patch_size=CUBE, impl="native")
    with pytest.raises(InputError, match="csrc's CPU part is not there .no compiler."):
        tubelets(frames, index, CUBE, IMAGENET_MEAN, IMAGENET_STD, torch.float32)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_cuda_agrees_with_the_cpu(shape: tuple, dtype: torch.dtype) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    batch, channels, size, cube = shape
    index, mean, std = numbers(batch, size, cube), [0.4, 0.5, 0.3, 0.1][:channels], [0.2, 0.3, 0.25, 0.5][:channels]
    predicted = torch.randn(batch, index.shape[1], channels * cube[0] * cube[1] * cube[2]).to(dtype)
    eps = torch.finfo(dtype).eps
    for layout, frames in layouts(clips(batch, channels, size)).items():
        there = frames.cuda()
        if layout == "every other column":
            there = torch.zeros(*frames.shape[:-1], 2 * frames.shape[-1], dtype=frames.dtype, device="cuda")[..., ::2]
            there.copy_(frames)
        elif layout == "interleaved":
            there = frames.permute(0, 2, 3, 4, 1).contiguous().cuda().permute(0, 4, 1, 2, 3)
        want = tubelets(frames, index, cube, mean, std, dtype)
        got = tubelets(there, index.cuda(), cube, mean, std, dtype).cpu()
        assert (got.double() - want.double()).abs().max() <= 2 * eps * want.double().abs().max(), layout
        for motion, normalize in ((True, True), (False, True), (True, False)):
            if normalize and cube[0] * cube[1] * cube[2] == 1:
                continue
            if not_supported_reasons(dtype, there, cube):
                continue
            ours = reconstruction_loss(predicted.cuda(), there, index.cuda(), cube, motion, normalize, True)
            theirs = reconstruction_loss(predicted, frames, index, cube, motion, normalize, True)
            for one, other in zip(ours, theirs, strict=True):
                error = (one.cpu().double() - other.double()).nan_to_num().abs().max()
                assert error <= max(2 * eps, 1e-5) * other.double().nan_to_num().abs().max(), layout
