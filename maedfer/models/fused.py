"""Blocks in the schedule of the fused operations.

As the paper has them (lgi_block.py, transformer_block.py), every stage of a block reads the stream, normalises it, and
writes it. Here the steps are cut where tensors are written once: the product that ends a sub-layer adds the residual
and does the LayerNorm that begins the next one in the same pass, from block to block too; the interaction's LayerNorm,
its residual and the LayerNorm after it are one operation; and of the last block nothing is computed that cannot reach
what is read of it. That takes the weights of layers without calling them, so that a block is run this way only while
its layers are what they were made as and nothing hooks them.

Both ways use the same parameters and the same factors of stochastic depth.

Shapes: z_BMSC is the residual stream, row 0 of each region its representative token, n_BMSC its norm; s_BMC are
representative tokens alone. B clips, M regions, S = 1 + N rows, C channels. A stream without regions is [..., K, C].
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.utils.checkpoint import checkpoint

from maedfer.kernels import Impl, functional
from maedfer.models.attention import (
    Attention,
    FeedForward,
    FullAttention,
    apply_norm,
    chosen,
    interaction_inputs,
    weights,
)
from maedfer.models.intact import has_global_hooks, is_called_alone, is_hooked, is_plain_leaf
from maedfer.models.low_rank import LoraLinear
from maedfer.models.stochastic_depth import Keep, draw_factors, share_of_clips, split_factors


class BlockParts:
    """What is read of a block: one of ours, or an adapter of somebody else's.

    Attributes:
        impl: who computes.
        ffn_norm: the LayerNorm before the feed-forward network.
        ffn: that network, with its linear layers `fc1` and `fc2`.
        drop_path: the probability of dropping a residual branch in training.
        training: whether it is trained.
        run: the block's forward pass, whatever a class that derives from it makes of `forward`.
        recompute: in training keep none of its activations, and run it once more in the backward pass.
        unit: what is called in the block's place where its weights are sharded (units.py).
    """

    impl: Impl
    ffn_norm: nn.LayerNorm
    ffn: Any
    drop_path: float
    training: bool
    run: Callable[..., Tensor]
    recompute: bool = False
    unit: Any = None

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

    def branches(self, leading: int) -> Mapping[str, int]:
        """Branches that stochastic depth drops, see `Dropping`."""
        return {"attention": leading, "ffn": leading}

    def draw(self, z: Tensor) -> Keep:
        """Draw stochastic depth's factors for a stream, where the block is run by itself."""
        shape = z.shape[:-2]
        return split_factors(draw_factors([self], shape, z.device), [self], shape)[0]


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
        interaction: "cross", or "self" or "none" for another third stage, or none.
        feedback: "none", or what representative tokens attend to in the fourth stage: their "region" or the "clip".
    """

    inter_region: bool
    interaction: str
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

    def branches(self, leading: int) -> Mapping[str, int]:
        """Regions are dropped in stages that are within them, clips in the others: the published rows are regions."""
        found = {"attention": 2}
        if self.inter_region:
            found["inter_region"] = 1
        if self.interaction != "none":
            found["interaction"] = 2 if self.interaction == "self" else 1
        if self.feedback != "none":
            found["feedback"] = 1
        return {**found, "ffn": 2}

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
        is_ours: its `forward` is that of this package, and takes its factors of stochastic depth; others draw for
            themselves.
        representative_only: nothing but the representative tokens is read of what it gives.
        next_norm: the LayerNorm that the next block begins with, where this one does it.
        unit: is called in its place where its weights are sharded.
    """

    block: Any
    is_called: bool
    is_ours: bool
    representative_only: bool
    next_norm: nn.LayerNorm | None
    unit: Any = None

    @property
    def prunes(self) -> bool:
        """Whether local tokens are left out after the block's first stage, as they reach nobody."""
        return self.representative_only and self.block.prunes_local_tokens


def plan(blocks: Iterable[nn.Module], *, representative_only: bool = False) -> list[Step]:
    """How `run_fused` runs blocks: each in its schedule where that can be, joined with a next one that is too."""
    row: list[Any] = list(blocks)
    called = [_must_be_called(block) for block in row]
    steps = []
    for number, block in enumerate(row):
        last = number + 1 == len(row)
        joined = not last and not called[number] and not called[number + 1]
        next_norm = row[number + 1].first_norm if joined else None
        unit = block.unit if isinstance(block, BlockParts) else None
        steps.append(Step(block, called[number], is_ours(block), representative_only and last, next_norm, unit))
    return steps


def _must_be_called(block: Any) -> bool:
    """Whether a block has to be called for what it does, so that it is joined with no other one."""
    # Wrappers pass attributes on but are no blocks themselves. Weights of a sharded block are whole only once it is
    # called: it runs as one then, and is not asked before; its unit was, before they were sharded.
    if isinstance(block, BlockParts) and block.unit is not None:
        return not block.unit.is_fused
    return not isinstance(block, BlockParts) or is_called(block) or not block.is_fused


def draw_keep(
    blocks: Iterable[Any], shape: Sequence[int], device: torch.device, share: tuple[int, int] = (0, 1)
) -> Tensor | None:
    """Draw stochastic depth's factors for one pass of `run_fused`; `share` as of `share_of_clips`."""
    ours = [block for block in blocks if is_ours(block)]
    return share_of_clips(draw_factors(ours, shape, device), ours, shape, share)


def run_fused(
    blocks: Iterable[nn.Module],
    z: Tensor,
    *,
    attend_to: Tensor | None = None,
    representative_only: bool = False,
    recompute: bool = False,
    keep: Tensor | None = None,
) -> Iterator[Tensor]:
    """Yield the stream after each block.

    Args:
        blocks: `LGIBlock`s or `TransformerBlock`s.
        z: the stream before the first.
        attend_to: [M, S] or [B, M, S] bool, True for rows that may be attended to; all when None.
        representative_only: only the representative tokens of the last block are read.
        recompute: keep no activations of a block, and run it once more in the backward pass.
        keep: from `draw_keep`; drawn here when None.

    Raises:
        InputError: `keep` is of other blocks or another stream.
    """
    shape, normed = z.shape[:-2], None
    steps = plan(blocks, representative_only=representative_only)
    ours = [step.block for step in steps if step.is_ours]
    factors = draw_factors(ours, shape, z.device) if keep is None else keep
    keeps = iter(split_factors(factors, ours, shape))
    for step in steps:
        settings = (attend_to, step.representative_only, step.next_norm, next(keeps) if step.is_ours else None)
        again = getattr(step.block, "recompute", False) and step.block.training and torch.is_grad_enabled()
        run = run_recomputed if recompute or again else run_step
        given = (step.is_called, z, normed, *settings)
        z, normed = run(step.block, *given) if step.unit is None else step.unit(run, *given)
        yield z


def run_step(block: Any, is_called: bool, *given: Any) -> tuple[Tensor, Tensor | None]:
    """Run a block as a `Step` of `plan` says; given are the other arguments of `run_block`."""
    return (_call if is_called else run_block)(block, *given)


def run_recomputed(block: Any, is_called: bool, *given: Any) -> tuple[Tensor, Tensor | None]:
    """`run_step` that keeps no activations, and runs once more in the backward pass."""
    return checkpoint(_call if is_called else run_block, block, *given, use_reentrant=False)  # type: ignore[no-any-return]


def run_block(
    block: BlockParts,
    z: Tensor,
    normed: Tensor | None = None,
    attend_to: Tensor | None = None,
    representative_only: bool = False,
    next_norm: nn.LayerNorm | None = None,
    keep: Keep | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Run a block that `is_fused` in its schedule.

    Args:
        block: its parts.
        z: the stream.
        normed: what the block's first LayerNorm makes of the stream, where that has been done.
        attend_to: see `run_fused`.
        representative_only: only the representative tokens of the result are read.
        next_norm: the LayerNorm that follows, to be done in the same pass as the last residual.
        keep: stochastic depth's factors; drawn here when None.

    Returns:
        The stream, [B, M, 1, C] with `representative_only`; and its `next_norm`, None without one.
    """
    keep = block.draw(z) if keep is None else keep
    n = apply_norm(z, block.first_norm, block.impl) if normed is None else normed
    if not isinstance(block, LGIParts):
        assert isinstance(block, TransformerParts)
        z, n = _transformer(block, z, n, attend_to, keep)
    elif representative_only and block.prunes_local_tokens:
        z, n = _representative_tokens(block, z, n, attend_to, keep)
    else:
        z, n = _regions(block, z, n, attend_to, keep, representative_only)
    ffn = weights(block.ffn.fc1), weights(block.ffn.fc2)
    if next_norm is None:
        return functional.feed_forward_residual(n, *ffn, z, keep=keep.ffn, impl=block.impl), None
    return functional.feed_forward_residual_layer_norm(
        n, *ffn, z, weights(next_norm), eps=next_norm.eps, keep=keep.ffn, impl=block.impl
    )


def _call(
    block: nn.Module,
    z: Tensor,
    normed: Tensor | None,
    attend_to: Tensor | None,
    representative_only: bool,
    next_norm: nn.LayerNorm | None,
    keep: Keep | None,
) -> tuple[Tensor, None]:
    """`run_block` for a block that has to be called, which no other one is joined with."""
    settings = {} if keep is None else {"keep": keep}
    return block(z, attend_to, representative_only=representative_only, **settings), None


def _transformer(
    block: TransformerParts, z: Tensor, n: Tensor, attend_to: Tensor | None, keep: Keep
) -> tuple[Tensor, Tensor]:
    """Self-attention, and the LayerNorm before the feed-forward network."""
    heads = block.attention.heads(n, attend_to=attend_to)
    return _end(heads, block.attention.proj, z, keep.attention, block.ffn_norm, block.impl)


def _regions(
    block: LGIParts,
    z_BMSC: Tensor,
    n_BMSC: Tensor,
    attend_to: Tensor | None,
    keep: Keep,
    representative_only: bool,
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
        keep=keep.attention,
        impl=impl,
    )
    if block.inter_region:
        s_BMC, n_BMC = _among_regions(block, s_BMC, n_BMC, block.interaction_context_norm, keep)
    after = block.ffn_norm if block.feedback == "none" else block.feedback_context_norm
    query, kv_BMC, kv_bias = interaction_inputs(interaction, n_BMC, z_BMSC, impl)
    z_BMSC, n_BMSC = functional.local_global_interaction(
        z_BMSC,
        s_BMC,
        kv_BMC,
        norm=weights(block.interaction_norm),
        query=query,
        output=weights(interaction.proj),
        next_norm=weights(after),
        num_heads=interaction.num_heads,
        eps=block.interaction_norm.eps,
        keep=keep.interaction,
        kv_bias=kv_bias,
        impl=impl,
    )
    if after.eps != block.interaction_norm.eps:
        # The operation has one epsilon for both.
        n_BMSC = apply_norm(z_BMSC, after, impl)
    if block.feedback == "none":
        return z_BMSC, n_BMSC
    inputs = block.feedback_inputs(apply_norm(s_BMC, block.feedback_norm, impl), n_BMSC[:, :, 1:], attend_to)
    heads = block.feedback_attention.heads(*inputs).reshape(s_BMC.shape)
    proj = weights(block.feedback_attention.proj)
    s_BMC = functional.linear_residual(heads, proj, s_BMC, keep=keep.feedback, impl=impl)
    z_BM1C = s_BMC.unsqueeze(2)
    z_BMSC = z_BM1C if representative_only else torch.cat([z_BM1C, z_BMSC[:, :, 1:]], 2)
    return z_BMSC, apply_norm(z_BMSC, block.ffn_norm, impl)


def _representative_tokens(
    block: LGIParts, z_BMSC: Tensor, n_BMSC: Tensor, attend_to: Tensor | None, keep: Keep
) -> tuple[Tensor, Tensor]:
    """`_regions` for representative tokens that local ones reach in the first stage only: [B, M, 1, C] each."""
    intra, s_BM1C = block.intra_attention, z_BMSC[:, :, :1]
    heads = intra.heads(n_BMSC[:, :, :1], n_BMSC, attend_to)
    after = block.inter_norm if block.inter_region else block.ffn_norm
    s_BM1C, n_BM1C = _end(heads, intra.proj, s_BM1C, keep.attention, after, block.impl)
    if not block.inter_region:
        return s_BM1C, n_BM1C
    s_BMC, n_BMC = _among_regions(block, s_BM1C[:, :, 0], n_BM1C[:, :, 0], block.ffn_norm, keep)
    return s_BMC.unsqueeze(2), n_BMC.unsqueeze(2)


def _among_regions(
    block: LGIParts, s_BMC: Tensor, n_BMC: Tensor, after: nn.LayerNorm, keep: Keep
) -> tuple[Tensor, Tensor]:
    """The second stage and the LayerNorm that follows it."""
    inter = block.inter_attention
    return _end(inter.heads(n_BMC), inter.proj, s_BMC, keep.inter_region, after, block.impl)


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
        if kind is nn.Linear or kind is LoraLinear:
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
    hooked = is_hooked(block) or bool(torch_module._has_any_global_hook())
    return hooked or not is_ours(block) or block._compiled_call_impl is not None


def is_ours(block: Any) -> bool:
    """Whether a block's `forward` is that of its class in this package."""
    return (
        isinstance(block, BlockParts) and "forward" not in block.__dict__ and type(block).forward is type(block).run  # type: ignore[attr-defined]
    )
