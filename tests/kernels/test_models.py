"""Whole models on the fused kernels: what a user does with them beside calling them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.parallel import DistributedDataParallel

from maedfer.kernels import use_impl
from maedfer.kernels._dispatch import interpreting
from maedfer.models import MAEDFER, LGIFormer
from maedfer.models.fixed_weights import packed_weights
from maedfer.models.lgi_block import LGIBlock
from maedfer.models.low_precision import low_precision_weights
from tests.helpers import KERNELS, device_of, randomize, relative_error, small, small_mae


def classifier(impl: str, **changes: Any) -> tuple[LGIFormer, Tensor]:
    """A small classifier on the kernels, and two clips."""
    device = device_of(impl)
    model = LGIFormer(small(impl=impl, **changes)).to(device)
    randomize(model)
    return model, torch.randn(2, 3, *model.config.clip_size, device=device)


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def step(model: torch.nn.Module, *inputs: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients."""
    model.zero_grad(set_to_none=True)
    out = model(*inputs)
    loss = (out["loss"] if isinstance(out, dict) else out).square().mean()
    loss.backward()
    return loss.detach(), gradients(model)


def assert_same(one: tuple[Tensor, dict[str, Tensor]], other: tuple[Tensor, dict[str, Tensor]], atol: float) -> None:
    assert relative_error(one[0], other[0]) <= atol
    assert one[1].keys() == other[1].keys()
    for name, gradient in one[1].items():
        assert relative_error(gradient, other[1][name]) <= atol, name


@pytest.mark.parametrize("impl", KERNELS)
# An interpreter takes long, and which of its kernels the objective calls is the same without a graph.
@pytest.mark.parametrize("task", ["finetune"] if interpreting() else ["finetune", "pretrain"])
def test_torch_compile_in_one_graph(task: str, impl: str) -> None:
    device = device_of(impl)
    run: torch.nn.Module
    arguments: list[Tensor]
    if task == "finetune":
        run, *arguments = classifier(impl)
    else:
        mae = MAEDFER(small_mae(encoder=small(impl=impl))).to(device)
        randomize(mae)
        frames = torch.randint(0, 256, (2, 3, *mae.config.encoder.clip_size), dtype=torch.uint8, device=device)
        arguments = [frames, *mae.token_numbers(*mae.random_masks(2))]
        run = Objective(mae)
    torch._dynamo.reset()
    want = step(run, *arguments)
    got = step(torch.compile(run, fullgraph=True, backend="aot_eager"), *arguments)  # type: ignore[arg-type]
    got = got[0], {name.removeprefix("_orig_mod."): gradient for name, gradient in got[1].items()}
    assert_same(got, want, 1e-5)


@pytest.mark.parametrize("impl", KERNELS)
def test_prepared_weights_in_compiled_steps(impl: str) -> None:
    """Weights that a step has changed are taken by the next without compiling again, and losses are autocast's own."""
    model, video = classifier(impl, depth=1)
    low = torch.float16 if interpreting() else torch.bfloat16
    copies = packed_weights(model) if impl == "native" else low_precision_weights(model, low)
    counter = CompileCounterWithBackend("aot_eager")
    torch._dynamo.reset()
    run: Any = torch.compile(model, fullgraph=True, backend=counter)
    for _ in range(2):
        with torch.autocast(video.device.type, low):
            want = step(model, video)
            with copies:
                loss, found = step(run, video)
        assert_same((loss, {name.removeprefix("_orig_mod."): grad for name, grad in found.items()}), want, 1e-5)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.1)
    assert counter.frame_count == 1


class Objective(torch.nn.Module):
    """The loss of pre-training as a module."""

    def __init__(self, model: MAEDFER) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: Tensor, visible: Tensor, wanted: Tensor) -> Tensor:
        return self.model.training_loss(frames, visible, wanted)["loss"]


@pytest.mark.parametrize("impl", KERNELS)
def test_export_with_a_dynamic_batch(impl: str) -> None:
    model, video = classifier(impl)
    # Rounding aside, which graphs may change, the program is the model: to the last digits in float64.
    exact = interpreting()
    model, video = (model.double().eval(), video.double()) if exact else (model.eval(), video)
    batch = torch.export.Dim("batch", min=1, max=64)
    with torch.no_grad():
        program = torch.export.export(model, (video,), dynamic_shapes={"clips": {0: batch}})
        more = torch.cat([video, video[:1]])
        assert relative_error(program.module()(more), model(more)) < (1e-13 if exact else 1e-5)


@pytest.mark.parametrize("impl", KERNELS)
def test_activation_checkpointing(impl: str) -> None:
    model, video = classifier(impl, drop_path=0.3)
    model.train()
    results = []
    for recompute in (False, True):
        object.__setattr__(model.config, "checkpoint_blocks", recompute)
        torch.manual_seed(3)
        results.append(step(model, video))
    assert_same(results[0], results[1], 1e-6)


@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize("trained", ["", "intra_attention.v_bias"])
def test_attentions_of_one_module_partly_frozen(trained: str, impl: str) -> None:
    """Every stage adds to the gradients of the shared weights, and frozen ones get none."""
    device = device_of(impl)
    x = torch.randn(2, 3, 4, 16, device=device)
    results = []
    for kind in (impl, "reference"):
        torch.manual_seed(3)
        block = LGIBlock(16, 2, share_attention="all", impl=kind).to(device)  # type: ignore[arg-type]
        randomize(block)
        for name, parameter in block.named_parameters():
            parameter.requires_grad_(name.startswith(trained))
        results.append(step(block, x))
    assert_same(results[0], results[1], 1e-5)


@pytest.mark.parametrize("impl", KERNELS)
def test_repeats_bit_for_bit(impl: str) -> None:
    model, video = classifier(impl, drop_path=0.3)
    torch.use_deterministic_algorithms(True)
    try:
        runs = []
        for _ in range(2):
            torch.manual_seed(3)
            runs.append(step(model.train(), video))
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(runs[0][0], runs[1][0])
    assert all(torch.equal(gradient, runs[1][1][name]) for name, gradient in runs[0][1].items())


@pytest.mark.parametrize("impl", KERNELS)
def test_distributed_data_parallel(impl: str) -> None:
    model, video = classifier(impl)
    want = step(model, video)
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    try:
        wrapped = DistributedDataParallel(model)
        got = step(wrapped, video)
        assert_same((got[0], gradients(model)), want, 1e-6)
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("impl", KERNELS)
def test_frozen_blocks(impl: str) -> None:
    model, video = classifier(impl)
    _, full = step(model, video)
    model.freeze(1)
    _, part = step(model, video)
    assert part.keys() == {
        name for name in full if not name.startswith(("encoder.blocks.0.", "encoder.embedding", "encoder.rep"))
    }
    assert all(relative_error(gradient, full[name]) < 1e-6 for name, gradient in part.items())


@pytest.mark.parametrize("impl", KERNELS)
@pytest.mark.parametrize(
    "changes",
    [
        {"token_type": "all"},
        {"region_size": (1, 1, 2), "embed_dim": 16},
        {"interaction": "self"},
        {"intra_region": "cross"},
        {"feedback": "region"},
        {"architecture": "vit"},
        {"clip_size": (32, 64), "patch_size": (8, 8), "region_size": (2, 2)},
    ],
    ids=str,
)
def test_other_designs(changes: dict, impl: str) -> None:
    model, video = classifier(impl, **changes)
    got = step(model, video)
    for module in model.modules():
        if hasattr(module, "impl"):
            module.impl = "auto"  # type: ignore[assignment]
    with use_impl("reference"):
        want = step(model, video)
    assert_same(got, want, 1e-4)


@pytest.mark.parametrize("impl", KERNELS)
def test_hooked_and_replaced_layers_are_called(impl: str) -> None:
    model, video = classifier(impl)
    block: Any = model.encoder.blocks[1]
    assert block.is_fused
    seen: list[Tensor] = []
    handle = block.ffn.register_forward_hook(lambda module, args, out: seen.append(out))
    assert not block.is_fused
    want = model(video)
    assert len(seen) == 1
    handle.remove()
    assert block.is_fused and relative_error(model(video), want) < 1e-5

    class Doubled(torch.nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    replaced = Doubled(32, 128).to(video.device)
    replaced.load_state_dict(block.ffn.fc1.state_dict())
    block.ffn.fc1 = replaced
    assert not block.is_fused and relative_error(model(video), want) > 1e-3
