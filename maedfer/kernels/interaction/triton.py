"""Launching what kernels.py computes; formulas and shapes are there."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor

from maedfer.kernels._configs import Config, architecture, config
from maedfer.kernels._launch import accumulator, dot_precision, launch, power_of_two
from maedfer.kernels._operators import implements, unwritten
from maedfer.kernels.interaction import fold as fold
from maedfer.kernels.interaction.folding import KEYS_AT_ONCE, key_layout
from maedfer.kernels.interaction.kernels import (
    interaction_bwd_keys_kernel,
    interaction_bwd_rows_kernel,
    interaction_fwd_kernel,
)
from maedfer.kernels.interaction.schema import dscore_dtype
from maedfer.kernels.sub_layer import triton as sub_layer


def not_supported_reasons(regions: int, dim: int) -> list[str]:
    """Why the folded kernels cannot run `regions` keys at this width; empty when they can."""
    reasons = sub_layer.not_supported_reasons(dim)
    if regions > KEYS_AT_ONCE:
        reasons.append(f"{regions} regions (the folded kernels take up to {KEYS_AT_ONCE})")
    return reasons


@functools.lru_cache(256)
def _configs(
    dim: int, stream: torch.dtype, values: torch.dtype, groups: int, arch: int
) -> tuple[Config, Config, Config]:
    """Defaults of the forward, the rows' and the keys' kernel, for so many groups of heads.

    Products of 16-bit numbers take 64 rows, one matrix instruction of newer GPUs; exact ones as few as registers allow.
    """
    columns = power_of_two(dim, 16)
    size, same = values.itemsize, stream == values
    if size > 2:
        exact = Config({"ROWS": 32, "COLS": min(columns, 32)}, 8, 1)
        return exact, exact.with_tiles(ROWS=16), exact
    # Rows that are rounded for their products go through registers: there is nothing to load early. Of whole rows, what
    # is loaded early takes two tiles for each group.
    stages = max(1, 4 - groups) if same else 1
    rows = Config({"ROWS": 64, "COLS": min(columns, 64 if same else 32)}, 8, stages)
    if same and not 90 <= arch < 120:
        # Other GPUs have no such instruction, and those of desktops too little shared memory.
        rows = Config({"ROWS": 32, "COLS": min(columns, 64)}, 4, min(stages, 2))
    return (
        Config({"ROWS": 64, "COLS": min(columns, 64)}, 4, stages),
        rows,
        Config({"ROWS": 64 * size // dscore_dtype(values).itemsize, "COLS": min(columns, 128)}, 8, 2 if same else 1),
    )


def row_alignment(*tensors: Tensor) -> int:
    """Bytes, up to 16, of which the address of every row is a multiple."""
    distances = (n * x.element_size() for x in tensors for n in x.stride()[:-1])
    return math.gcd(16, *(x.data_ptr() for x in tensors), *distances)


def _sizes(z: Tensor, matrix: Tensor) -> dict[str, Any]:
    """What all kernels have to know at compile time."""
    groups, together, keys = key_layout(matrix.shape[1], z.shape[1])
    # Products of 16-bit numbers take rows of the stream as they are where both are of the same kind.
    wide = z.dtype != matrix.dtype or z.element_size() > 2
    shape = {"M": z.shape[1], "S": z.shape[2], "HEADS": matrix.shape[1], "C": z.shape[3]}
    return {**shape, "GROUPS": groups, "HB": together, "MP": keys, "WIDE": wide, "ACC": accumulator(z.dtype)}


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
    y, n = unwritten(z), unwritten(z, dtype)
    sizes = _sizes(z, matrix)
    width = sizes["GROUPS"] * sizes["HB"] * sizes["MP"]
    # Several groups are handed on through memory in any case.
    written = keep_p or sizes["GROUPS"] > 1
    p = values.new_empty((batch, regions * rows, width) if written else (0,))
    key = (width, power_of_two(dim, 16), z.element_size(), values.element_size())
    defaults = _configs(dim, z.dtype, values.dtype, sizes["GROUPS"], architecture(z.device))
    chosen = config("interaction_fwd", key, defaults[0], z.device)
    tiles = -(-regions * rows // chosen.tiles["ROWS"])
    launch(
        interaction_fwd_kernel, (batch * tiles,),
        z, s, matrix, offset, values, weight, bias, y, n, p if written else None,
        *z.stride()[:3], *s.stride()[:2], *matrix.stride()[:3], *offset.stride(), *values.stride()[:3], eps, tiles,
        config=chosen, STAGES=chosen.num_stages, ALIGN=row_alignment(z, s), PRECISION=dot_precision(values.dtype),
        **sizes,
    )  # fmt: skip
    return y, n, p if keep_p else values.new_empty(0)


@implements("interaction_bwd")
def interaction_bwd(
    g: Tensor,
    z: Tensor,
    s: Tensor,
    matrix: Tensor,
    values: Tensor,
    p: Tensor,
    eps: float,
    offset_dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    batch, regions, rows, dim = z.shape
    heads = matrix.shape[1]
    exact = torch.float64 if z.dtype == torch.float64 else torch.float32
    kept = dscore_dtype(values.dtype)
    dz, ds, dscore = unwritten(z), unwritten(s), unwritten(p, kept)
    mean = z.new_empty((batch, regions * rows), dtype=exact)
    # As TF32, float32 numbers are as precise as float16's are.
    precision = dot_precision(values.dtype) if kept == values.dtype else "tf32"
    sizes = _sizes(z, matrix)
    key = (p.shape[-1], power_of_two(dim, 16), z.element_size(), values.element_size())
    _, rows_default, keys_default = _configs(dim, z.dtype, values.dtype, sizes["GROUPS"], architecture(z.device))
    chosen = config("interaction_bwd_rows", key, rows_default, z.device)
    tiles = -(-regions * rows // chosen.tiles["ROWS"])
    sums = z.new_empty((batch * tiles, 2, p.shape[-1]), dtype=exact)
    launch(
        interaction_bwd_rows_kernel, (batch * tiles,),
        g, z, s, matrix, values, p, dz, ds, dscore, mean, sums,
        *g.stride()[:3], *z.stride()[:3], *s.stride()[:2], *matrix.stride()[:3], *values.stride()[:3], eps, tiles,
        config=chosen, STAGES=chosen.num_stages, ALIGN=row_alignment(z, s, dz, ds), PRECISION=precision, **sizes,
    )  # fmt: skip
    dmatrix, dvalues = (x.new_empty((heads, batch, regions, dim)).transpose(0, 1) for x in (matrix, values))
    doffset = matrix.new_empty((batch, heads, regions), dtype=offset_dtype)
    chosen = config("interaction_bwd_keys", key, keys_default, z.device)
    columns = -(-dim // chosen.tiles["COLS"])
    launch(
        interaction_bwd_keys_kernel, (batch * sizes["GROUPS"] * columns,),
        z, g, p, dscore, mean, sums, dmatrix, doffset, dvalues,
        *z.stride()[:3], *g.stride()[:3], *dmatrix.stride()[:2], tiles,
        config=chosen, STAGES=chosen.num_stages, PRECISION=precision, **sizes,
    )  # fmt: skip
    return dz, ds, dmatrix, doffset, dvalues
