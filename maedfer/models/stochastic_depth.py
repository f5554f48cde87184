"""Stochastic depth: which residual branches are dropped, drawn once for all blocks of a pass.

A branch that is dropped is multiplied by 0 and one that is kept by 1 / (1 - rate), by regions or by clips. Factors are
float32 whatever the stream is in: rounded to 16 bits they would be off by up to 0.4 %, and the mean of a branch with
them. They are an input of the pass, so that recomputed blocks see the same ones, and nothing is drawn inside of what a
compiler traces.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from maedfer.errors import InputError
from maedfer.kernels import reference


class Keep(NamedTuple):
    """The factors of one block over the leading dimensions of its stream, None for a branch that is never dropped.

    They stand in the order in which they are drawn, that of the published code.

    Attributes:
        attention: of the first stage, [B, M]; without regions, over all leading dimensions.
        inter_region: [B].
        interaction: [B]; [B, M] where it is a second attention within regions.
        feedback: [B].
        ffn: as `attention`.
    """

    attention: Tensor | None = None
    inter_region: Tensor | None = None
    interaction: Tensor | None = None
    feedback: Tensor | None = None
    ffn: Tensor | None = None


class Dropping(Protocol):
    """What has branches to drop: the blocks of this package.

    Attributes:
        drop_path: the probability of dropping a branch in training.
        training: whether it is trained.
    """

    drop_path: float
    training: bool

    def branches(self, leading: int) -> Mapping[str, int]:
        """Its fields of `Keep`, each with the leading dimensions of the stream that have a factor each.

        Args:
            leading: leading dimensions that the stream has.
        """


def draw_factors(blocks: Iterable[Dropping], shape: Sequence[int], device: torch.device) -> Tensor | None:
    """Draw the factors of all blocks for one pass, in four launches however many blocks there are.

    Args:
        blocks: the blocks.
        shape: leading dimensions of the stream, [B, M] or others.
        device: where.

    Returns:
        float32 [n, B], a row for each branch that drops clips and M for each that drops regions, block after block;
        None where nothing is dropped.
    """
    kept: list[float] = []
    rows: list[int] = []
    for block in blocks:
        if count := _rows(block, shape):
            kept.append(1.0 - block.drop_path)
            rows.append(count)
    if not rows:
        return None
    factors = torch.rand(sum(rows), _clips(shape), dtype=torch.float32, device=device)
    parts = [factors[end - count : end] for count, end in zip(rows, _ends(rows), strict=True)]
    torch._foreach_add_(parts, kept)
    torch._foreach_floor_(parts)
    torch._foreach_div_(parts, kept)
    return factors


def share_of_clips(
    factors: Tensor | None, blocks: Iterable[Dropping], shape: Sequence[int], share: tuple[int, int]
) -> Tensor | None:
    """What `draw_factors` drew for a part of the clips, as if it had drawn for those alone.

    Args:
        factors: of all clips.
        blocks, shape: as they were drawn for.
        share: which part, from 0, and how many there are, equal ones.
    """
    part, parts = share
    if factors is None or parts == 1:
        return factors
    # The factors of a branch lie clip by clip, whatever their rows.
    pieces, start = [], 0
    for count in (rows for block in blocks for rows in _branches(block, shape)):
        pieces.append(factors[start : start + count].reshape(parts, count, -1)[part])
        start += count
    return torch.cat(pieces)


def split_factors(factors: Tensor | None, blocks: Iterable[Dropping], shape: Sequence[int]) -> list[Keep]:
    """What `draw_factors` drew for each block, as views.

    Raises:
        InputError: the factors are not those of such blocks and such a stream.
    """
    row, keeps = list(blocks), []
    rows = [_rows(block, shape) for block in row]
    if factors is None:
        return [Keep() for _ in row]
    if tuple(factors.shape) != (sum(rows), _clips(shape)):
        raise InputError(
            f"factors of stochastic depth must be [{sum(rows)}, {_clips(shape)}] for these blocks and clips, "
            f"got {list(factors.shape)}: draw_keep makes them, for a model in the same mode"
        )
    start = 0
    for block, count in zip(row, rows, strict=True):
        parts: dict[str, Tensor] = {}
        for name, dims in block.branches(len(shape)).items() if count else ():
            end = start + math.prod(shape[1:dims])
            parts[name], start = factors[start:end].view(shape[:dims]), end
        keeps.append(Keep(**parts))
    return keeps


def keep_factors(x: Tensor, probability: float, training: bool, batch_dims: int) -> Tensor | None:
    """Factors of a layer by itself, over the first `batch_dims` dimensions of x; None where nothing is dropped."""
    if probability == 0.0 or not training:
        return None
    return reference.drop_path_factors(x.shape[:batch_dims], probability, x.device)


def scaled(branch: Tensor, keep: Tensor | None) -> Tensor:
    """A residual branch times the factors over its leading dimensions, rounded once to its dtype."""
    return branch if keep is None else reference.scaled(branch, keep)


def _rows(block: Dropping, shape: Sequence[int]) -> int:
    """Rows of factors that a block takes."""
    return sum(_branches(block, shape))


def _branches(block: Dropping, shape: Sequence[int]) -> list[int]:
    """Rows of factors that each branch of a block takes."""
    if block.drop_path == 0.0 or not block.training:
        return []
    return [math.prod(shape[1:dims]) for dims in block.branches(len(shape)).values()]


def _clips(shape: Sequence[int]) -> int:
    return shape[0] if len(shape) else 1


def _ends(rows: Sequence[int]) -> list[int]:
    return [sum(rows[: number + 1]) for number in range(len(rows))]
