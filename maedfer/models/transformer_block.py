"""The transformer block of the ViT and of the decoder."""

from __future__ import annotations

from torch import Tensor, nn

from maedfer.kernels import Impl
from maedfer.models.attention import AttentionMaps, FeedForward, FullAttention, layer_norm, probabilities
from maedfer.models.checks import check_rows, check_sizes
from maedfer.models.fused import TransformerParts, is_untouched, run_block
from maedfer.models.stochastic_depth import Keep, scaled


class TransformerStages(TransformerParts):
    """What the block computes, whoever holds its parts.

    Attributes:
        dim: C.
    """

    dim: int

    def forward(
        self,
        x: Tensor,
        attend_to: Tensor | None = None,
        *,
        representative_only: bool = False,
        keep: Keep | None = None,
        maps: AttentionMaps | None = None,
    ) -> Tensor:
        """Run the block.

        Args:
            x: [..., K, C].
            attend_to: [..., K] bool, True for rows that may be attended to; all when None.
            representative_only: changes nothing, as there are no representative tokens.
            keep: stochastic depth's factors; drawn here when None.
            maps: filled with the attention probabilities when given.

        Returns:
            [..., K, C].

        Raises:
            InputError: a shape does not fit, or `impl` cannot run.
        """
        check_rows(x, self.dim, attend_to)
        if self.is_fused and maps is None:
            return run_block(self, x, attend_to=attend_to, keep=keep)[0]
        keep = self.draw(x) if keep is None else keep
        n = self.norm(x)
        if maps is not None:
            maps["attention"] = probabilities(self.attention, n)
        x = x + scaled(self.attention(n, attend_to=attend_to), keep.attention)
        return x + scaled(self.ffn(self.ffn_norm(x)), keep.ffn)

    run = forward


class TransformerBlock(TransformerStages, nn.Module):
    """Pre-norm self-attention and feed-forward network over all rows.

    Args:
        dim: C.
        num_heads: H, which divides C.
        mlp_ratio: hidden channels of the feed-forward network over C.
        qkv_bias: bias on queries and values (keys have none).
        drop_path: stochastic depth's probability.
        impl: who computes.
        backend: "sdpa" or "xformers", who computes attention.

    Raises:
        InputError: sizes that do not fit together, or are out of range.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        *,
        qkv_bias: bool = True,
        drop_path: float = 0.0,
        impl: Impl = "auto",
        backend: str = "sdpa",
    ) -> None:
        super().__init__()
        check_sizes(dim, num_heads, drop_path, mlp_ratio=mlp_ratio, impl=impl, backend=backend, qkv_bias=qkv_bias)
        self.dim, self.drop_path, self.impl = dim, drop_path, impl
        self.norm = layer_norm(dim)
        self.attention = FullAttention(dim, num_heads, qkv_bias, impl, backend)
        self.ffn_norm = layer_norm(dim)
        self.ffn = FeedForward(dim, int(dim * mlp_ratio))

    @property
    def is_intact(self) -> bool:
        """Whether its layers need not be called."""
        return is_untouched(self)
