"""csrc's cubes of tokens, straight from the bytes of frames, on a CPU and on a GPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from maedfer.kernels import _native_calls as calls
from maedfer.kernels._operators import implements_everywhere, operator
from maedfer.kernels.tubelets.schema import tubelets_fake


def tubelets(
    frames: Tensor,
    index: Tensor,
    patch_size: Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype,
) -> Tensor:
    """Normalised cubes of the wanted tokens; arguments and result are those of `reference.tubelets`."""
    return operator("tubelets")(frames, index, list(patch_size), list(mean), list(std), dtype)


@implements_everywhere("tubelets")
def _tubelets(
    frames: Tensor, index: Tensor, patch_size: list[int], mean: list[float], std: list[float], dtype: torch.dtype
) -> Tensor:
    calls.check_cubes(frames, index, patch_size)
    compiled, part = calls.module_for(frames)
    out = tubelets_fake(frames, index, patch_size, mean, std, dtype)
    index = index.expand(frames.shape[0], index.shape[-1])
    white = 255.0 if frames.dtype == torch.uint8 else 1.0
    scale = torch.tensor([1.0 / (white * one) for one in std], dtype=torch.float32)
    shift = torch.tensor([-one / other for one, other in zip(mean, std, strict=True)], dtype=torch.float32)
    clips, cube = calls.geometry(compiled, frames, patch_size)
    places = (index.data_ptr(), *index.stride(), *index.shape)
    if part == "cpu":
        results = (scale.data_ptr(), shift.data_ptr(), out.data_ptr(), calls.ELEMENTS[dtype], torch.get_num_threads())
        compiled.tubelets(frames.data_ptr(), calls.ELEMENTS[frames.dtype], clips, cube, *places, *results)
        return out
    scale, shift = scale.to(frames.device), shift.to(frames.device)
    with calls.current_stream(frames) as stream:
        results = (scale.data_ptr(), shift.data_ptr(), out.data_ptr(), calls.ELEMENTS[dtype], stream)
        calls.launched(compiled.tubelets(frames.data_ptr(), clips, cube, *places, *results))
    return out
