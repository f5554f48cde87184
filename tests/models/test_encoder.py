"""From a clip to a stream of regions."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from maedfer.models.encoder import Encoder, region_order
from maedfer.models.positions import sincos_positions
from tests.helpers import relative_error, small


def test_region_order_is_row_major_within_row_major_regions() -> None:
    order = region_order(small())
    assert order.shape == (8, 8)
    # Grid (4, 4, 4), regions of (2, 2, 2): the second region starts at column 2, the third at row 2.
    assert order[0].tolist() == [0, 1, 4, 5, 16, 17, 20, 21]
    assert order[1, 0] == 2 and order[2, 0] == 8 and order[4, 0] == 32
    flat = region_order(small(clip_size=(32, 64), patch_size=(8, 8), region_size=(4, 4)))
    assert flat.shape == (2, 16) and flat[1, :5].tolist() == [4, 5, 6, 7, 12]


def test_embedding_equals_the_strided_convolution() -> None:
    config = small()
    encoder = Encoder(config)
    video = torch.randn(2, 3, *config.clip_size)
    weight = encoder.embedding.weight
    convolved = F.conv3d(video, weight, encoder.embedding.bias, stride=config.patch_size).flatten(2).transpose(1, 2)
    expected = (convolved + sincos_positions(config.num_tokens, config.embed_dim))[:, encoder.region_order]
    z = encoder.embed(video)
    assert relative_error(z[:, :, 1:], expected) < 1e-6
    assert torch.equal(z[1, :, 0], encoder.representative_tokens)
    visible = encoder.region_order[None, :, [1, 5]].expand(2, -1, -1)
    assert relative_error(encoder.embed(video, visible)[:, :, 1:], expected[:, :, [1, 5]]) < 1e-6
