"""Blocks in the schedule of the fused operations.

As the paper has them (lgi_block.py, transformer_block.py), every stage of a block reads the stream, normalises it, and
writes it. Here the steps are cut where tensors are written once: the product that ends a sub-layer adds the residual
and does the LayerNorm that begins the next one in the same pass, from block to block too; the interaction's LayerNorm,
its residual and the LayerNorm after it are one operation; and of the last block nothing is computed that cannot reach
what is read of it. That takes the weights of layers without calling them, so that a block is run this way only while
its layers are what they were made as and nothing hooks them.

Both ways use the same parameters and draw the same random numbers in the same order.

Shapes: z_BMSC is the residual stream, row 0 of each region its representative token, n_BMSC its norm; s_BMC are
representative tokens alone. B clips, M regions, S = 1 + N rows, C channels. A stream without regions is [..., K, C].
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.utils.checkpoint import checkpoint

from maedfer.kernels import Impl, functional
from maedfer.models.attention import Attention, FeedForward, FullAttention, apply_norm, chosen, scaled, weights
from maedfer.models.intact import has_global_hooks, is_called_alone, is_hooked, is_plain_leaf


class BlockParts:
    """What is read of a block: one of ours, or an adapter of somebody else's.

    Attributes:
        impl: who computes.
        ffn_norm: the LayerNorm before the feed-forward network.
        ffn: that network, with its linear layers `fc1` and `fc2`.
        keep: draws factors of stochastic depth over the first so many dimensions of a tensor; None where nothing is
            dropped.
        run: the block's forward pass, whatever a class that derives from it makes of `forward`.
    """

    impl: Impl
    ffn_norm: nn.LayerNorm
    ffn: Any
    keep: Callable[[Tensor, int], Tensor | None]
    run: Callable[..., Tensor]

    @property
    def first_norm(self) -> nn.LayerNorm:
        """The LayerNorm that the block begins with: the feed-forward network's, where no attention comes before."""
        return self.ffn_norm

    @property
    def has_schedule(self) -> bool:
        """Whether there is a schedule for blocks of this design; those with switches say where there is none."""
        return True

    @property
    def is_intact(self) -> bool:
        """Whether the block is what its parts say, so that they may be read without calling it."""
        return True

    @property
    def is_fused(self) -> bool:
        """Whether `run_block` does what the block does."""
        return self.has_schedule and chosen(self.impl) != "reference" and self.is_intact

    def drop(self, branch: Tensor, batch_dims: int) -> Tensor:
        """Stochastic depth on a residual branch, one sample to each entry of its first `batch_dims` dimensions."""
        return scaled(branch, self.keep(branch, batch_dims))


class TransformerParts(BlockParts):
    """A transformer block: self-attention with its LayerNorm, feed-forward network."""

    norm: nn.LayerNorm
    attention: Any

    @property
    def first_norm(self) -> nn.LayerNorm:
        """That of the attention."""
        return self.norm


class LGIParts(BlockParts):
    """A block of LGI-Former of the published design: for each stage that it has, an attention with its LayerNorms.

    Cross-attention has a second LayerNorm, of what is attended to.

    Attributes:
        inter_region: whether there is a second stage.
        feedback: "none", or what representative tokens attend to in the fourth stage: their "region" or the "clip".
    """

    inter_region: bool
    feedback: str
    intra_norm: nn.LayerNorm
    intra_attention: Any
    inter_norm: nn.LayerNorm
    inter_attention: Any
    interaction_norm: nn.LayerNorm
    interaction_context_norm: nn.LayerNorm
    interaction_attention: Any
    feedback_norm: nn.LayerNorm
    feedback_context_norm: nn.LayerNorm
    feedback_attention: Any

    @property
    def first_norm(self) -> nn.LayerNorm:
        """That of the attention within regions."""
        return self.intra_norm

    @property
    def prunes_local_tokens(self) -> bool:
        """Whether no stage after the first lets local tokens reach representative ones."""
        return self.feedback == "none"

    def feedback_inputs(
        self, s_BMC: Tensor, x_BMNC: Tensor, attend_to: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """What the fourth attention is called with: normed representative tokens, and what they attend to.

        Those are normed local tokens, of their region or of the clip, and which of them may be attended to.
        """
        mask = None if attend_to is None else attend_to[..., 1:]
        if self.feedback == "clip":
            return s_BMC, x_BMNC.flatten(1, 2), None if mask is None else mask.flatten(-2)
        return s_BMC.unsqueeze(2), x_BMNC, mask


class Step(NamedTuple):
    """How one block of several is run.

    Attributes:
        block: the block.
        is_called: it is called: it has no schedule, or calling it is more than running it.
        representative_only: nothing but the representative tokens is read of what it gives.
        next_norm: the LayerNorm that the next block begins with, where this one does it.
    """

    block: Any
    is_called: bool
    representative_only: bool
    next_norm: nn.LayerNorm | None

    @property
    def prunes(self) -> bool:
        """Whether local tokens are left out after the block's first stage, as they reach nobody."""
        return self.representative_only and self.block.prunes_local_tokens


def plan(blocks: Iterable[nn.Module], *, representative_only: bool = False) -> list[Step]:
    """How `run_fused` runs blocks: each in its schedule where that can be, joined with a next one that is too."""
    row: list[Any] = list(blocks)
    # Wrappers pass attributes on but are no blocks themselves.
    called = [not isinstance(block, BlockParts) or not block.is_fused or is_called(block) for block in row]
    steps = []
    for number, block in enumerate(row):
        last = number + 1 == len(row)
        joined = not last and not called[number] and not called[number + 1]
        next_norm = row[number + 1].first_norm if joined else None
        steps.append(Step(block, called[number], representative_only and last, next_norm))
    return steps


def run_fused(
    blocks: Iterable[nn.Module],
    z: Tensor,
    *,
    attend_to: Tensor | None = None,
    representative_only: bool = False,
    recompute: bool = False,
) -> Iterator[Tensor]:
    """Yield the stream after each block.

    Args:
        blocks: `LGIBlock`s or `TransformerBlock`s.
        z: the stream before the first.
        attend_to: [M, S] or [B, M, S] bool, True for rows that may be attended to; all when None.
        representative_only: only the representative tokens of the last block are read.
        recompute: keep no activations of a block, and run it once more in the backward pass.
    """
    normed: Tensor | None = None
    for step in plan(blocks, representative_only=representative_only):
        run = _call if step.is_called else run_block
        settings = (attend_to, step.representative_only, step.next_norm)
        if recompute:
            z, normed = checkpoint(run, step.block, z, normed, *settings, use_reentrant=False)
        else:
            z, normed = run(step.block, z, normed, *settings)
        yield z


def run_block(
    block: BlockParts,
    z: Tensor,
    normed: Tensor | None = None,
    attend_to: Tensor | None = None,
    representative_only: bool = False,
    next_norm: nn.LayerNorm | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Run a block that `is_fused` in its schedule.

    Args:
        block: its parts.
        z: the stream.
        normed: what the block's first LayerNorm makes of the stream, where that has been done.
        attend_to: see `run_fused`.
        representative_only: only the representative tokens of the result are read.
        next_norm: the LayerNorm that follows, to be done in the same pass as the last residual.

    Returns:
        The stream, [B, M, 1, C] with `representative_only`; and its `next_norm`, None without one.
    """
    n = apply_norm(z, block.first_norm, block.impl) if normed is None else normed
    if not isinstance(block, LGIParts):
        assert isinstance(block, TransformerParts)
        z, n = _transformer(block, z, n, attend_to)
    elif representative_only and block.prunes_local_tokens:
        z, n = _representative_tokens(block, z, n, attend_to)
    else:
        z, n = _regions(block, z, n, attend_to, representative_only)
    keep = block.keep(z, z.dim() - 2)
    hidden = functional.linear_gelu(n, weights(block.ffn.fc1), impl=block.impl)
    if next_norm is None:
        return functional.linear_residual(hidden, weights(block.ffn.fc2), z, keep=keep, impl=block.impl), None
    return _end(hidden, block.ffn.fc2, z, keep, next_norm, block.impl)


def _call(
    block: nn.Module,
    z: Tensor,
    normed: Tensor | None,
    attend_to: Tensor | None,
    representative_only: bool,
    next_norm: nn.LayerNorm | None,
) -> tuple[Tensor, None]:
    """`run_block` for a block that has to be called, which no other one is joined with."""
    return block(z, attend_to, representative_only=representative_only), None


def _transformer(block: TransformerParts, z: Tensor, n: Tensor, attend_to: Tensor | None) -> tuple[Tensor, Tensor]:
    """Self-attention, and the LayerNorm before the feed-forward network."""
    heads = block.attention.heads(n, attend_to=attend_to)
    return _end(heads, block.attention.proj, z, block.keep(z, z.dim() - 2), block.ffn_norm, block.impl)


def _regions(
    block: LGIParts, z_BMSC: Tensor, n_BMSC: Tensor, attend_to: Tensor | None, representative_only: bool
) -> tuple[Tensor, Tensor]:
    """The attentions of an LGI-Former block, and the LayerNorm before the feed-forward network."""
    intra, interaction, impl = block.intra_attention, block.interaction_attention, block.impl
    after = block.inter_norm if block.inter_region else block.interaction_context_norm
    z_BMSC, s_BMC, n_BMC = functional.linear_residual_layer_norm_representative(
        intra.heads(n_BMSC, attend_to=attend_to),
        weights(intra.proj),
        z_BMSC,
        weights(after),
        eps=after.eps,
        keep=block.keep(z_BMSC, 2),
        impl=impl,
    )
    if block.inter_region:
        s_BMC, n_BMC = _among_regions(block, s_BMC, n_BMC, block.interaction_context_norm)
    after = block.ffn_norm if block.feedback == "none" else block.feedback_context_norm
    z_BMSC, n_BMSC = functional.local_global_interaction(
        z_BMSC,
        s_BMC,
        interaction.project_kv(n_BMC),
        norm=weights(block.interaction_norm),
        query=interaction.query,
        output=weights(interaction.proj),
        next_norm=weights(after),
        num_heads=interaction.num_heads,
        eps=block.interaction_norm.eps,
        keep=block.keep(z_BMSC, 1),
        impl=impl,
    )
    if after.eps != block.interaction_norm.eps:
        # The operation has one epsilon for both.
        n_BMSC = apply_norm(z_BMSC, after, impl)
    if block.feedback == "none":
        return z_BMSC, n_BMSC
    inputs = block.feedback_inputs(apply_norm(s_BMC, block.feedback_norm, impl), n_BMSC[:, :, 1:], attend_to)
    heads = block.feedback_attention.heads(*inputs).reshape(s_BMC.shape)
    keep = block.keep(s_BMC, 1)
    s_BMC = functional.linear_residual(heads, weights(block.feedback_attention.proj), s_BMC, keep=keep, impl=impl)
    z_BM1C = s_BMC.unsqueeze(2)
    z_BMSC = z_BM1C if representative_only else torch.cat([z_BM1C, z_BMSC[:, :, 1:]], 2)
    return z_BMSC, apply_norm(z_BMSC, block.ffn_norm, impl)


def _representative_tokens(
    block: LGIParts, z_BMSC: Tensor, n_BMSC: Tensor, attend_to: Tensor | None
) -> tuple[Tensor, Tensor]:
    """`_regions` for representative tokens that local ones reach in the first stage only: [B, M, 1, C] each."""
    intra, s_BM1C = block.intra_attention, z_BMSC[:, :, :1]
    heads = intra.heads(n_BMSC[:, :, :1], n_BMSC, attend_to)
    after = block.inter_norm if block.inter_region else block.ffn_norm
    s_BM1C, n_BM1C = _end(heads, intra.proj, s_BM1C, block.keep(s_BM1C, 2), after, block.impl)
    if not block.inter_region:
        return s_BM1C, n_BM1C
    s_BMC, n_BMC = _among_regions(block, s_BM1C[:, :, 0], n_BM1C[:, :, 0], block.ffn_norm)
    return s_BMC.unsqueeze(2), n_BMC.unsqueeze(2)


def _among_regions(block: LGIParts, s_BMC: Tensor, n_BMC: Tensor, after: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """The second stage and the LayerNorm that follows it."""
    inter = block.inter_attention
    return _end(inter.heads(n_BMC), inter.proj, s_BMC, block.keep(s_BMC, 1), after, block.impl)


def _end(
    x: Tensor, linear: nn.Linear, residual: Tensor, keep: Tensor | None, after: nn.LayerNorm, impl: Impl
) -> tuple[Tensor, Tensor]:
    """The last product of a sub-layer, its residual, and the LayerNorm that begins the next one."""
    return functional.linear_residual_layer_norm(
        x, weights(linear), residual, weights(after), eps=after.eps, keep=keep, impl=impl
    )


# What blocks are made of, and how it is called.
_FORWARD = {kind: kind.forward for kind in (Attention, FullAttention, FeedForward)}


def is_untouched(block: nn.Module) -> bool:
    """Whether a block's layers are what they were made as, so that their weights may be used without calling them."""
    if has_global_hooks():
        return False
    parts: list[tuple[str, Any]] = list(block._modules.items())
    while parts:
        name, part = parts.pop()
        kind: Any = type(part)
        if kind is nn.Linear:
            # Operations give `qkv` the bias of queries and values, and the others their own.
            if (part._parameters.get("bias") is None) != (name == "qkv") or not is_plain_leaf(part):
                return False
        elif kind in _FORWARD:
            if kind.forward is not _FORWARD[kind] or not is_called_alone(part):
                return False
            parts.extend(part._modules.items())
        elif not is_plain_leaf(part):
            return False
    return True


def is_called(block: Any) -> bool:
    """Whether calling a block is more than running it: something hooks, replaces or compiles the call."""
    replaced = "forward" in block.__dict__ or type(block).forward is not type(block).run
    hooked = is_hooked(block) or bool(torch_module._has_any_global_hook())
    return replaced or hooked or block._compiled_call_impl is not None
