"""Clips for the tests of augmentation."""

from __future__ import annotations

import torch


def clip(frames: int = 4, height: int = 48, width: int = 64, seed: int = 0) -> torch.Tensor:
    """Smooth random pictures, all frames equal: what is done alike to all frames keeps them equal."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(1, 3, 6, 8, generator=generator)
    picture = torch.nn.functional.interpolate(small, (height, width), mode="bilinear")
    return (picture * 255).to(torch.uint8).repeat(frames, 1, 1, 1)


def frames_equal(frames: torch.Tensor) -> bool:
    return bool((frames == frames[:1]).all())
