"""Models with the attribute names, signatures and formulas of the published MAE-DFER code, written for tests."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maedfer.layers import split_regions
from maedfer.models.positions import sincos_positions


class DropPath(nn.Module):
    """Stochastic depth over the first dimension."""

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.drop_prob == 0.0:
            return x
        kept = 1.0 - self.drop_prob
        return x / kept * x.new_empty(x.shape[0], *[1] * (x.dim() - 1)).bernoulli_(kept)


def attend(q: Tensor, k: Tensor, v: Tensor, num_heads: int, scale: float) -> Tensor:
    q, k, v = (part.unflatten(-1, (num_heads, -1)).transpose(1, 2) for part in (q, k, v))
    return (((q * scale) @ k.transpose(-2, -1)).softmax(-1) @ v).transpose(1, 2).flatten(2)


class GeneralAttention(nn.Module):
    def __init__(self, dim: int, num_heads: int, qkv_bias: bool = True, drop: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.q = nn.Linear(dim, dim, bias=False)
        self.kv = nn.Linear(dim, 2 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim)) if qkv_bias else None
        self.v_bias = nn.Parameter(torch.zeros(dim)) if qkv_bias else None
        self.attn_drop = nn.Dropout(drop)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(drop)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        q = F.linear(x, self.q.weight, self.q_bias)
        k, v = F.linear(x if context is None else context, self.kv.weight).chunk(2, -1)
        v = v if self.v_bias is None else v + self.v_bias
        return self.proj_drop(self.proj(attend(q, k, v, self.num_heads, self.scale)))


class Attention(nn.Module):
    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.attn_drop = nn.Dropout(0.0)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(0.0)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.proj(attend(q + self.q_bias, k, v + self.v_bias, self.num_heads, self.scale))


class Mlp(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(4 * dim, dim)
        self.drop = nn.Dropout(0.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.act(self.fc1(x))))


def norm(dim: int) -> nn.LayerNorm:
    return nn.LayerNorm(dim, eps=1e-6)


class Block(nn.Module):
    """The decoder's block, and the ViT's."""

    def __init__(self, dim: int, num_heads: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1 = norm(dim)
        self.attn = Attention(dim, num_heads)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.norm2 = norm(dim)
        self.mlp = Mlp(dim)
        self.gamma_1 = self.gamma_2 = None

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class LGBlock(nn.Module):
    """A block of LGI-Former; `fourth` adds the attention of AVF-MAE++."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        drop_path: float = 0.0,
        first: str = "self",
        third: str = "cross",
        no_second: bool = False,
        no_third: bool = False,
        fourth: bool = False,
        share_first_third: bool = False,
        share_all: bool = False,
        qkv_bias: bool = True,
        drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.first_attn_type, self.third_attn_type = first, third
        self.no_second, self.no_third = no_second, no_third

        def attention() -> GeneralAttention:
            return GeneralAttention(dim, num_heads, qkv_bias, drop)

        self.first_attn_norm0 = norm(dim)
        if first == "cross":
            self.first_attn_norm1 = norm(dim)
        self.first_attn = attention()
        if not no_second:
            self.second_attn_norm0 = norm(dim)
            self.second_attn = self.first_attn if share_all else attention()
        if not no_third:
            self.third_attn_norm0 = norm(dim)
            if third == "cross":
                self.third_attn_norm1 = norm(dim)
            self.third_attn = self.first_attn if share_first_third or share_all else attention()
        if fourth:
            self.fourth_attn_norm0 = norm(dim)
            self.fourth_attn_norm1 = norm(dim)
            self.fourth_attn = attention()
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.norm2 = norm(dim)
        self.mlp = Mlp(dim)
        self.gamma_0 = self.gamma_1 = self.gamma_2 = None

    def forward(self, x: Tensor, b: int) -> Tensor:
        """x [B * M, S, C], b = B."""
        regions, rows = x.shape[0] // b, x.shape[1]
        if self.first_attn_type == "self":
            x = x + self.drop_path(self.first_attn(self.first_attn_norm0(x)))
            s, local = x[:, :1], x[:, 1:]
        else:
            s, local = x[:, :1], x[:, 1:]
            s = s + self.drop_path(self.first_attn(self.first_attn_norm0(s), self.first_attn_norm1(local)))
        s = s.reshape(b, regions, -1)
        if not self.no_second:
            s = s + self.drop_path(self.second_attn(self.second_attn_norm0(s)))
        local = local.reshape(b, regions * (rows - 1), -1)
        if not self.no_third and self.third_attn_type == "cross":
            local = local + self.drop_path(self.third_attn(self.third_attn_norm0(local), self.third_attn_norm1(s)))
        elif not self.no_third:
            x = torch.cat([s.reshape(b * regions, 1, -1), local.reshape(b * regions, rows - 1, -1)], 1)
            x = x + self.drop_path(self.third_attn(self.third_attn_norm0(x)))
            s, local = x[:, 0].reshape(b, regions, -1), x[:, 1:].reshape(b, regions * (rows - 1), -1)
        if hasattr(self, "fourth_attn"):
            s = s + self.drop_path(self.fourth_attn(self.fourth_attn_norm0(s), self.fourth_attn_norm1(local)))
        x = torch.cat([s.reshape(b * regions, 1, -1), local.reshape(b * regions, rows - 1, -1)], 1)
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(3, dim, (2, 16, 16), (2, 16, 16))

    def forward(self, video: Tensor) -> Tensor:
        """[B, T, H, W, C]."""
        return self.proj(video).movedim(1, -1)


class Encoder(nn.Module):
    """Embedding and blocks; `args` are the published constructor's."""

    def __init__(self, args: dict[str, Any], prefix: str = "", drop_path: float = 0.0) -> None:
        super().__init__()
        dim, heads = args[f"{prefix}embed_dim"], args[f"{prefix}num_heads"]
        depth = args[f"{prefix}depth"]
        self.grid = (args.get("all_frames", 16) // 2, args["img_size"] // 16, args["img_size"] // 16)
        self.patch_embed = PatchEmbed(dim)
        self.region = args["lg_region_size"] if args["attn_type"] == "local_global" else None
        if self.region:
            regions = split_regions(torch.zeros(1, *self.grid, 1), self.region).shape[1]
            self.lg_region_tokens = nn.Parameter(torch.zeros(regions, dim))
            share = {
                "share_first_third": args.get("lg_attn_param_sharing_first_third", False),
                "share_all": args.get("lg_attn_param_sharing_all", False),
            }
            self.blocks = nn.ModuleList(
                LGBlock(
                    dim,
                    heads,
                    drop_path,
                    args["lg_first_attn_type"],
                    args["lg_third_attn_type"],
                    args["lg_no_second"],
                    args["lg_no_third"],
                    **share,
                )
                for _ in range(depth)
            )
        else:
            self.blocks = nn.ModuleList(Block(dim, heads, drop_path) for _ in range(depth))

    def encode(self, video: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, M, S, C], or [B, 1, K, C] without regions; of tokens that `mask` [B, K] does not hide."""
        x = self.patch_embed(video)
        x = x + sincos_positions(x[0, ..., 0].numel(), x.shape[-1]).to(x.device).reshape(x[:1].shape)
        b = len(x)
        parts = split_regions(x, self.region or self.grid)
        if mask is not None:
            hidden = split_regions(mask.reshape(b, *self.grid, 1).float(), self.region or self.grid)[..., 0] > 0
            parts = parts[~hidden].reshape(b, parts.shape[1], -1, parts.shape[-1])
        if not self.region:
            x = parts[:, 0]
            for block in self.blocks:
                x = block(x)
            return x[:, None]
        x = torch.cat([self.lg_region_tokens[None, :, None].expand(b, -1, -1, -1), parts], 2).flatten(0, 1)
        for block in self.blocks:
            x = block(x, b)
        return x.unflatten(0, (b, -1))


class Classifier(Encoder):
    def __init__(self, args: dict[str, Any], drop_path: float = 0.0) -> None:
        super().__init__(args, drop_path=drop_path)
        self.tokens = args["lg_classify_token_type"]
        self.fc_norm = norm(args["embed_dim"])
        self.head = nn.Linear(args["embed_dim"], args["num_classes"])

    def forward(self, video: Tensor) -> Tensor:
        z = self.encode(video)
        if self.region and self.tokens != "all":
            z = z[:, :, :1] if self.tokens == "region" else z[:, :, 1:]
        return self.head(self.fc_norm(z.mean((1, 2))))


class Autoencoder(nn.Module):
    def __init__(self, args: dict[str, Any]) -> None:
        super().__init__()
        dim = args["decoder_embed_dim"]
        self.encoder = Encoder(args, "encoder_")
        self.encoder.norm = norm(args["encoder_embed_dim"])
        self.encoder_to_decoder = nn.Linear(args["encoder_embed_dim"], dim, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.decoder = nn.Module()
        self.decoder.blocks = nn.ModuleList(Block(dim, args["decoder_num_heads"]) for _ in range(args["decoder_depth"]))
        self.decoder.norm = norm(dim)
        self.decoder.head = nn.Linear(dim, args["decoder_num_classes"])

    def forward(self, video: Tensor, mask: Tensor) -> Tensor:
        """Predictions of the masked tokens, [B, n, 1536]."""
        z = self.encoder.encode(video, mask)
        z = z[:, :, 1:] if self.encoder.region else z
        norm: Any = self.encoder.norm
        x = self.encoder_to_decoder(norm(z.flatten(1, 2)))
        b, tokens = mask.shape
        positions = sincos_positions(tokens, x.shape[-1]).to(x.device).expand(b, -1, -1)
        x = x + positions[~mask].reshape(b, -1, x.shape[-1])
        hidden = self.mask_token + positions[mask].reshape(b, -1, x.shape[-1])
        x = torch.cat([x, hidden], 1)
        decoder: Any = self.decoder
        for block in decoder.blocks:
            x = block(x)
        return decoder.head(decoder.norm(x[:, -hidden.shape[1] :]))
