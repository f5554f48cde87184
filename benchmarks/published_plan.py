"""The classifier as the published code arranges it, as the baseline of timings.

Same parameters and same result as LGIFormer, another plan: queries and keys with values in separate products, attention
matrices formed in full, the interaction with all its projections, every block in full, and regions and representative
tokens taken apart and put together in every block. Positions and tokens are float32, and with them the residual stream
under autocast, as in the published code.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maedfer.models import LGIFormer, normalize_frames
from maedfer.models.attention import Attention
from maedfer.models.lgi_block import LGIBlock


class PublishedPlan(nn.Module):
    """Runs a model of the published design (three stages, cross interaction) in the published way.

    Args:
        model: whose parameters are used.
    """

    order: Tensor
    back: Tensor

    def __init__(self, model: LGIFormer) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("order", model.encoder.region_order.flatten(), persistent=False)
        self.register_buffer("back", self.order.argsort(), persistent=False)

    def forward(self, video: Tensor) -> Tensor:
        """Class logits of [B, 3, *clip_size], normalised or uint8."""
        model, encoder = self.model, self.model.encoder
        video = normalize_frames(video) if video.dtype == torch.uint8 else video
        regions = encoder.config.num_regions
        embedding = encoder.embedding
        x = F.conv3d(video, embedding.weight, embedding.bias, stride=embedding.patch_size).flatten(2).transpose(1, 2)
        x = x + encoder.positions
        s = encoder.representative_tokens.expand(len(video), -1, -1)  # [B, M, C]
        for block in encoder.blocks:
            assert isinstance(block, LGIBlock)
            x, s = self._block(block, x, s, regions)
        return model.head(model.head_norm(s.mean(dim=1)))

    def _block(self, block: LGIBlock, x: Tensor, s: Tensor, regions: int) -> tuple[Tensor, Tensor]:
        """x [B, K, C] in the order of the grid."""
        batch, tokens, dim = x.shape
        z = x[:, self.order].reshape(batch * regions, -1, dim)
        z = torch.cat([s.reshape(batch * regions, 1, dim), z], dim=1)
        n = block.intra_norm(z)
        z = z + attention(block.intra_attention, n, n)
        s, x = z[:, 0].reshape(batch, regions, dim).clone(), z[:, 1:].reshape(batch, tokens, dim)
        n = block.inter_norm(s)
        s = s + attention(block.inter_attention, n, n)
        x = x + attention(block.interaction_attention, block.interaction_norm(x), block.interaction_context_norm(s))
        z = torch.cat([s.reshape(batch * regions, 1, dim), x.reshape(batch * regions, -1, dim)], dim=1)
        z = z + block.ffn(block.ffn_norm(z))
        s, x = z[:, 0].reshape(batch, regions, dim), z[:, 1:].reshape(batch, tokens, dim)
        return x[:, self.back], s


def attention(layer: Attention, x: Tensor, context: Tensor) -> Tensor:
    """Multi-head attention with its matrix formed in full."""
    dim, heads = x.shape[-1], layer.num_heads
    weight = layer.qkv.weight
    assert layer.v_bias is not None
    q = F.linear(x, weight[:dim], layer.q_bias)
    k, v = F.linear(context, weight[dim:], torch.cat([torch.zeros_like(layer.v_bias), layer.v_bias])).chunk(2, dim=-1)
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q, k, v))
    p = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(dim=-1)
    return layer.proj((p @ v).transpose(1, 2).reshape(x.shape))
