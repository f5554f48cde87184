"""What blocks are made of: attention, feed-forward network, LayerNorm."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maedfer.errors import InputError
from maedfer.kernels import Impl, current_impl, functional, reference
from maedfer.models.checks import check_count, check_sizes
from maedfer.models.intact import is_plain
from maedfer.models.low_rank import LoraLinear

LAYER_NORM_EPS = 1e-6

AttentionMaps = dict[str, Tensor]


def layer_norm(dim: int) -> nn.LayerNorm:
    """LayerNorm with the published epsilon."""
    return nn.LayerNorm(dim, eps=LAYER_NORM_EPS)


def apply_norm(x: Tensor, norm: nn.LayerNorm, impl: Impl) -> Tensor:
    """A LayerNorm by the implementation of choice; one that is not as it was made is called."""
    return functional.layer_norm(x, weights(norm), eps=norm.eps, impl=impl) if is_plain(norm) else norm(x)


def weights(layer: nn.Linear | nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """Weight and bias of a plain layer, as operations take them: with LoRA, the sum that it multiplies with."""
    # A module looks for an attribute everywhere else first, which takes longer than all that is done with it here.
    own: Any = layer._parameters
    return layer.merged() if type(layer) is LoraLinear else own["weight"], own["bias"]


class Attention(nn.Module):
    """Multi-head attention with packed projections; keys have no bias (as in BEiT and VideoMAE).

    Self-attention projects its input with the whole of `qkv`; cross-attention projects the queries' side with its
    first third and the context with the rest, so that both kinds can share one set of weights.

    `qkv` has no bias of its own: the product takes its weight with the bias of queries and values, or leaves that to
    the attention, where it adds biases on the way. Where `qkv` is not as it was made (an adapter, a hook, another
    class, a bias), it is called, and the bias is added to what it gives; cross-attention then calls it for both sides
    and leaves a part of each result unread.
    """

    def __init__(self, dim: int, num_heads: int, bias: bool = True, impl: Impl = "auto") -> None:
        super().__init__()
        check_sizes(dim, num_heads, impl=impl, bias=bias)
        self.num_heads = num_heads
        self.impl: Impl = impl
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim)) if bias else None
        self.v_bias = nn.Parameter(torch.zeros(dim)) if bias else None
        self.proj = nn.Linear(dim, dim)

    def reset_parameters(self) -> None:
        """Zero the attention's own parameters, its biases, as sharded training asks of every module."""
        for bias in (self.q_bias, self.v_bias):
            if bias is not None:
                nn.init.zeros_(bias)

    def forward(self, x: Tensor, context: Tensor | None = None, attend_to: Tensor | None = None) -> Tensor:
        """Attend from `x` [..., Sq, C] to `context` [..., Sk, C], or to itself; returns [..., Sq, C].

        `attend_to` [..., Sk] is True for rows that may be attended to.
        """
        return self.proj(self.heads(x, context, attend_to))

    def heads(self, x: Tensor, context: Tensor | None = None, attend_to: Tensor | None = None) -> Tensor:
        """`forward` without the output projection."""
        how: Any = {"num_heads": self.num_heads, "mask": attend_to, "impl": self.impl}
        late = self._is_qkv_plain and functional.attention_adds_biases(x if context is None else context, **how)
        bias = (self.q_bias, self.v_bias) if late else None
        if context is None:
            qkv = functional.linear(x, (weights(self.qkv)[0], None), impl=self.impl) if late else self.project_qkv(x)
            return functional.region_attention(qkv, bias=bias, **how)
        q, kv = self.project(x, context, with_bias=not late)
        return functional.cross_attention(q, kv, bias=bias, **how)

    def weights(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Attention probabilities [..., H, Sq, Sk]."""
        k, _ = self.project_kv(x if context is None else context).chunk(2, dim=-1)
        return reference.attention_weights(self.project_q(x), k, num_heads=self.num_heads)

    def project_qkv(self, x: Tensor) -> Tensor:
        """Packed queries, keys and values of `x`: [..., 3C]."""
        if self.q_bias is None or self.v_bias is None:
            return self.qkv(x)
        bias = packed_bias(self.q_bias, self.v_bias)
        if self._is_qkv_plain:
            return functional.linear(x, (weights(self.qkv)[0], bias), impl=self.impl)
        return _biased(self.qkv(x), bias)

    def project_q(self, x: Tensor) -> Tensor:
        """Queries of `x`: [..., C]."""
        if self._is_qkv_plain:
            weight, low = self._parts()[0]
            return functional.linear(x, (weight, self.q_bias), low=low, impl=self.impl)
        return _biased(self.qkv(x).chunk(3, -1)[0], self.q_bias)

    def project_kv(self, context: Tensor) -> Tensor:
        """Packed keys and values of `context`: [..., 2C]."""
        if self._is_qkv_plain:
            return self._keys_and_values(context, *self._parts()[1])
        qkv = self.qkv(context)
        return _biased(qkv[..., qkv.shape[-1] // 3 :], None if self.v_bias is None else packed_bias(self.v_bias))

    def project(self, x: Tensor, context: Tensor, *, with_bias: bool = True) -> tuple[Tensor, Tensor]:
        """`project_q` of `x` and `project_kv` of `context`; the packed weight gets its gradient in one piece."""
        if not self._is_qkv_plain:
            return self.project_q(x), self.project_kv(context)
        (weight, low), keys_and_values = self._parts()
        q = functional.linear(x, (weight, self.q_bias if with_bias else None), low=low, impl=self.impl)
        return q, self._keys_and_values(context, *keys_and_values, with_bias=with_bias)

    def query_and_kv(self, context: Tensor, *, with_bias: bool = True) -> tuple[functional.Linear, Tensor]:
        """The queries' part of a packed projection that is as it was made, and `project_kv` of `context`.

        Weight [C, C] and bias [C]; and [..., 2C], to which `with_bias` adds the bias of the values.
        """
        (query, _), keys_and_values = self._parts()
        return (query, self.q_bias), self._keys_and_values(context, *keys_and_values, with_bias=with_bias)

    def _keys_and_values(self, context: Tensor, weight: Tensor, low: Tensor | None, with_bias: bool = True) -> Tensor:
        bias = packed_bias(self.v_bias) if with_bias and self.v_bias is not None else None
        return functional.linear(context, (weight, bias), low=low, impl=self.impl)

    def _parts(self) -> list[tuple[Tensor, Tensor | None]]:
        """The weight of queries [C, C] and that of keys and values [2C, C], with their low copies."""
        weight, _ = weights(self.qkv)
        dim = weight.shape[1]
        return functional.split_rows(weight, dim, 2 * dim)

    @property
    def _is_qkv_plain(self) -> bool:
        qkv = self.qkv
        return is_plain(qkv) and qkv._parameters["bias"] is None


class FullAttention(Attention):
    """Attention to all tokens of a clip, left to a library.

    Args:
        dim: C.
        num_heads: H.
        bias: on queries and values.
        impl: "reference" takes the specification; for "sdpa" on a CPU as in `functional.full_attention`.
        backend: "sdpa" or "xformers", for self-attention without a mask; the rest is PyTorch's.
    """

    def __init__(self, dim: int, num_heads: int, bias: bool = True, impl: Impl = "auto", backend: str = "sdpa") -> None:
        super().__init__(dim, num_heads, bias, impl)
        check_sizes(dim, num_heads, backend=backend)
        self.backend = backend

    def heads(self, x: Tensor, context: Tensor | None = None, attend_to: Tensor | None = None) -> Tensor:
        """`forward` without the output projection."""
        if context is None:
            qkv = self.project_qkv(x)
            return attend_to_all(qkv, self.num_heads, impl=self.impl, backend=self.backend, attend_to=attend_to)
        q, kv = self.project(x, context)
        impl = library(self.impl)
        return functional.cross_attention(q, kv, num_heads=self.num_heads, mask=attend_to, impl=impl)


class FeedForward(nn.Module):
    """Two linear layers around an exact (erf) GELU."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        check_count("dim", dim)
        check_count("hidden", hidden)
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> [..., C]."""
        return self.fc2(F.gelu(self.fc1(x)))


def interaction_inputs(
    attention: Any, context: Tensor, z: Tensor, impl: Impl
) -> tuple[functional.Linear, Tensor, Tensor | None]:
    """The queries' layer, keys and values for the interaction on the stream z, and the values' bias if that adds it."""
    adds_bias = functional.adds_value_bias(z, num_heads=attention.num_heads, impl=impl)
    query, kv = attention.query_and_kv(context, with_bias=not adds_bias)
    return query, kv, attention.v_bias if adds_bias else None


def probabilities(attention: Any, x: Tensor, context: Tensor | None = None) -> Tensor:
    """Attention probabilities [..., H, Sq, Sk], of whatever is in an attention's place.

    Raises:
        InputError: it does not tell them.
    """
    if not callable(getattr(attention, "weights", None)):
        raise InputError(
            f"there are no attention maps of {type(attention).__name__}, which is in an attention's place: "
            "it would need a method weights(x, context)"
        )
    return attention.weights(x, context)


def packed_bias(first: Tensor, last: Tensor | None = None) -> Tensor:
    """The bias of a packed projection, nothing being added to keys: of keys and values, or of all three."""
    if last is None:
        return torch.cat([torch.zeros_like(first), first])
    return torch.cat([first, torch.zeros_like(last), last])


def _biased(x: Tensor, bias: Tensor | None) -> Tensor:
    """What a called layer gives, with a bias in its dtype, which autocast or the layer has chosen."""
    return x if bias is None else x + bias.to(x.dtype)


def attend_to_all(
    qkv: Tensor, num_heads: int, *, impl: Impl, backend: str = "sdpa", attend_to: Tensor | None = None
) -> Tensor:
    """Self-attention over all tokens of a clip, by a library or by csrc on a CPU: [..., K, 3C] -> [..., K, C]."""
    if library(impl) == "reference" or attend_to is not None:
        return functional.region_attention(qkv, num_heads=num_heads, mask=attend_to, impl=library(impl))
    return functional.full_attention(qkv, num_heads=num_heads, backend=backend, impl=impl)


def chosen(impl: Impl) -> str:
    """A module's own choice of implementation, or what is in force where it is left open."""
    return current_impl() if impl == "auto" else impl


def library(impl: Impl) -> Impl:
    """Who computes what is left to a library: PyTorch, unless the specification is asked for."""
    return "reference" if chosen(impl) == "reference" else "torch"
