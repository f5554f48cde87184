"""The local-global interaction in PyTorch, its projections folded into keys and values where that pays."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from maedfer.kernels._pairs import Linear, Norm
from maedfer.kernels.interaction.folding import fold, folds
from maedfer.kernels.region_attention.torch import cross_attention
from maedfer.kernels.sub_layer.torch import layer_norm, linear, linear_residual


def local_global_interaction(
    z: Tensor,
    s: Tensor,
    kv: Tensor,
    *,
    norm: Norm,
    query: Linear,
    output: Linear,
    num_heads: int,
    eps: float,
    keep: Tensor | None,
    folded: bool | None = None,
    kv_bias: Tensor | None = None,
) -> Tensor:
    """The stream [B, M, S, C] after the interaction; arguments as in api.py."""
    _, regions, rows, dim = z.shape
    kv = with_value_bias(kv, kv_bias)
    x = z[:, :, 1:]
    if not (folding_pays(z, num_heads, regions) if folded is None else folded):
        q = linear(layer_norm(x, norm, eps).flatten(1, 2), query)
        heads = cross_attention(q, kv, num_heads).unflatten(1, (regions, rows - 1))
        return torch.cat([s.unsqueeze(2), linear_residual(heads, output, x, keep)], dim=2)
    parts = fold(kv, norm=norm, query=query, output=output, num_heads=num_heads, keep=keep)
    matrix, offset, values = (part.flatten(1, 2) for part in parts)  # [B, H * M, C], [B, H * M], [B, H * M, C]
    xhat = F.layer_norm(x, (dim,), eps=eps).flatten(1, 2).to(matrix.dtype)
    scores = torch.baddbmm(offset.unsqueeze(1).to(matrix.dtype), xhat, matrix.transpose(1, 2))
    p = scores.unflatten(2, (num_heads, regions)).softmax(dim=3).flatten(2).to(values.dtype)
    branch = torch.bmm(p, values).unflatten(1, (regions, rows - 1))
    branch = branch.add_(x) if branch.dtype == x.dtype else x + branch
    return torch.cat([s.unsqueeze(2), branch], dim=2)


def with_value_bias(kv: Tensor, bias: Tensor | None) -> Tensor:
    """Keys and values [B, M, 2C] with a bias [C] added to the values, where there is one."""
    if bias is None:
        return kv
    k, v = kv.chunk(2, dim=-1)
    return torch.cat([k, v + bias.to(v.dtype)], dim=-1)


def folding_pays(z: Tensor, num_heads: int, regions: int) -> bool:
    """Whether PyTorch computes the interaction with folded projections.

    On a CPU, its products with a matrix for each clip run at half the speed of those with one weight: both forms take
    the same time at H * M = C / 2 (benchmarks, "folding").
    """
    dim = z.shape[-1]
    return folds(num_heads, regions, dim) and (z.device.type != "cpu" or 2 * num_heads * regions <= dim)
