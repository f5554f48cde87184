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
from maedfer.models.attention import LAYER_NORM_EPS, Attention, apply_norm, interaction_inputs, weights
from maedfer.models.checks import check_counts, check_sizes, check_stream, check_tensor
from maedfer.models.fused import is_untouched
from maedfer.models.lgi_block import LGIBlock
from maedfer.models.stochastic_depth import keep_factors, scaled

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
        eps: float = LAYER_NORM_EPS,
        impl: Impl = "auto",
    ) -> None:
        super().__init__()
        check_sizes(dim, num_heads, drop_path, eps=eps, impl=impl, qkv_bias=qkv_bias)
        self.dim, self.drop_path, self.impl = dim, drop_path, impl
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.attention = Attention(dim, num_heads, qkv_bias, impl)
        if self._attends_to_another:
            self.context_norm = nn.LayerNorm(dim, eps=eps)

    def _attend(self, x: Tensor, batch_dims: int, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """x + attention(norm(x)), with stochastic depth over the first `batch_dims` dimensions.

        With `context`, attention to context_norm(context).
        """
        if context is None and is_untouched(self):
            heads = self.attention.heads(apply_norm(x, self.norm, self.impl), attend_to=mask)
            keep, proj = self._keep(x, batch_dims), weights(self.attention.proj)
            return functional.linear_residual(heads, proj, x, keep=keep, impl=self.impl)
        normed = self.norm(x)
        branch = self.attention(normed, None if context is None else self.context_norm(context), mask)
        return x + scaled(branch, self._keep(x, batch_dims))

    def _keep(self, x: Tensor, batch_dims: int) -> Tensor | None:
        return keep_factors(x, self.drop_path, self.training, batch_dims)


class RegionAttention(_SubLayer):
    """Local intra-region self-attention with representative tokens (equation 2): z_i += MHSA(LN(z_i)) for region i.

    Stochastic depth drops regions. Arguments are those of `_SubLayer`: dim, num_heads, qkv_bias, drop_path, eps, impl.
    """

    def forward(self, z_BMSC: Tensor, attend_to: Tensor | None = None) -> Tensor:
        """Attend among all rows of each region.

        Args:
            z_BMSC: [B, M, S, C].
            attend_to: [M, S] or [B, M, S] bool, False for padding, to which nothing attends (see `region_mask`).

        Raises:
            InputError: a shape does not fit, or `impl` cannot run.
        """
        check_stream(z_BMSC, self.dim, attend_to)
        return self._attend(z_BMSC, 2, mask=attend_to)


class InterRegionAttention(_SubLayer):
    """Global inter-region self-attention (equation 3): s += MHSA(LN(s)) among a clip's M representative tokens.

    Stochastic depth drops clips. Arguments are those of `_SubLayer`: dim, num_heads, qkv_bias, drop_path, eps, impl.
    """

    def forward(self, z_BMSC: Tensor) -> Tensor:
        """Update row 0 of each region of [B, M, S, C]; local tokens stay as they are.

        Raises:
            InputError: the shape does not fit, or `impl` cannot run.
        """
        check_stream(z_BMSC, self.dim)
        return torch.cat([self._attend(z_BMSC[:, :, 0], 1).unsqueeze(2), z_BMSC[:, :, 1:]], dim=2)


class LocalGlobalAttention(_SubLayer):
    """Local-global interaction (equations 4 and 5): x += MHCA(q = LN(x), kv = LN(s)).

    Every local token of a clip attends to all its representative tokens. Where that takes fewer multiply-adds
    (H * M < C + M) the projections are folded into keys and values. Stochastic depth drops clips. Arguments are those
    of `_SubLayer`: dim, num_heads, qkv_bias, drop_path, eps, impl.
    """

    _attends_to_another = True

    def forward(self, z_BMSC: Tensor) -> Tensor:
        """Update the local tokens of [B, M, S, C]; representative tokens stay as they are.

        Raises:
            InputError: the shape does not fit, or `impl` cannot run.
        """
        check_stream(z_BMSC, self.dim)
        s_BMC, attention = z_BMSC[:, :, 0], self.attention
        if not is_untouched(self):
            x_BKC = self._attend(z_BMSC[:, :, 1:].flatten(1, 2), 1, s_BMC)
            return torch.cat([s_BMC.unsqueeze(2), x_BKC.unflatten(1, z_BMSC[:, :, 1:].shape[1:3])], dim=2)
        context = apply_norm(s_BMC, self.context_norm, self.impl)
        query, kv_BMC, kv_bias = interaction_inputs(attention, context, z_BMSC, self.impl)
        z_BMSC, _ = functional.local_global_interaction(
            z_BMSC,
            s_BMC,
            kv_BMC,
            norm=weights(self.norm),
            query=query,
            output=weights(attention.proj),
            # The operation ends with the LayerNorm of what follows, of which nothing is known here.
            next_norm=weights(self.norm),
            num_heads=attention.num_heads,
            eps=self.norm.eps,
            keep=self._keep(z_BMSC, 1),
            kv_bias=kv_bias,
            impl=self.impl,
        )
        return z_BMSC


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
    check_tensor(x, "x")
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
    check_counts("grid", grid)
    grid = tuple(grid)
    region_size = _check_region(grid, region_size)
    regions = [math.ceil(size / part) for size, part in zip(grid, region_size, strict=True)]
    count, tokens = math.prod(regions), math.prod(region_size)
    if x_BMNC.dim() != 4 or tuple(x_BMNC.shape[1:3]) != (count, tokens):
        raise InputError(
            f"a grid of {grid} in regions of {region_size} is [B, {count}, {tokens}, C], got "
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
    """Which rows of a stream are tokens, for layers that take `attend_to`.

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
    check_counts("grid", grid)
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
        expected = [x_BMNC.shape[1], x_BMNC.shape[-1]]
        raise InputError(f"one representative token for each region is {expected}, got {list(tokens_MC.shape)}")
    tokens = tokens_MC.to(x_BMNC.dtype)[None, :, None].expand(x_BMNC.shape[0], -1, -1, -1)
    return torch.cat([tokens, x_BMNC], dim=2)


def _check_region(grid: tuple[int, ...], region_size: Sequence[int]) -> tuple[int, ...]:
    check_counts("region_size", region_size)
    region_size = tuple(region_size)
    if len(grid) != len(region_size):
        raise InputError(f"region_size {region_size} must have one number for each dimension of the grid {grid}")
    if not grid or min(grid) < 1:
        raise InputError(f"grid {grid} must be positive")
    return region_size
