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
from maedfer.kernels.interaction import native as native_interaction
from maedfer.kernels.interaction.folding import fold
from maedfer.kernels.region_attention import native as native_attention
from maedfer.kernels.region_attention.native import NativeRegionAttention
from tests.csrc.emulator import Emulator
from tests.kernels.oracle import check, interaction

EPS = 1e-6


class EmulatedModule:
    """`maedfer._cuda` by the emulator."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator
        self.calls: list[str] = []

    def _call(self, name: str, *arguments: Any) -> int:
        self.calls.append(name)
        # Python's tensors are not known here: all memory is allowed.
        self.emulator.allow_everything()
        result = getattr(self.emulator.library, f"emulate_{name}")(*arguments)
        assert self.emulator.error == ""
        return result

    def region_attention_supported(self, rows: int, head_dim: int) -> bool:
        return bool(self.emulator.library.emulate_region_attention_supported(rows, head_dim))

    def region_attention_forward(self, element, sizes, qkv, group, row, out, stream) -> int:
        return self._call("region_attention_forward", element, *sizes, *qkv, group, row, out)

    def region_attention_backward(
        self,
        element,
        sizes,
        qkv,
        group,
        row,
        dout,
        dout_group,
        dout_row,
        gradients,
        gradient_group,
        gradient_row,
        stream,
    ) -> int:
        given = (dout, dout_group, dout_row, *gradients, gradient_group, gradient_row)
        return self._call("region_attention_backward", element, *sizes, *qkv, group, row, *given)

    def local_global_interaction_supported(self, regions: int, heads: int, channels: int, limit: int) -> bool:
        plan = torch.zeros(3, dtype=torch.int64)
        return bool(self.emulator.library.emulate_interaction_plan(regions, heads, channels, limit, plan.data_ptr()))

    def local_global_interaction_forward(self, element, sizes, addresses, strides, exact, eps, stream) -> int:
        packed = [torch.tensor(values) for values in (sizes, addresses, strides)]
        return self._call("interaction", element, *(x.data_ptr() for x in packed), exact, eps, 0)

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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_attention_of_any_leading_dimensions_and_strides(cuda: EmulatedModule, dtype: torch.dtype) -> None:
    wide = torch.randn(2, 2, 12, 3 * 64 + 8).to(dtype)
    # The last of them has rows that do not start at multiples of 16 bytes: it is copied.
    odd = torch.randn(2, 11, 3 * 64 + 1).to(dtype)[..., 1:]
    for qkv in (wide[..., :192], wide[:, :, 1:, 8:], wide[0, 1, :, :192], wide[:, 0].transpose(0, 1)[..., 8:], odd):
        check(
            lambda x: NativeRegionAttention.apply(x, 1),
            lambda x: reference.attention(*x.chunk(3, dim=-1), num_heads=1),
            [qkv.requires_grad_()],
        )
        qkv.requires_grad_(False)
    assert cuda.calls.count("region_attention_backward") == 5


def test_gradients_of_stride_zero(cuda: EmulatedModule) -> None:
    qkv = torch.randn(3, 11, 192).to(torch.bfloat16).requires_grad_()
    (got,) = torch.autograd.grad(NativeRegionAttention.apply(qkv, 1).sum(), qkv)
    out = NativeRegionAttention.apply(qkv, 1)
    assert torch.equal(got, torch.autograd.grad(out, qkv, torch.ones_like(out))[0])


@pytest.mark.parametrize("affine", [torch.float32, torch.bfloat16], ids=str)
def test_interaction(cuda: EmulatedModule, affine: torch.dtype) -> None:
    torch.manual_seed(0)
    batch, regions, rows, heads, dim, dtype = 2, 4, 7, 4, 256, torch.bfloat16
    z = torch.randn(batch, regions, rows + 1, dim).to(dtype)[:, :, 1:]
    kv = torch.randn(batch, regions, 2 * dim).to(dtype)
    weights = [torch.randn(dim) * 0.2 + 1, torch.randn(dim) * 0.2]
    for _ in range(2):
        weights += [torch.randn(dim, dim) * dim**-0.5, torch.randn(dim) * 0.2]
    weights = [x.to(dtype) for x in weights]
    after = [torch.randn(dim).to(affine), torch.randn(dim).to(affine)]
    norm, query, output = zip(weights[::2], weights[1::2], strict=True)
    matrices = fold(kv, norm=norm, query=query, output=output, num_heads=heads)
    s = z[:, :, 0]
    given = (z, s, *matrices, *after, EPS, dtype, True)
    y, n, p = torch.ops.maedfer.native_interaction_fwd(*given)
    exact = [x.double() for x in (z, s, kv, *weights)]
    want = interaction(*exact, *(x.double() for x in after), num_heads=heads, eps=EPS)
    low = interaction(z, s, kv, *weights, *(x.to(dtype) for x in after), num_heads=heads, eps=EPS)
    for ours, plain, true in zip((y, n), low, want, strict=True):
        error, allowed = ((x.double() - true).abs().max() for x in (ours, plain))
        assert error <= 2 * allowed + 4 * torch.finfo(dtype).eps * true.abs().max()
    assert torch.equal(y[:, :, 0], s) and p.shape == (batch, regions * rows, 16)
    torch.testing.assert_close(p.float().unflatten(2, (heads, regions)).sum(3)[:, 1:rows].float(),
                               torch.ones(batch, rows - 1, heads), atol=0.02, rtol=0)  # fmt: skip


def test_opcheck(cuda: EmulatedModule) -> None:
    qkv, out = torch.randn(2, 11, 192).to(torch.bfloat16), torch.randn(2, 11, 64).to(torch.bfloat16)
    torch.library.opcheck(torch.ops.maedfer.native_region_attention_fwd.default, (qkv, 1))
    torch.library.opcheck(torch.ops.maedfer.native_region_attention_bwd.default, (out, qkv, 1))


def test_what_cannot_run_is_said(cuda: EmulatedModule, monkeypatch: pytest.MonkeyPatch) -> None:
    def reasons(rows: int = 11, dtype: torch.dtype = torch.bfloat16, heads: int = 1) -> str:
        return "; ".join(native_attention.not_supported_reasons(torch.zeros(1, rows, 192, dtype=dtype), heads))

    assert reasons() == "" and reasons(128) == ""
    assert reasons(129) == "groups of 129 rows with head dim 64 (the kernels take up to 128, and 64)"
    assert "head dim 32" in reasons(heads=2) and "torch.float32 (the kernels take bfloat16" in reasons(
        dtype=torch.float32
    )

    def unfit(*shape: int, dtype: torch.dtype = torch.bfloat16, product: torch.dtype = torch.bfloat16) -> str:
        return "; ".join(native_interaction.not_supported_reasons(torch.zeros(1, *shape, dtype=dtype), 8, product))

    assert unfit(8, 11, 512) == ""
    assert "20 regions, 8 heads and 512 channels" in unfit(20, 11, 512)
    assert "a stream of torch.float16 with products in torch.bfloat16" in unfit(8, 11, 512, dtype=torch.float16)
    with pytest.raises(InputError, match='impl="cuda" cannot run here: tensors are on the cpu device'):
        functional.region_attention(torch.zeros(1, 11, 192, dtype=torch.bfloat16), num_heads=1, impl="cuda")
    # Stands for a GPU.
    with FakeTensorMode():
        qkv = torch.zeros(1, 11, 192, dtype=torch.bfloat16, device="cuda")
        mask = torch.ones(11, dtype=torch.bool, device="cuda")
        for impl in ("native", "cuda"):
            with pytest.raises(InputError, match=f'impl="{impl}" cannot run here: a mask over keys'):
                functional.region_attention(qkv, num_heads=1, mask=mask, impl=impl)
            with pytest.raises(InputError, match=f'impl="{impl}" cannot run here: groups of 11 rows with head dim 32'):
                functional.region_attention(qkv, num_heads=2, impl=impl)
        monkeypatch.setitem(MODULES, "cuda", None)
        with pytest.raises(InputError, match="cannot run here: csrc's CUDA part is not there"):
            functional.region_attention(qkv, num_heads=1, impl="native")


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
