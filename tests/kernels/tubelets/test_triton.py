"""Cubes of tokens: normalised, mixed, cut and cast in one pass."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from maedfer.kernels import functional, reference
from maedfer.kernels._operators import operator
from maedfer.kernels.tubelets.triton import not_supported_reasons, tubelets
from maedfer.models.config import IMAGENET_MEAN, IMAGENET_STD
from tests.kernels.oracle import DTYPES, check

GRID = (2, 2, 3)
PATCH = (2, 4, 4)

# (keep, top, bottom, left, right) as shares of the frame: as they are, blended, a box across cubes, a box of whole
# cubes, all of the other clip, and both kinds at once.
MIXES = {
    "not mixed": (1, 0, 0, 0, 0),
    "blended": (0.3, 0, 0, 0, 0),
    "box": (1, 0.2, 0.8, 0.1, 0.6),
    "cubes": (1, 0, 0.5, 1 / 3, 1),
    "other": (1, 0, 1, 0, 1),
    "both": (0.7, 0.3, 0.6, 0.6, 1),
}


def mixed_by(name: str, frames: Tensor) -> Tensor:
    keep, top, bottom, left, right = MIXES[name]
    height, width = frames.shape[-2:]
    box = [round(top * height), round(bottom * height), round(left * width), round(right * width)]
    return torch.tensor([keep, *box], dtype=torch.float32, device=frames.device)


def video(patch_size: tuple[int, ...], device: torch.device, batch: int = 3, channels: int = 3) -> Tensor:
    """Clips, or pictures, whose grid of cubes is GRID."""
    size = [number * length for number, length in zip(GRID[-len(patch_size) :], patch_size, strict=True)]
    return torch.randint(0, 256, (batch, channels, *size), dtype=torch.uint8).to(device)


def statistics(channels: int) -> tuple[list[float], list[float]]:
    return [0.1 + 0.07 * c for c in range(channels)], [0.2 + 0.05 * c for c in range(channels)]


def fast(index: Tensor, patch_size: tuple[int, ...], dtype: torch.dtype, mix: Tensor | None) -> Callable:
    return lambda frames: tubelets(frames, index, patch_size, *statistics(frames.shape[1]), dtype, mix)


def plain(index: Tensor, patch_size: tuple[int, ...], dtype: torch.dtype, mix: Tensor | None) -> Callable:
    """The specification on exactly converted bytes; in float64 where the oracle asks for the truth."""

    def cut(frames: Tensor) -> Tensor:
        mean, std = statistics(frames.shape[1])
        wide = frames if frames.dtype == torch.float64 else (frames / 255.0).to(torch.promote_types(dtype, torch.float))
        out = reference.tubelets(wide, index, patch_size=patch_size, mean=mean, std=std, mix=mix)
        return out if frames.dtype == torch.float64 else out.to(dtype)

    return cut


def assert_right(
    frames: Tensor, index: Tensor, patch_size: tuple[int, ...], dtype: torch.dtype, mix: Tensor | None
) -> None:
    truth = (frames.double() / 255.0).detach()
    calls = iter([frames, truth])
    specification = plain(index, patch_size, dtype, mix)
    # Bytes stay bytes for the oracle, which runs the specification in the kernel's dtype and then in float64.
    check(fast(index, patch_size, dtype, mix), lambda _: specification(next(calls)), [frames])


@pytest.mark.parametrize("mix", [None, *MIXES])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_mixes_and_dtypes(dtype: torch.dtype, mix: str | None, device: torch.device) -> None:
    frames = video(PATCH, device)
    index = torch.randperm(math.prod(GRID)).to(device)
    assert_right(frames, index, PATCH, dtype, None if mix is None else mixed_by(mix, frames))


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("patch_size", [(2, 16, 16), (3, 7, 5), (1, 1, 1), (16, 16), (7, 5)], ids=str)
def test_patch_sizes_and_channels(patch_size: tuple[int, ...], channels: int, device: torch.device) -> None:
    frames = video(patch_size, device, channels=channels)
    index = torch.tensor([[0, 5, 3], [1, 1, 4], [2, 0, 5]], device=device)
    assert_right(frames, index, patch_size, torch.float32, mixed_by("both", frames))


def test_cubes_larger_than_a_tile(device: torch.device) -> None:
    frames = torch.randint(0, 256, (2, 1, 2, 96, 70), dtype=torch.uint8).to(device)
    assert_right(frames, torch.tensor([1, 0], device=device), (2, 48, 70), torch.float32, mixed_by("box", frames))


@pytest.mark.parametrize("batch", [0, 1, 2, 5], ids="{} clips".format)
def test_batches(batch: int, device: torch.device) -> None:
    frames = video(PATCH, device, batch)
    for index in (torch.arange(12, device=device), torch.empty(0, dtype=torch.int64, device=device)):
        assert_right(frames, index, PATCH, torch.float32, mixed_by("blended", frames))


def test_frames_and_numbers_are_read_in_place(device: torch.device) -> None:
    frames = video(PATCH, device)
    wide = video((6, 9, 10), device, channels=4)
    many = torch.randint(0, 12, (6, 8)).to(device)
    numbers = (
        many[:3],
        many[::2, ::3],
        many[:3, :3].T,
        many[:1].expand(3, -1),
        many[0, ::2],
        many[:3] - 12,
        many[:3] + 24,
    )
    for view in (
        frames.permute(0, 2, 3, 4, 1).contiguous().permute(0, 4, 1, 2, 3),
        frames.transpose(2, 4).contiguous().transpose(2, 4),
        wide[:, :3, :4, 3:11, 5:17],
        wide[:, 1:, :8:2, :16:2, :24:2],
        frames[:1, :1].expand(3, 3, -1, -1, -1),
    ):
        assert_right(view, many[:3], PATCH, torch.float32, mixed_by("box", view))
    for index in numbers:
        assert_right(frames, index, PATCH, torch.float32, mixed_by("blended", frames))


@pytest.mark.parametrize("far", range(4), ids=["clip", "channel", "frame", "row"])
def test_offsets_past_two_to_the_31(far: int, device: torch.device) -> None:
    shape = [2, 2, *(number * length for number, length in zip(GRID, PATCH, strict=True))]
    shape[far] = max(3, shape[far])
    strides = [4096, 1024, shape[3] * shape[4], shape[4], 1]
    # The stride itself fits 32 bits, only its last multiple does not.
    strides[far] = 2**31 // (shape[far] - 1) + 16
    storage = torch.empty(2**31 + 16384, dtype=torch.uint8, device=device)
    frames = storage.as_strided(shape, strides)
    frames.copy_(torch.randint(0, 256, shape, dtype=torch.uint8))
    assert_right(frames, torch.tensor([0, 11, 7], device=device), PATCH, torch.float32, mixed_by("blended", frames))


def test_compiles_into_one_graph_for_all_mixes(device: torch.device) -> None:
    frames = video(PATCH, device)
    index = torch.arange(12, device=device)
    graphs = []

    def count(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable:
        graphs.append(graph)
        return graph.forward

    def cut(mix: Tensor) -> Tensor:
        return functional.tubelets(
            frames, index, patch_size=PATCH, mean=IMAGENET_MEAN, std=IMAGENET_STD, mix=mix, impl="triton"
        )

    compiled = torch.compile(cut, fullgraph=True, backend=count)
    for name in MIXES:
        mix = mixed_by(name, frames)
        assert torch.equal(compiled(mix), cut(mix))
    assert len(graphs) == 1
    torch.library.opcheck(
        operator("tubelets_fwd"), (frames, index, list(PATCH), *statistics(3), torch.float16, mixed_by("box", frames))
    )


def test_limits_are_told(device: torch.device) -> None:
    frames = video(PATCH, device)
    assert not not_supported_reasons(frames, PATCH, *statistics(3))
    assert not not_supported_reasons(frames, PATCH, [0.0] * 40, [1.0] * 40)
    assert "40 channels" in not_supported_reasons(frames, PATCH, *statistics(40))[0]
    assert "float32" in not_supported_reasons(frames.float(), PATCH, *statistics(3))[0]
    assert "1 dimensions" in not_supported_reasons(frames, (4,), *statistics(3))[0]
