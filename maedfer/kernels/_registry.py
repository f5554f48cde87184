"""Schemas of the operators and what they do to shapes; needs no Triton.

Each operator is one boundary for torch.compile, torch.export and CUDA graphs. Implementations are bound by the kernel
files when they are imported; gradients are autograd.Functions around the operators.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from maedfer.kernels.folding import key_layout

NAMESPACE = "maedfer"


def define(name: str, schema: str, fake: Callable[..., Any]) -> None:
    """Declare an operator and its fake implementation."""
    torch.library.define(f"{NAMESPACE}::{name}", schema)
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake)


def implements(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Bind a launcher as the operator's implementation (Triton's run on a CPU under its interpreter only)."""

    def bind(launcher: Callable[..., Any]) -> Callable[..., Any]:
        torch.library.impl(f"{NAMESPACE}::{name}", ("cuda", "cpu"), launcher)
        return launcher

    return bind


def operator(name: str) -> Any:
    """The callable operator."""
    return getattr(getattr(torch.ops, NAMESPACE), name).default


def like_queries(packed: torch.Tensor, num_heads: int) -> torch.Tensor:
    return packed.new_empty((*packed.shape[:-1], packed.shape[-1] // 3))


def _empty(x: torch.Tensor) -> torch.Tensor:
    return x.new_empty(x.shape)


# Names with "native" are csrc's, the others Triton's.
for _name in ("region_attention", "native_region_attention"):
    define(f"{_name}_fwd", "(Tensor qkv, int num_heads) -> Tensor", like_queries)
    define(f"{_name}_bwd", "(Tensor dout, Tensor qkv, int num_heads) -> Tensor", lambda dout, qkv, _: _empty(qkv))
define("cross_attention_fwd", "(Tensor q, Tensor kv, int num_heads) -> Tensor", lambda q, kv, _: _empty(q))
define(
    "cross_attention_bwd",
    "(Tensor dout, Tensor q, Tensor kv, int num_heads) -> (Tensor, Tensor)",
    lambda dout, q, kv, _: (_empty(q), _empty(kv)),
)


def interaction_fwd_fake(
    z: torch.Tensor,
    s: torch.Tensor,
    matrix: torch.Tensor,
    offset: torch.Tensor,
    values: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    dtype: torch.dtype,
    keep_p: bool,
) -> tuple[torch.Tensor, ...]:
    batch, regions, rows, _ = z.shape
    groups, together, keys = key_layout(matrix.shape[1], regions)
    kept = (batch, regions * rows, groups * together * keys) if keep_p else (0,)
    return _empty(z), z.new_empty(z.shape, dtype=dtype), values.new_empty(kept)


def _interaction_bwd(
    dy: torch.Tensor,
    dn: torch.Tensor,
    z: torch.Tensor,
    s: torch.Tensor,
    matrix: torch.Tensor,
    offset: torch.Tensor,
    values: torch.Tensor,
    p: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
) -> tuple[torch.Tensor, ...]:
    batch, heads, regions, dim = matrix.shape
    dmatrix, dvalues = (x.new_empty((heads, batch, regions, dim)).transpose(0, 1) for x in (matrix, values))
    doffset = offset.new_empty((batch, heads, regions))
    exact = torch.float64 if z.dtype == torch.float64 else torch.float32
    return _empty(z), _empty(s), dmatrix, doffset, dvalues, z.new_empty((2, dim), dtype=exact)


for _name in ("interaction_fwd", "native_interaction_fwd"):
    define(
        _name,
        "(Tensor z, Tensor s, Tensor matrix, Tensor offset, Tensor values, Tensor weight, Tensor bias, float eps, "
        "ScalarType dtype, bool keep_p) -> (Tensor, Tensor, Tensor)",
        interaction_fwd_fake,
    )
define(
    "interaction_bwd",
    "(Tensor dy, Tensor dn, Tensor z, Tensor s, Tensor matrix, Tensor offset, Tensor values, Tensor p, Tensor weight, "
    "float eps) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _interaction_bwd,
)


def tubelets_fake(
    frames: torch.Tensor,
    index: torch.Tensor,
    patch_size: list[int],
    mean: list[float],
    std: list[float],
    dtype: torch.dtype,
) -> torch.Tensor:
    values = frames.shape[1] * patch_size[0] * patch_size[1] * patch_size[2]
    return frames.new_empty((frames.shape[0], index.shape[-1], values), dtype=dtype)


define(
    "tubelets",
    "(Tensor frames, Tensor index, int[] patch_size, float[] mean, float[] std, ScalarType dtype) -> Tensor",
    tubelets_fake,
)


def _reconstruction_loss_fwd(
    prediction: torch.Tensor,
    frames: torch.Tensor,
    index: torch.Tensor,
    patch_size: list[int],
    motion: bool,
    normalize: bool,
    want_gradient: bool,
) -> tuple[torch.Tensor, ...]:
    total = torch.float64 if prediction.dtype == torch.float64 else torch.float32
    appearance_loss, motion_loss = (prediction.new_empty((), dtype=total) for _ in range(2))
    return appearance_loss, motion_loss, prediction.new_empty(prediction.shape if want_gradient else (0,))


for _name in ("reconstruction_loss_fwd", "native_reconstruction_loss_fwd"):
    define(
        _name,
        "(Tensor prediction, Tensor frames, Tensor index, int[] patch_size, bool motion, bool normalize, "
        "bool want_gradient) -> (Tensor, Tensor, Tensor)",
        _reconstruction_loss_fwd,
    )
define(
    "reconstruction_loss_bwd",
    "(Tensor? dappearance, Tensor? dmotion, Tensor diff, int cube_frames) -> Tensor",
    lambda dappearance, dmotion, diff, cube_frames: _empty(diff),
)


def _stream(residual: torch.Tensor, branch: torch.Tensor) -> torch.Tensor:
    return residual.new_empty(residual.shape, dtype=torch.promote_types(residual.dtype, branch.dtype))


def _residual_layer_norm_fwd(
    residual: torch.Tensor,
    branch: torch.Tensor,
    branch_bias: torch.Tensor | None,
    keep: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, ...]:
    return _stream(residual, branch), residual.new_empty(residual.shape, dtype=dtype)


def _residual_layer_norm_representative_fwd(
    residual: torch.Tensor,
    branch: torch.Tensor,
    branch_bias: torch.Tensor | None,
    keep: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, ...]:
    z = _stream(residual, branch)
    s = z.new_empty((*z.shape[:-2], z.shape[-1]))
    return z, s, s.new_empty(s.shape, dtype=dtype)


def _residual_layer_norm_bwd(
    dz: torch.Tensor | None,
    ds: torch.Tensor | None,
    dn: torch.Tensor | None,
    z: torch.Tensor | None,
    weight: torch.Tensor | None,
    keep: torch.Tensor | None,
    eps: float,
    representative: bool,
    residual_dtype: torch.dtype | None,
    branch_dtype: torch.dtype | None,
    branch_bias: bool,
    affine: bool,
) -> tuple[torch.Tensor, ...]:
    stream = next(x for x in (z, dz) if x is not None)
    exact = torch.float64 if stream.dtype == torch.float64 else torch.float32
    dtypes = residual_dtype, branch_dtype
    dresidual, dbranch = (stream.new_empty(stream.shape if dtype else (0,), dtype=dtype) for dtype in dtypes)
    return dresidual, dbranch, stream.new_empty((branch_bias + 2 * affine, stream.shape[-1]), dtype=exact)


define(
    "layer_norm_fwd",
    "(Tensor x, Tensor weight, Tensor bias, float eps, ScalarType dtype) -> Tensor",
    lambda x, weight, bias, eps, dtype: x.new_empty(x.shape, dtype=dtype),
)
define(
    "residual_add_fwd",
    "(Tensor residual, Tensor branch, Tensor? branch_bias, Tensor? keep) -> Tensor",
    lambda residual, branch, branch_bias, keep: _stream(residual, branch),
)
define(
    "residual_layer_norm_fwd",
    "(Tensor residual, Tensor branch, Tensor? branch_bias, Tensor? keep, Tensor weight, Tensor bias, float eps, "
    "ScalarType dtype) -> (Tensor, Tensor)",
    _residual_layer_norm_fwd,
)
define(
    "residual_layer_norm_representative_fwd",
    "(Tensor residual, Tensor branch, Tensor? branch_bias, Tensor? keep, Tensor weight, Tensor bias, float eps, "
    "ScalarType dtype) -> (Tensor, Tensor, Tensor)",
    _residual_layer_norm_representative_fwd,
)
# Empty tensors stand for gradients that are not wanted; the last result holds those of branch_bias, weight and bias.
define(
    "residual_layer_norm_bwd",
    "(Tensor? dz, Tensor? ds, Tensor? dn, Tensor? z, Tensor? weight, Tensor? keep, float eps, bool representative, "
    "ScalarType? residual_dtype, ScalarType? branch_dtype, bool branch_bias, bool affine) -> (Tensor, Tensor, Tensor)",
    _residual_layer_norm_bwd,
)


def _bias_gelu_bwd(
    dout: torch.Tensor, x: torch.Tensor, bias: torch.Tensor | None, want_x: bool, want_bias: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    exact = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x.new_empty(x.shape if want_x else (0,)), x.new_empty(x.shape[-1] if want_bias else 0, dtype=exact)


define("bias_gelu_fwd", "(Tensor x, Tensor? bias) -> Tensor", lambda x, bias: _empty(x))
define(
    "bias_gelu_bwd",
    "(Tensor dout, Tensor x, Tensor? bias, bool want_x, bool want_bias) -> (Tensor, Tensor)",
    _bias_gelu_bwd,
)
