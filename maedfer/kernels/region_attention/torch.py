"""Attention through PyTorch's scaled_dot_product_attention, on packed products."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def region_attention(qkv: Tensor, num_heads: int, mask: Tensor | None = None) -> Tensor:
    """[..., S, 3C] -> [..., S, C]; `mask` as in api.py."""
    return _attention(qkv.unflatten(-1, (3, num_heads, -1)).unbind(-3), mask)


def cross_attention(q: Tensor, kv: Tensor, num_heads: int, mask: Tensor | None = None) -> Tensor:
    """[..., NQ, C] and [..., NK, 2C] -> [..., NQ, C]; `mask` as in api.py."""
    return _attention((q.unflatten(-1, (num_heads, -1)), *kv.unflatten(-1, (2, num_heads, -1)).unbind(-3)), mask)


def _attention(parts: tuple[Tensor, ...], mask: Tensor | None) -> Tensor:
    """Attention of [..., N, H, D] parts: [..., NQ, C]."""
    leading = parts[0].shape[:-3]
    if mask is not None:
        mask = mask.expand(parts[1].shape[:-2])[..., None, None, :]
        mask = mask.flatten(0, -4) if leading else mask[0]
    q, k, v = (part.flatten(0, -4).transpose(1, 2) if leading else part.transpose(0, 1) for part in parts)
    out = F.scaled_dot_product_attention(q, k, v, mask).transpose(-3, -2).flatten(-2)
    return out.unflatten(0, leading) if leading else out
