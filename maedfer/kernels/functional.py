"""The operations of LGI-Former on plain tensors, by the implementation of choice.

Every function takes impl="auto" | "reference" | "torch" | "triton" | "cuda" (see _dispatch.py) and raises InputError,
with the reasons, where "triton" or "cuda" was chosen and cannot run. Under autocast, products and the results of
LayerNorms are in autocast's dtype; statistics and sums are float32 everywhere.

What follows the tensors is given by name; a linear layer and a LayerNorm are each a pair (weight, bias).

Shapes: B clips, M regions, S rows a region (row 0 the representative token), H heads, C channels, F hidden channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from maedfer.errors import InputError, require, unknown
from maedfer.kernels import native, native_attention, plain, reference
from maedfer.kernels._dispatch import Impl, resolve
from maedfer.kernels.folding import fold, folds
from maedfer.kernels.reference import Linear, Norm

FULL_ATTENTION = ("sdpa", "xformers")


def region_attention(qkv: Tensor, *, num_heads: int, mask: Tensor | None = None, impl: Impl = "auto") -> Tensor:
    """Self-attention within each region (equation 2 of the paper), read in place from the packed product.

    Args:
        qkv: [..., S, 3C] queries, keys and values side by side; any strides.
        num_heads: H, which divides C.
        mask: [..., S] bool, broadcast over the leading dimensions: True for rows that may be attended to; at least
            one of each region.
        impl: the implementation; with a mask, "triton" and "cuda" cannot run.

    Returns:
        [..., S, C], the heads side by side.
    """
    qkv = product_operand(qkv)
    head_dim = qkv.shape[-1] // (3 * num_heads)
    chosen = resolve(
        impl,
        qkv,
        lambda: _attention_reasons(qkv.shape[-2], head_dim, qkv.device, mask),
        lambda: native_attention.attention_reasons(qkv, num_heads, mask),
    )
    if chosen == "cuda":
        return native_attention.RegionAttention.apply(qkv, num_heads)
    if chosen == "triton":
        from maedfer.kernels.region_attention import RegionAttention

        return RegionAttention.apply(qkv, num_heads)
    if chosen == "torch":
        return plain.region_attention(qkv, num_heads, mask)
    queries, keys, values = qkv.chunk(3, dim=-1)
    return reference.attention(queries, keys, values, num_heads=num_heads, mask=mask)


def cross_attention(
    q: Tensor, kv: Tensor, *, num_heads: int, mask: Tensor | None = None, impl: Impl = "auto"
) -> Tensor:
    """Attention of rows to other rows of the same group.

    Args:
        q: [..., NQ, C] queries.
        kv: [..., NK, 2C] keys and values side by side.
        num_heads: H, which divides C.
        mask: [..., NK] bool, broadcast over the leading dimensions: True for keys that may be attended to; at least
            one of each group.
        impl: the implementation; with a mask, "triton" cannot run.

    Returns:
        [..., NQ, C].
    """
    q, kv = product_operand(q), product_operand(kv)
    chosen = resolve(impl, q, lambda: _attention_reasons(kv.shape[-2], q.shape[-1] // num_heads, q.device, mask))
    if chosen == "triton":
        from maedfer.kernels.region_attention import CrossAttention

        return CrossAttention.apply(q, kv, num_heads)
    if chosen == "torch":
        return plain.cross_attention(q, kv, num_heads, mask)
    keys, values = kv.chunk(2, dim=-1)
    return reference.attention(q, keys, values, num_heads=num_heads, mask=mask)


def full_attention(qkv: Tensor, *, num_heads: int, backend: str = "sdpa") -> Tensor:
    """Self-attention over all tokens of a clip, for the decoder and the ViT: work for a library.

    Args:
        qkv: [..., K, 3C] queries, keys and values side by side.
        num_heads: H, which divides C.
        backend: "sdpa" for PyTorch's scaled_dot_product_attention, "xformers" for memory_efficient_attention.

    Returns:
        [..., K, C].

    Raises:
        InputError: unknown backend.
        MissingDependencyError: xformers was chosen and is not installed.
    """
    if backend == "sdpa":
        return plain.region_attention(qkv, num_heads)
    if backend != "xformers":
        raise unknown("attention backend", backend, FULL_ATTENTION)
    xops = require("xformers.ops", "xformers")
    parts = qkv.unflatten(-1, (3, num_heads, -1)).flatten(0, -5)  # [G, K, 3, H, D]
    return xops.memory_efficient_attention(*parts.unbind(2)).reshape(*qkv.shape[:-1], -1)


def linear(x: Tensor, linear: Linear, *, impl: Impl = "auto") -> Tensor:
    """x weight^T + bias: a library's product everywhere, oneDNN's for float32 on a CPU unless impl="reference".

    Args:
        x: [..., F].
        linear: [C, F] and [C], or None for the second.
        impl: the implementation.

    Returns:
        [..., C].
    """
    return plain.linear(x, *linear) if resolve(impl, x) == "torch" else F.linear(x, *linear)


def layer_norm(x: Tensor, norm: Norm, *, eps: float, impl: Impl = "auto") -> Tensor:
    """LayerNorm over the last dimension.

    Args:
        x: [..., C]; rows may be strided, a subset of the stream is read in place.
        norm: [C] and [C].
        eps: added to the variance.
        impl: the implementation.

    Returns:
        [..., C].
    """
    if _resolve_rows(impl, x) == "triton":
        from maedfer.kernels.layer_norm import LayerNorm

        return LayerNorm.apply(x, *norm, eps, _product_dtype(x))
    return reference.layer_norm(x, norm, eps=eps)


def linear_residual(
    x: Tensor, linear: Linear, residual: Tensor, *, keep: Tensor | None = None, impl: Impl = "auto"
) -> Tensor:
    """The end of a sub-layer: residual + keep * (x weight^T + bias).

    Args:
        x: [..., F] the input of the sub-layer's last product.
        linear: [C, F] and [C], that product.
        residual: [..., C] the stream.
        keep: stochastic depth's factors over the leading dimensions, [B] or [B, M], or None.
        impl: the implementation.

    Returns:
        [..., C].
    """
    chosen = _resolve_rows(impl, residual)
    weight, bias = linear
    if chosen == "triton":
        from maedfer.kernels.layer_norm import ResidualAdd

        return ResidualAdd.apply(residual, F.linear(x, weight), bias, keep)
    if chosen == "torch":
        return plain.linear_residual(x, weight, bias, residual, keep)
    return reference.residual_add(residual, F.linear(x, weight), bias=bias, keep=keep)


def linear_residual_layer_norm(
    x: Tensor,
    linear: Linear,
    residual: Tensor,
    norm: Norm,
    *,
    eps: float,
    keep: Tensor | None = None,
    impl: Impl = "auto",
) -> tuple[Tensor, Tensor]:
    """`linear_residual` and the LayerNorm that begins the next sub-layer: the stream and its norm, [..., C] each."""
    chosen = _resolve_rows(impl, residual)
    weight, bias = linear
    if chosen == "triton":
        from maedfer.kernels.layer_norm import ResidualLayerNorm

        return ResidualLayerNorm.apply(residual, F.linear(x, weight), bias, keep, *norm, eps, _product_dtype(residual))
    if chosen == "torch":
        z = plain.linear_residual(x, weight, bias, residual, keep)
        return z, plain.layer_norm(z, *norm, eps)
    return reference.residual_layer_norm(residual, F.linear(x, weight), norm, eps=eps, bias=bias, keep=keep)


def linear_residual_layer_norm_representative(
    x: Tensor,
    linear: Linear,
    residual: Tensor,
    norm: Norm,
    *,
    eps: float,
    keep: Tensor | None = None,
    impl: Impl = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """`linear_residual` on [B, M, S, C], and the LayerNorm of the representative tokens alone.

    Returns:
        The stream [B, M, S, C], its representative tokens [B, M, C], and those normed [B, M, C].
    """
    chosen = _resolve_rows(impl, residual)
    weight, bias = linear
    if chosen == "triton":
        from maedfer.kernels.layer_norm import ResidualLayerNormRepresentative

        after = *norm, eps, _product_dtype(residual)
        return ResidualLayerNormRepresentative.apply(residual, F.linear(x, weight), bias, keep, *after)
    if chosen == "torch":
        z = plain.linear_residual(x, weight, bias, residual, keep)
        s = z[:, :, 0]
        return z, s, plain.layer_norm(s, *norm, eps)
    branch = F.linear(x, weight)
    return reference.residual_layer_norm_representative(residual, branch, norm, eps=eps, bias=bias, keep=keep)


def linear_gelu(x: Tensor, linear: Linear, *, impl: Impl = "auto") -> Tensor:
    """GELU(x weight^T + bias) with the exact (erf) GELU.

    Args:
        x: [..., C].
        linear: [F, C] and [F].
        impl: the implementation.

    Returns:
        [..., F].
    """
    chosen = resolve(impl, x)
    weight, bias = linear
    if chosen == "triton":
        from maedfer.kernels.gelu import BiasGelu

        return BiasGelu.apply(F.linear(x, weight), bias)
    if chosen == "torch":
        return plain.linear_gelu(x, weight, bias)
    return reference.bias_gelu(F.linear(x, weight), bias)


def local_global_interaction(
    z: Tensor,
    s: Tensor,
    kv: Tensor,
    *,
    norm: Norm,
    query: Linear,
    output: Linear,
    next_norm: Norm,
    num_heads: int,
    eps: float,
    keep: Tensor | None = None,
    impl: Impl = "auto",
) -> tuple[Tensor, Tensor]:
    """Local-global interaction (equations 4 and 5) with its residual and the LayerNorm that follows.

    Arguments and results are those of `reference.local_global_interaction`. "torch" and "triton" fold the projections
    into keys and values where that takes fewer multiply-adds (H * M < C + M).
    """
    _, regions, rows, dim = z.shape
    folded = folds(num_heads, regions, dim)

    def triton_reasons() -> list[str]:
        return _interaction_reasons(folded, regions, dim, num_heads, z.device)

    def compiled_reasons() -> list[str]:
        # The backward pass is Triton's.
        return native_attention.interaction_reasons(z, num_heads, _product_dtype(z)) or triton_reasons()

    chosen = resolve(impl, z, triton_reasons, compiled_reasons if folded else None)
    if chosen == "reference":
        return reference.local_global_interaction(
            z,
            s,
            kv,
            norm=norm,
            query=query,
            output=output,
            next_norm=next_norm,
            num_heads=num_heads,
            eps=eps,
            keep=keep,
        )
    attention = (*norm, *query, *output, keep)
    if chosen == "torch":
        z = plain.local_global_interaction(z, s, kv, *attention, num_heads, eps)
        return z, plain.layer_norm(z, *next_norm, eps)
    if folded:
        from maedfer.kernels.local_global_interaction import FoldedInteraction

        matrices = fold(kv, *attention, num_heads)
        forward = "native_interaction_fwd" if chosen == "cuda" else "interaction_fwd"
        return FoldedInteraction.apply(z, s, *matrices, *next_norm, eps, _product_dtype(z), forward)
    x = z[:, :, 1:]
    q = F.linear(layer_norm(x, norm, eps=eps, impl=impl).flatten(1, 2), *query)
    heads = cross_attention(q, kv, num_heads=num_heads, impl=impl).unflatten(1, (regions, rows - 1))
    z = torch.cat([s.unsqueeze(2), linear_residual(heads, output, x, keep=keep, impl=impl)], dim=2)
    return z, layer_norm(z, next_norm, eps=eps, impl=impl)


def tubelets(
    frames: Tensor,
    index: Tensor,
    *,
    patch_size: tuple[int, ...],
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype = torch.float32,
    impl: Impl = "auto",
) -> Tensor:
    """Normalised cubes of the wanted tokens, ready for the embedding's product; no other bytes are read.

    Args:
        frames: [B, I, *size] uint8; any strides.
        index: [B, n] or [n] int64 token numbers, row-major over the grid.
        patch_size: of a cube.
        mean: of each channel, in [0, 1].
        std: of each channel.
        dtype: of the result; autocast's where it is on.
        impl: the implementation.

    Returns:
        [B, n, I * prod(patch_size)].
    """
    kind = frames.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else dtype
    example = torch.empty(0, dtype=dtype, device=frames.device)
    chosen = resolve(impl, example, compiled=lambda: native.reasons(example, patch_size, frames))
    if chosen == "reference":
        return reference.tubelets(frames, index, patch_size=patch_size, mean=mean, std=std).to(dtype)
    if chosen == "cuda":
        return native.tubelets(frames, index, patch_size, mean, std, dtype)
    return plain.tubelets(frames, index, patch_size, mean, std, dtype)


def masked_appearance_motion_loss(
    prediction: Tensor,
    frames: Tensor,
    index: Tensor,
    *,
    patch_size: tuple[int, ...],
    motion: bool = True,
    normalize: bool = True,
    impl: Impl = "auto",
) -> tuple[Tensor, Tensor]:
    """Mean squared errors of first frames (appearance) and of the others (motion), straight from frames (section 3.3).

    Args:
        prediction: [B, n, P * I], the decoder's output for the tokens in `index`.
        frames: [B, I, T, H, W] un-normalised clip, uint8, or float in [0, 1]; any strides.
        index: [B, n] int64 token numbers, row-major over (t, h, w).
        patch_size: (t, h, w) of a cube.
        motion: see `reference.reconstruction_target`.
        normalize: see `reference.reconstruction_target`.
        impl: the implementation; all but "reference" make value and gradient in one pass and store no target.

    Returns:
        Two float32 scalars.

    Raises:
        InputError: the prediction's shape does not fit.
    """
    values = patch_size[0] * patch_size[1] * patch_size[2] * frames.shape[1]
    if prediction.shape != (*index.shape, values):
        raise InputError(
            f"prediction must be [B, n, {values}] for token numbers {list(index.shape)}, got {list(prediction.shape)}"
        )
    chosen = resolve(
        impl,
        prediction,
        lambda: _loss_reasons(tuple(patch_size), frames.shape[1]),
        lambda: native.reasons(prediction, patch_size, frames, loss=True),
    )
    if chosen == "reference":
        return reference.masked_appearance_motion_loss(
            prediction, frames, index, patch_size=patch_size, motion=motion, normalize=normalize
        )
    if chosen == "torch":
        return plain.masked_appearance_motion_loss(prediction, frames, index, tuple(patch_size), motion, normalize)
    if chosen == "cuda":
        return native.MaskedAppearanceMotionLoss.apply(prediction, frames, index, tuple(patch_size), motion, normalize)
    from maedfer.kernels.reconstruction_loss import MaskedAppearanceMotionLoss

    return MaskedAppearanceMotionLoss.apply(prediction, frames, index, tuple(patch_size), motion, normalize)


def _attention_reasons(keys: int, head_dim: int, device: torch.device, mask: Tensor | None = None) -> list[str]:
    from maedfer.kernels.region_attention import not_supported_reasons

    masked = [] if mask is None else ["a mask over keys (the kernels attend to all rows of a group)"]
    return masked + not_supported_reasons(keys, head_dim, device)


def _row_reasons(dim: int) -> list[str]:
    from maedfer.kernels.layer_norm import not_supported_reasons

    return not_supported_reasons(dim)


def _interaction_reasons(folded: bool, regions: int, dim: int, num_heads: int, device: torch.device) -> list[str]:
    if not folded:
        return _row_reasons(dim) + _attention_reasons(regions, dim // num_heads, device)
    from maedfer.kernels.local_global_interaction import not_supported_reasons

    return not_supported_reasons(regions, dim)


def _loss_reasons(patch_size: tuple[int, ...], channels: int) -> list[str]:
    from maedfer.kernels.reconstruction_loss import not_supported_reasons

    return not_supported_reasons(patch_size, channels)


def _resolve_rows(impl: Impl, x: Tensor) -> str:
    return resolve(impl, x, lambda: _row_reasons(x.shape[-1]))


def _product_dtype(x: Tensor) -> torch.dtype:
    """What a product of x is computed in: autocast's dtype where it is on, else that of x."""
    kind = x.device.type
    enabled = torch.is_autocast_enabled(kind) and x.dtype != torch.float64
    return torch.get_autocast_dtype(kind) if enabled else x.dtype


def product_operand(x: Tensor) -> Tensor:
    """x in the dtype that its products are computed in: autocast's where it is on."""
    return x.to(_product_dtype(x))
