"""The launches that the published models make: what is compiled ahead of time, tuned and checked.

Sizes are those of the base models: H = 8 heads of D = 64 channels, C = 512, M = 8 regions a clip, S = 101 rows a region
when fine-tuning and 11 when pre-training. A case of dtype T has products and the stream in T and, as autocast leaves
them, all parameters in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from maedfer._programs import BOX, EACH, FIRST, Operation
from maedfer.kernels._configs import targeting
from maedfer.kernels._launch import Launch, recording
from maedfer.kernels.augment import triton as augment
from maedfer.kernels.feed_forward import triton as feed_forward
from maedfer.kernels.feed_forward.functions import kept_dtype
from maedfer.kernels.interaction import fold
from maedfer.kernels.interaction import triton as interaction
from maedfer.kernels.interaction.folding import key_layout
from maedfer.kernels.loss import triton as loss
from maedfer.kernels.region_attention import triton as attention
from maedfer.kernels.sub_layer import product
from maedfer.kernels.sub_layer import triton as sub_layer
from maedfer.kernels.tubelets import triton as tubelets

CLIPS, _REGIONS, _HEADS, _DIM, _EPS = 64, 8, 8, 512, 1e-6
_CUBE, _CHANNELS = (2, 16, 16), 3

# Rows of a region with its representative token: pre-training, the region sizes of the published models (2x2x10,
# 1x5x10, 2x5x10, 2x10x10), and the representative tokens among themselves.
_ROWS = (_REGIONS, 11, 41, 51, 101, 201)


@dataclass(frozen=True)
class Array:
    """A tensor still to be made.

    Args:
        shape: its sizes.
        dtype: its elements; whole numbers are below `limit`, others normal.
        swapped: stored with its first two dimensions exchanged.
        limit: see `dtype`.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    swapped: bool = False
    limit: int = 256

    def make(self, device: torch.device) -> Tensor:
        """The tensor with random values."""
        shape = (self.shape[1], self.shape[0], *self.shape[2:]) if self.swapped else self.shape
        if self.dtype.is_floating_point:
            values = torch.randn(shape, dtype=self.dtype, device=device)
        else:
            values = torch.randint(self.limit, shape, dtype=self.dtype, device=device)
        return values.transpose(0, 1) if self.swapped else values


@dataclass(frozen=True)
class Case:
    """One operator at one size.

    Args:
        name: operator and sizes.
        dtype: of its products.
        operator: the implementation.
        arguments: what it is called with, arrays in place of tensors.
    """

    name: str
    dtype: torch.dtype
    operator: Callable[..., Any]
    arguments: tuple[Any, ...]

    def __str__(self) -> str:
        return f"{self.name}-{str(self.dtype).removeprefix('torch.')}"

    def prepare(self, device: torch.device) -> Callable[[], Any]:
        """Make its inputs on a device; returns the call."""
        inputs = [x.make(device) if isinstance(x, Array) else x for x in self.arguments]
        return lambda: self.operator(*inputs)

    def launches(self, arch: int) -> list[Launch]:
        """What it launches on an architecture; needs no GPU."""
        with targeting(arch), recording() as launches:
            self.prepare(torch.device("meta"))()
        return launches


def cases(dtypes: tuple[torch.dtype, ...] = (torch.bfloat16, torch.float32)) -> list[Case]:
    """Every operator at every size, for each dtype."""
    return [
        Case(name, dtype, operator, arguments)
        for dtype in dtypes
        for shipped in _OPERATORS
        for name, operator, arguments in shipped(dtype)
    ]


# Name, implementation and arguments.
_Calls = Iterator[tuple[str, Callable[..., Any], tuple[Any, ...]]]


def _self_attention(dtype: torch.dtype) -> _Calls:
    bias = Array((_DIM,))
    for rows in _ROWS:
        out, qkv = (Array((CLIPS, _REGIONS, rows, parts * _DIM), dtype) for parts in (1, 3))
        yield f"self_attention_fwd-{rows}", attention.region_attention_fwd, (qkv, bias, bias, _HEADS)
        yield f"self_attention_bwd-{rows}", attention.region_attention_bwd, (out, qkv, bias, _HEADS, True)


def _cross_attention(dtype: torch.dtype) -> _Calls:
    # The last block's representative tokens, then all tokens of a clip and its representative ones, of 8 or 20 regions.
    # Those of a clip have their biases from the products.
    for groups, queries, keys in ((CLIPS * _REGIONS, 1, 101), (CLIPS, 800, 8), (CLIPS, 800, 20)):
        q, kv = Array((groups, queries, _DIM), dtype), Array((groups, keys, 2 * _DIM), dtype)
        name, bias = f"{queries}x{keys}", Array((_DIM,)) if queries == 1 else None
        yield f"cross_attention_fwd-{name}", attention.cross_attention_fwd, (q, kv, bias, bias, _HEADS)
        backward = (q, q, kv, bias, _HEADS, bias is not None)
        yield f"cross_attention_bwd-{name}", attention.cross_attention_bwd, backward


def _layer_norm(dtype: torch.dtype) -> _Calls:
    stream = Array((CLIPS, _REGIONS, 101, _DIM), dtype)
    token = Array((CLIPS, _REGIONS, _DIM), dtype)
    vector, keep = Array((_DIM,)), Array((CLIPS,))
    sums = (stream, stream, vector, keep)
    norm = (vector, vector, _EPS, dtype)
    backward = sub_layer.residual_layer_norm_bwd
    written = (dtype, dtype, True, True)
    yield "layer_norm_fwd", sub_layer.layer_norm_fwd, (stream, *norm)
    yield "layer_norm_bwd", backward, (None, None, stream, stream, vector, None, _EPS, False, dtype, None, False, True)
    yield "residual_add_fwd", sub_layer.residual_add_fwd, sums
    yield "residual_layer_norm_fwd", sub_layer.residual_layer_norm_fwd, (*sums, *norm)
    yield (
        "residual_layer_norm_bwd",
        backward,
        (stream, None, stream, stream, vector, keep, _EPS, False, *written),
    )
    if product.fuses(dtype, dtype, _DIM, _DIM):
        last = stream, Array((_DIM, _DIM), dtype), vector, keep
        for name, residual in (("", stream), ("-wide", Array(stream.shape))):
            yield f"linear_residual_fwd{name}", product.linear_residual_fwd, (*last, residual)
    yield "layer_norm_representative_fwd", sub_layer.layer_norm_representative_fwd, (stream, *norm)
    yield (
        "residual_layer_norm_representative_fwd",
        sub_layer.residual_layer_norm_representative_fwd,
        (*sums, *norm),
    )
    yield (
        "residual_layer_norm_representative_bwd",
        backward,
        (stream, token, token, stream, vector, keep, _EPS, True, *written),
    )


def _bias_gelu(dtype: torch.dtype) -> _Calls:
    x, bias = Array((CLIPS, _REGIONS, 101, 4 * _DIM), dtype), Array((4 * _DIM,))
    yield "bias_gelu_fwd", sub_layer.bias_gelu_fwd, (x, bias)
    yield "bias_gelu_bwd", sub_layer.bias_gelu_bwd, (x, x, bias, True, True)


def _feed_forward(dtype: torch.dtype) -> _Calls:
    hidden = 4 * _DIM
    if not feed_forward.fuses(dtype, hidden, _DIM):
        return
    x = Array((CLIPS, _REGIONS, 101, _DIM), dtype)
    slope = Array((CLIPS, _REGIONS, 101, hidden), kept_dtype(dtype))
    inner = x, Array((hidden, _DIM), dtype), Array((hidden,))
    yield "linear_gelu_fwd-inference", feed_forward.linear_gelu_fwd, (*inner, None)
    yield "linear_gelu_fwd-training", feed_forward.linear_gelu_fwd, (*inner, slope.dtype)
    yield "linear_gelu_bwd", feed_forward.linear_gelu_bwd, (x, Array((_DIM, hidden), dtype), slope, True)


def _interaction(dtype: torch.dtype) -> _Calls:
    matrix, values = (Array((CLIPS, _HEADS, _REGIONS, _DIM), dtype, swapped=True) for _ in range(2))
    offset = Array((CLIPS, _HEADS, _REGIONS), swapped=True)
    token, vector = Array((CLIPS, _REGIONS, _DIM), dtype), Array((_DIM,))
    for rows in (101, 11):
        stream = Array((CLIPS, _REGIONS, rows, _DIM), dtype)
        p = Array((CLIPS, _REGIONS * rows, math.prod(key_layout(_HEADS, _REGIONS))), dtype)
        yield (
            f"interaction_fwd-{rows}",
            interaction.interaction_fwd,
            (stream, token, matrix, offset, values, vector, vector, _EPS, dtype, True),
        )
        yield (
            f"interaction_bwd-{rows}",
            interaction.interaction_bwd,
            (stream, stream, token, matrix, values, p, _EPS, offset.dtype),
        )


def _interaction_fold(dtype: torch.dtype) -> _Calls:
    kv, weight, vector = Array((CLIPS, _REGIONS, 2 * _DIM), dtype), Array((_DIM, _DIM)), Array((_DIM,))
    inputs = (kv, *[vector] * 3, *[weight, vector] * 2, Array((CLIPS,)))
    matrix = Array((CLIPS, _HEADS, _REGIONS, _DIM), dtype, swapped=True)
    offset = Array((CLIPS, _HEADS, _REGIONS))
    yield "interaction_fold_fwd", fold.interaction_fold_fwd, (*inputs, _HEADS, dtype)
    yield "interaction_fold_bwd", fold.interaction_fold_bwd, (matrix, offset, matrix, *inputs, [True] * 8)


def _reconstruction_loss(dtype: torch.dtype) -> _Calls:
    masked, tokens = 720, 800
    prediction = Array((CLIPS, masked, math.prod(_CUBE) * _CHANNELS), dtype)
    index = Array((CLIPS, masked), torch.int64, limit=tokens)
    # Bytes, and the kernel for all others.
    for name, pixels in (("", torch.uint8), ("-floats", torch.float32)):
        frames = Array((CLIPS, _CHANNELS, 16, 160, 160), pixels)
        inputs = (prediction, frames, index, list(_CUBE), True, True, True)
        yield f"reconstruction_loss_fwd{name}", loss.reconstruction_loss_fwd, inputs
    yield (
        "reconstruction_loss_bwd",
        loss.reconstruction_loss_bwd,
        (Array(()), Array(()), prediction, _CUBE[0]),
    )


def _tubelets(dtype: torch.dtype) -> _Calls:
    frames, how = Array((CLIPS, _CHANNELS, 16, 160, 160), torch.uint8), ([0.4, 0.5, 0.6], [0.2, 0.3, 0.4], dtype)
    # All tokens in fine-tuning, mixed, and the visible ones in pre-training.
    for name, index, mix in (("800", (800,), Array((5,))), ("80", (CLIPS, 80), None)):
        numbers = Array(index, torch.int64, limit=800)
        yield f"tubelets_fwd-{name}", tubelets.tubelets_fwd, (frames, numbers, list(_CUBE), *how, mix)


def programs(operations: int) -> Tensor:
    """Programs in which every operation occurs at every place, for crops of different sizes."""
    out = torch.zeros(CLIPS, FIRST + EACH * operations, dtype=torch.float64)
    sides = 100 + torch.arange(CLIPS) % 60
    out[:, BOX] = torch.stack([torch.zeros_like(sides), torch.zeros_like(sides), sides, sides.flip(0)], 1).double()
    out[:, FIRST::EACH] = (torch.arange(CLIPS)[:, None] + torch.arange(operations)) % len(Operation)
    # A factor or the like, and a map of places.
    out[:, FIRST:].unflatten(1, (-1, EACH))[..., 1:] = torch.tensor([0.9, 0.2, 3.0, -0.2, 0.9, 20.0])
    return out


def _augment(dtype: torch.dtype) -> _Calls:
    # Bytes throughout: once is enough.
    if dtype == torch.bfloat16:
        for name, operations, fit in (("finetune", 4, "stretch"), ("pretrain", 0, "")):
            frames = Array((CLIPS, 16, 256, 256, _CHANNELS), torch.uint8)
            yield f"augment_fwd-{name}", augment.augment_fwd, (frames, programs(operations), [160, 160], fit)


_OPERATORS: tuple[Callable[[torch.dtype], _Calls], ...] = (
    _self_attention,
    _cross_attention,
    _layer_norm,
    _bias_gelu,
    _feed_forward,
    _interaction,
    _interaction_fold,
    _reconstruction_loss,
    _tubelets,
    _augment,
)
