"""What sub-layers begin and end with, and its gradients, by the operators of schema.py."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from maedfer.kernels._operators import operator
from maedfer.kernels._products import multiplied, parameter_gradients

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
    """Keep what `gradient_dtypes` and `gradients` need besides tensors, where any input has a gradient."""
    if not any(ctx.needs_input_grad):
        return
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


class LinearResidual(torch.autograd.Function):
    """residual + keep * (x weight^T + bias): [..., C]."""

    @staticmethod
    def forward(
        ctx: Any, residual: Tensor, x: Tensor, bias: Tensor | None, keep: Tensor | None, weight: Tensor
    ) -> Tensor:
        """Keeps the factors, and of the product what the wanted gradients need."""
        remember(ctx, 0.0, residual, x, bias, None, weight)
        ctx.save_for_backward(keep, *_kept(ctx, 4, x, weight))
        return operator("linear_residual_fwd")(x, weight, bias, keep, residual)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dz: Tensor | None) -> tuple[Tensor | None, ...]:
        """The gradient itself for the residual; its product with the factors for the product's gradients."""
        keep, x, weight = ctx.saved_tensors
        residual, of_x, of_bias, _, of_weight = gradient_dtypes(ctx)
        dtypes = residual, ctx.branch, of_bias, None, None
        dresidual, dbranch, dbias, *_ = gradients(ctx, dz, None, None, None, None, keep, dtypes)
        dx, dweight = product_gradients(dbranch, x, weight, of_x, of_weight)
        return dresidual, dx, dbias, None, dweight


class LinearResidualLayerNorm(torch.autograd.Function):
    """z = residual + keep * (x weight^T + bias) and n = LayerNorm(z): (z, n), [..., C] each, n in `dtype`."""

    @staticmethod
    def forward(
        ctx: Any,
        residual: Tensor,
        x: Tensor,
        bias: Tensor | None,
        keep: Tensor | None,
        norm_weight: Tensor,
        norm_bias: Tensor,
        weight: Tensor,
        eps: float,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        """Keeps the stream, the norm's weight, the factors, and of the product what the wanted gradients need."""
        remember(ctx, eps, residual, x, bias, None, norm_weight, norm_bias, weight)
        z = operator("linear_residual_fwd")(x, weight, bias, keep, residual)
        n = operator("layer_norm_fwd")(z, norm_weight, norm_bias, eps, dtype)
        ctx.save_for_backward(z, norm_weight, keep, *_kept(ctx, 6, x, weight))
        return z, n

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dz: Tensor | None, dn: Tensor | None) -> tuple[Tensor | None, ...]:
        """One pass for what z and n were used for, and the product's two products."""
        return *_through_norm(ctx, dz, None, dn), None, None


class LinearResidualLayerNormRepresentative(torch.autograd.Function):
    """z = residual + keep * (x weight^T + bias) [B, M, S, C], its rows 0 of each region s [B, M, C], and LayerNorm(s).

    The product takes `low`, the weight in the dtype of x; the gradient is that of the weight.
    """

    @staticmethod
    def forward(
        ctx: Any,
        residual: Tensor,
        x: Tensor,
        bias: Tensor | None,
        keep: Tensor | None,
        norm_weight: Tensor,
        norm_bias: Tensor,
        weight: Tensor,
        low: Tensor,
        eps: float,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Keeps the stream, the norm's weight, the factors, and of the product what the wanted gradients need."""
        remember(ctx, eps, residual, x, bias, None, norm_weight, norm_bias, weight)
        z = operator("linear_residual_fwd")(x, low, bias, keep, residual)
        s, n = operator("layer_norm_representative_fwd")(z, norm_weight, norm_bias, eps, dtype)
        ctx.save_for_backward(z, norm_weight, keep, *_kept(ctx, 6, x, low))
        return z, s, n

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dz: Tensor | None, ds: Tensor | None, dn: Tensor | None) -> tuple[Tensor | None, ...]:
        """One pass for what z, s and n were used for, and the product's two products."""
        return *_through_norm(ctx, dz, ds, dn, representative=True), None, None, None


def _kept(ctx: Any, number: int, x: Tensor, weight: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """What the gradients of a product need: x where input `number`, the weight, has one, and the weight where x has."""
    wants_x, wants_weight = ctx.needs_input_grad[1], ctx.needs_input_grad[number]
    ctx.branch = x.dtype if wants_x or wants_weight else None
    return x if wants_weight else None, weight if wants_x else None


def _through_norm(
    ctx: Any, dz: Tensor | None, ds: Tensor | None, dn: Tensor | None, representative: bool = False
) -> tuple[Tensor | None, ...]:
    z, norm_weight, keep, x, low = ctx.saved_tensors
    residual, of_x, of_bias, _, of_norm_weight, of_norm_bias, of_weight = gradient_dtypes(ctx)
    dtypes = residual, ctx.branch, of_bias, of_norm_weight, of_norm_bias
    dresidual, dbranch, dbias, *dnorm = gradients(ctx, dz, ds, dn, z, norm_weight, keep, dtypes, representative)
    dx, dweight = product_gradients(dbranch, x, low, of_x, of_weight)
    return dresidual, dx, dbias, None, *dnorm, dweight


def product_gradients(
    dout: Tensor | None,
    x: Tensor | None,
    low: Tensor | None,
    of_x: torch.dtype | None,
    of_weight: torch.dtype | None,
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of a product x low^T for x and the weight; None for what has no dtype."""
    if dout is None:
        return None, None
    dx = multiplied(dout, low.t()) if of_x and low is not None else None
    return dx, parameter_gradients(dout, x, of_weight, None)[0]


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
