"""Figures of explanations: rows of frames with maps over them and colour bars, and matrices of regions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from maedfer._figure_style import HEAT, INK, MUTED, blank, styled
from maedfer.data.video.base import shown
from maedfer.errors import InputError, require, unknown
from maedfer.explanation.overlay import (
    Scale,
    colour_table,
    enlarge_smoothly,
    paint,
    scale_of,
    to_pixels,
)
from maedfer.models import LGIFormerConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What a map is of, with the words for it.
KINDS = {
    "intra_region": "intra-region attention",
    "inter_region": "inter-region attention",
    "interaction": "local-global interaction",
    "attention": "mean attention",
    "rollout": "attention rollout",
}

# Pixels that the shorter side of a picture has at least, and columns of a figure at most.
LEAST, _COLUMNS = 128, 8
_WIDTH, _WIDEST = 10.4, 1.3
_TIMES_EVEN = "times an\neven share"


class PictureRow(NamedTuple):
    """One row of a figure.

    Args:
        label: in front of it; lines are broken by hand.
        pictures: uint8 [n, H, W, 3].
        scale: of the colour bar behind it, if there is to be one.
    """

    label: str
    pictures: np.ndarray
    scale: Scale | None = None


class DrawnMaps(Protocol):
    """What is drawn of a clip's attention: a `maedfer.explanation.ClipAttention`."""

    @property
    def config(self) -> LGIFormerConfig:
        """Of the encoder."""
        ...

    @property
    def blocks(self) -> tuple[int, ...]:
        """Numbers of the blocks that there are maps of."""
        ...

    @property
    def frames(self) -> np.ndarray | None:
        """What the model was shown."""
        ...

    @property
    def inter_region(self) -> np.ndarray | None:
        """What representative tokens read from one another."""
        ...

    @property
    def interaction(self) -> np.ndarray | None:
        """What local tokens read from representative tokens."""
        ...

    @property
    def kinds(self) -> tuple[str, ...]:
        """What there are maps of."""
        ...

    def map(self, kind: str, block: int | None = None, *, head: int | None = None, of: Any = None) -> np.ndarray:
        """One map on the token grid."""
        ...

    def even(self, kind: str) -> float:
        """An even share."""
        ...

    def interaction_by_region(self, block: int | None = None) -> np.ndarray:
        """The interaction by region."""
        ...


@styled
def picture_rows(rows: Sequence[PictureRow], titles: Sequence[str], *, width: float = _WIDTH, note: str = "") -> Figure:
    """Draw rows of pictures, one column a moment.

    Args:
        rows: as many pictures each as there are titles, all of one size.
        titles: above the columns.
        width: of the figure, in inches, at most.
        note: below the rows.
    """
    left, right, head, foot = 1.15, 0.78, 0.26, 0.3 if note else 0.04
    shape = rows[0].pictures.shape
    cell = min(_WIDEST, (width - left - right) / shape[0])
    width = left + right + shape[0] * cell
    tall = cell * shape[1] / shape[2]
    gap = 0.035 * cell
    total = head + len(rows) * (tall + gap) + foot
    figure = blank(width, total)
    figure.set_layout_engine("none")
    for number, row in enumerate(rows):
        top = head + number * (tall + gap)
        for column, picture in enumerate(row.pictures):
            box = (left + column * cell, total - top - tall, cell - gap, tall)
            axis = figure.add_axes((box[0] / width, box[1] / total, box[2] / width, box[3] / total))
            axis.imshow(picture, interpolation="antialiased", aspect="auto")
            axis.set_axis_off()
            if not number:
                axis.set_title(titles[column], fontsize=8, fontweight="normal", color=MUTED, loc="center", pad=3)
        figure.text(
            (left - 0.1) / width,
            1 - (top + tall / 2) / total,
            row.label,
            ha="right",
            va="center",
            fontsize=8.5,
            color=INK,
        )
        if row.scale is not None:
            place = (width - right + 0.08, total - top - tall + 0.06 * tall)
            _colour_bar(figure, row.scale, (place[0] / width, place[1] / total, 0.09 / width, 0.72 * tall / total))
    if note:
        figure.text(left / width, 0.07 / total, note, fontsize=7.5, color=MUTED, va="bottom")
    return figure


def _colour_bar(figure: Figure, scale: Scale, box: tuple[float, float, float, float]) -> None:
    axis = figure.add_axes(box)
    table = colour_table(scale.colours)
    axis.imshow(table[:, None], aspect="auto", origin="lower", extent=(0, 1, scale.low, scale.high))
    axis.set_xticks([])
    axis.yaxis.tick_right()
    axis.yaxis.set_major_locator(require("matplotlib.ticker", "train").MaxNLocator(nbins=3))
    axis.tick_params(labelsize=7, length=2, pad=1.5)
    axis.spines[:].set_visible(False)
    axis.set_title(scale.label, fontsize=6.5, fontweight="normal", color=MUTED, loc="left", pad=2.5, linespacing=1.0)


def moments(config: LGIFormerConfig, columns: int = _COLUMNS) -> tuple[np.ndarray, list[str]]:
    """Which cubes in time are drawn, and what is said above each.

    Returns:
        int64 [n], numbers of cubes from 0 on; n titles.
    """
    cubes, frames = config.grid[0], config.patch_size[0]
    chosen = np.unique(np.linspace(0, cubes - 1, min(columns, cubes)).round().astype(np.int64))
    spans = [(cube * frames + 1, (cube + 1) * frames) for cube in chosen.tolist()]
    titles = [f"{first}" if frames == 1 else f"{first}\N{EN DASH}{last}" for first, last in spans]
    return chosen, [("frames " if frames > 1 else "frame ") + titles[0], *titles[1:]]


def attention_rows(
    maps: DrawnMaps,
    kinds: Sequence[str] | None = None,
    *,
    blocks: Sequence[int] | None = None,
    head: int | None = None,
    smooth: bool = True,
) -> Figure:
    """Draw attention maps over the frames; see `ClipAttention.plot`."""
    frames = _frames_of(maps)
    wanted = [kind for kind in maps.kinds if kind not in ("inter_region", "interaction")] if kinds is None else kinds
    for kind in wanted:
        if kind not in maps.kinds:
            raise unknown("kind of attention map", kind, maps.kinds)
    chosen = _spread(maps.blocks) if blocks is None else list(blocks)
    cubes, titles = moments(maps.config)
    shown = enlarge_smoothly(frames, LEAST)
    rows = [PictureRow("the clip", _outlined(shown, maps.config)[middles(maps.config, cubes)])]
    for kind in wanted:
        several: list[int | None] = [None] if kind == "rollout" else [*chosen]
        regions: list[int | None] = [*_most_read(maps, chosen[-1])] if kind == "interaction" else [None]
        for block, region in product(several, regions):
            values = maps.map(kind, block, head=None if kind == "rollout" else head, of=region) / maps.even(kind)
            scale = scale_of(values, _TIMES_EVEN, from_zero=kind != "rollout")
            painted = painted_frames(shown, values, maps.config, scale, smooth)
            label = _label(kind, block, region, maps) + ("" if head is None or kind == "rollout" else f", head {head}")
            rows.append(PictureRow(label, painted[middles(maps.config, cubes)], scale))
    return picture_rows(rows, titles)


def painted_frames(
    frames: np.ndarray, values: np.ndarray, config: LGIFormerConfig, scale: Scale, smooth: bool = True
) -> np.ndarray:
    """Lay a map on the token grid over the frames of its clip, which may have been enlarged: uint8 [T, H, W, 3]."""
    return paint(frames, to_pixels(values, (len(frames), *frames.shape[1:3]), smooth), scale)


@styled
def block_overview(maps: DrawnMaps, kinds: Sequence[str] = ("intra_region", "rollout")) -> Figure:
    """Draw what every kept block looks at, as means over time over the middle frame: a row a kind, a column a block.

    Raises:
        InputError: the clip is no video.
    """
    frames = enlarge_smoothly(_frames_of(maps), LEAST)
    middle = frames[len(frames) // 2]
    names = [kind for kind in ("attention", *kinds) if kind in maps.kinds]
    lines = -(-len(maps.blocks) // _COLUMNS)
    per_line = -(-len(maps.blocks) // lines)
    rows, titles = [], [f"block {maps.blocks[0]}", *map(str, maps.blocks[1:per_line])]
    for line in range(lines):
        some = maps.blocks[line * per_line : (line + 1) * per_line]
        for kind in names:
            grids = [maps.map(kind, block).mean(0, keepdims=True) / maps.even(kind) for block in some]
            scale = scale_of(np.stack(grids), _TIMES_EVEN, from_zero=kind != "rollout")
            cells = [paint(middle, to_pixels(grid, (1, *middle.shape[:2]))[0], scale) for grid in grids]
            empty = [np.full_like(middle, 255)] * (per_line - len(some))
            label = KINDS[kind].replace(" attention", "").replace("attention ", "")
            span = "" if lines == 1 else f"\nblocks {some[0]}\N{EN DASH}{some[-1]}"
            rows.append(PictureRow(label + span, np.stack([*cells, *empty]), scale))
    return picture_rows(rows, titles)


@styled
def region_matrices(maps: DrawnMaps, block: int | None = None) -> Figure:
    """Draw how regions read one another; see `ClipAttention.plot_regions`."""
    panels = []
    number = maps.blocks[-1] if block is None else block
    if maps.inter_region is not None:
        matrix = maps.inter_region[maps.blocks.index(number)].mean(0) if number in maps.blocks else None
        panels.append(("inter-region", "representative token of", matrix))
    if maps.interaction is not None:
        panels.append(("local-global interaction", "local tokens of", maps.interaction_by_region(number)))
    if not panels or number not in maps.blocks:
        maps.map(maps.kinds[0], number, of=0)  # names what is wrong with the block
        raise InputError("the model has no regions that read one another")
    names = region_names(maps.config)
    count = len(names)
    side = 0.9 + 0.36 * count
    figure = blank(len(panels) * (side + 1.5), side + 0.8)
    for axis, (title, who, matrix) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        shares = np.asarray(matrix)
        rectangle = require("matplotlib.patches", "train").Rectangle
        for row in range(count):
            for column in range(count):
                shade = float(shares[row, column] / shares.max())
                axis.add_patch(
                    rectangle((column - 0.48, row - 0.46), 0.96, 0.92, facecolor=HEAT, alpha=0.04 + 0.9 * shade)
                )
                if count <= 16:
                    ink = "white" if shade > 0.7 else INK
                    text = f"{100 * shares[row, column]:.0f}"
                    axis.text(column, row, text, ha="center", va="center", fontsize=7, color=ink)
        axis.set(xlim=(-0.5, count - 0.5), ylim=(count - 0.5, -0.5), aspect="equal")
        axis.set_xticks(range(count), names, rotation=40, ha="right", rotation_mode="anchor", color=INK)
        axis.set_yticks(range(count), names, color=INK)
        axis.tick_params(length=0, labelsize=7)
        axis.spines[:].set_visible(False)
        axis.set_title(f"{title}, block {number} (%)")
        axis.set_ylabel(f"{who} frames ... read")
        axis.set_xlabel("the representative token of frames ...")
    return figure


def region_names(config: LGIFormerConfig) -> list[str]:
    """What regions are called, in their order: frames from 1 on, and row and column of the plane where there are
    several."""
    times, rows, columns = config.region_grid
    span = config.region[0] * config.patch_size[0]
    names = []
    for number in range(config.num_regions):
        time, row, column = np.unravel_index(number, (times, rows, columns))
        parts = [f"{time * span + 1}\N{EN DASH}{(time + 1) * span}"]
        if rows > 1:
            parts.append(("upper", "lower")[row] if rows == 2 else f"row {row + 1}")
        if columns > 1:
            parts.append(("left", "right")[column] if columns == 2 else f"column {column + 1}")
        names.append(" ".join(parts))
    return names


def motion_gain(motion: np.ndarray) -> float:
    """How many times as strong motion round 0.5 is shown, so that it is seen: 1 to 3, no more than fits."""
    strongest = float(np.quantile(np.abs(motion - 0.5), 0.99))
    return float(np.clip(np.floor(0.5 / max(strongest, 1e-6)), 1, 3))


def _frames_of(maps: DrawnMaps) -> np.ndarray:
    if maps.frames is None:
        raise InputError(
            f"a clip of {maps.config.in_channels} channels of {list(maps.config.clip_size)} cannot be drawn as frames: "
            "take the arrays"
        )
    return maps.frames


def middles(config: LGIFormerConfig, cubes: np.ndarray) -> np.ndarray:
    """The frame that stands for each cube: the one in its middle, the earlier of two."""
    return cubes * config.patch_size[0] + (config.patch_size[0] - 1) // 2


def _most_read(maps: DrawnMaps, block: int) -> list[int]:
    """The regions whose tokens are read most by local ones, at most as many as a figure has columns, in order."""
    given = maps.interaction_by_region(block).mean(0)
    return sorted(np.argsort(-given, kind="stable")[:_COLUMNS].tolist())


def _spread(blocks: tuple[int, ...]) -> list[int]:
    """The first, the middle and the last one."""
    return list(dict.fromkeys((blocks[0], blocks[(len(blocks) - 1) // 2], blocks[-1])))


def _label(kind: str, block: int | None, region: int | None, maps: DrawnMaps) -> str:
    words = {"intra_region": "intra-region", "inter_region": "inter-region", "interaction": "reading frames"}
    if kind == "rollout":
        return "rollout,\nall blocks"
    first = words.get(kind, KINDS[kind])
    if region is not None:
        first += f"\n{region_names(maps.config)[region]}"
    return f"{first}\nblock {block}"


def _outlined(frames: np.ndarray, config: LGIFormerConfig) -> np.ndarray:
    """Frames with the borders of regions within the plane, as thin lines."""
    out = frames.copy()
    for axis, places in ((1, config.region_grid[1]), (2, config.region_grid[2])):
        side = frames.shape[axis]
        for number in range(1, places):
            at = number * side // places
            line: Any = [slice(None)] * 3
            line[axis] = slice(at - 1, at + 1)
            out[tuple(line)] = (0.4 * out[tuple(line)] + 0.6 * 255).astype(np.uint8)
    return out


def short_name(name: str) -> str:
    """A name of a class as it is drawn."""
    name = shown(name)
    return name if len(name) <= 18 else name[:17] + "."
