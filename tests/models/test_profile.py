"""The table of parameters and multiply-adds that the paper's models must reproduce."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from maedfer.kernels import use_impl
from maedfer.models import MAEDFER, LGIFormer, LGIFormerConfig, build_model, model_config, profile
from maedfer.models.profile import giga
from tests.helpers import small, small_mae

# (name, overrides, parameters in M, multiply-adds in G), paper tables 2, 3, 4 and 9.
TABLE = [
    ("lgi_former_base", {}, 84.88, 49.65),
    ("lgi_former_base", {"inter_region": False, "interaction": "none"}, 51.23, 42.63),
    ("lgi_former_base", {"interaction": "none"}, 68.04, 42.77),
    ("lgi_former_base", {"inter_region": False}, 68.06, 49.52),
    ("vit_base", {}, 86.23, 80.69),
    ("lgi_former_base", {"region_size": (1, 5, 10)}, None, 49.71),
    ("lgi_former_base", {"region_size": (2, 2, 10)}, None, 49.93),
    ("lgi_former_base", {"region_size": (2, 10, 10)}, None, 50.61),
    ("lgi_former_base", {"region_size": (4, 5, 10)}, None, 50.61),
    ("lgi_former_small", {}, 47.93, 28.32),
    ("lgi_former_tiny", {}, 21.47, 12.93),
    ("mae_dfer_base", {}, 92.76, 14.03),
]


@pytest.mark.parametrize(("name", "overrides", "parameters", "macs"), TABLE)
def test_published_figures(name: str, overrides: dict, parameters: float | None, macs: float) -> None:
    counted = profile(model_config(name, **overrides))
    if parameters is not None:
        assert round(counted.parameters / 1e6, 2) == parameters
    assert abs(giga(counted.macs_published) - macs) <= 0.02
    assert sum(counted.parameters_by_part.values()) == counted.parameters


SWITCHES = [
    {},
    {"interaction": "none"},
    {"interaction": "self"},
    {"intra_region": "cross"},
    {"inter_region": False},
    {"feedback": "clip"},
    {"feedback": "region"},
    {"token_type": "all"},
    {"token_type": "local", "intra_region": "cross"},
    {"architecture": "vit"},
    {"share_attention": "all"},
]


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
@pytest.mark.parametrize("task", ["finetune", "pretrain"])
def test_executed_plan_is_what_pytorch_counts(switches: dict, task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The counter does not know oneDNN's product.
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    encoder: LGIFormerConfig = small(**switches)
    config = encoder if task == "finetune" else small_mae(encoder=encoder, decoder_keep=0.5)
    model = build_model(config).eval()
    inputs = [torch.randn(1, 3, *encoder.clip_size)]
    if isinstance(model, MAEDFER):
        inputs += model.token_numbers(*model.random_masks(1))
    # The unfused backend is made of plain products, which the counter knows on every device.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad(), use_impl("torch"):
        model(*inputs)
    assert counter.get_total_flops() == 2 * sum(profile(config).macs_executed.values())


def test_shared_weights_count_once() -> None:
    alone, shared = profile(small()), profile(small(share_attention="all"))
    attention = 4 * 32 * 32 + 3 * 32
    assert alone.parameters - shared.parameters == 2 * 2 * attention
    assert profile(small()).parameters == sum(p.numel() for p in LGIFormer(small()).parameters())
