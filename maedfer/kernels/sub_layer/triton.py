"""Launching what layer_norm_kernels.py and gelu_kernels.py compute, and gradients; formulas and shapes are there."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from maedfer.kernels._configs import Config, config
from maedfer.kernels._launch import accumulator, contiguous, launch, power_of_two, rows_of
from maedfer.kernels._operators import implements, operator
from maedfer.kernels.sub_layer.gelu_kernels import bias_gelu_bwd_kernel, bias_gelu_fwd_kernel
from maedfer.kernels.sub_layer.layer_norm_kernels import layer_norm_bwd_kernel, layer_norm_fwd_kernel

MOST_CHANNELS = 4096
# Numbers that one tile does hold where rows are shorter.
_TILE = 2048


def not_supported_reasons(dim: int) -> list[str]:
    """Why the kernels cannot normalise rows of `dim` channels; empty when they can."""
    if not 1 <= dim <= MOST_CHANNELS:
        return [f"{dim} channels (the kernels hold 1 to {MOST_CHANNELS})"]
    return []


@functools.cache
def resident_programs(device: torch.device) -> int:
    """Programs that share a loop over all rows: three a processor, as many as registers allow it to run at once."""
    return 3 * torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 384


def _forward(
    x: Tensor,
    branch: Tensor | None,
    branch_bias: Tensor | None,
    keep: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    z: Tensor | None,
    s: Tensor | None,
    n: Tensor | None,
    eps: float,
    every: int,
) -> None:
    """Write the contiguous z, s and n, those of them that are given; every `every`-th row is normed."""
    num_rows, rows, dim = x.shape[:-1].numel(), x.shape[-2], x.shape[-1]
    dtype = x.dtype if z is None else z.dtype
    chosen = config("layer_norm_fwd", (power_of_two(dim), dtype.itemsize), _default(dim), x.device)
    stream, *stream_strides = _rows(x)
    branch, *branch_strides = _rows(branch)
    launch(
        layer_norm_fwd_kernel,
        (-(-num_rows // chosen.tiles["ROWS"]),),
        stream, branch, *map(contiguous, (branch_bias, keep, weight, bias)), z, s, n,
        *stream_strides, *branch_strides, eps, rows, rows_a_factor(num_rows, keep), num_rows,
        config=chosen, C=dim, EVERY=every, BLOCK_C=power_of_two(dim), ACC=accumulator(dtype),
    )  # fmt: skip


def _default(dim: int) -> Config:
    return Config({"ROWS": max(1, _TILE // power_of_two(dim))}, 4 if dim <= _TILE else 8, 1)


def _rows(x: Tensor | None) -> tuple[Tensor | None, int, int]:
    """x [..., R, C] to be read as [G, R, C], and its strides of groups and rows."""
    if x is None:
        return None, 0, 0
    if x.is_contiguous():
        # As it is, without a view.
        rows, dim = x.shape[-2:]
        return x, rows * dim, dim
    x = rows_of(x)
    return x, x.stride(0), x.stride(1)


def rows_a_factor(num_rows: int, keep: Tensor | None) -> int:
    """How many rows have one factor of stochastic depth."""
    return 1 if keep is None else num_rows // max(1, keep.numel())


@implements("layer_norm_fwd")
def layer_norm_fwd(x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    n = x.new_empty(x.shape, dtype=dtype)
    _forward(x, None, None, None, weight, bias, None, None, n, eps, 1)
    return n


@implements("layer_norm_representative_fwd")
def layer_norm_representative_fwd(
    z: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    s = z.new_empty((*z.shape[:-2], z.shape[-1]))
    n = s.new_empty(s.shape, dtype=dtype)
    _forward(z[..., 0, :], None, None, None, weight, bias, None, s, n, eps, 1)
    return s, n


@implements("residual_add_fwd")
def residual_add_fwd(residual: Tensor, branch: Tensor, branch_bias: Tensor | None, keep: Tensor | None) -> Tensor:
    z = residual.new_empty(residual.shape, dtype=torch.promote_types(residual.dtype, branch.dtype))
    _forward(residual, branch, branch_bias, keep, None, None, z, None, None, 0.0, 1)
    return z


@implements("residual_layer_norm_fwd")
def residual_layer_norm_fwd(
    residual: Tensor,
    branch: Tensor,
    branch_bias: Tensor | None,
    keep: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    z = residual.new_empty(residual.shape, dtype=torch.promote_types(residual.dtype, branch.dtype))
    n = residual.new_empty(residual.shape, dtype=dtype)
    _forward(residual, branch, branch_bias, keep, weight, bias, z, None, n, eps, 1)
    return z, n


@implements("residual_layer_norm_representative_fwd")
def residual_layer_norm_representative_fwd(
    residual: Tensor,
    branch: Tensor,
    branch_bias: Tensor | None,
    keep: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    z = residual.new_empty(residual.shape, dtype=torch.promote_types(residual.dtype, branch.dtype))
    s = z.new_empty((*z.shape[:-2], z.shape[-1]))
    n = s.new_empty(s.shape, dtype=dtype)
    _forward(residual, branch, branch_bias, keep, weight, bias, z, s, n, eps, z.shape[-2])
    return z, s, n


@implements("residual_layer_norm_bwd")
def residual_layer_norm_bwd(
    dz: Tensor | None,
    ds: Tensor | None,
    dn: Tensor | None,
    z: Tensor | None,
    weight: Tensor | None,
    keep: Tensor | None,
    eps: float,
    representative: bool,
    residual_dtype: torch.dtype | None,
    branch_dtype: torch.dtype | None,
    branch_bias: bool,
    affine: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    stream = next(x for x in (z, dz) if x is not None)
    num_rows, dim = stream.shape[:-1].numel(), stream.shape[-1]
    dresidual, dbranch = (
        stream.new_empty(stream.shape if dtype else 0, dtype=dtype) for dtype in (residual_dtype, branch_dtype)
    )
    chosen = config("layer_norm_bwd", (power_of_two(dim), stream.element_size()), _default(dim), stream.device)
    blocks = -(-num_rows // chosen.tiles["ROWS"])
    programs = min(blocks, resident_programs(stream.device))
    exact = torch.float64 if stream.dtype == torch.float64 else torch.float32
    sums = stream.new_empty((branch_bias + 2 * affine, programs, dim), dtype=exact)
    rows, norm_rows = stream.shape[-2], stream.shape[-3 if representative else -2]
    read, group_strides, row_strides = zip(*map(_rows, (dz, ds, dn, z)), strict=True)
    launch(
        layer_norm_bwd_kernel,
        (programs,),
        *read, *map(contiguous, (weight, keep)),
        dresidual if residual_dtype else None, dbranch if branch_dtype else None, sums,
        *itertools.chain(*zip(group_strides, row_strides, strict=True)), eps,
        rows, norm_rows, rows_a_factor(num_rows, keep), num_rows, -(-blocks // max(1, programs)),
        config=chosen, C=dim, EVERY=rows if representative else 1, BRANCH_BIAS=branch_bias, AFFINE=affine,
        BLOCK_C=power_of_two(dim), ACC=accumulator(stream.dtype),
    )  # fmt: skip
    return dresidual, dbranch, sums.sum(1)


# What a gradient is cast to, of residual, branch, branch_bias, weight and bias; None where it is not wanted.
_Dtypes = tuple[torch.dtype | None, torch.dtype | None, torch.dtype | None, torch.dtype | None, torch.dtype | None]
_Gradients = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]


def gradients(
    ctx: Any,
    dz: Tensor | None,
    ds: Tensor | None,
    dn: Tensor | None,
    z: Tensor | None,
    weight: Tensor | None,
    keep: Tensor | None,
    dtypes: _Dtypes,
    representative: bool = False,
) -> _Gradients:
    """Gradients of residual (of a plain LayerNorm, its input), branch, branch_bias, weight and bias.

    Args:
        ctx: holds eps.
        dz: gradient of the stream, or None where nothing used it; likewise ds and dn.
        ds: gradient of the representative tokens.
        dn: gradient of the normed rows.
        z: what was normed; needed with dn only, like weight.
        weight: of the LayerNorm.
        keep: the factors of the branch.
        dtypes: of the gradients that are wanted.
        representative: s and n are of the first row of each region.
    """
    if dz is None and ds is None and dn is None:
        return None, None, None, None, None
    residual, branch, branch_bias = dtypes[:3]
    # A sum passes its gradient on, and where nothing tells its terms apart they share one tensor.
    passed = ds is None and dn is None
    shared = keep is None and (passed or branch == residual)
    written = None if passed else residual, None if shared else branch
    affine = dn is not None and any(dtypes[3:])
    dresidual = dbranch = dz
    sums: tuple[Tensor, ...] = ()
    if any(written) or branch_bias or affine:
        own, other, totals = operator("residual_layer_norm_bwd")(
            dz, ds, dn, z, weight, keep, ctx.eps, representative, *written, branch_bias is not None, affine
        )
        dresidual = dz if passed else own
        dbranch = dresidual if shared else other
        sums = totals.unbind(0)
    return (
        _cast(dresidual, residual),
        _cast(dbranch, branch),
        _cast(sums[0], branch_bias) if branch_bias else None,
        _cast(sums[-2], dtypes[3]) if affine else None,
        _cast(sums[-1], dtypes[4]) if affine else None,
    )


def _cast(x: Tensor | None, dtype: torch.dtype | None) -> Tensor | None:
    return None if x is None or dtype is None else x.to(dtype)


def remember(ctx: Any, eps: float, *inputs: Tensor | None) -> None:
    """Keep what `gradient_dtypes` and `gradients` need besides tensors."""
    ctx.eps = eps
    ctx.dtypes = tuple(None if x is None else x.dtype for x in inputs)
    # Zeros in place of a gradient that is not there would be read like any other. Dynamo knows no other way.
    if not torch.compiler.is_compiling():
        ctx.set_materialize_grads(False)


def gradient_dtypes(ctx: Any) -> list[torch.dtype | None]:
    """The dtype of each tensor that was an input, None for those that need no gradient."""
    return [dtype if needed else None for dtype, needed in zip(ctx.dtypes, ctx.needs_input_grad, strict=False)]


class LayerNorm(torch.autograd.Function):
    """LayerNorm of [..., C] in place, whatever the strides of its rows: contiguous [..., C] in `dtype`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        """Keeps the input and the weight."""
        remember(ctx, eps, x, weight, bias)
        ctx.save_for_backward(x, weight)
        return operator("layer_norm_fwd")(x, weight, bias, eps, dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dn: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of x, weight and bias."""
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = gradient_dtypes(ctx)
        dtypes = wants_x, None, None, wants_weight, wants_bias
        dx, _, _, dweight, dbias = gradients(ctx, None, None, dn, x, weight, None, dtypes)
        return dx, dweight, dbias, None, None


class ResidualAdd(torch.autograd.Function):
    """residual + keep * (branch + branch_bias): [..., C]."""

    @staticmethod
    def forward(ctx: Any, residual: Tensor, branch: Tensor, branch_bias: Tensor | None, keep: Tensor | None) -> Tensor:
        """Keeps the factors only."""
        remember(ctx, 0.0, residual, branch, branch_bias)
        ctx.save_for_backward(keep)
        return operator("residual_add_fwd")(residual, branch, branch_bias, keep)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dz: Tensor | None) -> tuple[Tensor | None, ...]:
        """The gradient itself for both terms, where there are no factors."""
        (keep,) = ctx.saved_tensors
        wants_residual, wants_branch, wants_bias = gradient_dtypes(ctx)
        dtypes = wants_residual, wants_branch, wants_bias, None, None
        return *gradients(ctx, dz, None, None, None, None, keep, dtypes)[:3], None


class ResidualLayerNorm(torch.autograd.Function):
    """z = residual + keep * (branch + branch_bias) and n = LayerNorm(z): (z, n), [..., C] each, n in `dtype`."""

    @staticmethod
    def forward(
        ctx: Any,
        residual: Tensor,
        branch: Tensor,
        branch_bias: Tensor | None,
        keep: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        """Keeps the stream, the weight and the factors."""
        remember(ctx, eps, residual, branch, branch_bias, None, weight, bias)
        z, n = operator("residual_layer_norm_fwd")(residual, branch, branch_bias, keep, weight, bias, eps, dtype)
        ctx.save_for_backward(z, weight, keep)
        return z, n

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dz: Tensor | None, dn: Tensor | None) -> tuple[Tensor | None, ...]:
        """One pass for what z and n were used for."""
        z, weight, keep = ctx.saved_tensors
        residual, branch, branch_bias, _, *affine = gradient_dtypes(ctx)
        dtypes = residual, branch, branch_bias, affine[0], affine[1]
        *summed, dweight, dbias = gradients(ctx, dz, None, dn, z, weight, keep, dtypes)
        return *summed, None, dweight, dbias, None, None


class ResidualLayerNormRepresentative(torch.autograd.Function):
    """The stream z [B, M, S, C], its rows 0 of each region s [B, M, C], and n = LayerNorm(s) [B, M, C] in `dtype`."""

    @staticmethod
    def forward(
        ctx: Any,
        residual: Tensor,
        branch: Tensor,
        branch_bias: Tensor | None,
        keep: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Keeps the stream, the weight and the factors."""
        remember(ctx, eps, residual, branch, branch_bias, None, weight, bias)
        z, s, n = operator("residual_layer_norm_representative_fwd")(
            residual, branch, branch_bias, keep, weight, bias, eps, dtype
        )
        ctx.save_for_backward(z, weight, keep)
        return z, s, n

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dz: Tensor | None, ds: Tensor | None, dn: Tensor | None) -> tuple[Tensor | None, ...]:
        """One pass for what z, s and n were used for."""
        z, weight, keep = ctx.saved_tensors
        residual, branch, branch_bias, _, *affine = gradient_dtypes(ctx)
        dtypes = residual, branch, branch_bias, affine[0], affine[1]
        *summed, dweight, dbias = gradients(ctx, dz, ds, dn, z, weight, keep, dtypes, representative=True)
        return *summed, None, dweight, dbias, None, None


# Numbers in a tile, and its widest row.
_GELU_TILE, _MOST_COLUMNS = 4096, 512


def _gelu_default(dim: int) -> Config:
    columns = min(power_of_two(dim), _MOST_COLUMNS)
    return Config({"ROWS": _GELU_TILE // columns, "COLS": columns}, 4, 1)


def _gelu_tiles(x: Tensor, chosen: Config) -> tuple[int, int]:
    """How many tiles cover the rows of x [..., F], and its columns."""
    return -(-x.shape[:-1].numel() // chosen.tiles["ROWS"]), -(-x.shape[-1] // chosen.tiles["COLS"])


@implements("bias_gelu_fwd")
def bias_gelu_fwd(x: Tensor, bias: Tensor | None) -> Tensor:
    dim = x.shape[-1]
    chosen = config("bias_gelu_fwd", (power_of_two(dim), x.element_size()), _gelu_default(dim), x.device)
    row_tiles, column_tiles = _gelu_tiles(x, chosen)
    out, rows = x.new_empty(x.shape), rows_of(x)
    launch(
        bias_gelu_fwd_kernel,
        (row_tiles * column_tiles,),
        rows, bias if bias is None else bias.contiguous(), out,
        rows.stride(0), rows.stride(1), rows.shape[1], x.shape[:-1].numel(),
        config=chosen, F=dim, ERF=x.element_size() > 2, ACC=accumulator(x.dtype),
    )  # fmt: skip
    return out


@implements("bias_gelu_bwd")
def bias_gelu_bwd(dout: Tensor, x: Tensor, bias: Tensor | None, want_x: bool, want_bias: bool) -> tuple[Tensor, Tensor]:
    dim = x.shape[-1]
    chosen = config("bias_gelu_bwd", (power_of_two(dim), x.element_size()), _gelu_default(dim), x.device)
    row_tiles, column_tiles = _gelu_tiles(x, chosen)
    row_programs = min(row_tiles, max(1, resident_programs(x.device) // column_tiles))
    exact = torch.float64 if x.dtype == torch.float64 else torch.float32
    dx = x.new_empty(x.shape if want_x else 0)
    sums = x.new_empty((row_programs, dim) if want_bias else (1, 0), dtype=exact)
    douts, rows = rows_of(dout), rows_of(x)
    launch(
        bias_gelu_bwd_kernel,
        (row_programs * column_tiles,),
        douts, rows, bias if bias is None else bias.contiguous(), dx if want_x else None, sums if want_bias else None,
        douts.stride(0), douts.stride(1), rows.stride(0), rows.stride(1), rows.shape[1], x.shape[:-1].numel(),
        -(-row_tiles // max(1, row_programs)),
        config=chosen, F=dim, ERF=x.element_size() > 2, ACC=accumulator(x.dtype),
    )  # fmt: skip
    return dx, sums.sum(0)


class BiasGelu(torch.autograd.Function):
    """GELU(x + bias): contiguous [..., F] in the dtype of x [..., F]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None) -> Tensor:
        """Keeps the inputs only."""
        ctx.save_for_backward(x, bias)
        return operator("bias_gelu_fwd")(x, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """One pass for x and bias."""
        x, bias = ctx.saved_tensors
        want_x, want_bias = ctx.needs_input_grad
        dx, dbias = operator("bias_gelu_bwd")(dout, x, bias, want_x, want_bias)
        return dx if want_x else None, dbias.to(bias.dtype) if want_bias else None
