"""Cubes of tokens in PyTorch, and what the public function refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from maedfer.errors import InputError
from maedfer.kernels import functional
from maedfer.kernels.cubes import gather_cubes
from maedfer.models import normalize_frames
from maedfer.models.config import IMAGENET_MEAN, IMAGENET_STD

HOW: dict[str, Any] = {"patch_size": (2, 4, 4), "mean": IMAGENET_MEAN, "std": IMAGENET_STD}


@pytest.mark.parametrize("impl", ["reference", "torch", "native"])
@pytest.mark.parametrize("size", [1, 4, 5], ids="{} clips".format)
def test_mixing_cubes_is_mixing_clips_to_the_bit(size: int, impl: Any) -> None:
    frames = torch.randint(0, 256, (size, 3, 4, 8, 12), dtype=torch.uint8)
    clips = normalize_frames(frames)
    own = torch.randint(0, 12, (size, 7))
    boxed = clips.clone()
    boxed[..., 3:6, 2:11] = clips.flip(0)[..., 3:6, 2:11]
    blended = torch.lerp(clips.flip(0), clips, 0.37)
    for mix, mixed in (([1.0, 3, 6, 2, 11], boxed), ([0.37, 0, 0, 0, 0], blended), ([1.0, 0, 0, 0, 0], clips)):
        for index in (torch.randperm(12), own):
            found = functional.tubelets(frames, index, mix=torch.tensor(mix), impl=impl, **HOW)
            assert torch.equal(found, gather_cubes(mixed, (2, 4, 4), index).flatten(2))


@pytest.mark.parametrize(
    "mix", [torch.ones(4), torch.ones(1, 5), torch.ones(5, dtype=torch.float64), torch.ones(5, device="meta")], ids=str
)
def test_what_is_no_mix_is_refused(mix: torch.Tensor) -> None:
    frames = torch.zeros(2, 3, 2, 4, 4, dtype=torch.uint8)
    with pytest.raises(InputError, match=r"mix must be .* float32 \[5\] on cpu"):
        functional.tubelets(frames, torch.arange(1), mix=mix, **HOW)
