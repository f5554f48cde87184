"""Attention maps of one clip: what representative tokens (or a ViT's tokens) look at, by block, on the token grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from maedfer.errors import InputError, unknown
from maedfer.explanation.clips import Clip, as_batch, encoder_config, evaluating, pictures_of
from maedfer.explanation.figures import KINDS, attention_rows, region_matrices
from maedfer.explanation.rollout import Stages, roll_back
from maedfer.models import MAEDFER, LGIFormer, LGIFormerConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from maedfer.models.attention import AttentionMaps


@dataclass(frozen=True)
class ClipAttention:
    """The attention of a model in one clip. All shares are probabilities: a row of softmax(q k^T / sqrt(D)).

    L blocks that were kept, H heads, M regions, N local tokens of a region, K = M * N tokens of a clip; `*grid` is
    (time, height, width) in tokens, `*region` the same within a region. Regions are numbered in the order of time,
    height and width, from 0. Arrays are float32; None where the model has no such stage.

    Args:
        config: of the encoder.
        blocks: numbers of the kept blocks, from 1 on: place 0 of an array is that of `blocks[0]`.
        frames: uint8 [T, H, W, 3], what the model was shown; None where that is no video.
        intra_region: [L, H, M, *region], what each representative token reads from the local tokens of its region.
        intra_own: [L, H, M], what it reads from itself; the two sum to 1.
        inter_region: [L, H, M, M], what each representative token (row) reads from each (column); rows sum to 1.
        interaction: [L, H, *grid, M], what each local token reads from each representative token; rows sum to 1.
        attention: [L, H, *grid], of a ViT, what each token is given, as a mean over all tokens that read; sums to 1.
        stages: mean over heads of every attention of every block, whether kept or not; see `rollout`. Rows and columns
            are in the order of regions.
        order: int64 [M, N], row-major numbers of the tokens of each region.
        pooled: float64 [M, S], the share of each row after the last block in what the head of a classifier averages.
    """

    config: LGIFormerConfig
    blocks: tuple[int, ...]
    frames: np.ndarray | None
    intra_region: np.ndarray | None = None
    intra_own: np.ndarray | None = None
    inter_region: np.ndarray | None = None
    interaction: np.ndarray | None = None
    attention: np.ndarray | None = None
    stages: tuple[Stages, ...] = field(default=(), repr=False)
    order: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.int64), repr=False)
    pooled: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)), repr=False)

    @property
    def kinds(self) -> tuple[str, ...]:
        """What there are maps of."""
        there = [name for name in KINDS if getattr(self, name, None) is not None and name != "rollout"]
        return (*there, "rollout")

    def map(self, kind: str, block: int | None = None, *, head: int | None = None, of: Any = None) -> np.ndarray:
        """One map on the token grid.

        Args:
            kind: "intra_region": what each representative token reads from its region, side by side.
                "inter_region": what representative tokens read from that of each region, the same for all tokens of
                a region; as a mean over who reads, or of the region `of`.
                "interaction": what local tokens read from the representative token of the region `of`.
                "attention": what a ViT's tokens are given, as a mean over who reads, or by the token `of`, given as
                (time, height, width).
                "rollout": see `rollout`.
            block: number of a kept block; the last one when None.
            head: from 0 on; the mean over heads when None.
            of: a region, or a ViT's token, from 0 on.

        Returns:
            float32 [*grid]; `even` says what would be there if all were read alike.

        Raises:
            InputError: no such kind, block, head, region or token.
        """
        if kind not in self.kinds:
            raise unknown("kind of attention map", kind, self.kinds, f"in a model of architecture {self._design!r}")
        if kind == "rollout":
            if head is not None:
                raise InputError("a rollout is of the mean over heads: leave head out")
            return self.rollout(block, of=of)
        at = self._place(block)
        if kind == "attention" and of is not None:
            if head is not None:
                raise InputError("what one token reads is kept as the mean over heads: leave head out")
            row = self.stages[self.blocks[at] - 1]["attention"][0, self._token(of)]
            return self._on_grid(row[None])
        values = getattr(self, kind)[at]
        values = values.mean(0) if head is None else values[self._head(head)]
        if kind == "attention":
            return np.ascontiguousarray(values)
        if kind == "intra_region":
            return self._on_grid(values.reshape(len(values), -1))
        if kind == "inter_region":
            given = values.mean(0) if of is None else values[self._region(of)]
            return self._on_grid(np.repeat(given[:, None], self.config.region_tokens, 1))
        if of is None:
            raise InputError("a map of the interaction is of one region: give its number, of=0 for the first one")
        return np.ascontiguousarray(values[..., self._region(of)])

    def even(self, kind: str) -> float:
        """The share that each place of a map has where everything is read alike."""
        config = self.config
        if kind == "intra_region":
            return 1.0 / (config.region_tokens + (config.intra_region == "self"))
        return 1.0 / (config.num_regions if kind in ("inter_region", "interaction") else config.num_tokens)

    def rollout(self, block: int | None = None, *, of: Any = None) -> np.ndarray:
        """Attention rollout from the embedding to a block; `maedfer.explanation.rollout` has the formulas.

        Args:
            block: number of the last block that is looked at, kept or not; the model's last one when None.
            of: whose look it is: a region's representative token, or a ViT's token (time, height, width); None = what
                the head of a classifier averages: representative tokens for token_type="region", local ones for
                "local", all for "all" and for a ViT.

        Returns:
            float32 [*grid]. What is missing to 1 ends in the representative tokens that the model begins with.

        Raises:
            InputError: no such block, region or token.
        """
        count = len(self.stages) if block is None else block
        if not isinstance(count, int) or not 1 <= count <= len(self.stages):
            raise InputError(f"block {block!r} is none of the model's {len(self.stages)} blocks: give 1 to that")
        rows = self.pooled
        if of is not None:
            rows = np.zeros_like(self.pooled)
            if self._design == "lgi":
                rows[self._region(of), 0] = 1.0
            else:
                rows[0, self._token(of)] = 1.0
        found = roll_back(rows[None], self.stages[:count])[0]
        return self._on_grid(found[:, -self.config.region_tokens :])

    def plot(
        self,
        kinds: Sequence[str] | None = None,
        *,
        blocks: Sequence[int] | None = None,
        head: int | None = None,
        smooth: bool = True,
    ) -> Figure:
        """Draw maps over the frames, one row a map, with a colour bar each.

        Args:
            kinds: what to draw; what representative tokens (a ViT's tokens) read and the rollout when None.
                "interaction" has a row for each region, the eight that are read most where there are more.
            blocks: numbers of kept blocks; the first, the middle and the last one when None.
            head: from 0 on; the mean over heads when None, and always for the rollout.
            smooth: interpolate between tokens; otherwise every token is a square.

        Raises:
            InputError: no such kind, block or head, or the clip is no video.
        """
        return attention_rows(self, kinds, blocks=blocks, head=head, smooth=smooth)

    def plot_regions(self, block: int | None = None) -> Figure:
        """Draw how regions read one another in a block: inter-region attention, and the interaction by region.

        Raises:
            InputError: no such block, or a model without regions.
        """
        return region_matrices(self, block)

    def interaction_by_region(self, block: int | None = None) -> np.ndarray:
        """What local tokens of each region (row) read from each representative token: float32 [M, M], means over
        heads and tokens.

        Raises:
            InputError: the model has no such stage, or no such block.
        """
        if self.interaction is None:
            raise InputError("the model has no local-global interaction")
        weights: np.ndarray = self.stages[self.blocks[self._place(block)] - 1]["interaction"]
        return weights.reshape(*self.order.shape, -1).mean(1)

    @property
    def _design(self) -> str:
        return self.config.architecture

    def _on_grid(self, by_region: np.ndarray) -> np.ndarray:
        """[M, N] in the order of regions -> [*grid]."""
        flat = np.empty(self.config.num_tokens, np.float32)
        flat[self.order.reshape(-1)] = by_region.reshape(-1)
        return flat.reshape(self.config.grid)

    def _place(self, block: int | None) -> int:
        number = self.blocks[-1] if block is None else block
        if number not in self.blocks:
            kept = ", ".join(map(str, self.blocks))
            raise InputError(f"block {block!r} is none of those that were kept: {kept}")
        return self.blocks.index(number)

    def _head(self, head: int) -> int:
        return _within(head, self.config.num_heads, "head", "heads")

    def _region(self, region: Any) -> int:
        return _within(region, self.config.num_regions, "region", "regions")

    def _token(self, token: Any) -> int:
        grid = self.config.grid
        if not isinstance(token, Sequence) or len(token) != len(grid):
            raise InputError(f"a token is given by {len(grid)} numbers, its place on the grid {list(grid)}")
        place = [_within(at, side, "place", "places") for at, side in zip(token, grid, strict=True)]
        return int(np.ravel_multi_index(place, grid))


def attention_maps(model: LGIFormer | MAEDFER, clip: Clip, *, blocks: Sequence[int] | None = None) -> ClipAttention:
    """The attention of a model in one clip.

        maps = maedfer.explanation.attention_maps(maedfer.load("runs/dfew"), clip)
        maps.map("intra_region", 16)     # [8, 10, 10] for the base model
        maps.plot().savefig("attention.pdf")

    Computed from queries and keys as the specification does, softmax(q k^T / sqrt(D)), whatever implementation the
    model is run by otherwise. Of an autoencoder it is the encoder that is looked at, with nothing hidden.

    Args:
        model: a classifier or an autoencoder; it is held in evaluation mode.
        clip: uint8 or normalised float [3, T, H, W], or pictures, uint8 [T, H, W, 3]; as large as the model takes it.
        blocks: numbers of the blocks to keep, from 1 on; all when None. The rollout always has all of them.

    Raises:
        InputError: a clip of another shape, no such block, or layers in the place of attention that tell no weights.
    """
    config = encoder_config(model)
    kept = check_blocks(blocks, config.depth)
    batch = as_batch(model, clip)
    encoder = model.encoder
    order = encoder.region_order.cpu().numpy()
    found: dict[str, list[np.ndarray]] = {}
    stages = []
    with evaluating(model):
        for number, maps in enumerate(encoder.attention_maps(encoder.embed(batch)), 1):
            stages.append(_head_means(maps))
            if number in kept:
                for name, values in _arrays(maps, config, order).items():
                    found.setdefault(name, []).append(values)
    # In the order of the blocks that were asked for.
    rising = sorted(kept)
    places = [rising.index(number) for number in kept]
    arrays = {name: np.stack([values[place] for place in places]) for name, values in found.items()}
    return ClipAttention(
        config, kept, pictures_of(batch, config), **arrays, stages=tuple(stages), order=order, pooled=_pooled(model)
    )


def check_blocks(blocks: Sequence[int] | None, depth: int) -> tuple[int, ...]:
    """Numbers of blocks of an encoder of `depth` of them; all when None.

    Raises:
        InputError: none are given, one that the encoder does not have, or one twice.
    """
    if blocks is None:
        return tuple(range(1, depth + 1))
    kept = tuple(blocks)
    wrong = [block for block in kept if isinstance(block, bool) or not isinstance(block, int) or not 0 < block <= depth]
    if wrong:
        raise InputError(f"block {wrong[0]!r} is out of range: the encoder has blocks 1 to {depth}")
    if not kept or len({*kept}) < len(kept):
        raise InputError(f"blocks must be one or more different numbers from 1 to {depth}, got {list(kept)}")
    return kept


def _arrays(maps: AttentionMaps, config: LGIFormerConfig, order: np.ndarray) -> dict[str, np.ndarray]:
    """What is kept of a block with its heads, on the token grid."""
    if "attention" in maps:
        given = maps["attention"][0, 0].float().mean(1)  # [H, K], means over who reads
        return {"attention": given.unflatten(1, config.grid).cpu().numpy()}
    own = maps["intra_region"][0, :, :, 0].float().transpose(0, 1).cpu().numpy()  # [H, M, N or 1 + N]
    local = own[..., -config.region_tokens :]
    found = {
        "intra_region": local.reshape(*local.shape[:2], *config.region),
        "intra_own": own[..., 0] if config.intra_region == "self" else np.zeros(own.shape[:2], np.float32),
    }
    if "inter_region" in maps:
        found["inter_region"] = maps["inter_region"][0].float().cpu().numpy()
    if "interaction" in maps:
        values = maps["interaction"][0].float().cpu().numpy()  # [H, M * N, M]
        grid = values[:, order.reshape(-1).argsort()]
        found["interaction"] = grid.reshape(len(values), *config.grid, -1)
    return found


def _head_means(maps: AttentionMaps) -> Stages:
    """The mean over heads of every stage, of one clip; see `maedfer.explanation.rollout`."""
    # Regions come before heads where each has an attention of its own.
    return {name: values[0].float().mean(1 if values.dim() == 5 else 0).cpu().numpy() for name, values in maps.items()}


def _pooled(model: LGIFormer | MAEDFER) -> np.ndarray:
    """The share of every row in what a head averages: float64 [M, S], [1, K] for a ViT."""
    config = encoder_config(model)
    regions, local = config.num_regions, config.region_tokens
    if config.architecture == "vit":
        return np.full((1, local), 1.0 / local)
    shares = np.zeros((regions, 1 + local))
    shares[:, slice(0, 1) if config.token_type == "region" else slice(config.token_type == "local", None)] = 1.0
    return shares / shares.sum()


def _within(number: Any, count: int, one: str, several: str) -> int:
    if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or not 0 <= number < count:
        raise InputError(f"{one} {number!r} is out of range: there are {count} {several}, from 0 on")
    return int(number)
