"""How Python calls the CUDA C++ kernels, with the emulator in the place of a GPU, and what it refuses."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from maedfer._native import MODULES
from maedfer.errors import InputError
from maedfer.kernels import _native_calls, functional, reference
from tests.csrc.emulator import Emulator


class EmulatedModule:
    """`maedfer._cuda` by the emulator."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator
        self.calls: list[str] = []

    def _call(self, name: str, *arguments: Any) -> int:
        self.calls.append(name)
        result = self.emulator.call(f"emulate_{name}", *arguments)
        assert self.emulator.error == ""
        return result

    Clips = staticmethod(lambda *sizes: list(sizes))
    Cube = staticmethod(lambda *sizes: list(sizes))

    def tubelets(
        self, frames, clips, cube, index, clip, token, batch, count, scale, shift, out, element, stream
    ) -> int:
        geometry, places = torch.tensor([*clips, *cube]), torch.tensor([clip, token, batch, count])
        given = (index, places.data_ptr(), scale, shift, out, element)
        return self._call("tubelets", frames, geometry.data_ptr(), *given)

    def reconstruction_loss(
        self, prediction, element, prediction_clip, prediction_token, frames, clips, cube, index, clip, token, batch,
        count, motion, normalize, sums, difference, stream,
    ) -> int:  # fmt: skip
        geometry, places = torch.tensor([*clips, *cube]), torch.tensor([clip, token, batch, count])
        predicted = (prediction, element, prediction_clip, prediction_token)
        read = (frames, geometry.data_ptr(), index, places.data_ptr())
        return self._call("reconstruction_loss", *predicted, *read, motion, normalize, sums, difference)


@pytest.fixture
def cuda(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> EmulatedModule:
    module = EmulatedModule(emulator)
    monkeypatch.setitem(MODULES, "cuda", module)
    monkeypatch.setattr(_native_calls, "current_stream", lambda x: contextlib.nullcontext(0))
    return module


def test_operations_that_csrc_has_not_are_triton_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for by csrc's names, they run there or say why they cannot, whether csrc was compiled or not."""
    with pytest.raises(InputError, match='impl="cuda" cannot run here: tensors are on the cpu device'):
        functional.region_attention(torch.zeros(1, 11, 192, dtype=torch.bfloat16), num_heads=1, impl="cuda")
    monkeypatch.setattr("maedfer.kernels._dispatch.device_reasons", lambda *_: ())
    # Stands for a GPU.
    with FakeTensorMode():
        qkv = torch.zeros(1, 11, 192, dtype=torch.bfloat16, device="cuda")
        mask = torch.ones(11, dtype=torch.bool, device="cuda")
        for compiled in (MODULES["cuda"], None):
            monkeypatch.setitem(MODULES, "cuda", compiled)
            for impl in ("native", "cuda"):
                assert functional.region_attention(qkv, num_heads=1, impl=impl).shape == (1, 11, 64)
                with pytest.raises(InputError, match='impl="triton" cannot run here: a mask over keys'):
                    functional.region_attention(qkv, num_heads=1, mask=mask, impl=impl)


# Batch, channels, frames and pixels, cube: runs of 16 bytes, rows of 16 elsewhere, and other sizes.
SHAPES = [
    (2, 3, (4, 32, 48), (2, 16, 16)),
    (1, 1, (6, 10, 6), (3, 5, 3)),
    (2, 4, (2, 8, 8), (1, 8, 4)),
    (1, 3, (4, 20, 36), (4, 20, 36)),
]


@pytest.fixture
def on_cuda(cuda: EmulatedModule, monkeypatch: pytest.MonkeyPatch) -> EmulatedModule:
    """Tensors of a CPU taken for those of a GPU."""
    monkeypatch.setattr(_native_calls, "module_for", lambda x: (cuda, "cuda"))
    return cuda


def clips_and_numbers(shape: tuple) -> tuple[dict[str, Tensor], Tensor]:
    batch, channels, size, cube = shape
    frames = torch.randint(0, 256, (batch, channels, *size), dtype=torch.uint8)
    wide = torch.zeros(*frames.shape[:-1], 2 * frames.shape[-1], dtype=torch.uint8)
    wide[..., ::2] = frames
    tokens = size[0] // cube[0] * (size[1] // cube[1]) * (size[2] // cube[2])
    interleaved = frames.permute(0, 2, 3, 4, 1).contiguous().permute(0, 4, 1, 2, 3)
    layouts = {"planar": frames, "interleaved": interleaved, "every other column": wide[..., ::2]}
    return layouts, torch.randint(-tokens, tokens, (batch, min(tokens, 3) + 1))


@pytest.mark.parametrize("dtype", list(_native_calls.ELEMENTS)[:3], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_tubelets(on_cuda: EmulatedModule, shape: tuple, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layouts, index = clips_and_numbers(shape)
    mean, std, cube = [0.4, 0.5, 0.3, 0.1][: shape[1]], [0.2, 0.3, 0.25, 0.5][: shape[1]], shape[3]
    tokens = layouts["planar"][0, 0].numel() // (cube[0] * cube[1] * cube[2])
    for frames in layouts.values():
        want = reference.tubelets(frames.double() / 255.0, index % tokens, patch_size=cube, mean=mean, std=std)
        got = torch.ops.maedfer.tubelets(frames, index, list(cube), mean, std, dtype)
        assert (got.double() - want).abs().max() <= 2 * torch.finfo(dtype).eps * want.abs().max()
    assert on_cuda.calls == ["tubelets"] * 3


@pytest.mark.parametrize("motion", [True, False], ids=["motion", "pixels"])
@pytest.mark.parametrize("normalize", [True, False], ids=["normalised", "raw"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_loss(on_cuda: EmulatedModule, shape: tuple, normalize: bool, motion: bool) -> None:
    torch.manual_seed(0)
    layouts, index = clips_and_numbers(shape)
    cube = shape[3]
    tokens = layouts["planar"][0, 0].numel() // (cube[0] * cube[1] * cube[2])
    for dtype, (name, frames) in zip(list(_native_calls.ELEMENTS)[:3], layouts.items(), strict=True):
        predicted = torch.randn(*index.shape, shape[1] * cube[0] * cube[1] * cube[2]).to(dtype)
        exact = predicted.double().requires_grad_()
        want = reference.masked_appearance_motion_loss(
            exact, frames.double() / 255.0, index % tokens, patch_size=cube, motion=motion, normalize=normalize
        )
        got = torch.ops.maedfer.native_reconstruction_loss_fwd(
            predicted, frames, index, list(cube), motion, normalize, True
        )
        for one, other in zip(got[:2], want, strict=True):
            assert one.isnan() == other.isnan() and not abs(one.double() - other) > 1e-5 * abs(other), name
        # The gradient of the first frames' mean square is 2 / count times their differences.
        (gradient,) = torch.autograd.grad(want[0], exact)
        first = predicted[..., : predicted.shape[-1] // cube[0]].numel()
        difference = gradient * first / 2
        of_first = difference != 0
        error = (got[2].double() - difference)[of_first].abs().max()
        assert error <= 2 * torch.finfo(dtype).eps * difference.abs().max(), name
