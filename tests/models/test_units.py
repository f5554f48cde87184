"""Sharded blocks run as they do unsharded: in the fused schedule, joined, with the same gradients."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.distributed.tensor import DTensor

from maedfer.models import add_lora, build_model, fused
from maedfer.models.units import BlockUnit, recompute_blocks
from maedfer.train.parallel import shard
from maedfer.train.processes import Runtime
from tests.helpers import relative_error, small


class Around(nn.Module):
    """What is called, and holds the model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)  # type: ignore[no-any-return]


@pytest.fixture
def alone() -> Iterator[Runtime]:
    """This process alone, as one of a group."""
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    try:
        yield Runtime(torch.device("cpu"))
    finally:
        dist.destroy_process_group()


def clips() -> torch.Tensor:
    return torch.randn(2, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0))


def steps_of(model: nn.Module, run: nn.Module, monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, bool]]:
    """Run a pass both ways: for every block, whether it ran in its schedule, and joined with the next one."""
    taken: list[tuple[bool, bool]] = []
    run_block, call = fused.run_block, fused._call

    def noted(block: Any, z: Any, normed: Any, *rest: Any) -> Any:
        taken.append((True, rest[2] is not None))
        return run_block(block, z, normed, *rest)

    def called(*given: Any) -> Any:
        taken.append((False, False))
        return call(*given)

    monkeypatch.setattr(fused, "run_block", noted)
    monkeypatch.setattr(fused, "_call", called)
    torch.manual_seed(0)
    run(clips()).square().sum().backward()
    monkeypatch.undo()
    return taken


@pytest.mark.parametrize("lora", [False, True], ids=["all", "lora"])
def test_sharded_blocks_are_fused_and_joined(lora: bool, alone: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = build_model(small(depth=3, token_type="all", drop_path=0.2)).train()
    if lora:
        add_lora(model, 2)
    twin = copy.deepcopy(model)
    around = Around(model)
    units = shard(around, model, alone)
    assert len(units) == 3 and all(unit.is_fused for unit in units)
    taken = steps_of(model, around, monkeypatch)
    assert taken == [(True, True), (True, True), (True, False)]
    assert steps_of(twin, twin, monkeypatch) == taken
    wanted = dict(twin.named_parameters())
    names = [name for name, _ in model.named_parameters()]
    assert names == list(wanted)
    for name, parameter in model.named_parameters():
        assert isinstance(parameter, DTensor) and parameter.requires_grad == wanted[name].requires_grad
        gradient, want = parameter.grad, wanted[name].grad
        assert (gradient is None) == (want is None), name
        if want is not None:
            assert isinstance(gradient, DTensor)
            assert torch.equal(gradient.full_tensor(), want), name


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
def test_sharded_blocks_are_compiled_once_for_all_of_a_kind(
    recompute: bool, alone: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first, those between and the last: otherwise a deep model comes to PyTorch's limit, and runs eagerly."""
    # Which code Inductor writes, and that it takes a minute for it, is not the units' doing.
    counter = CompileCounterWithBackend("aot_eager")
    compile_runs = BlockUnit.compile_runs
    monkeypatch.setattr(BlockUnit, "compile_runs", lambda unit: compile_runs(unit, backend=counter, fullgraph=True))
    torch.manual_seed(0)
    model = build_model(small(depth=12, token_type="all", drop_path=0.2)).train()
    if recompute:
        recompute_blocks(model)
    gradients = []
    for one, compiled in ((copy.deepcopy(model), False), (model, True)):
        around = Around(one)
        shard(around, one, alone, compiled=compiled)
        for _ in range(2):
            torch.manual_seed(0)
            around(clips()).square().sum().backward()
        gradients.append({name: parameter.grad for name, parameter in one.named_parameters()})
    assert counter.frame_count == 3
    for name, want in gradients[0].items():
        got = gradients[1][name]
        assert isinstance(got, DTensor) and isinstance(want, DTensor), name
        assert relative_error(got.full_tensor(), want.full_tensor()) <= 1e-5, name


def test_a_block_that_is_called_is_said_to_be(alone: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model(small(depth=2, token_type="all"))
    block: Any = model.get_submodule("encoder.blocks.0")
    block.ffn.fc1.register_forward_hook(lambda *_: None)
    around = Around(model)
    units = shard(around, model, alone)
    assert [unit.is_fused for unit in units] == [False, True]
    assert steps_of(model, around, monkeypatch) == [(False, False), (True, False)]


def test_recomputed_blocks_keep_less_and_give_the_same_gradients(alone: Runtime) -> None:
    torch.manual_seed(0)
    model = build_model(small(depth=3, drop_path=0.2)).train()
    again = copy.deepcopy(model)
    recompute_blocks(again)
    kept = []
    for one in (model, again):
        sizes: dict[int, int] = {}

        def note(x: torch.Tensor, sizes: dict[int, int] = sizes) -> torch.Tensor:
            sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        torch.manual_seed(0)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            loss = one(clips()).square().sum()
        loss.backward()
        kept.append(sum(sizes.values()))
    assert kept[1] < 0.5 * kept[0]
    for left, right in zip(model.parameters(), again.parameters(), strict=True):
        assert (left.grad is None) == (right.grad is None)
        if left.grad is not None and right.grad is not None:
            assert torch.equal(left.grad, right.grad)
