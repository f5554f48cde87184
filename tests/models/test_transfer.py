"""From pre-training to fine-tuning."""

from __future__ import annotations

import pytest
import torch

from maedfer.errors import InputError
from maedfer.models import MAEDFER, LGIFormer, load_pretrained
from maedfer.models.positions import interpolate_grid, sincos_positions
from tests.helpers import randomize, relative_error, small, small_mae


def hidden_weight(model: LGIFormer | MAEDFER) -> torch.Tensor:
    return model.get_parameter("encoder.blocks.1.ffn.fc1.weight")


def test_encoder_is_copied_and_head_left_alone() -> None:
    mae = MAEDFER(small_mae())
    randomize(mae)
    model = LGIFormer(small(num_classes=3, drop_path=0.1, token_type="all")).eval()
    head = model.get_parameter("head.weight").clone()
    report = load_pretrained(model, mae)
    video = torch.randn(2, 3, 8, 32, 32)
    assert torch.equal(model.encoder(video), mae.eval().encoder(video))
    assert torch.equal(model.get_parameter("head.weight"), head)
    assert "head.weight" in report.fresh and report.ignored["mask_token"] == "only used in pre-training"
    assert set(report.used) == {f"encoder.{name}" for name, _ in mae.encoder.named_parameters()}
    assert not report.adapted


def test_other_clip_sizes_interpolate_tokens_and_positions() -> None:
    mae = MAEDFER(small_mae(encoder=small(position="learned")))
    randomize(mae)
    model = LGIFormer(small(position="learned", clip_size=(16, 64, 32)))
    report = load_pretrained(model, mae)
    assert set(report.adapted) == {"encoder.positions", "encoder.representative_tokens"}
    expected = interpolate_grid(mae.encoder.positions.detach(), (4, 4, 4), (8, 8, 4))
    assert torch.equal(model.encoder.positions, expected)
    assert model.encoder.representative_tokens.shape == (32, 32)


def test_position_grid_interpolates_the_fixed_table() -> None:
    model = LGIFormer(small(clip_size=(8, 64, 64), position_grid=(4, 4, 4)))
    expected = interpolate_grid(sincos_positions(64, 32), (4, 4, 4), (4, 8, 8))
    assert relative_error(model.encoder.positions, expected) < 1e-6


def test_a_classifier_can_be_the_source() -> None:
    source = LGIFormer(small())
    model = LGIFormer(small(num_classes=2))
    report = load_pretrained(model, source)
    assert report.ignored["head.weight"] == "the head is made anew"
    assert torch.equal(hidden_weight(model), hidden_weight(source))


def test_another_architecture_is_refused_by_its_settings() -> None:
    with pytest.raises(InputError, match=r"another architecture: depth \(2 there, 1 here\), interaction"):
        load_pretrained(LGIFormer(small(depth=1, interaction="none")), MAEDFER(small_mae()))


@pytest.mark.parametrize(
    "machine", [{"impl": "torch"}, {"full_attention": "xformers"}, {"checkpoint_blocks": True}], ids=str
)
def test_who_computes_is_no_architecture(machine: dict) -> None:
    mae = MAEDFER(small_mae())
    model = LGIFormer(small(**machine))
    load_pretrained(model, mae)
    assert torch.equal(hidden_weight(model), hidden_weight(mae))
