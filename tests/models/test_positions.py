"""Position tables."""

from __future__ import annotations

import torch

from maedfer.models.positions import interpolate_grid, sincos_positions


def test_sincos_table() -> None:
    table = sincos_positions(10, 6)[0].double()
    assert table[0].tolist() == [0, 1, 0, 1, 0, 1]
    assert abs(float(table[3, 2]) - float(torch.tensor(3 / 10000 ** (2 / 6), dtype=torch.float64).sin())) < 1e-7


def test_interpolation_keeps_constants_and_follows_a_ramp_in_time() -> None:
    ramp = torch.arange(4.0)[:, None, None, None].expand(4, 3, 3, 2).reshape(1, 36, 2)
    assert interpolate_grid(ramp, (4, 3, 3), (4, 3, 3)) is ramp
    wide = interpolate_grid(ramp, (4, 3, 3), (8, 5, 6)).reshape(8, 5, 6, 2)
    assert torch.allclose(wide[:, 0, 0, 0], torch.tensor([0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.0]), atol=1e-5)
    assert torch.allclose(wide, wide[:, :1, :1].expand_as(wide), atol=1e-5)
    flat = interpolate_grid(torch.ones(1, 6, 3), (2, 3), (4, 4))
    assert flat.shape == (1, 16, 3) and torch.allclose(flat, torch.ones(()), atol=1e-6)
