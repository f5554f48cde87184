"""Operators of attention: what they take and what they do to shapes."""

from __future__ import annotations

from torch import Tensor

from maedfer.kernels._operators import define, unwritten


def like_queries(packed: Tensor, num_heads: int) -> Tensor:
    """The result of attention on packed queries, keys and values, not yet written."""
    return packed.new_empty((*packed.shape[:-1], packed.shape[-1] // 3))


for _name in ("region_attention", "native_region_attention"):
    define(f"{_name}_fwd", "(Tensor qkv, int num_heads) -> Tensor", like_queries)
    define(f"{_name}_bwd", "(Tensor dout, Tensor qkv, int num_heads) -> Tensor", lambda dout, qkv, _: unwritten(qkv))
define("cross_attention_fwd", "(Tensor q, Tensor kv, int num_heads) -> Tensor", lambda q, kv, _: unwritten(q))
define(
    "cross_attention_bwd",
    "(Tensor dout, Tensor q, Tensor kv, int num_heads) -> (Tensor, Tensor)",
    lambda dout, q, kv, _: (unwritten(q), unwritten(kv)),
)
