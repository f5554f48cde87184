"""LGI-Former's layers one by one, for models of your own: plain modules on a stream of regions.

The stream is [B, M, S, C]: B clips (or images), M regions, S = 1 + N rows a region, C channels. Row 0 of a region is
its representative token, the others are its N local tokens. Layers map a stream to a stream of the same shape and
dtype. They are pre-norm sub-layers with their residual, because that is what the fused kernels compute in one pass.

`split_regions` and `join_regions` turn a grid of tokens, of two or three dimensions or any other number, into regions
and back. Needs torch and einops; fused kernels run where there is a GPU for them (see `impl`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from maedfer.errors import InputError
from maedfer.kernels import Impl, functional
from maedfer.models import layers
from maedfer.models.config import LGIFormerConfig

__all__ = [
    "InterRegionAttention",
    "LGIBlock",
    "LocalGlobalAttention",
    "RegionAttention",
    "add_representative_tokens",
    "join_regions",
    "region_mask",
    "split_regions",
]


class _SubLayer(nn.Module):
    """Pre-norm attention with its residual.

    Args:
        dim: C.
        num_heads: H, which divides C.
        qkv_bias: bias on queries and values (keys have none).
        drop_path: stochastic depth's probability.
        eps: of the LayerNorms.
        impl: "auto", "reference", "torch", "native" or "triton".
    """

    _attends_to_another = False

    def __init__(
        self,
        dim: int,
        num_heads: int,
        qkv_bias: bool = True,
        drop_path: float = 0.0,
        eps: float = layers.LAYER_NORM_EPS,
        impl: Impl = "auto",
    ) -> None:
        super().__init__()
        _check_sizes(dim, num_heads, drop_path)
        self.dim, self.drop_path, self.impl = dim, drop_path, impl
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.attention = layers.Attention(dim, num_heads, qkv_bias, impl)
        if self._attends_to_another:
            self.context_norm = nn.LayerNorm(dim, eps=eps)

    def _end(self, heads: Tensor, residual: Tensor, batch_dims: int) -> Tensor:
        """Output projection, stochastic depth over the first `batch_dims` dimensions, residual."""
        proj = self.attention.proj
        keep = layers.keep_factors(residual, self.drop_path, self.training, batch_dims)
        return functional.linear_residual(heads, (proj.weight, proj.bias), residual, keep=keep, impl=self.impl)


class RegionAttention(_SubLayer):
    """Local intra-region self-attention with representative tokens (equation 2): z_i += MHSA(LN(z_i)) for region i.

    Stochastic depth drops regions. Arguments are those of `_SubLayer`: dim, num_heads, qkv_bias, drop_path, eps, impl.
    """

    def forward(self, z_BMSC: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend among all rows of each region.

        Args:
            z_BMSC: [B, M, S, C].
            mask: [M, S] or [B, M, S] bool, False for padding, to which nothing attends (see `region_mask`).

        Raises:
            InputError: a shape does not fit, or `impl` cannot run.
        """
        _check_stream(z_BMSC, self.dim, mask)
        n_BMSC = layers.norm(z_BMSC, self.norm, self.impl)
        return self._end(self.attention.heads(n_BMSC, mask=mask), z_BMSC, 2)


class InterRegionAttention(_SubLayer):
    """Global inter-region self-attention (equation 3): s += MHSA(LN(s)) among a clip's M representative tokens.

    Stochastic depth drops clips. Arguments are those of `_SubLayer`: dim, num_heads, qkv_bias, drop_path, eps, impl.
    """

    def forward(self, z_BMSC: Tensor) -> Tensor:
        """Update row 0 of each region of [B, M, S, C]; local tokens stay as they are.

        Raises:
            InputError: the shape does not fit, or `impl` cannot run.
        """
        _check_stream(z_BMSC, self.dim)
        s_BMC = z_BMSC[:, :, 0]
        heads = self.attention.heads(layers.norm(s_BMC, self.norm, self.impl))
        return torch.cat([self._end(heads, s_BMC, 1).unsqueeze(2), z_BMSC[:, :, 1:]], dim=2)


class LocalGlobalAttention(_SubLayer):
    """Local-global interaction (equations 4 and 5): x += MHCA(q = LN(x), kv = LN(s)).

    Every local token of a clip attends to all its representative tokens. Where that takes fewer multiply-adds
    (H * M < C + M) the projections are folded into keys and values. Stochastic depth drops clips. Arguments are those
    of `_SubLayer`: dim, num_heads, qkv_bias, drop_path, eps, impl.
    """

    _attends_to_another = True

    def forward(self, z_BMSC: Tensor, next_norm: nn.LayerNorm | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Update the local tokens of [B, M, S, C]; representative tokens stay as they are.

        Args:
            z_BMSC: [B, M, S, C].
            next_norm: the LayerNorm that follows in your model, with the same eps, to be done in the same pass.

        Returns:
            The stream, with `next_norm` also its norm.

        Raises:
            InputError: the shape or `next_norm` does not fit, or `impl` cannot run.
        """
        _check_stream(z_BMSC, self.dim)
        after = self.norm if next_norm is None else next_norm
        if after.eps != self.norm.eps:
            raise InputError(f"next_norm has eps {after.eps}, this layer {self.norm.eps}: they must be the same")
        s_BMC, attention = z_BMSC[:, :, 0], self.attention
        kv = attention.project_kv(layers.norm(s_BMC, self.context_norm, self.impl))
        z_BMSC, n_BMSC = functional.local_global_interaction(
            z_BMSC,
            s_BMC,
            kv,
            norm=(self.norm.weight, self.norm.bias),
            query=(attention.query_weight, attention.q_bias),
            output=(attention.proj.weight, attention.proj.bias),
            next_norm=(after.weight, after.bias),
            num_heads=attention.num_heads,
            eps=self.norm.eps,
            keep=layers.keep_factors(z_BMSC, self.drop_path, self.training, 1),
            impl=self.impl,
        )
        return z_BMSC if next_norm is None else (z_BMSC, n_BMSC)


class LGIBlock(layers.LGIBlock):
    """One block of LGI-Former (equations 2 to 6): the three attentions and the feed-forward network.

    Args:
        dim: C.
        num_heads: H, which divides C.
        mlp_ratio: hidden channels of the feed-forward network over C.
        qkv_bias: bias on queries and values (keys have none).
        drop_path: stochastic depth's probability.
        inter_region: the second stage.
        feedback: AVF-MAE++'s fourth attention: representative tokens attend to local tokens of their "region" or of
            the whole "clip".
        impl: "auto", "reference", "torch", "native" or "triton".
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path: float = 0.0,
        inter_region: bool = True,
        feedback: str = "none",
        impl: Impl = "auto",
    ) -> None:
        _check_sizes(dim, num_heads, drop_path)
        if feedback not in ("none", "region", "clip"):
            raise InputError(f'feedback must be "none", "region" or "clip", got {feedback!r}')
        super().__init__(
            LGIFormerConfig(
                embed_dim=dim,
                num_heads=num_heads,
                mlp_ratio=mlp_ratio,
                qkv_bias=qkv_bias,
                inter_region=inter_region,
                feedback=feedback,  # type: ignore[arg-type]
                impl=impl,
            ),
            drop_path,
        )
        self.dim = dim

    def forward(
        self,
        z_BMSC: Tensor,
        representative_only: bool = False,
        maps: layers.AttentionMaps | None = None,
        normed: Tensor | None = None,
        next_norm: nn.LayerNorm | None = None,
        mask: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Run the block.

        Args:
            z_BMSC: [B, M, S, C].
            representative_only: only row 0 of each region is read afterwards, so skip all that cannot reach it; gives
                [B, M, 1, C].
            maps: filled with the attention probabilities of each stage when given.
            normed: [B, M, S, C] what the block's first LayerNorm makes of the stream, where the block before has done
                it already.
            next_norm: the first LayerNorm of the next block (`first_norm`), to be done in the same pass as the last
                residual; gives the stream and its norm. `normed` and `next_norm` need `is_fast` and no hooks.
            mask: [M, S] or [B, M, S] bool, False for padding, to which nothing attends (see `region_mask`).

        Raises:
            InputError: a shape does not fit, or `impl` cannot run.
        """
        _check_stream(z_BMSC, self.dim, mask)
        return super().forward(z_BMSC, representative_only, maps, normed, next_norm, mask)


def split_regions(x: Tensor, region_size: Sequence[int]) -> Tensor:
    """Cut a grid of tokens into regions.

    Args:
        x: [B, *grid, C], for example [B, T, H, W, C] or [B, H, W, C].
        region_size: tokens of a region along each dimension of the grid. Where it does not divide the grid, zeros are
            added at the end of that dimension: `region_mask` says where.

    Returns:
        [B, M, N, C]: regions row-major over the grid of regions, the tokens of a region row-major within it.

    Raises:
        InputError: the numbers of dimensions differ, or a size is not positive.
    """
    grid = tuple(x.shape[1:-1])
    region_size = _check_region(grid, region_size)
    pad = [-size % part for size, part in zip(grid, region_size, strict=True)]
    if any(pad):
        # From the last dimension to the first, channels not at all.
        x = F.pad(x, [0, 0, *(amount for end in reversed(pad) for amount in (0, end))])
    axes = range(len(grid))
    inside = {f"r{axis}": region_size[axis] for axis in axes}
    pattern = " ".join(f"(m{axis} r{axis})" for axis in axes)
    outer, inner = (" ".join(f"{letter}{axis}" for axis in axes) for letter in "mr")
    return rearrange(x, f"b {pattern} c -> b ({outer}) ({inner}) c", **inside)


def join_regions(x_BMNC: Tensor, grid: Sequence[int], region_size: Sequence[int]) -> Tensor:
    """Undo `split_regions`.

    Args:
        x_BMNC: [B, M, N, C], local tokens alone: `z[:, :, 1:]` of a stream.
        grid: tokens along each dimension, before padding.
        region_size: as given to `split_regions`.

    Returns:
        [B, *grid, C].

    Raises:
        InputError: the sizes do not belong together.
    """
    grid = tuple(grid)
    region_size = _check_region(grid, region_size)
    regions = [math.ceil(size / part) for size, part in zip(grid, region_size, strict=True)]
    wanted = (math.prod(regions), math.prod(region_size))
    if x_BMNC.dim() != 4 or tuple(x_BMNC.shape[1:3]) != wanted:
        raise InputError(
            f"a grid of {grid} in regions of {region_size} is [B, {wanted[0]}, {wanted[1]}, C], got "
            f"{list(x_BMNC.shape)} (a stream's representative tokens are left out: z[:, :, 1:])"
        )
    axes = range(len(grid))
    sizes = {f"m{axis}": regions[axis] for axis in axes} | {f"r{axis}": region_size[axis] for axis in axes}
    outer, inner = (" ".join(f"{letter}{axis}" for axis in axes) for letter in "mr")
    pattern = " ".join(f"(m{axis} r{axis})" for axis in axes)
    x = rearrange(x_BMNC, f"b ({outer}) ({inner}) c -> b {pattern} c", **sizes)
    return x[(slice(None), *(slice(size) for size in grid))]


def region_mask(
    grid: Sequence[int], region_size: Sequence[int], device: torch.device | str | None = None
) -> Tensor | None:
    """Which rows of a stream are tokens, for layers that take a mask.

    Args:
        grid: tokens along each dimension.
        region_size: as given to `split_regions`.
        device: where to make it.

    Returns:
        [M, 1 + N] bool, True for representative tokens and for tokens of the grid, False for padding; None where the
        regions divide the grid, as layers are faster without a mask.

    Raises:
        InputError: the numbers of dimensions differ, or a size is not positive.
    """
    grid = tuple(grid)
    region_size = _check_region(grid, region_size)
    if not any(size % part for size, part in zip(grid, region_size, strict=True)):
        return None
    tokens = split_regions(torch.ones(1, *grid, 1, device=device), region_size)[0, :, :, 0] > 0
    return F.pad(tokens, (1, 0), value=True)


def add_representative_tokens(x_BMNC: Tensor, tokens_MC: Tensor) -> Tensor:
    """Put a learned token before the local tokens of each region: the stream [B, M, 1 + N, C].

    Args:
        x_BMNC: [B, M, N, C], from `split_regions`.
        tokens_MC: [M, C], for example an `nn.Parameter`.

    Raises:
        InputError: there is not one token of C channels for each region.
    """
    if tokens_MC.shape != (x_BMNC.shape[1], x_BMNC.shape[-1]):
        wanted = [x_BMNC.shape[1], x_BMNC.shape[-1]]
        raise InputError(f"one representative token for each region is {wanted}, got {list(tokens_MC.shape)}")
    tokens = tokens_MC.to(x_BMNC.dtype)[None, :, None].expand(x_BMNC.shape[0], -1, -1, -1)
    return torch.cat([tokens, x_BMNC], dim=2)


def _check_sizes(dim: int, num_heads: int, drop_path: float) -> None:
    if dim < 1 or num_heads < 1 or dim % num_heads:
        raise InputError(f"num_heads {num_heads} does not divide dim {dim}")
    if not 0.0 <= drop_path < 1.0:
        raise InputError(f"drop_path must be in [0, 1), got {drop_path}")


def _check_stream(z: Tensor, dim: int, mask: Tensor | None = None) -> None:
    if z.dim() != 4 or z.shape[-1] != dim:
        raise InputError(f"the stream must be [B, M, S, {dim}], got {list(z.shape)}")
    if z.shape[2] < 2:
        raise InputError(f"a region has a representative token and one local token or more, got {z.shape[2]} rows")
    if mask is not None and (mask.dtype != torch.bool or mask.shape not in (z.shape[1:3], z.shape[:3])):
        raise InputError(
            f"mask must be bool {list(z.shape[1:3])} or {list(z.shape[:3])}, got {mask.dtype} {list(mask.shape)}"
        )


def _check_region(grid: tuple[int, ...], region_size: Sequence[int]) -> tuple[int, ...]:
    region_size = tuple(region_size)
    if len(grid) != len(region_size):
        raise InputError(f"region_size {region_size} must have one number for each dimension of the grid {grid}")
    if not grid or min(*grid, *region_size) < 1:
        raise InputError(f"grid {grid} and region_size {region_size} must be positive")
    return region_size
