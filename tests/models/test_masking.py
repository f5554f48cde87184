"""Tube masks and running cells."""

from __future__ import annotations

import pytest
import torch

from maedfer.errors import InputError
from maedfer.models import LGIFormerConfig, running_cell_mask, tube_mask
from maedfer.models.encoder import region_order
from tests.helpers import small

CONFIGS = {
    "published": LGIFormerConfig(),
    "split_width": LGIFormerConfig(region_size=(2, 5, 5)),
    "long_regions": LGIFormerConfig(region_size=(8, 2, 5)),
    "vit": LGIFormerConfig(architecture="vit"),
    "flat": LGIFormerConfig(clip_size=(64, 128), patch_size=(8, 8), region_size=(4, 4), in_channels=1),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("ratio", [0.9, 0.5])
def test_tube_mask_hides_the_same_share_of_every_region(config: LGIFormerConfig, ratio: float) -> None:
    mask = tube_mask(config, ratio)
    window = config.region_tokens // (config.region[0] if len(config.grid) == 3 else 1)
    by_region = mask[region_order(config)]
    assert (by_region.sum(1) == config.region_tokens // window * int(ratio * window)).all()
    if len(config.grid) == 3:
        frames = mask.reshape(config.grid)
        assert (frames == frames[0]).all(), "one pattern repeated over time"


def test_masks_follow_the_generator_and_differ_between_regions() -> None:
    config = LGIFormerConfig()
    draw = lambda seed: tube_mask(config, 0.9, torch.Generator().manual_seed(seed))  # noqa: E731
    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))
    places = torch.stack([draw(seed).reshape(8, 2, 50)[0] for seed in range(200)])
    assert not torch.equal(places[:, 0], places[:, 1])
    # Every place is hidden 90% of the time: 180 of 200, standard deviation 4.2.
    assert places.sum(0).min() > 155 and places.sum(0).max() <= 200


def test_a_ratio_that_hides_nothing_or_everything_is_refused() -> None:
    with pytest.raises(InputError, match="hides 0 of the 4 tokens"):
        tube_mask(small(), 0.2)


@pytest.mark.parametrize("keep", [0.5, 0.25, 0.3])
def test_running_cells_choose_a_fixed_count_that_moves_over_time(keep: float) -> None:
    config = LGIFormerConfig()
    mask = tube_mask(config, 0.9)
    chosen = [running_cell_mask(mask, config, keep, torch.Generator().manual_seed(s)) for s in range(20)]
    for one in chosen:
        assert int(one.sum()) == int(keep * int(mask.sum()))
        assert not (one & ~mask).any()
    frames = chosen[0].reshape(config.grid)
    assert not torch.equal(frames[0], frames[1])
    if keep == 0.5:
        # Half of each cell at a time and its other half two frames later.
        hidden = mask.reshape(config.grid)
        both = (frames[0] & frames[2] & hidden[0]).sum() / frames[0].sum()
        assert both < 0.25
