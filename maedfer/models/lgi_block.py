"""One block of LGI-Former (section 3.2 of the paper), with all its ablations.

Shapes: z_BMSC is the residual stream, row 0 of each region its representative token; x_BMNC its local tokens, s_BMC
its representative tokens. B clips, M regions, S = 1 + N rows, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from maedfer.dataclass_tree import from_dict
from maedfer.kernels import Impl
from maedfer.models.attention import (
    Attention,
    AttentionMaps,
    FeedForward,
    FullAttention,
    layer_norm,
    probabilities,
)
from maedfer.models.checks import check_sizes, check_stream
from maedfer.models.config import LGIFormerConfig
from maedfer.models.fused import LGIParts, is_untouched, run_block
from maedfer.models.stochastic_depth import Keep, scaled


class LGIStages(LGIParts):
    """What the block computes, whoever holds its parts: equations 2 to 6.

    Stages are given the factors of stochastic depth that their branch is multiplied by, None where it is not.

    Attributes:
        dim: C.
        intra_region: "self", or "cross" for a first stage that updates representative tokens alone.
    """

    dim: int
    intra_region: str
    intra_context_norm: nn.LayerNorm

    def forward(
        self,
        z_BMSC: Tensor,
        attend_to: Tensor | None = None,
        *,
        representative_only: bool = False,
        keep: Keep | None = None,
        maps: AttentionMaps | None = None,
    ) -> Tensor:
        """Run the block.

        Args:
            z_BMSC: [B, M, S, C].
            attend_to: [M, S] or [B, M, S] bool, False for rows that are padding, to which nothing attends; what
                becomes of those has no meaning. All are attended to when None.
            representative_only: only row 0 of each region is read of the result, so skip all that cannot reach it.
            keep: stochastic depth's factors; drawn here when None.
            maps: filled with the attention probabilities of each stage when given.

        Returns:
            [B, M, S, C], or [B, M, 1, C] with `representative_only`.

        Raises:
            InputError: a shape does not fit, or `impl` cannot run.
        """
        check_stream(z_BMSC, self.dim, attend_to)
        if self.is_fused and maps is None:
            return run_block(self, z_BMSC, None, attend_to, representative_only, keep=keep)[0]
        keep = self.draw(z_BMSC) if keep is None else keep
        # Without local tokens from the first stage on, where they cannot reach representative ones any more.
        pruned = representative_only and self.prunes_local_tokens
        z_BMSC = self.attend_within_regions(z_BMSC, attend_to, pruned, keep.attention, maps)  # equation 2
        s_BMC, x_BMNC = z_BMSC[:, :, 0], z_BMSC[:, :, 1:]
        if self.inter_region:
            s_BMC = self.attend_among_regions(s_BMC, keep.inter_region, maps)  # equation 3
        if self.interaction == "cross" and not pruned:
            x_BMNC = self.interact(x_BMNC, s_BMC, keep.interaction, maps)  # equations 4 and 5
        elif self.interaction == "self":
            s_BMC, x_BMNC = self.attend_within_regions_again(s_BMC, x_BMNC, attend_to, keep.interaction, maps)
        if self.feedback != "none":
            s_BMC = self.feed_back(s_BMC, x_BMNC, attend_to, keep.feedback, maps)
        z_BMSC = s_BMC.unsqueeze(2)
        if not representative_only:
            z_BMSC = torch.cat([z_BMSC, x_BMNC], dim=2)
        return z_BMSC + scaled(self.ffn(self.ffn_norm(z_BMSC)), keep.ffn)  # equation 6

    run = forward

    @property
    def has_schedule(self) -> bool:
        """For the published design, with and without its second stage and the feedback."""
        return self.intra_region == "self" and self.interaction == "cross"

    @property
    def prunes_local_tokens(self) -> bool:
        """Whether no stage after the first lets local tokens reach representative ones."""
        return self.interaction != "self" and self.feedback == "none"

    def attend_within_regions(
        self,
        z_BMSC: Tensor,
        attend_to: Tensor | None,
        representative_only: bool,
        keep_BM: Tensor | None,
        maps: AttentionMaps | None,
    ) -> Tensor:
        """Intra-region: z_i += MHSA(LN(z_i)), each region with its representative token.

        With intra_region="cross", s_i += MHCA(q = LN(s_i), kv = LN(x_i)).
        """
        if self.intra_region == "cross":
            query_BM1C = self.intra_norm(z_BMSC[:, :, :1])
            context = self.intra_context_norm(z_BMSC[:, :, 1:])
            attend_to = None if attend_to is None else attend_to[..., 1:]
        else:
            context = self.intra_norm(z_BMSC)
            query_BM1C = context[:, :, :1]
        if maps is not None:
            rows = query_BM1C if self.intra_region == "cross" else context
            maps["intra_region"] = probabilities(self.intra_attention, rows, context)  # [B, M, H, 1 or S, N or S]
        if self.intra_region == "self" and not representative_only:
            return z_BMSC + scaled(self.intra_attention(context, attend_to=attend_to), keep_BM)
        s_BM1C = z_BMSC[:, :, :1] + scaled(self.intra_attention(query_BM1C, context, attend_to), keep_BM)
        return s_BM1C if representative_only else torch.cat([s_BM1C, z_BMSC[:, :, 1:]], dim=2)

    def attend_among_regions(self, s_BMC: Tensor, keep_B: Tensor | None, maps: AttentionMaps | None) -> Tensor:
        """Inter-region: s += MHSA(LN(s)) among the representative tokens of a clip."""
        n_BMC = self.inter_norm(s_BMC)
        if maps is not None:
            maps["inter_region"] = probabilities(self.inter_attention, n_BMC)  # [B, H, M, M]
        return s_BMC + scaled(self.inter_attention(n_BMC), keep_B)

    def interact(self, x_BMNC: Tensor, s_BMC: Tensor, keep_B: Tensor | None, maps: AttentionMaps | None) -> Tensor:
        """Local-global interaction: x += MHCA(q = LN(x), kv = LN(s)), to all representative tokens of the clip."""
        query, context = self.interaction_norm(x_BMNC).flatten(1, 2), self.interaction_context_norm(s_BMC)
        if maps is not None:
            maps["interaction"] = probabilities(self.interaction_attention, query, context)  # [B, H, M * N, M]
        branch = self.interaction_attention(query, context).unflatten(1, x_BMNC.shape[1:3])
        return x_BMNC + scaled(branch, keep_B)

    def attend_within_regions_again(
        self,
        s_BMC: Tensor,
        x_BMNC: Tensor,
        attend_to: Tensor | None,
        keep_BM: Tensor | None,
        maps: AttentionMaps | None,
    ) -> tuple[Tensor, Tensor]:
        """interaction="self": the third stage is a second one of the first kind."""
        z_BMSC = torch.cat([s_BMC.unsqueeze(2), x_BMNC], dim=2)
        n_BMSC = self.interaction_norm(z_BMSC)
        if maps is not None:
            maps["again"] = probabilities(self.interaction_attention, n_BMSC)  # [B, M, H, S, S]
        branch = self.interaction_attention(n_BMSC, attend_to=attend_to)
        z_BMSC = z_BMSC + scaled(branch, keep_BM)
        return z_BMSC[:, :, 0], z_BMSC[:, :, 1:]

    def feed_back(
        self,
        s_BMC: Tensor,
        x_BMNC: Tensor,
        attend_to: Tensor | None,
        keep_B: Tensor | None,
        maps: AttentionMaps | None,
    ) -> Tensor:
        """The fourth attention of AVF-MAE++: s += MHCA(q = LN(s), kv = LN(x)), x of the own region or of the clip."""
        inputs = self.feedback_inputs(self.feedback_norm(s_BMC), self.feedback_context_norm(x_BMNC), attend_to)
        if maps is not None:
            maps["feedback"] = probabilities(self.feedback_attention, *inputs[:2])  # [B, M, H, 1, N] or [B, H, M, M N]
        return s_BMC + scaled(self.feedback_attention(*inputs).reshape(s_BMC.shape), keep_B)


# What a class that derives from `LGIBlock` may replace one by one.
_STAGES = ("attend_within_regions", "attend_among_regions", "interact", "feed_back", "feedback_inputs")


class LGIBlock(LGIStages, nn.Module):
    """One block of LGI-Former: three attentions and the feed-forward network.

    Args:
        dim: C.
        num_heads: H, which divides C.
        mlp_ratio: hidden channels of the feed-forward network over C.
        qkv_bias: bias on queries and values (keys have none).
        drop_path: stochastic depth's probability.
        impl: who computes: "auto", "reference", "torch", "native" or "triton".
        intra_region, inter_region, interaction, feedback, share_attention: the switches of `LGIFormerConfig`.

    Raises:
        InputError: sizes or switches that do not fit together.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path: float = 0.0,
        *,
        impl: Impl = "auto",
        intra_region: str = "self",
        inter_region: bool = True,
        interaction: str = "cross",
        feedback: str = "none",
        share_attention: str = "none",
    ) -> None:
        super().__init__()
        check_sizes(
            dim, num_heads, drop_path, mlp_ratio=mlp_ratio, impl=impl, qkv_bias=qkv_bias, inter_region=inter_region
        )
        switches = {"intra_region": intra_region, "interaction": interaction, "feedback": feedback}
        from_dict(LGIFormerConfig, {**switches, "share_attention": share_attention})
        self.dim, self.drop_path, self.impl = dim, drop_path, impl
        self.intra_region, self.inter_region = intra_region, inter_region
        self.interaction, self.feedback = interaction, feedback

        def attention(kind: type[Attention] = Attention) -> Attention:
            return kind(dim, num_heads, qkv_bias, impl)

        self.intra_norm = layer_norm(dim)
        if intra_region == "cross":
            self.intra_context_norm = layer_norm(dim)
        self.intra_attention = attention()
        if inter_region:
            self.inter_norm = layer_norm(dim)
            self.inter_attention = self.intra_attention if share_attention == "all" else attention()
        if interaction != "none":
            self.interaction_norm = layer_norm(dim)
            if interaction == "cross":
                self.interaction_context_norm = layer_norm(dim)
            self.interaction_attention = self.intra_attention if share_attention != "none" else attention()
        if feedback != "none":
            self.feedback_norm = layer_norm(dim)
            self.feedback_context_norm = layer_norm(dim)
            self.feedback_attention = attention(FullAttention if feedback == "clip" else Attention)
        self.ffn_norm = layer_norm(dim)
        self.ffn = FeedForward(dim, int(dim * mlp_ratio))

    @classmethod
    def from_config(cls, config: LGIFormerConfig, drop_path: float = 0.0) -> LGIBlock:
        """A block of the encoder that `config` describes."""
        return cls(
            config.embed_dim,
            config.num_heads,
            config.mlp_ratio,
            config.qkv_bias,
            drop_path,
            impl=config.impl,
            intra_region=config.intra_region,
            inter_region=config.inter_region,
            interaction=config.interaction,
            feedback=config.feedback,
            share_attention=config.share_attention,
        )

    @property
    def is_intact(self) -> bool:
        """Whether the block has the stages of this class, and layers that need not be called."""
        kind = type(self)
        own_stages = kind is not LGIBlock and any(
            getattr(kind, name) is not getattr(LGIStages, name) for name in _STAGES
        )
        replaced = any(name in self.__dict__ for name in _STAGES)
        return not own_stages and not replaced and is_untouched(self)
