"""Units of sharding: blocks whose weights lie in parts with several processes, in the schedule of the fused operations.

FSDP2 (`torch.distributed.fsdp.fully_shard`) brings the weights of a module together by hooks on its call. On a block
these would have every block called by itself, and part it from the LayerNorm that the next one begins with. So what is
sharded is a module around the block: `run_fused` calls it, its hooks bring the block's weights together, and inside the
block is as it was made. LayerNorms are left to whoever shards the model as a whole, so that one of the next block is
there when a block ends; they are a thousandth of the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from maedfer.models.fused import BlockParts, is_called


class BlockUnit(nn.Module):
    """A block, to be called in its place with the function that runs it.

    Args:
        block: with its weights whole.

    Attributes:
        is_fused: whether the block runs in its schedule, as it was asked while its weights were whole.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.block = block
        self.is_fused: bool = not is_called(block) and block.is_fused
        self._compile: dict[str, Any] | None = None
        self._compiled: dict[Callable[..., Any], Callable[..., Any]] = {}
        # Not as a part of the block: that would be a part of itself.
        block.__dict__["unit"] = self

    def weights(self) -> list[nn.Parameter]:
        """The block's parameters but those of its LayerNorms."""
        norms = {id(parameter) for parameter in self.norms()}
        return [parameter for parameter in self.block.parameters() if id(parameter) not in norms]

    def norms(self) -> Iterator[nn.Parameter]:
        """The parameters of the block's LayerNorms."""
        for part in self.block.modules():
            if isinstance(part, nn.LayerNorm):
                yield from part.parameters()

    def compile_runs(self, **settings: Any) -> None:
        """Have torch.compile run the block, with its settings; hooks stay outside of what it sees."""
        self._compile = settings

    def forward(self, run: Callable[..., Any], *given: Any) -> tuple[Tensor, Tensor | None]:
        """Run the block by `run`, `fused.run_step` or `fused.run_recomputed`, with the arguments that follow it."""
        if self._compile is not None:
            if run not in self._compiled:
                self._compiled[run] = torch.compile(run, **self._compile)
            run = self._compiled[run]
        return run(self.block, *given)  # type: ignore[no-any-return]


def units_of(model: nn.Module) -> list[BlockUnit]:
    """A unit for each block of a model, made now."""
    return [BlockUnit(part) for part in model.modules() if isinstance(part, BlockParts)]


def recompute_blocks(model: nn.Module) -> None:
    """Let the blocks of a model keep no activations in training."""
    for part in model.modules():
        if isinstance(part, BlockParts):
            part.recompute = True
