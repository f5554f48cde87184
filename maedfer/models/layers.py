"""Layers of LGI-Former and of the ViT baseline, on the plain PyTorch path.

Shapes: z_BMSC is the residual stream, row 0 of each region its representative token; x_BMNC its local tokens,
s_BMC its representative tokens. B clips, M regions, S = 1 + N rows, C channels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maedfer.kernels import reference as ops
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

    def __init__(self, dim: int, num_heads: int, bias: bool = True) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim)) if bias else None
        self.v_bias = nn.Parameter(torch.zeros(dim)) if bias else None
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Attend from `x` [..., Sq, C] to `context` [..., Sk, C], or to itself; returns [..., Sq, C]."""
        q, k, v = self.project(x, context)
        return self.proj(ops.attention(q, k, v, self.num_heads))

    def weights(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Attention probabilities [..., H, Sq, Sk]."""
        q, k, _ = self.project(x, context)
        return ops.attention_weights(q, k, self.num_heads)

    def project(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each [..., S, C]."""
        dim = self.qkv.in_features
        if self.q_bias is None or self.v_bias is None:
            q_bias = kv_bias = None
        else:
            q_bias, kv_bias = self.q_bias, torch.cat([torch.zeros_like(self.v_bias), self.v_bias])
        if context is None:
            bias = None if q_bias is None or kv_bias is None else torch.cat([q_bias, kv_bias])
            q, k, v = F.linear(x, self.qkv.weight, bias).chunk(3, dim=-1)
            return q, k, v
        q = F.linear(x, self.qkv.weight[:dim], q_bias)
        k, v = F.linear(context, self.qkv.weight[dim:], kv_bias).chunk(2, dim=-1)
        return q, k, v


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

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, qkv_bias: bool, drop_path: float = 0.0) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.norm = layer_norm(dim)
        self.attention = Attention(dim, num_heads, qkv_bias)
        self.ffn_norm = layer_norm(dim)
        self.ffn = FeedForward(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor, representative_only: bool = False, maps: AttentionMaps | None = None) -> Tensor:
        """[..., K, C] -> [..., K, C]. There is no representative token, so that argument changes nothing."""
        normed = self.norm(x)
        if maps is not None:
            maps["attention"] = self.attention.weights(normed)
        x = x + self._drop(self.attention(normed))
        return x + self._drop(self.ffn(self.ffn_norm(x)))

    def _drop(self, branch: Tensor) -> Tensor:
        return ops.drop_path(branch, self.drop_path, self.training, branch.dim() - 2)


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
        self.intra_region = config.intra_region
        self.inter_region = config.inter_region
        self.interaction = config.interaction
        self.feedback = config.feedback

        def attention() -> Attention:
            return Attention(dim, config.num_heads, config.qkv_bias)

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
            self.feedback_attention = attention()
        self.ffn_norm = layer_norm(dim)
        self.ffn = FeedForward(dim, int(dim * config.mlp_ratio))

    def forward(self, z_BMSC: Tensor, representative_only: bool = False, maps: AttentionMaps | None = None) -> Tensor:
        """Run the block.

        Args:
            z_BMSC: [B, M, S, C] the residual stream.
            representative_only: only the representative tokens are read afterwards, so skip all that cannot reach
                them. The result is the same, for less work.
            maps: filled with the attention probabilities of each stage when given.

        Returns:
            [B, M, S, C], or [B, M, 1, C] when `representative_only`.
        """
        if representative_only and self.prunes_local_tokens:
            s_BMC = self._intra(z_BMSC, only_first_row=True, maps=maps)[:, :, 0]
            s_BMC = self._inter(s_BMC, maps)
            z_BMSC = s_BMC.unsqueeze(2)
        else:
            z_BMSC = self._intra(z_BMSC, only_first_row=False, maps=maps)
            s_BMC, x_BMNC = self._inter(z_BMSC[:, :, 0], maps), z_BMSC[:, :, 1:]
            if self.interaction == "self":
                z_BMSC = torch.cat([s_BMC.unsqueeze(2), x_BMNC], dim=2)
                z_BMSC = z_BMSC + self._drop(self.interaction_attention(self.interaction_norm(z_BMSC)), batch_dims=2)
                s_BMC, x_BMNC = z_BMSC[:, :, 0], z_BMSC[:, :, 1:]
            elif self.interaction == "cross":
                x_BMNC = self._interact(x_BMNC, s_BMC, maps)
            if self.feedback != "none":
                s_BMC = self._feed_back(s_BMC, x_BMNC)
            z_BMSC = s_BMC.unsqueeze(2)
            if not representative_only:
                z_BMSC = torch.cat([z_BMSC, x_BMNC], dim=2)
        return z_BMSC + self._drop(self.ffn(self.ffn_norm(z_BMSC)), batch_dims=2)

    @property
    def prunes_local_tokens(self) -> bool:
        """Whether no stage after the first lets local tokens reach representative ones."""
        return self.interaction != "self" and self.feedback == "none"

    def _intra(self, z_BMSC: Tensor, only_first_row: bool, maps: AttentionMaps | None) -> Tensor:
        """Stage 1; with `only_first_row`, [B, M, 1, C] with the representative tokens alone."""
        if self.intra_region == "cross":
            query = self.intra_norm(z_BMSC[:, :, :1])
            context = self.intra_context_norm(z_BMSC[:, :, 1:])
        else:
            context = self.intra_norm(z_BMSC)
            query = context[:, :, :1]
        if maps is not None:
            maps["intra_region"] = self.intra_attention.weights(query, context)[..., 0, :]  # [B, M, H, S or N]
        if self.intra_region == "self" and not only_first_row:
            return z_BMSC + self._drop(self.intra_attention(context), batch_dims=2)
        s_BM1C = z_BMSC[:, :, :1] + self._drop(self.intra_attention(query, context), batch_dims=2)
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

    def _feed_back(self, s_BMC: Tensor, x_BMNC: Tensor) -> Tensor:
        """Stage 4 of AVF-MAE++: representative tokens attend to local tokens."""
        query, context = self.feedback_norm(s_BMC), self.feedback_context_norm(x_BMNC)
        if self.feedback == "clip":
            branch = self.feedback_attention(query, context.flatten(1, 2))
        else:
            branch = self.feedback_attention(query.unsqueeze(2), context).squeeze(2)
        return s_BMC + self._drop(branch, batch_dims=1)

    def _drop(self, branch: Tensor, batch_dims: int) -> Tensor:
        return ops.drop_path(branch, self.drop_path, self.training, batch_dims)


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
