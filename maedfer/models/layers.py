"""Layers of LGI-Former and of the ViT baseline.

A block has two ways through: the plain one, sub-layer by sub-layer as the paper has it, which serves every ablation and
is all that impl="reference" takes; and the fast one for the published design, whose steps are cut where tensors are
written once. Both use the same parameters and draw the same random numbers.

Shapes: z_BMSC is the residual stream, row 0 of each region its representative token; x_BMNC its local tokens,
s_BMC its representative tokens. B clips, M regions, S = 1 + N rows, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maedfer.kernels import Impl, current_impl, functional, reference
from maedfer.models.config import LGIFormerConfig

LAYER_NORM_EPS = 1e-6

AttentionMaps = dict[str, Tensor]


def layer_norm(dim: int) -> nn.LayerNorm:
    """LayerNorm with the published epsilon."""
    return nn.LayerNorm(dim, eps=LAYER_NORM_EPS)


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

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Attend from `x` [..., Sq, C] to `context` [..., Sk, C], or to itself; returns [..., Sq, C].

        `mask` [..., Sk] is True for rows that may be attended to.
        """
        return self.proj(self.heads(x, context, mask))

    def heads(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """`forward` without the output projection."""
        if context is None:
            return functional.region_attention(self.project_qkv(x), num_heads=self.num_heads, mask=mask, impl=self.impl)
        q, kv = self.project_q(x), self.project_kv(context)
        return functional.cross_attention(q, kv, num_heads=self.num_heads, mask=mask, impl=self.impl)

    def weights(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Attention probabilities [..., H, Sq, Sk]."""
        k, _ = self.project_kv(x if context is None else context).chunk(2, dim=-1)
        return reference.attention_weights(self.project_q(x), k, num_heads=self.num_heads)

    def project_qkv(self, x: Tensor) -> Tensor:
        """Packed queries, keys and values of `x`: [..., 3C]."""
        if self.q_bias is None or self.v_bias is None:
            return self.qkv(x)
        bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
        return functional.linear(x, (self.qkv.weight, bias), impl=self.impl)

    def project_q(self, x: Tensor) -> Tensor:
        """Queries of `x`: [..., C]."""
        return functional.linear(x, (self.query_weight, self.q_bias), impl=self.impl)

    def project_kv(self, context: Tensor) -> Tensor:
        """Packed keys and values of `context`: [..., 2C]."""
        bias = None if self.v_bias is None else torch.cat([torch.zeros_like(self.v_bias), self.v_bias])
        return functional.linear(context, (self.qkv.weight[self.qkv.in_features :], bias), impl=self.impl)

    @property
    def query_weight(self) -> Tensor:
        """The queries' part of the packed weight: [C, C]."""
        return self.qkv.weight[: self.qkv.in_features]


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

    def heads(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """`forward` without the output projection."""
        impl: Impl = "reference" if chosen(self.impl) == "reference" else "torch"
        if context is not None:
            q, kv = self.project_q(x), self.project_kv(context)
            return functional.cross_attention(q, kv, num_heads=self.num_heads, mask=mask, impl=impl)
        qkv = self.project_qkv(x)
        if impl == "reference" or mask is not None:
            return functional.region_attention(qkv, num_heads=self.num_heads, mask=mask, impl=impl)
        return functional.full_attention(qkv, num_heads=self.num_heads, backend=self.backend)


class FeedForward(nn.Module):
    """Two linear layers around an exact (erf) GELU."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> [..., C]."""
        return self.fc2(F.gelu(self.fc1(x)))


class TransformerBlock(nn.Module):
    """Pre-norm self-attention and feed-forward network, over all rows: the block of the ViT and of the decoder."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float,
        qkv_bias: bool,
        drop_path: float = 0.0,
        impl: Impl = "auto",
        backend: str = "sdpa",
    ) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.impl: Impl = impl
        self.norm = layer_norm(dim)
        self.attention = FullAttention(dim, num_heads, qkv_bias, impl, backend)
        self.ffn_norm = layer_norm(dim)
        self.ffn = FeedForward(dim, int(dim * mlp_ratio))

    def forward(
        self,
        x: Tensor,
        representative_only: bool = False,
        maps: AttentionMaps | None = None,
        normed: Tensor | None = None,
        next_norm: nn.LayerNorm | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """[..., K, C] -> [..., K, C]. There is no representative token, so that `representative_only` changes nothing.

        `maps`, `normed` and `next_norm` are those of `LGIBlock.forward`.
        """
        # What joins two blocks is only ever given to fast ones, by `run_blocks`, which has asked.
        joined = normed is not None or next_norm is not None
        if joined or (maps is None and self.is_fast):
            return self._fast(x, normed, next_norm)
        n = self.norm(x)
        if maps is not None:
            maps["attention"] = self.attention.weights(n)
        x = x + self._drop(self.attention(n))
        return x + self._drop(self.ffn(self.ffn_norm(x)))

    @property
    def first_norm(self) -> nn.LayerNorm:
        """The LayerNorm that the block begins with."""
        return self.norm

    @property
    def is_fast(self) -> bool:
        """Whether `forward` takes the fast way."""
        return chosen(self.impl) != "reference" and untouched(self)

    def _fast(self, x: Tensor, normed: Tensor | None, next_norm: nn.LayerNorm | None) -> Tensor | tuple[Tensor, Tensor]:
        n = normed if normed is not None else norm(x, self.norm, self.impl)
        heads = self.attention.heads(n)
        x, n = end_sub_layer(heads, self.attention.proj, x, self._keep(x), self.ffn_norm, self.impl)
        return feed_forward(n, self.ffn, x, self._keep(x), next_norm, self.impl)

    def _keep(self, x: Tensor) -> Tensor | None:
        return keep_factors(x, self.drop_path, self.training, x.dim() - 2)

    def _drop(self, branch: Tensor) -> Tensor:
        return drop(branch, self.drop_path, self.training, branch.dim() - 2)


class LGIBlock(nn.Module):
    """One block of LGI-Former (section 3.2, equations 2 to 6) with all its ablations.

    1. intra-region:  z_i += MHSA(LN(z_i)), each region with its representative token
    2. inter-region:  s += MHSA(LN(s)) among representative tokens
    3. local-global interaction:  x += MHCA(q = LN(x), kv = LN(s))
    (4. feedback, AVF-MAE++:  s += MHCA(q = LN(s), kv = LN(x)))
    5. feed-forward network with shared weights on both.

    Stochastic depth is drawn per region in stages 1 and 5 and per clip in the others, as in the published code, whose
    rows are regions.
    """

    def __init__(self, config: LGIFormerConfig, drop_path: float = 0.0) -> None:
        super().__init__()
        dim = config.embed_dim
        self.drop_path = drop_path
        self.impl: Impl = config.impl
        self.intra_region = config.intra_region
        self.inter_region = config.inter_region
        self.interaction = config.interaction
        self.feedback = config.feedback

        def attention(kind: type[Attention] = Attention) -> Attention:
            return kind(dim, config.num_heads, config.qkv_bias, config.impl)

        self.intra_norm = layer_norm(dim)
        if config.intra_region == "cross":
            self.intra_context_norm = layer_norm(dim)
        self.intra_attention = attention()
        if config.inter_region:
            self.inter_norm = layer_norm(dim)
            self.inter_attention = self.intra_attention if config.share_attention == "all" else attention()
        if config.interaction != "none":
            self.interaction_norm = layer_norm(dim)
            if config.interaction == "cross":
                self.interaction_context_norm = layer_norm(dim)
            self.interaction_attention = self.intra_attention if config.share_attention != "none" else attention()
        if config.feedback != "none":
            self.feedback_norm = layer_norm(dim)
            self.feedback_context_norm = layer_norm(dim)
            over_all = config.feedback == "clip"
            self.feedback_attention = attention(FullAttention if over_all else Attention)
        self.ffn_norm = layer_norm(dim)
        self.ffn = FeedForward(dim, int(dim * config.mlp_ratio))

    def forward(
        self,
        z_BMSC: Tensor,
        representative_only: bool = False,
        maps: AttentionMaps | None = None,
        normed: Tensor | None = None,
        next_norm: nn.LayerNorm | None = None,
        mask: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Run the block.

        Args:
            z_BMSC: [B, M, S, C] the residual stream.
            representative_only: only the representative tokens are read afterwards, so skip all that cannot reach
                them. The result is the same, for less work.
            maps: filled with the attention probabilities of each stage when given.
            normed: [B, M, S, C] what `first_norm` makes of the stream, where the block before has done it already.
                Only for blocks that are fast.
            next_norm: the LayerNorm that the next block begins with, to be done in the same pass as the last
                residual. Only for blocks that are fast.
            mask: [M, S] or [B, M, S] bool, False for rows that are padding, to which nothing attends. What becomes of
                those rows has no meaning.

        Returns:
            [B, M, S, C], or [B, M, 1, C] when `representative_only`; with `next_norm` that and its norm.
        """
        # What joins two blocks is only ever given to fast ones, by `run_blocks`, which has asked.
        joined = normed is not None or next_norm is not None
        if joined or (maps is None and self.is_fast):
            return self._fast(z_BMSC, representative_only, normed, next_norm, mask)
        if representative_only and self.prunes_local_tokens:
            s_BMC = self._intra(z_BMSC, only_first_row=True, maps=maps, mask=mask)[:, :, 0]
            s_BMC = self._inter(s_BMC, maps)
            z_BMSC = s_BMC.unsqueeze(2)
        else:
            z_BMSC = self._intra(z_BMSC, only_first_row=False, maps=maps, mask=mask)
            s_BMC, x_BMNC = self._inter(z_BMSC[:, :, 0], maps), z_BMSC[:, :, 1:]
            if self.interaction == "self":
                z_BMSC = torch.cat([s_BMC.unsqueeze(2), x_BMNC], dim=2)
                branch = self.interaction_attention(self.interaction_norm(z_BMSC), mask=mask)
                z_BMSC = z_BMSC + self._drop(branch, batch_dims=2)
                s_BMC, x_BMNC = z_BMSC[:, :, 0], z_BMSC[:, :, 1:]
            elif self.interaction == "cross":
                x_BMNC = self._interact(x_BMNC, s_BMC, maps)
            if self.feedback != "none":
                s_BMC = self._feed_back(s_BMC, x_BMNC, mask)
            z_BMSC = s_BMC.unsqueeze(2)
            if not representative_only:
                z_BMSC = torch.cat([z_BMSC, x_BMNC], dim=2)
        return z_BMSC + self._drop(self.ffn(self.ffn_norm(z_BMSC)), batch_dims=2)

    @property
    def first_norm(self) -> nn.LayerNorm:
        """The LayerNorm that the block begins with."""
        return self.intra_norm

    @property
    def is_fast(self) -> bool:
        """Whether `forward` takes the fast way: the published design, and nothing hooked or replaced inside."""
        published = self.intra_region == "self" and self.interaction == "cross"
        return published and chosen(self.impl) != "reference" and untouched(self)

    @property
    def prunes_local_tokens(self) -> bool:
        """Whether no stage after the first lets local tokens reach representative ones."""
        return self.interaction != "self" and self.feedback == "none"

    def _fast(
        self,
        z_BMSC: Tensor,
        representative_only: bool,
        normed: Tensor | None,
        next_norm: nn.LayerNorm | None,
        mask: Tensor | None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        intra, interaction, impl = self.intra_attention, self.interaction_attention, self.impl
        n_BMSC = normed if normed is not None else norm(z_BMSC, self.intra_norm, impl)
        if representative_only and self.prunes_local_tokens:
            heads = intra.heads(n_BMSC[:, :, :1], n_BMSC, mask)
            after = self.inter_norm if self.inter_region else self.ffn_norm
            s_BM1C, n_BM1C = end_sub_layer(heads, intra.proj, z_BMSC[:, :, :1], self._keep(z_BMSC, 2), after, impl)
            if self.inter_region:
                s_BMC, n_BMC = self._inter_fast(s_BM1C[:, :, 0], n_BM1C[:, :, 0], self.ffn_norm)
                s_BM1C, n_BM1C = s_BMC.unsqueeze(2), n_BMC.unsqueeze(2)
            return feed_forward(n_BM1C, self.ffn, s_BM1C, self._keep(z_BMSC, 2), next_norm, impl)
        after = self.inter_norm if self.inter_region else self.interaction_context_norm
        z_BMSC, s_BMC, n_BMC = functional.linear_residual_layer_norm_representative(
            intra.heads(n_BMSC, mask=mask),
            _weights(intra.proj),
            z_BMSC,
            _weights(after),
            eps=after.eps,
            keep=self._keep(z_BMSC, 2),
            impl=impl,
        )
        if self.inter_region:
            s_BMC, n_BMC = self._inter_fast(s_BMC, n_BMC, self.interaction_context_norm)
        z_BMSC, n_BMSC = functional.local_global_interaction(
            z_BMSC,
            s_BMC,
            interaction.project_kv(n_BMC),
            norm=_weights(self.interaction_norm),
            query=(interaction.query_weight, interaction.q_bias),
            output=_weights(interaction.proj),
            next_norm=_weights(self.ffn_norm if self.feedback == "none" else self.feedback_context_norm),
            num_heads=interaction.num_heads,
            eps=self.interaction_norm.eps,
            keep=self._keep(z_BMSC, 1),
            impl=impl,
        )
        if self.feedback != "none":
            s_BMC = self._feed_back_fast(s_BMC, n_BMSC[:, :, 1:], mask)
            z_BMSC = s_BMC.unsqueeze(2) if representative_only else torch.cat([s_BMC.unsqueeze(2), z_BMSC[:, :, 1:]], 2)
            n_BMSC = norm(z_BMSC, self.ffn_norm, impl)
        return feed_forward(n_BMSC, self.ffn, z_BMSC, self._keep(z_BMSC, 2), next_norm, impl)

    def _inter_fast(self, s_BMC: Tensor, n_BMC: Tensor, after: nn.LayerNorm) -> tuple[Tensor, Tensor]:
        """Stage 2 and the LayerNorm that follows it."""
        heads = self.inter_attention.heads(n_BMC)
        return end_sub_layer(heads, self.inter_attention.proj, s_BMC, self._keep(s_BMC, 1), after, self.impl)

    def _feed_back_fast(self, s_BMC: Tensor, n_BMNC: Tensor, mask: Tensor | None) -> Tensor:
        """Stage 4 from normed local tokens."""
        attention = self.feedback_attention
        heads = self._feedback_heads(norm(s_BMC, self.feedback_norm, self.impl), n_BMNC, mask)
        keep = self._keep(s_BMC, 1)
        return functional.linear_residual(heads, _weights(attention.proj), s_BMC, keep=keep, impl=self.impl)

    def _intra(
        self, z_BMSC: Tensor, only_first_row: bool, maps: AttentionMaps | None, mask: Tensor | None = None
    ) -> Tensor:
        """Stage 1; with `only_first_row`, [B, M, 1, C] with the representative tokens alone."""
        if self.intra_region == "cross":
            query = self.intra_norm(z_BMSC[:, :, :1])
            context = self.intra_context_norm(z_BMSC[:, :, 1:])
            mask = None if mask is None else mask[..., 1:]
        else:
            context = self.intra_norm(z_BMSC)
            query = context[:, :, :1]
        if maps is not None:
            maps["intra_region"] = self.intra_attention.weights(query, context)[..., 0, :]  # [B, M, H, S or N]
        if self.intra_region == "self" and not only_first_row:
            return z_BMSC + self._drop(self.intra_attention(context, mask=mask), batch_dims=2)
        s_BM1C = z_BMSC[:, :, :1] + self._drop(self.intra_attention(query, context, mask), batch_dims=2)
        return s_BM1C if only_first_row else torch.cat([s_BM1C, z_BMSC[:, :, 1:]], dim=2)

    def _inter(self, s_BMC: Tensor, maps: AttentionMaps | None) -> Tensor:
        """Stage 2."""
        if not self.inter_region:
            return s_BMC
        normed = self.inter_norm(s_BMC)
        if maps is not None:
            maps["inter_region"] = self.inter_attention.weights(normed)  # [B, H, M, M]
        return s_BMC + self._drop(self.inter_attention(normed), batch_dims=1)

    def _interact(self, x_BMNC: Tensor, s_BMC: Tensor, maps: AttentionMaps | None) -> Tensor:
        """Stage 3, cross: every local token of a clip attends to all its representative tokens."""
        query, context = self.interaction_norm(x_BMNC).flatten(1, 2), self.interaction_context_norm(s_BMC)
        if maps is not None:
            maps["interaction"] = self.interaction_attention.weights(query, context)  # [B, H, M * N, M]
        branch = self.interaction_attention(query, context).unflatten(1, x_BMNC.shape[1:3])
        return x_BMNC + self._drop(branch, batch_dims=1)

    def _feed_back(self, s_BMC: Tensor, x_BMNC: Tensor, mask: Tensor | None) -> Tensor:
        """Stage 4 of AVF-MAE++: representative tokens attend to local tokens."""
        heads = self._feedback_heads(self.feedback_norm(s_BMC), self.feedback_context_norm(x_BMNC), mask)
        return s_BMC + self._drop(self.feedback_attention.proj(heads), batch_dims=1)

    def _feedback_heads(self, query: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        mask = None if mask is None else mask[..., 1:]
        if self.feedback == "clip":
            mask = None if mask is None else mask.flatten(-2)
            return self.feedback_attention.heads(query, context.flatten(1, 2), mask)
        return self.feedback_attention.heads(query.unsqueeze(2), context, mask).squeeze(2)

    def _keep(self, x: Tensor, batch_dims: int) -> Tensor | None:
        return keep_factors(x, self.drop_path, self.training, batch_dims)

    def _drop(self, branch: Tensor, batch_dims: int) -> Tensor:
        return drop(branch, self.drop_path, self.training, batch_dims)


def chosen(impl: Impl) -> str:
    """A module's own choice of implementation, or what is in force where it is left open."""
    return current_impl() if impl == "auto" else impl


def untouched(block: nn.Module) -> bool:
    """Whether a block's layers are what they were made as, so that their weights may be used without calling them.

    Adapters, quantised layers, parametrisations, sharded weights and hooks all need the layers to be called.
    """
    for layer in block.modules():
        if layer is block:
            continue
        if type(layer) not in (nn.Linear, nn.LayerNorm, Attention, FullAttention, FeedForward):
            return False
        if hooked(layer):
            return False
        if any(
            type(parameter) is not nn.Parameter for parameter in layer._parameters.values() if parameter is not None
        ):
            return False
    return True


def hooked(layer: nn.Module) -> bool:
    """Whether anything is called beside the layer itself."""
    return bool(layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks)


def drop(branch: Tensor, probability: float, training: bool, batch_dims: int) -> Tensor:
    """Stochastic depth on a residual branch, one sample to each entry of its first `batch_dims` dimensions."""
    keep = keep_factors(branch, probability, training, batch_dims)
    return branch if keep is None else branch * keep.reshape(keep.shape + (1,) * (branch.dim() - batch_dims))


def keep_factors(x: Tensor, probability: float, training: bool, batch_dims: int) -> Tensor | None:
    """Factors of stochastic depth over the first `batch_dims` dimensions of x; None where nothing is dropped."""
    if probability == 0.0 or not training:
        return None
    return reference.drop_path_factors(x.shape[:batch_dims], probability, x)


def norm(x: Tensor, layer: nn.LayerNorm, impl: Impl) -> Tensor:
    """A LayerNorm by the implementation of choice."""
    return functional.layer_norm(x, _weights(layer), eps=layer.eps, impl=impl)


def end_sub_layer(
    x: Tensor, linear: nn.Linear, residual: Tensor, keep: Tensor | None, after: nn.LayerNorm, impl: Impl
) -> tuple[Tensor, Tensor]:
    """The last product of a sub-layer, its residual, and the LayerNorm that begins the next one."""
    return functional.linear_residual_layer_norm(
        x, _weights(linear), residual, _weights(after), eps=after.eps, keep=keep, impl=impl
    )


def feed_forward(
    n: Tensor, ffn: FeedForward, residual: Tensor, keep: Tensor | None, next_norm: nn.LayerNorm | None, impl: Impl
) -> Tensor | tuple[Tensor, Tensor]:
    """The feed-forward network of normed rows with its residual, and the next block's LayerNorm when it is given."""
    hidden = functional.linear_gelu(n, _weights(ffn.fc1), impl=impl)
    if next_norm is None:
        return functional.linear_residual(hidden, _weights(ffn.fc2), residual, keep=keep, impl=impl)
    return end_sub_layer(hidden, ffn.fc2, residual, keep, next_norm, impl)


def _weights(layer: nn.Linear | nn.LayerNorm) -> tuple[Tensor, Tensor]:
    return layer.weight, layer.bias


def run_blocks(
    blocks: Sequence[nn.Module], x: Tensor, call: Callable[..., Tensor | tuple[Tensor, Tensor]]
) -> Iterator[Tensor]:
    """Yield the stream after each block, a fast block doing the LayerNorm of a fast one that follows.

    Args:
        blocks: LGIBlock or TransformerBlock.
        x: the stream before the first.
        call: runs a block: call(number, block, x, normed, next_norm).
    """
    # A hook on a block expects the stream alone, and may change it.
    fast = [block.is_fast and not hooked(block) for block in blocks]
    normed = None
    for number, block in enumerate(blocks):
        joins = number + 1 < len(blocks) and fast[number] and fast[number + 1]
        out = call(number, block, x, normed, blocks[number + 1].first_norm if joins else None)
        x, normed = out if isinstance(out, tuple) else (out, None)
        yield x


def sincos_positions(num_tokens: int, dim: int) -> Tensor:
    """The fixed table of "Attention Is All You Need" over flat token numbers: [1, num_tokens, dim], float32."""
    channel = torch.arange(dim, dtype=torch.float64)
    angle = torch.arange(num_tokens, dtype=torch.float64)[:, None] / 10000 ** (2 * (channel // 2) / dim)
    return torch.where(channel % 2 == 0, angle.sin(), angle.cos()).float()[None]


def interpolate_grid(table: Tensor, grid: tuple[int, ...], new_grid: tuple[int, ...]) -> Tensor:
    """Resize a table over a token or region grid: bicubic over the last two dimensions, linear over a first one.

    Args:
        table: [..., prod(grid), C].
        grid: what the table covers.
        new_grid: what it shall cover.

    Returns:
        [..., prod(new_grid), C].
    """
    if grid == new_grid:
        return table
    lead, dim = table.shape[:-2], table.shape[-1]
    x = table.reshape(-1, *grid, dim).movedim(-1, 1).float()  # [L, C, *grid]
    if len(grid) == 2:
        x = F.interpolate(x, size=new_grid, mode="bicubic", align_corners=False)
    else:
        time = x.shape[2]
        plane = x.transpose(1, 2).flatten(0, 1)  # [L * t, C, h, w]
        if grid[1:] != new_grid[1:]:
            plane = F.interpolate(plane, size=new_grid[1:], mode="bicubic", align_corners=False)
        x = plane.unflatten(0, (-1, time)).transpose(1, 2)
        if grid[0] != new_grid[0]:
            series = x.flatten(3).permute(0, 3, 1, 2).flatten(0, 1)  # [L * h * w, C, t]
            series = F.interpolate(series, size=new_grid[0], mode="linear", align_corners=False)
            x = series.unflatten(0, (-1, math.prod(new_grid[1:]))).permute(0, 2, 3, 1)
    return x.flatten(2).transpose(1, 2).reshape(*lead, math.prod(new_grid), dim).to(table.dtype)


def init_weights(module: nn.Module, scheme: str) -> None:
    """Initialise one module as the published code does: "trunc_normal" for classifiers, "xavier" for autoencoders."""
    if isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        if scheme == "xavier":
            nn.init.xavier_uniform_(module.weight)
        else:
            nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
