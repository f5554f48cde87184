"""Stochastic depth: one draw for all blocks of a pass, factors that are exact in every dtype."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from maedfer.errors import InputError
from maedfer.kernels import Impl, reference, use_impl
from maedfer.kernels.sub_layer import torch as plain
from maedfer.models import LGIFormer
from maedfer.models.lgi_block import LGIBlock
from maedfer.models.stochastic_depth import draw_factors, split_factors
from maedfer.models.transformer_block import TransformerBlock
from tests.helpers import randomize, small

CPU = torch.device("cpu")
RATES = (0.0, 0.1, 0.35)


def row(**switches: Any) -> list[LGIBlock]:
    return [LGIBlock(8, 2, drop_path=rate, **switches) for rate in RATES]


class Launches(TorchDispatchMode):
    """Operators that are called, views left out."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view:
            self.names.append(func.name())
        return func(*args, **(kwargs or {}))


def test_factors_are_drawn_at_once_and_are_exact() -> None:
    blocks = row()
    torch.manual_seed(0)
    uniform = torch.rand(2 * (8 + 1 + 1 + 8), 4)
    torch.manual_seed(0)
    with Launches() as launches:
        factors = draw_factors(blocks, (4, 8), CPU)
    assert factors is not None and factors.dtype == torch.float32 and len(launches.names) == 4
    # A row for each region of the first stage, one for each of the next two, a row for each region of the last.
    for block, mine, drawn in zip(blocks[1:], factors.split(18), uniform.split(18), strict=True):
        kept = drawn + (1.0 - block.drop_path) >= 1.0
        assert torch.equal(mine, kept / torch.tensor(1.0 - block.drop_path))
    none, one, other = split_factors(factors, blocks, (4, 8))
    assert none == (None,) * 5
    assert one.attention is not None and one.inter_region is not None and one.ffn is not None
    assert torch.equal(one.attention.flatten(), factors[:8].flatten()) and torch.equal(one.inter_region, factors[8])
    assert torch.equal(one.ffn.flatten(), factors[10:18].flatten()) and one.feedback is None
    assert other.interaction is not None and torch.equal(other.interaction, factors[27])


@pytest.mark.parametrize(
    ("switches", "rows"),
    [
        ({"feedback": "clip"}, 8 + 1 + 1 + 1 + 8),
        ({"interaction": "self"}, 8 + 1 + 8 + 8),
        ({"inter_region": False, "interaction": "none"}, 8 + 8),
    ],
    ids=str,
)
def test_every_branch_of_a_design_has_its_factors(switches: dict[str, Any], rows: int) -> None:
    factors = draw_factors(row(**switches), (4, 8), CPU)
    assert factors is not None and factors.shape == (2 * rows, 4)


def test_the_share_of_kept_samples_is_the_probability() -> None:
    block = LGIBlock(8, 2, drop_path=0.35)
    factors = draw_factors([block], (20_000, 1), CPU)
    assert factors is not None and abs(float(factors.mean()) - 1.0) < 0.015


def test_nothing_is_drawn_where_nothing_is_dropped() -> None:
    state = torch.get_rng_state()
    assert draw_factors([LGIBlock(8, 2, drop_path=0.3).eval(), TransformerBlock(8, 2)], (4, 8), CPU) is None
    model = LGIFormer(small(drop_path=0.0))
    torch.set_rng_state(state)
    assert model.draw_keep(2) is None
    model(torch.randn(2, 3, 8, 32, 32, generator=torch.Generator()))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_transformer_block_drops_entries_of_all_leading_dimensions() -> None:
    block = TransformerBlock(8, 2, drop_path=0.5)
    for shape in ((), (3,), (3, 2)):
        keep = block.draw(torch.zeros(*shape, 5, 8))
        assert keep.attention is not None and keep.ffn is not None
        assert keep.attention.shape == keep.ffn.shape == shape


@pytest.mark.parametrize("impl", ["reference", "torch"])
@pytest.mark.parametrize("architecture", ["lgi", "vit"])
def test_a_pass_that_is_given_its_factors_is_one_that_draws_them(architecture: Any, impl: Impl) -> None:
    model = LGIFormer(small(drop_path=0.5, architecture=architecture))
    randomize(model)
    clips = torch.randn(4, 3, 8, 32, 32)
    with use_impl(impl):
        torch.manual_seed(3)
        want = model(clips)
        torch.manual_seed(3)
        keep = model.draw_keep(4)
        assert torch.equal(model(clips, keep=keep), want) and not torch.equal(model(clips), want)
        with pytest.raises(InputError, match=r"factors of stochastic depth must be \[\d+, 3\] .* draw_keep"):
            model(clips[:3], keep=keep)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_branch_is_multiplied_in_float32_and_rounded_once(dtype: torch.dtype) -> None:
    x, weight = torch.randn(3, 2, 5, 8).to(dtype), torch.eye(8).to(dtype)
    keep = torch.tensor([[0.0, 1 / 0.9]] * 3)
    exact = (x.double() * keep.double()[..., None, None]).to(dtype)
    got = reference.residual_add(torch.zeros_like(x), x, keep=keep)
    assert got.dtype == dtype and torch.equal(got, exact)
    assert torch.equal(plain.linear_residual(x, (weight, None), torch.zeros_like(x), keep), exact)
