"""Folding the projections of the local-global interaction into its keys and values.

The query of a token is Wq n + bq with n = g * xhat + b its LayerNorm, and its score with key k[hm] of head h is
scale * k[hm] . (Wq_h n + bq_h). Products are associative, so with

    A[hm] = scale * g * (Wq_h^T k[hm])               [C]
    a[hm] = scale * k[hm] . (Wq_h b + bq_h)          scalar
    V[hm] = keep * (Wo_h v[hm] + bo / H)             [C]

scores are xhat A^T + a, and the residual branch is softmax(scores over m) V: probabilities of a head sum to one, so
that the H shares of bo add up to it. Work on a token falls from 2 C^2 + 2 M C to 2 H M C multiply-adds. Weights and
the LayerNorm's affine part get their gradients through these small products, over B * M rows instead of all tokens.

`fold` does so in PyTorch, for the implementation that is made of it, and specifies what fold_kernels.py does in a pass.
"""

from __future__ import annotations

import torch
from torch import Tensor

from maedfer.kernels._pairs import Linear, Norm

# Keys of all heads that one product of the kernels takes at once.
KEYS_AT_ONCE = 64


def folds(num_heads: int, regions: int, dim: int) -> bool:
    """Whether folding takes fewer multiply-adds a token than the projections do."""
    return num_heads * regions < dim + regions


def key_layout(num_heads: int, regions: int) -> tuple[int, int, int]:
    """How the keys of all heads are laid out in columns, both sizes of a group being powers of two.

    Returns:
        Groups of heads, heads of a group (at least as many as make 16 columns), and keys of a head.
    """
    keys = 1 << (regions - 1).bit_length()
    heads = min(1 << (num_heads - 1).bit_length(), max(1, KEYS_AT_ONCE // keys))
    heads = max(heads, 16 // keys)
    return -(-num_heads // heads), heads, keys


def fold(
    kv: Tensor, *, norm: Norm, query: Linear, output: Linear, num_heads: int, keep: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """A [B, H, M, C], a [B, H, M] and V [B, H, M, C] from keys and values [B, M, 2C] (and see the formulas above).

    A and V are views of [H, B, M, C] in the dtype of the products (under autocast, autocast's); a is at least float32.
    """
    (norm_weight, norm_bias), (q_weight, q_bias), (out_weight, out_bias) = norm, query, output
    batch, regions, dim = kv.shape[0], kv.shape[1], kv.shape[2] // 2
    head_dim = dim // num_heads
    scale = head_dim**-0.5
    heads = kv.view(batch * regions, 2 * num_heads, head_dim).transpose(0, 1)  # [2H, B * M, D]
    k, v = heads[:num_heads], heads[num_heads:]
    project_q = (q_weight * (norm_weight * scale)).view(num_heads, head_dim, dim)
    shift = (q_weight * norm_bias).sum(1)
    shift = (shift if q_bias is None else shift + q_bias) * scale  # [C]
    matrix = torch.bmm(k, project_q.to(k.dtype))
    exact = torch.promote_types(k.dtype, torch.float32)
    offset = (k.to(exact) * shift.view(num_heads, 1, head_dim)).sum(2)  # [H, B * M]
    project_v = out_weight.t().reshape(num_heads, head_dim, dim).to(v.dtype)
    share = None if out_bias is None else (out_bias / num_heads).to(v.dtype)
    values = torch.bmm(v, project_v) if share is None else torch.baddbmm(share, v, project_v)
    values = values.view(num_heads, batch, regions, dim)
    if keep is not None:
        values = values * keep.to(values.dtype).view(batch, 1, 1)
    return (
        matrix.view(num_heads, batch, regions, dim).transpose(0, 1),
        offset.view(num_heads, batch, regions).transpose(0, 1),
        values.transpose(0, 1),
    )
