"""Which tokens the encoder sees and which the decoder reconstructs."""

from __future__ import annotations

import torch
from torch import Tensor

from maedfer.errors import InputError
from maedfer.models.checks import check_tensor
from maedfer.models.config import LGIFormerConfig
from maedfer.models.encoder import region_order


def hidden_per_window(config: LGIFormerConfig, ratio: float) -> tuple[int, int]:
    """Tokens hidden in, and tokens of, one region's window (the plane of a region without time).

    Raises:
        InputError: the ratio hides none or all of them.
    """
    window = config.region_tokens // (config.region[0] if len(config.region) > 2 else 1)
    hidden = int(ratio * window)
    if not 0 < hidden < window:
        raise InputError(
            f"mask_ratio {ratio} hides {hidden} of the {window} tokens of a region's window: "
            "choose a ratio or a region_size that leaves some hidden and some visible"
        )
    return hidden, window


def tube_mask(
    config: LGIFormerConfig, ratio: float, generator: torch.Generator | None = None, order: Tensor | None = None
) -> Tensor:
    """Draw a tube mask: one spatial pattern, repeated over time, with the same ratio in every region.

    Args:
        config: gives the token grid and the regions; a ViT has one region, the whole grid.
        ratio: share of hidden tokens; int(ratio * window) of each region's window are hidden.
        generator: source of randomness; the global one when None.
        order: `region_order` of the configuration, for who draws many masks.

    Returns:
        [K] bool in row-major (t, h, w) order, True = hidden. Inputs without a time dimension get one pattern.
    """
    count, window = hidden_per_window(config, ratio)
    has_time = len(config.grid) > 2
    time, times = (config.region[0], config.region_grid[0]) if has_time else (1, 1)
    windows = config.num_regions // times
    ranks = torch.rand(windows, window, generator=generator).argsort(dim=1).argsort(dim=1)
    pattern = (ranks < count)[None, :, None].expand(times, windows, time, window)
    hidden = torch.empty(config.num_tokens, dtype=torch.bool)
    hidden[(region_order(config) if order is None else order).flatten()] = pattern.flatten()
    return hidden


def visible_tokens(hidden: Tensor, order: Tensor) -> Tensor:
    """Row-major numbers of the visible tokens, by region.

    Args:
        hidden: [B, K] bool in row-major order, True for tokens that are not to be seen.
        order: [M, N] of `region_order`, on the same device.

    Returns:
        [B, M, V] int64, each region's in their order within it.

    Raises:
        InputError: shapes that do not fit, or regions that keep different numbers of tokens, or none.
    """
    check_tensor(hidden, "hidden")
    if hidden.dtype != torch.bool or hidden.dim() != 2 or hidden.shape[1] != order.numel():
        raise InputError(
            f"a mask of hidden tokens must be bool of shape [B, {order.numel()}], "
            f"got {hidden.dtype} of shape {list(hidden.shape)}"
        )
    hidden = hidden[:, order]  # [B, M, N]
    counts = (~hidden).sum(dim=2)
    visible = int(counts[0, 0])
    if visible == 0 or not bool((counts == visible).all()):
        raise InputError(
            "a mask must leave the same number of visible tokens, at least one, in every region of every clip, "
            f"got {int(counts.min())} to {int(counts.max())} of {order.shape[1]}"
        )
    # Visible tokens first, each group in its old order.
    places = hidden.to(torch.uint8).argsort(dim=2, stable=True)[:, :, :visible]
    return order.expand(hidden.shape[0], -1, -1).gather(2, places)


def token_numbers(decoded: Tensor) -> Tensor:
    """Row-major numbers of the tokens to reconstruct, [B, n] int64, from [B, K] bool, True for those.

    Raises:
        InputError: clips differ in their number, or have none.
    """
    counts = decoded.sum(dim=1)
    if not bool((counts == counts[0]).all()) or int(counts[0]) == 0:
        raise InputError("every clip of a batch must have the same number of tokens to reconstruct, at least one")
    return decoded.nonzero()[:, 1].reshape(decoded.shape[0], -1)


def running_cell_mask(
    hidden: Tensor, config: LGIFormerConfig, keep: float, generator: torch.Generator | None = None
) -> Tensor:
    """Choose the masked tokens that the decoder reconstructs, by running cells (VideoMAE V2, section 3.1).

    Each 2 x 2 cell of the plane reconstructs some of its places, and the places move on from frame to frame, so that
    over time every place is covered. Where the cells do not give the exact count, masked tokens are added or left
    out at random.

    Args:
        hidden: [K] bool, True for tokens that the encoder does not see.
        config: gives the token grid.
        keep: share of the masked tokens to reconstruct.
        generator: source of randomness; the global one when None.

    Returns:
        [K] bool, True for tokens to reconstruct: max(1, int(keep * n)) of the n hidden ones.
    """
    height, width = config.grid[-2:]
    frames = config.num_tokens // (height * width)
    start = int(torch.randint(4, (), generator=generator))
    # Clockwise walk around the cell: 0 1 / 3 2.
    place = torch.tensor([[0, 1], [3, 2]]).repeat((height + 1) // 2, (width + 1) // 2)[:height, :width]
    turn = (place[None] - torch.arange(frames)[:, None, None] - start) % 4
    chosen = turn < 4 * keep
    order = torch.rand(config.num_tokens, generator=generator) - chosen.flatten().float()
    order[~hidden] = torch.inf
    count = max(1, int(keep * int(hidden.sum())))
    out = torch.zeros_like(hidden)
    out[order.argsort()[:count]] = True
    return out
