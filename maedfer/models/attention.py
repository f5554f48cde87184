"""What blocks are made of: attention, feed-forward network, LayerNorm, stochastic depth."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maedfer.errors import InputError
from maedfer.kernels import Impl, current_impl, functional, reference

LAYER_NORM_EPS = 1e-6

AttentionMaps = dict[str, Tensor]


def layer_norm(dim: int) -> nn.LayerNorm:
    """LayerNorm with the published epsilon."""
    return nn.LayerNorm(dim, eps=LAYER_NORM_EPS)


def apply_norm(x: Tensor, norm: nn.LayerNorm, impl: Impl) -> Tensor:
    """A LayerNorm by the implementation of choice."""
    return functional.layer_norm(x, weights(norm), eps=norm.eps, impl=impl)


def weights(layer: nn.Linear | nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """Weight and bias of a layer, as operations take them."""
    return layer.weight, layer.bias


class Attention(nn.Module):
    """Multi-head attention with packed projections; keys have no bias (as in BEiT and VideoMAE).

    Self-attention projects its input with the whole of `qkv`; cross-attention projects the queries' side with its
    first third and the context with the rest, so that both kinds can share one set of weights.
    """

    def __init__(self, dim: int, num_heads: int, bias: bool = True, impl: Impl = "auto") -> None:
        super().__init__()
        self.num_heads = num_heads
        self.impl: Impl = impl
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim)) if bias else None
        self.v_bias = nn.Parameter(torch.zeros(dim)) if bias else None
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, context: Tensor | None = None, attend_to: Tensor | None = None) -> Tensor:
        """Attend from `x` [..., Sq, C] to `context` [..., Sk, C], or to itself; returns [..., Sq, C].

        `attend_to` [..., Sk] is True for rows that may be attended to.
        """
        return self.proj(self.heads(x, context, attend_to))

    def heads(self, x: Tensor, context: Tensor | None = None, attend_to: Tensor | None = None) -> Tensor:
        """`forward` without the output projection."""
        if context is None:
            qkv = self.project_qkv(x)
            return functional.region_attention(qkv, num_heads=self.num_heads, mask=attend_to, impl=self.impl)
        q, kv = self.project_q(x), self.project_kv(context)
        return functional.cross_attention(q, kv, num_heads=self.num_heads, mask=attend_to, impl=self.impl)

    def weights(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Attention probabilities [..., H, Sq, Sk]."""
        k, _ = self.project_kv(x if context is None else context).chunk(2, dim=-1)
        return reference.attention_weights(self.project_q(x), k, num_heads=self.num_heads)

    def project_qkv(self, x: Tensor) -> Tensor:
        """Packed queries, keys and values of `x`: [..., 3C]."""
        if self.q_bias is None or self.v_bias is None:
            return self.qkv(x)
        return functional.linear(x, (self.qkv.weight, packed_bias(self.q_bias, self.v_bias)), impl=self.impl)

    def project_q(self, x: Tensor) -> Tensor:
        """Queries of `x`: [..., C]."""
        return functional.linear(x, self.query, impl=self.impl)

    def project_kv(self, context: Tensor) -> Tensor:
        """Packed keys and values of `context`: [..., 2C]."""
        bias = None if self.v_bias is None else packed_bias(self.v_bias)
        return functional.linear(context, (self.qkv.weight[self.qkv.in_features :], bias), impl=self.impl)

    @property
    def query(self) -> functional.Linear:
        """Weight [C, C] and bias [C] of the queries' part of the packed projection."""
        return self.qkv.weight[: self.qkv.in_features], self.q_bias


class FullAttention(Attention):
    """Attention to all tokens of a clip, left to a library.

    Args:
        dim: C.
        num_heads: H.
        bias: on queries and values.
        impl: "reference" takes the specification.
        backend: "sdpa" or "xformers", for self-attention without a mask; the rest is PyTorch's.
    """

    def __init__(self, dim: int, num_heads: int, bias: bool = True, impl: Impl = "auto", backend: str = "sdpa") -> None:
        super().__init__(dim, num_heads, bias, impl)
        self.backend = backend

    def heads(self, x: Tensor, context: Tensor | None = None, attend_to: Tensor | None = None) -> Tensor:
        """`forward` without the output projection."""
        if context is None:
            qkv = self.project_qkv(x)
            return attend_to_all(qkv, self.num_heads, impl=self.impl, backend=self.backend, attend_to=attend_to)
        q, kv = self.project_q(x), self.project_kv(context)
        impl = library(self.impl)
        return functional.cross_attention(q, kv, num_heads=self.num_heads, mask=attend_to, impl=impl)


class FeedForward(nn.Module):
    """Two linear layers around an exact (erf) GELU."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> [..., C]."""
        return self.fc2(F.gelu(self.fc1(x)))


def packed_bias(first: Tensor, last: Tensor | None = None) -> Tensor:
    """The bias of a packed projection, nothing being added to keys: of keys and values, or of all three."""
    if last is None:
        return torch.cat([torch.zeros_like(first), first])
    return torch.cat([first, torch.zeros_like(last), last])


def attend_to_all(
    qkv: Tensor, num_heads: int, *, impl: Impl, backend: str = "sdpa", attend_to: Tensor | None = None
) -> Tensor:
    """Self-attention over all tokens of a clip by a library: [..., K, 3C] -> [..., K, C]."""
    if library(impl) == "reference" or attend_to is not None:
        return functional.region_attention(qkv, num_heads=num_heads, mask=attend_to, impl=library(impl))
    return functional.full_attention(qkv, num_heads=num_heads, backend=backend)


def chosen(impl: Impl) -> str:
    """A module's own choice of implementation, or what is in force where it is left open."""
    return current_impl() if impl == "auto" else impl


def library(impl: Impl) -> Impl:
    """Who computes what is left to a library: PyTorch, unless the specification is asked for."""
    return "reference" if chosen(impl) == "reference" else "torch"


def keep_factors(x: Tensor, probability: float, training: bool, batch_dims: int) -> Tensor | None:
    """Factors of stochastic depth over the first `batch_dims` dimensions of x; None where nothing is dropped."""
    if probability == 0.0 or not training:
        return None
    return reference.drop_path_factors(x.shape[:batch_dims], probability, x)


def scaled(branch: Tensor, keep: Tensor | None) -> Tensor:
    """A residual branch times the factors of stochastic depth over its leading dimensions."""
    return branch if keep is None else branch * keep.reshape(keep.shape + (1,) * (branch.dim() - keep.dim()))


def check_sizes(dim: int, num_heads: int, drop_path: float) -> None:
    """Refuse sizes that no block or layer can have.

    Raises:
        InputError: naming the two that do not fit together, or what is out of range.
    """
    if dim < 1 or num_heads < 1 or dim % num_heads:
        raise InputError(f"num_heads {num_heads} does not divide dim {dim}")
    if not 0.0 <= drop_path < 1.0:
        raise InputError(f"drop_path must be in [0, 1), got {drop_path}")


def check_stream(z: Tensor, dim: int, attend_to: Tensor | None = None) -> None:
    """Refuse what is no stream [B, M, S, C] of `dim` channels, or no mask of its rows, [M, S] or [B, M, S] bool.

    Raises:
        InputError: with both shapes.
    """
    if z.dim() != 4 or z.shape[-1] != dim:
        raise InputError(f"the stream must be [B, M, S, {dim}], got {list(z.shape)}")
    if z.shape[2] < 2:
        raise InputError(f"a region has a representative token and one local token or more, got {z.shape[2]} rows")
    shapes = (z.shape[1:3], z.shape[:3])
    if attend_to is not None and (attend_to.dtype != torch.bool or attend_to.shape not in shapes):
        raise InputError(
            f"attend_to must be bool {list(shapes[0])} or {list(shapes[1])}, "
            f"got {attend_to.dtype} {list(attend_to.shape)}"
        )
