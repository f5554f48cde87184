"""Launching what kernels.py computes, and gradients; formula and shapes are there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from maedfer.kernels._configs import Config, config, shared_limit
from maedfer.kernels._launch import accumulator, dot_precision, launch, power_of_two
from maedfer.kernels._operators import implements, operator
from maedfer.kernels.interaction.folding import KEYS_AT_ONCE, key_layout
from maedfer.kernels.interaction.kernels import (
    interaction_bwd_keys_kernel,
    interaction_bwd_rows_kernel,
    interaction_fwd_kernel,
)

_MOST_CHANNELS = 1024


def not_supported_reasons(regions: int, dim: int) -> list[str]:
    """Why the folded kernels cannot run `regions` keys at this width; empty when they can."""
    reasons = []
    if regions > KEYS_AT_ONCE:
        reasons.append(f"{regions} regions (the folded kernels take up to {KEYS_AT_ONCE})")
    if dim > _MOST_CHANNELS:
        reasons.append(f"{dim} channels (the folded kernels take up to {_MOST_CHANNELS})")
    return reasons


def _programs(batch: int, rows: int, block: int) -> tuple[int, int]:
    """Tiles of `block` rows a program goes over, and programs a clip: enough of them to fill a GPU four times."""
    tiles = -(-rows // block)
    each = max(1, min(tiles, batch * tiles // 512))
    return each, -(-tiles // each)


def _default(values: Tensor, heads: int, keys: int, block_c: int, rows: tuple[int, int]) -> Config:
    """Rows for narrow and for wide values; all heads of a group at once, or as few as a product can.

    Columns are in the order of heads and keys, so that each kernel may take as many heads at once as suits it.
    """
    wide = values.element_size() > 2
    # A and V of all heads stay in shared memory while a program goes over its tiles, where they leave room for those.
    resident = 2 * heads * keys * block_c * values.element_size() <= 0.6 * shared_limit(values.device)
    if wide or not resident:
        return Config({"BLOCK": rows[wide], "HB": max(1, 16 // keys)}, 8, 2)
    return Config({"BLOCK": rows[0], "HB": heads}, 8, 1)


@implements("interaction_fwd")
def interaction_fwd(
    z: Tensor,
    s: Tensor,
    matrix: Tensor,
    offset: Tensor,
    values: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    dtype: torch.dtype,
    keep_p: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, regions, rows, dim = z.shape
    heads = matrix.shape[1]
    groups, together, keys = key_layout(heads, regions)
    y = z.new_empty(z.shape)
    n = z.new_empty(z.shape, dtype=dtype)
    p = z.new_empty((batch, regions * rows, groups * together * keys) if keep_p else (0,), dtype=values.dtype)
    block_c = power_of_two(dim, 16)
    default = _default(values, together, keys, block_c, (32 if block_c <= 512 else 16, 8))
    chosen = config("interaction_fwd", (together * keys, block_c, values.element_size()), default, z.device)
    tiles, programs = _programs(batch, regions * rows, chosen.tiles["BLOCK"])
    launch(
        interaction_fwd_kernel, (batch * programs,),
        z, s, matrix, offset, values, weight, bias, y, n, p,
        *z.stride()[:3], *s.stride()[:2], *matrix.stride()[:3], *offset.stride(), *values.stride()[:3],
        eps, tiles, programs,
        config=chosen, M=regions, S=rows, HEADS=heads, C=dim, KEEP_P=keep_p, MP=keys,
        GROUPS=groups * together // chosen.tiles["HB"], BLOCK_C=block_c,
        ACC=accumulator(z.dtype), PRECISION=dot_precision(values.dtype),
    )  # fmt: skip
    return y, n, p


@implements("interaction_bwd")
def interaction_bwd(
    dy: Tensor,
    dn: Tensor,
    z: Tensor,
    s: Tensor,
    matrix: Tensor,
    offset: Tensor,
    values: Tensor,
    p: Tensor,
    weight: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    batch, regions, rows, dim = z.shape
    heads = matrix.shape[1]
    groups, together, keys = key_layout(heads, regions)
    exact = torch.float64 if z.dtype == torch.float64 else torch.float32
    dz, ds, total = z.new_empty(z.shape), s.new_empty(s.shape), values.new_empty((batch, regions * rows, dim))
    dscore, stats = p.new_empty(p.shape), z.new_empty((batch, regions * rows, 2), dtype=exact)
    block_c, size = power_of_two(dim, 16), values.element_size()
    common: dict[str, Any] = {"M": regions, "S": rows, "HEADS": heads, "C": dim, "MP": keys}
    common |= {"ACC": accumulator(z.dtype), "PRECISION": dot_precision(values.dtype)}
    default = _default(values, together, keys, block_c, (16, 8))
    default = default.with_tiles(PARTS=1 if default.num_stages == 1 else 2)
    chosen = config("interaction_bwd_rows", (together * keys, block_c, size), default, z.device)
    tiles, programs = _programs(batch, regions * rows, chosen.tiles["BLOCK"])
    partial = z.new_empty((batch * programs * tiles, 2, dim), dtype=exact)
    # Where registers or shared memory do not suffice for all of it at once, it is done in two parts.
    parts = (1, 2) if chosen.tiles["PARTS"] == 2 else (0,)
    for part in parts:
        launch(
            interaction_bwd_rows_kernel, (batch * programs,),
            z, s, matrix, values, p, weight, dy, dn, dz, ds, total, dscore, stats, partial,
            *z.stride()[:3], *s.stride()[:2], *matrix.stride()[:3], *values.stride()[:3], *dy.stride()[:3],
            *dn.stride()[:3], eps, tiles, programs,
            config=chosen, BLOCK_C=block_c, GROUPS=groups * together // chosen.tiles["HB"], PART=part,
            **common,
        )  # fmt: skip
    dmatrix, dvalues = (x.new_empty((heads, batch, regions, dim)).transpose(0, 1) for x in (matrix, values))
    doffset = offset.new_empty((batch, heads, regions))
    wide = Config({"BLOCK": 32, "BLOCK_COL": min(block_c, 64)}, 8, 1)
    default = wide if size > 2 else Config({"BLOCK": 64, "BLOCK_COL": min(block_c, 128)}, 8, 2)
    chosen = config("interaction_bwd_keys", (together * keys, block_c, size), default, z.device)
    columns = -(-dim // chosen.tiles["BLOCK_COL"])
    launch(
        interaction_bwd_keys_kernel, (batch * groups * columns,),
        z, p, dscore, total, stats, dmatrix, doffset, dvalues,
        *z.stride()[:3], *dmatrix.stride()[:2],
        config=chosen, COLUMNS=columns, GROUPS=groups, HB=together, **common,
    )  # fmt: skip
    return dz, ds, dmatrix, doffset, dvalues, partial.sum(0)


class FoldedInteraction(torch.autograd.Function):
    """(y, LN(y)) [B, M, S, C] from z [B, M, S, C], s [B, M, C], A and V [B, H, M, C] and a [B, H, M]."""

    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        s: Tensor,
        matrix: Tensor,
        offset: Tensor,
        values: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        dtype: torch.dtype,
        forward_operator: str = "interaction_fwd",
    ) -> tuple[Tensor, Tensor]:
        """Keeps its inputs and the probabilities."""
        z, s = _addressable(z), _addressable(s)
        keep_p = any(ctx.needs_input_grad)
        y, n, p = operator(forward_operator)(z, s, matrix, offset, values, weight, bias, eps, dtype, keep_p)
        ctx.save_for_backward(z, s, matrix, offset, values, p, weight)
        ctx.eps, ctx.bias_dtype = eps, bias.dtype
        return y, n

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dn: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of everything but the constants."""
        z, s, matrix, offset, values, p, weight = ctx.saved_tensors
        *gradients, sums = operator("interaction_bwd")(
            _addressable(dy), _addressable(dn), z, s, matrix, offset, values, p, weight, ctx.eps
        )
        return *gradients, sums[0].to(weight.dtype), sums[1].to(ctx.bias_dtype), None, None, None


def _addressable(x: Tensor) -> Tensor:
    """Copied only if its channels are not adjacent, or a clip is spread over more than 32 bits can address."""
    reach = sum((size - 1) * stride for size, stride in zip(x.shape[1:], x.stride()[1:], strict=True))
    return x if x.stride(-1) == 1 and reach < 2**31 else x.contiguous()
