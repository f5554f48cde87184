"""Features of clips at any depth of an encoder, of several layers in one pass: pooled, and token by token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from maedfer.errors import InputError, unknown
from maedfer.models import LGIFormer, LGIFormerConfig

TOKENS = ("representative", "local")
# The epsilon of the models' norms.
_EPS = 1e-6


class TokenGrid(NamedTuple):
    """Which tokens of a layer are kept.

    Args:
        kind: "representative" or "local".
        sizes: of the grid of local tokens that are kept, each the mean of neighbours; of the regions else.
    """

    kind: str
    sizes: tuple[int, ...]

    @property
    def number(self) -> int:
        """Tokens of a view."""
        return math.prod(self.sizes)

    @property
    def key(self) -> str:
        """A name for files."""
        return f"{self.kind}-{'x'.join(map(str, self.sizes))}"

    def words(self, config: LGIFormerConfig) -> str:
        """The tokens as people say it."""
        if self.kind == "representative":
            return f"{self.number} representative tokens"
        whole, sizes = (" x ".join(map(str, one)) for one in (config.grid, self.sizes))
        return f"{self.number} local tokens" if whole == sizes else f"means of local tokens, {whole} to {sizes}"


def choose_layers(text: str | int | Sequence[int], depth: int) -> tuple[int, ...]:
    """The layers that are meant: 0 is the stream before the first block, `depth` that after the last one.

    Args:
        text: numbers, one or several ("3", "0,6,12"), of which one may be "last"; "all".
        depth: blocks of the encoder.

    Raises:
        InputError: there is no such layer.
    """
    if text == "all":
        return tuple(range(depth + 1))
    if text == "":
        return (depth,)
    items = [text] if isinstance(text, int) else text.split(",") if isinstance(text, str) else list(text)
    found = []
    for item in items:
        try:
            number = depth if str(item).strip() == "last" else int(item)
        except ValueError:
            number = -1
        if not 0 <= number <= depth:
            raise InputError(
                f"layer {str(item).strip()!r} does not exist: layers are 0 (before the first block) to {depth} (after "
                "the last one), several as 0,2,4; all; last"
            )
        found.append(number)
    return tuple(sorted({*found}))


def token_grid(config: LGIFormerConfig, layer: int, kind: str = "", most: int = 128) -> TokenGrid:
    """Which tokens of a layer an attentive probe reads.

    Args:
        config: of the encoder.
        layer: before the first block, representative tokens are the same for all clips: local ones are read there.
        kind: "representative", "local", or "": representative where there are such.
        most: local tokens that are kept at most: the longest axis of their grid is halved, time counting for half,
            until they are as few; each one kept is then the mean of neighbours.

    Raises:
        InputError: no such kind, or a ViT's representative tokens are asked for.
    """
    if kind and kind not in TOKENS:
        raise unknown("kind of tokens", kind, TOKENS)
    has = config.architecture == "lgi"
    if kind == "representative" and not has:
        raise InputError("a ViT has no representative tokens: give --tokens local, or leave it out")
    if most < 1:
        raise InputError(f"the number of tokens must be at least 1, got {most}")
    if kind != "local" and has and layer:
        return TokenGrid("representative", tuple(config.region_grid))
    sizes = list(config.grid)
    while math.prod(sizes) > most:
        longest = max(range(len(sizes)), key=lambda axis: (sizes[axis] / (1 if axis else 2), -axis))
        sizes[longest] = math.ceil(sizes[longest] / 2)
    return TokenGrid("local", tuple(sizes))


def pooled_name(layer: int) -> str:
    """What the pooled features of a layer are called."""
    return f"pooled-{layer}"


def tokens_name(layer: int, grid: TokenGrid) -> str:
    """What tokens of a layer are called."""
    return f"tokens-{layer}-{grid.key}"


class LayerReader:
    """Reads features of several layers in one pass.

    Args:
        model: of `feature_extractor`, in evaluation mode.
        layers: of `choose_layers`.
        tokens: tokens of layers that are read token by token; others are pooled alone.
        pooled: layers whose pooled features are read; all of `layers` when None.
    """

    def __init__(
        self,
        model: LGIFormer,
        layers: Sequence[int],
        tokens: dict[int, TokenGrid] | None = None,
        pooled: Sequence[int] | None = None,
    ) -> None:
        self.model, self.layers = model, tuple(sorted(layers))
        self.tokens = tokens or {}
        self.pooled = self.layers if pooled is None else tuple(pooled)

    @property
    def names(self) -> list[str]:
        """What `read` gives, in its order."""
        return [*map(pooled_name, self.pooled), *(tokens_name(*item) for item in self.tokens.items())]

    def shapes(self, views: int) -> dict[str, tuple[int, ...]]:
        """Of a clip: [C] of pooled features, [views * T, C] of tokens."""
        dim = self.model.config.embed_dim
        pooled: dict[str, tuple[int, ...]] = {pooled_name(layer): (dim,) for layer in self.pooled}
        return {**pooled, **{tokens_name(*item): (views * item[1].number, dim) for item in self.tokens.items()}}

    def read(self, frames: Tensor, views: int = 1) -> tuple[Tensor, ...]:
        """Features of a batch, float32, in the order of `names`.

        Pooled features are the mean of the tokens that the model's head reads (before the first block of an LGI-Former,
        of local tokens) through a LayerNorm: after the last block that of the model, before it one without weights; and
        the mean over views. Tokens are normalised without weights, those of the views of a clip side by side.

        Args:
            frames: [B * views, 3, *clip_size] uint8 or normalised.
            views: of each clip, neighbours.
        """
        encoder, depth = self.model.encoder, self.model.config.depth
        found: dict[str, Tensor] = {}
        z = encoder.embed(frames)
        if 0 in self.layers:
            found |= self._of_layer(0, z, views)
        last = self.layers[-1]
        if last:
            # The last block need not finish what nobody reads.
            grid = self.tokens.get(depth)
            short = self.model.reads_representative_only and (grid is None or grid.kind == "representative")
            for layer, stream in enumerate(encoder.run_blocks(z, representative_only=short), 1):
                if layer in self.layers:
                    found |= self._of_layer(layer, stream, views)
                if layer == last:
                    break
        return tuple(found[name] for name in self.names)

    def _of_layer(self, layer: int, z: Tensor, views: int) -> dict[str, Tensor]:
        """[B * views, M, S, C] to features."""
        config = self.model.config
        has = config.architecture == "lgi"
        found = {}
        if layer in self.pooled:
            rows = z
            if has and config.token_type != "all":
                rows = z[:, :, :1] if config.token_type == "region" and layer else z[:, :, 1:]
            mean = rows.mean(dim=(1, 2), dtype=torch.float32)
            mean = self.model.head_norm(mean) if layer == config.depth else _normal(mean)
            found[pooled_name(layer)] = mean.float().unflatten(0, (-1, views)).mean(1)
        if layer in self.tokens:
            grid = self.tokens[layer]
            if grid.kind == "representative":
                rows = _normal(z[:, :, 0].float())
            else:
                local = (z[:, :, 1:] if has else z).flatten(1, 2)
                rows = _on_grid(
                    _normal(local[:, self.model.encoder.region_order.flatten().argsort()].float()), config, grid
                )
            found[tokens_name(layer, grid)] = rows.unflatten(0, (-1, views)).flatten(1, 2)
        return found


def float16_error(values: Tensor) -> tuple[float, float]:
    """Sums of squares over what is lost when values become float16, and over the values."""
    exact = values.double()
    return float((values.half().double() - exact).square().sum()), float(exact.square().sum())


def as_stored(name: str, values: Tensor) -> np.ndarray:
    """Features of `LayerReader.read` as files hold them: float32, tokens float16."""
    return (values.half() if name.startswith("tokens") else values.float()).cpu().numpy()


def _normal(x: Tensor) -> Tensor:
    return torch.nn.functional.layer_norm(x, x.shape[-1:], eps=_EPS)


def _on_grid(rows: Tensor, config: LGIFormerConfig, grid: TokenGrid) -> Tensor:
    """Row-major local tokens [B, K, C] to the means of neighbours [B, T, C]."""
    if grid.sizes == tuple(config.grid):
        return rows
    cells = rows.transpose(1, 2).unflatten(2, config.grid)
    for axis, size in enumerate(grid.sizes, 2):
        # One axis after the other, for grids of any number of them: cells that overlap are parts of two means.
        moved = cells.movedim(axis, -1)
        moved = torch.nn.functional.adaptive_avg_pool1d(moved.flatten(1, -2), size).unflatten(1, moved.shape[1:-1])
        cells = moved.movedim(-1, axis)
    return cells.flatten(2).transpose(1, 2)
