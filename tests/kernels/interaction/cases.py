"""The folded interaction and its folding in plain PyTorch, and inputs for them, for whoever computes either."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from maedfer.kernels import reference
from maedfer.kernels.interaction import folding
from maedfer.kernels.interaction.torch import with_value_bias
from tests.kernels.oracle import randn

EPS = 1e-6


def interaction(
    z: Tensor, s: Tensor, matrix: Tensor, offset: Tensor, values: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """The formula of the kernel's file in loops over nothing, on local tokens as they lie."""
    x = z[:, :, 1:]
    _, heads, regions, dim = matrix.shape
    xhat = F.layer_norm(x, (dim,), eps=EPS).flatten(1, 2).to(matrix.dtype)  # [B, K, C]
    scores = xhat @ matrix.flatten(1, 2).transpose(1, 2) + offset.flatten(1).unsqueeze(1)
    p = scores.unflatten(2, (heads, regions)).softmax(dim=3).flatten(2).to(values.dtype)
    x = x + (p @ values.flatten(1, 2)).unflatten(1, x.shape[1:3])
    y = torch.cat([s.unsqueeze(2), x], dim=2)
    return y, reference.layer_norm(y, (weight, bias), eps=EPS)


def interaction_inputs(
    batch: int, regions: int, rows: int, heads: int, dim: int, dtype: torch.dtype, device: torch.device
) -> list[Tensor]:
    make: dict[str, Any] = {"dtype": dtype, "device": device}
    return [
        randn(batch, regions, rows, dim, **make),
        randn(batch, regions, dim, **make),
        randn(batch, heads, regions, dim, **make, scale=dim**-0.5),
        randn(batch, heads, regions, **make),
        randn(batch, heads, regions, dim, **make),
        randn(dim, **make),
        randn(dim, **make),
    ]


Inputs = list[Tensor | None]


def fold_inputs(
    batch: int, regions: int, heads: int, dim: int, dtype: torch.dtype, device: torch.device, biased: bool = True
) -> Inputs:
    """Keys and values, the values' bias, norm, query and output."""
    make: dict[str, Any] = {"dtype": dtype, "device": device}
    kv, (g, b) = randn(batch, regions, 2 * dim, **make), (randn(dim, **make) for _ in range(2))
    query_weight, out_weight = (randn(dim, dim, **make, scale=dim**-0.5) for _ in range(2))
    biases = [randn(dim, **make) if biased else None for _ in range(3)]
    return [kv, biases[0], g, b, query_weight, biases[1], out_weight, biases[2]]


def factors(batch: int, device: torch.device) -> Tensor:
    """Stochastic depth's, every third clip dropped."""
    return torch.tensor([1.25, 0.0, 1.25] * batch, device=device)[:batch]


def arguments(tensors: Inputs, heads: int, keep: Tensor | None) -> dict[str, Any]:
    norm, query, output = zip(tensors[::2], tensors[1::2], strict=True)
    return {"norm": norm, "query": query, "output": output, "num_heads": heads, "keep": keep}


def fold(heads: int, keep: Tensor | None = None) -> Any:
    def run(kv: Tensor, kv_bias: Tensor | None, *rest: Tensor | None) -> tuple[Tensor, ...]:
        return folding.fold(with_value_bias(kv, kv_bias), **arguments([*rest], heads, keep))

    return run
