"""The encoder shared by classifier and autoencoder: cube embedding, region order, representative tokens, blocks."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from einops import rearrange
from torch import Tensor, nn

from maedfer.errors import InputError
from maedfer.kernels import Impl, functional
from maedfer.kernels.cubes import gather_cubes
from maedfer.models.attention import Attention, AttentionMaps
from maedfer.models.checks import check_clips, check_count, check_fits_weight, check_visible
from maedfer.models.config import LGIFormerConfig, channel_statistics
from maedfer.models.fused import draw_keep, run_fused
from maedfer.models.lgi_block import LGIBlock
from maedfer.models.positions import interpolate_grid, sincos_positions
from maedfer.models.tables import HoldsTables
from maedfer.models.transformer_block import TransformerBlock


def region_order(config: LGIFormerConfig) -> Tensor:
    """Token numbers, row-major over the grid, arranged by region: [M, N] int64.

    Regions are row-major over the grid of regions, the tokens of a region row-major within it.
    """
    axes = "abcdefgh"[: len(config.grid)]
    grid = " ".join(f"({axis}0 {axis}1)" for axis in axes)
    outer, inner = (" ".join(f"{axis}{digit}" for axis in axes) for digit in "01")
    sizes = {f"{axis}1": size for axis, size in zip(axes, config.region, strict=True)}
    tokens = torch.arange(config.num_tokens).reshape(config.grid)
    return rearrange(tokens, f"{grid} -> ({outer}) ({inner})", **sizes)


class CubeEmbedding(nn.Module):
    """Linear embedding of non-overlapping cubes, equal to a strided convolution over the clip."""

    def __init__(self, in_channels: int, dim: int, patch_size: tuple[int, ...], impl: Impl = "auto") -> None:
        super().__init__()
        self.patch_size = patch_size
        self.impl: Impl = impl
        self.weight = nn.Parameter(torch.empty(dim, in_channels, *patch_size))
        self.bias = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw PyTorch's default for convolutions, which the published code keeps for this layer."""
        bound = self.weight[0].numel() ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, clips: Tensor, index: Tensor, mix: Tensor | None = None) -> Tensor:
        """Embed the cubes named by `index` ([n] or [B, n], row-major numbers) of `clips`: [B, n, C].

        Bytes are normalised and mixed on the way (`mix` as of `functional.tubelets`), those of the named cubes alone.

        Raises:
            InputError: the clips are on another device than the weights, or of another dtype; or they are to be mixed
                and no bytes, or not in a way that there is.
        """
        weight = self.weight
        check_fits_weight(clips, weight)
        if clips.dtype == torch.uint8:
            mean, std = channel_statistics(clips.shape[1])
            cubes = functional.tubelets(
                clips,
                index,
                patch_size=self.patch_size,
                mean=mean,
                std=std,
                dtype=weight.dtype,
                mix=mix,
                impl=self.impl,
            )
        elif mix is not None:
            raise InputError(f"clips that are mixed are given as bytes, uint8, got {clips.dtype}")
        else:
            cubes = gather_cubes(clips, self.patch_size, index).flatten(2)
        low = functional.low_copy(weight)
        low = None if low is None else low.flatten(1)
        return functional.linear(cubes, (weight.flatten(1), self.bias), low=low, impl=self.impl)


class Encoder(HoldsTables):
    """LGI-Former or ViT without a head.

    The residual stream is [B, M, S, C] from the embedding to the end, the representative token at row 0 of each
    region; a ViT is one region of all tokens without a representative one. The region order is made once, by the
    gather in the embedding.
    """

    region_order: Tensor
    positions: Tensor

    def __init__(self, config: LGIFormerConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.embed_dim
        self.embedding = CubeEmbedding(config.in_channels, dim, config.patch_size, config.impl)
        self.add_tables()
        if config.position == "learned":
            self.positions = nn.Parameter(torch.zeros(1, config.num_tokens, dim))
        if config.architecture == "lgi":
            self.representative_tokens = nn.Parameter(torch.zeros(config.num_regions, dim))
        self._draw_tokens()
        rates = [config.drop_path * number / max(1, config.depth - 1) for number in range(config.depth)]
        if config.architecture == "lgi":
            blocks: list[nn.Module] = [LGIBlock.from_config(config, rate) for rate in rates]
        else:
            blocks = [
                TransformerBlock(
                    dim,
                    config.num_heads,
                    config.mlp_ratio,
                    qkv_bias=config.qkv_bias,
                    drop_path=rate,
                    impl=config.impl,
                    backend=config.full_attention,
                )
                for rate in rates
            ]
        self.blocks = nn.ModuleList(blocks)

    def make_tables(self) -> dict[str, Tensor]:
        """The region order, and the positions where they are fixed."""
        config = self.config
        tables = {"region_order": region_order(config)}
        if config.position == "sincos":
            made_for = config.position_grid or config.grid
            table = sincos_positions(math.prod(made_for), config.embed_dim)
            tables["positions"] = interpolate_grid(table, made_for, config.grid)
        return tables

    def reset_parameters(self) -> None:
        """Draw the encoder's own parameters and make its tables, as sharded training asks of every module."""
        self.fill_tables()
        self._draw_tokens()

    def _draw_tokens(self) -> None:
        """Learned positions and representative tokens."""
        for name in ("positions", "representative_tokens"):
            parameter = self._parameters.get(name)
            if parameter is not None:
                nn.init.trunc_normal_(parameter, std=0.02)

    @property
    def has_representative_tokens(self) -> bool:
        """Whether row 0 of each region is a representative token."""
        return self.config.architecture == "lgi"

    def embed(self, clips: Tensor, visible: Tensor | None = None, mix: Tensor | None = None) -> Tensor:
        """Embed a clip and add positions and representative tokens.

        Args:
            clips: [B, I, *clip_size] normalised, or uint8, which is normalised here.
            visible: [B, M, V] row-major numbers of the tokens to embed, by region; all when None.
            mix: [5] float32, how clips in bytes are mixed (see `functional.tubelets`); not at all when None.

        Returns:
            [B, M, 1 + V, C] (without the 1 for a ViT).

        Raises:
            InputError: the clip is of another shape or dtype than the model takes, or on another device; or numbers
                of tokens that are none of this batch.
        """
        check_clips(clips, self.config)
        if visible is not None:
            check_visible(visible, clips, self.config)
        if self.region_order.is_meta and not clips.is_meta:
            raise InputError(
                "the model's tables are on the meta device: fill the model by to_empty and load_state_dict, "
                "or by load_state_dict(assign=True)"
            )
        index = self.region_order.flatten() if visible is None else visible.flatten(1)
        x = self.embedding(clips, index, mix)
        # The residual stream is in the dtype of products, autocast's where it is on, from here to the head: half the
        # bytes of the float32 stream that the published code has, and training comes to the same (docs/kernels.md).
        x = x + self.positions[0].to(x.dtype)[index]
        x = x.unflatten(1, (self.config.num_regions, -1))
        if self.has_representative_tokens:
            tokens = self.representative_tokens.to(x.dtype)[None, :, None].expand(x.shape[0], -1, -1, -1)
            x = torch.cat([tokens, x], dim=2)
        return x

    def forward(
        self,
        clips: Tensor,
        visible: Tensor | None = None,
        representative_only: bool = False,
        mix: Tensor | None = None,
        keep: Tensor | None = None,
    ) -> Tensor:
        """Encode a clip: [B, M, S, C].

        Args:
            clips: [B, I, *clip_size].
            visible: see `embed`.
            representative_only: return the representative tokens alone, [B, M, 1, C], and let the last block skip
                what cannot reach them.
            mix: see `embed`.
            keep: factors of stochastic depth from `draw_keep`; drawn here when None.

        Raises:
            InputError: see `embed`; or the factors are not of this many clips.
        """
        for z in self.run_blocks(self.embed(clips, visible, mix), representative_only, keep):
            out = z
        return out

    def draw_keep(self, batch: int, share: tuple[int, int] = (0, 1)) -> Tensor | None:
        """Draw the factors of stochastic depth for one pass of `batch` clips, outside of what is compiled.

        Args:
            batch: B.
            share: (i, n) draws for n times as many clips and gives those of the i-th batch, from 0: n processes with
                generators alike then draw what one process draws for all of their clips.

        Returns:
            float32, a row for each region or clip of each branch, [n, batch]; None where nothing is dropped.
        """
        shape = (batch * share[1], self.config.num_regions)
        return draw_keep(self.blocks, shape, self.region_order.device, share)

    def run_blocks(self, z: Tensor, representative_only: bool = False, keep: Tensor | None = None) -> Iterator[Tensor]:
        """Yield the residual stream after each block."""
        recompute = self.config.checkpoint_blocks and self.training and torch.is_grad_enabled()
        return run_fused(self.blocks, z, representative_only=representative_only, recompute=recompute, keep=keep)

    def attention_maps(self, z: Tensor) -> Iterator[AttentionMaps]:
        """Yield the attention probabilities of each block, of the stream before the first.

        Everything that reads is there: "intra_region" [B, M, H, S, S] ([B, M, H, 1, N] with intra_region="cross"),
        "inter_region" [B, H, M, M], "interaction" [B, H, M * N, M], "again" [B, M, H, S, S] with interaction="self",
        "feedback" [B, M, H, 1, N] or [B, H, M, M * N]; local tokens in the order of regions. A ViT has "attention"
        [B, 1, H, K, K].
        """
        for block in self.blocks:
            maps: AttentionMaps = {}
            z = block(z, maps=maps)
            yield maps

    def freeze(self, blocks: int | None = None) -> None:
        """Stop training the embedding, the tokens, and the first `blocks` blocks (all when None).

        Raises:
            InputError: the encoder has fewer blocks.
        """
        count = len(self.blocks) if blocks is None else blocks
        check_count("blocks", count, least=0)
        if not 0 <= count <= len(self.blocks):
            raise InputError(f"cannot freeze {count} blocks of an encoder that has {len(self.blocks)}")
        frozen = [parameter for name, parameter in self.named_parameters() if not name.startswith("blocks.")]
        for block in self.blocks[:count]:
            frozen.extend(block.parameters())
        for parameter in frozen:
            parameter.requires_grad_(False)


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


def draw_projections_apart(encoder: Encoder) -> None:
    """Draw queries, and keys with values, each as a layer of its own ("xavier"), as in the published blocks of regions.

    They have a wider range than as parts of one layer: 1.41 times for queries, 1.15 times for keys and values.
    """
    for module in encoder.modules():
        if isinstance(module, Attention):
            dim = module.qkv.in_features
            for part in module.qkv.weight.detach().split([dim, 2 * dim]):
                nn.init.xavier_uniform_(part)
