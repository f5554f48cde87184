"""Which blocks run in their schedule, which are called, and that both come to the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from maedfer.kernels import use_impl
from maedfer.models.fused import plan, run_fused
from maedfer.models.lgi_block import LGIBlock
from maedfer.models.transformer_block import TransformerBlock
from tests.helpers import randomize, relative_error

DIM, HEADS = 32, 2


def row(kind: str = "lgi", depth: int = 3, **switches: Any) -> nn.ModuleList:
    make: Callable[..., nn.Module] = LGIBlock if kind == "lgi" else TransformerBlock
    blocks = nn.ModuleList(make(DIM, HEADS, **switches) for _ in range(depth))
    randomize(blocks)
    return blocks


def stream() -> Tensor:
    return torch.randn(2, 4, 7, DIM, generator=torch.Generator().manual_seed(0))


def run(blocks: nn.ModuleList, **settings: Any) -> tuple[Tensor, list[Tensor]]:
    """The last stream and the gradients of all parameters, zeros where there is none."""
    torch.manual_seed(1)
    out = list(run_fused(blocks, stream(), **settings))[-1]
    return out, list(torch.autograd.grad(out.square().sum(), list(blocks.parameters()), materialize_grads=True))


def assert_same(one: tuple[Tensor, list[Tensor]], other: tuple[Tensor, list[Tensor]]) -> None:
    assert relative_error(one[0], other[0]) <= 1e-5
    assert all(relative_error(got, want) <= 1e-4 for got, want in zip(one[1], other[1], strict=True))


DESIGNS: dict[str, dict[str, Any]] = {
    "published": {},
    "no second stage": {"inter_region": False},
    "feedback": {"feedback": "clip"},
    "third self": {"interaction": "self"},
    "stochastic depth": {"drop_path": 0.5},
}


@pytest.mark.parametrize("representative_only", [False, True])
@pytest.mark.parametrize("switches", DESIGNS.values(), ids=DESIGNS)
def test_a_row_is_its_blocks_in_turn(switches: dict[str, Any], representative_only: bool) -> None:
    blocks = row(**switches)
    attend_to = torch.rand(4, 7, generator=torch.Generator().manual_seed(2)) > 0.3
    attend_to[:, 0] = True
    settings = {"attend_to": attend_to, "representative_only": representative_only}
    joined = run(blocks, **settings)
    assert joined[0].shape == (2, 4, 1 if representative_only else 7, DIM)
    assert_same(run(blocks, recompute=True, **settings), joined)
    with use_impl("reference"):
        assert_same(run(blocks, **settings), joined)


def test_a_row_without_regions() -> None:
    blocks = row("transformer", drop_path=0.5)
    joined = run(blocks)
    with use_impl("reference"):
        assert_same(run(blocks), joined)


def test_norms_are_joined_and_the_last_block_is_pruned() -> None:
    blocks = row()
    steps = plan(blocks, representative_only=True)
    assert [step.is_called for step in steps] == [False] * 3
    assert [step.next_norm for step in steps] == [blocks[1].intra_norm, blocks[2].intra_norm, None]
    assert [step.representative_only for step in steps] == [False, False, True]
    with use_impl("reference"):
        assert all(step.is_called and step.next_norm is None for step in plan(blocks))
    assert all(step.is_called for step in plan(row(interaction="self")))


class Doubling(LGIBlock):
    """A user's block."""

    def forward(self, *args: Any, **settings: Any) -> Tensor:
        return 2 * super().forward(*args, **settings)


class Deaf(LGIBlock):
    """A user's block with a stage of its own."""

    def interact(self, x_BMNC: Tensor, s_BMC: Tensor, keep_B: Tensor | None, maps: Any) -> Tensor:
        return x_BMNC


def test_a_stage_of_ones_own_is_called() -> None:
    torch.manual_seed(0)
    deaf, block = Deaf(DIM, HEADS), LGIBlock(DIM, HEADS)
    randomize(block)
    deaf.load_state_dict(block.state_dict())
    z = stream()
    assert block.is_fused and not deaf.is_fused
    # Representative tokens are read before the stage, local ones only after it.
    assert relative_error(deaf(z)[:, :, 0], block(z)[:, :, 0]) <= 1e-5
    assert relative_error(deaf(z)[:, :, 1:], block(z)[:, :, 1:]) > 1e-3


class Wrapper(nn.Module):
    """Passes attributes on, as torch.compile's and FSDP's do."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return (
            super().__getattr__(name) if name in ("inner", "_modules") else getattr(super().__getattr__("inner"), name)
        )

    def forward(self, *args: Any, **settings: Any) -> Tensor:
        return 2 * self.inner(*args, **settings)


def hook(blocks: nn.ModuleList) -> None:
    blocks[1].register_forward_hook(lambda block, args, out: 2 * out)


def replace_forward(blocks: nn.ModuleList) -> None:
    forward = blocks[1].forward
    blocks[1].forward = lambda *args, **settings: 2 * forward(*args, **settings)  # type: ignore[method-assign]


def derive(blocks: nn.ModuleList) -> None:
    block = Doubling(DIM, HEADS)
    block.load_state_dict(blocks[1].state_dict())
    blocks[1] = block


def wrap(blocks: nn.ModuleList) -> None:
    blocks[1] = Wrapper(blocks[1])


@pytest.mark.parametrize("change", [hook, replace_forward, derive, wrap], ids=lambda change: change.__name__)
def test_a_block_whose_call_is_more_than_the_block_is_called(change: Callable[[nn.ModuleList], None]) -> None:
    blocks = row()
    first = next(run_fused(blocks[:1], stream()))
    second = next(run_fused(blocks[1:2], first))
    want = next(run_fused(blocks[2:], 2 * second))
    change(blocks)
    assert [step.is_called for step in plan(blocks)] == [False, True, False]
    assert [step.next_norm for step in plan(blocks)] == [None] * 3
    got = list(run_fused(blocks, stream()))
    assert relative_error(got[1], 2 * second) <= 1e-5 and relative_error(got[2], want) <= 1e-5


def test_a_block_that_is_compiled_in_place_is_called() -> None:
    blocks = row()
    want = run(blocks)
    blocks[1].compile(backend="aot_eager")
    assert plan(blocks)[1].is_called
    assert_same(run(blocks), want)


def test_hooks_on_all_modules_see_every_block() -> None:
    blocks, seen = row(), []
    handle = nn.modules.module.register_module_forward_hook(lambda layer, args, out: seen.append((layer, out)))
    try:
        out = list(run_fused(blocks, stream()))
    finally:
        handle.remove()
    streams = [output for layer, output in seen if isinstance(layer, LGIBlock)]
    assert len(streams) == 3 and all(torch.equal(one, other) for one, other in zip(streams, out, strict=True))


@pytest.mark.parametrize("kind", ["lgi", "transformer"])
def test_replaced_and_hooked_layers_are_called(kind: str) -> None:
    blocks: Any = row(kind)
    want = run(blocks)
    seen: list[Tensor] = []
    handle = blocks[1].ffn.register_forward_hook(lambda layer, args, out: seen.append(out))
    assert not blocks[1].is_fused
    assert_same(run(blocks), want)
    assert len(seen) == 1
    handle.remove()
    assert blocks[1].is_fused

    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    replaced = Doubled(DIM, 4 * DIM)
    replaced.load_state_dict(blocks[1].ffn.fc1.state_dict())
    blocks[1].ffn.fc1 = replaced
    assert not blocks[1].is_fused and relative_error(run(blocks)[0], want[0]) > 1e-3


def test_a_training_step_with_recomputed_blocks_compiles() -> None:
    blocks = row(drop_path=0.3)

    def last(z: Tensor) -> Tensor:
        return list(run_fused(blocks, z, representative_only=True, recompute=True))[-1]

    torch.manual_seed(1)
    want = last(stream())
    torch.manual_seed(1)
    compiled = torch.compile(last, fullgraph=True, backend="aot_eager")
    assert compiled(stream()).shape == want.shape
    for block in blocks:
        block.eval()
    assert relative_error(compiled(stream()), last(stream())) <= 1e-5
