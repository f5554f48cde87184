"""Layers that are not what they were made as are called, in every model and layer, by every implementation."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.modules import module as torch_module

from maedfer import layers as drop_in
from maedfer.kernels import use_impl
from maedfer.models import MAEDFER, build_model, lgi_block
from maedfer.models.attention import Attention
from maedfer.models.fused import is_untouched
from maedfer.models.intact import _say_once, is_plain
from maedfer.models.transformer_block import TransformerBlock
from tests.helpers import randomize, relative_error, small, small_mae
from tests.models.changes import CHANGES, LowRank, change, compiled, frozen, low_rank, scaled

DIM, HEADS = 32, 2
LEAVES = ("qkv", "proj", "fc1", "fc2")
KINDS: dict[str, Callable[[], nn.Module]] = {
    "published": lambda: drop_in.LGIBlock(DIM, HEADS),
    "feedback": lambda: drop_in.LGIBlock(DIM, HEADS, feedback="clip"),
    "feedback of regions": lambda: drop_in.LGIBlock(DIM, HEADS, feedback="region", qkv_bias=False),
    "first cross": lambda: drop_in.LGIBlock(DIM, HEADS, intra_region="cross", interaction="self"),
    "all shared": lambda: drop_in.LGIBlock(DIM, HEADS, share_attention="all"),
    "transformer": lambda: TransformerBlock(DIM, HEADS),
    "within regions": lambda: drop_in.RegionAttention(DIM, HEADS),
    "among regions": lambda: drop_in.InterRegionAttention(DIM, HEADS),
    "interaction": lambda: drop_in.LocalGlobalAttention(DIM, HEADS),
}


def stream() -> Tensor:
    return torch.randn(2, 3, 5, DIM, generator=torch.Generator().manual_seed(0))


def pair(make: Callable[[], nn.Module]) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    model = make()
    randomize(model)
    return model.eval(), copy.deepcopy(model).eval()


def assert_trained(model: nn.Module, out: Tensor) -> None:
    out.square().sum().backward()
    silent = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.any())
    ]
    assert not silent


@pytest.mark.parametrize("impl", ["reference", "torch"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", CHANGES, ids=lambda how: how.__name__)
def test_a_changed_layer_is_called(how: Callable[..., Any], kind: str, impl: str) -> None:
    for leaf in LEAVES:
        model, twin = pair(KINDS[kind])
        before = model(stream())
        if not change(model, twin, how, (leaf,)):
            continue
        with use_impl(impl):  # type: ignore[arg-type]
            got, want = model(stream()), twin(stream())
        assert relative_error(got, want) <= 1e-5, leaf
        assert relative_error(got, before) > 1e-4, leaf


@pytest.mark.parametrize("how", [low_rank, scaled], ids=lambda how: how.__name__)
@pytest.mark.parametrize("kind", KINDS)
def test_adapters_are_trained(kind: str, how: Callable[..., Any]) -> None:
    model, twin = pair(KINDS[kind])
    change(frozen(model.train()), twin, how, LEAVES)
    assert_trained(model, model(stream()))


@pytest.mark.parametrize("switches", [{}, {"checkpoint_blocks": True}, {"architecture": "vit"}])
def test_adapters_in_a_classifier(switches: dict[str, Any]) -> None:
    model, twin = pair(lambda: build_model(small(token_type="all", **switches)))
    clips = torch.randn(2, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0))
    change(frozen(model), twin, low_rank, (*LEAVES, "head"))
    assert relative_error(model(clips), twin(clips)) <= 1e-5
    for mine, plain in zip(model.attention_maps(clips), twin.attention_maps(clips), strict=True):  # type: ignore[operator]
        assert all(relative_error(mine[name], plain[name]) <= 1e-5 for name in plain)
    assert_trained(model, model.train()(clips))


@pytest.mark.parametrize("impl", ["reference", "auto"])
def test_adapters_in_an_autoencoder(impl: Any) -> None:
    model, twin = pair(lambda: build_model(small_mae(encoder=small(impl=impl))))
    assert isinstance(model, MAEDFER)
    frames = torch.randint(256, (2, 3, 8, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    numbers = model.token_numbers(*model.random_masks(2, torch.Generator().manual_seed(0)))
    before = model(frames, *numbers)
    leaves = (*LEAVES, "encoder_to_decoder", "decoder_head")
    change(frozen(model), twin, low_rank, leaves)
    got = model(frames, *numbers)
    assert relative_error(got, twin(frames, *numbers)) <= 1e-5 and relative_error(got, before) > 1e-3
    assert_trained(model, got)


class Shifted(nn.LayerNorm):
    """A LayerNorm of somebody else's."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0.5


def shifted(holder: nn.Module, name: str, norm: nn.LayerNorm) -> float:
    layer = Shifted(norm.normalized_shape[0], eps=norm.eps)
    layer.load_state_dict(norm.state_dict())
    setattr(holder, name, layer)
    return 0.5


def shifted_by_a_hook(holder: nn.Module, name: str, norm: nn.LayerNorm) -> float:
    norm.register_forward_hook(lambda _, __, out: out + 0.5)
    return 0.5


@pytest.mark.parametrize("how", [shifted, shifted_by_a_hook], ids=lambda how: how.__name__)
@pytest.mark.parametrize("kind", [*KINDS, "autoencoder"])
def test_a_changed_norm_is_called(kind: str, how: Callable[..., float]) -> None:
    model, twin = pair(KINDS.get(kind, lambda: build_model(small_mae())))
    inputs = [stream()]
    if isinstance(model, MAEDFER):
        numbers = model.token_numbers(*model.random_masks(2, torch.Generator().manual_seed(0)))
        inputs = [torch.randn(2, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0)), *numbers]
    for name, norm in list(model.named_modules()):
        if type(norm) is not nn.LayerNorm:
            continue
        holder, _, leaf = name.rpartition(".")
        plain: Any = twin.get_submodule(name)
        plain.bias.data += how(model.get_submodule(holder), leaf, norm)
    assert relative_error(model(*inputs), twin(*inputs)) <= 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_norms_without_weights_and_with_another_epsilon(kind: str) -> None:
    model, twin = pair(KINDS[kind])
    for number, (name, norm) in enumerate(list(model.named_modules())):
        if type(norm) is not nn.LayerNorm:
            continue
        holder, _, leaf = name.rpartition(".")
        plain: Any = twin.get_submodule(name)
        plain.eps = norm.eps = 0.1 * number
        if number % 2:
            setattr(model.get_submodule(holder), leaf, nn.LayerNorm(DIM, eps=plain.eps, elementwise_affine=False))
            nn.init.ones_(plain.weight)
            nn.init.zeros_(plain.bias)
    with use_impl("reference"):
        # Stage by stage, each with its own norm.
        want = twin.requires_grad_(False)(stream()) if kind != "interaction" else None
    with use_impl("torch"):
        if want is not None:
            assert relative_error(model(stream()), want) <= 1e-5
            assert relative_error(twin(stream()), want) <= 1e-5
        else:
            assert relative_error(model(stream()), twin(stream())) <= 1e-5


def test_a_packed_projection_with_a_bias_of_its_own_keeps_it() -> None:
    model, twin = pair(KINDS["published"])
    for name, attention in model.named_modules():
        if not isinstance(attention, Attention):
            continue
        layer = nn.Linear(DIM, 3 * DIM)
        layer.weight.data.copy_(attention.qkv.weight)
        attention.qkv = layer
        plain: Any = twin.get_submodule(name)
        q, _, v = layer.bias.detach().chunk(3)  # what is added to all keys of a query alike does nothing
        plain.q_bias.data += q
        plain.v_bias.data += v
    assert relative_error(model(stream()), twin(stream())) <= 1e-5


def test_what_is_in_an_attentions_place_is_called() -> None:
    class Doubled(nn.Module):
        def __init__(self, inner: Attention) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, *inputs: Any, **named: Any) -> Tensor:
            return 2 * self.inner(*inputs, **named)

    for kind in KINDS:
        model, twin = pair(KINDS[kind])
        for name, part in model._modules.items():
            if isinstance(part, Attention):
                setattr(model, name, Doubled(part))
        for part in twin.modules():
            if isinstance(part, Attention):
                part.register_forward_hook(lambda _, __, out: 2 * out)
        assert relative_error(model(stream()), twin(stream())) <= 1e-5
        assert not is_untouched(twin)


def test_layers_that_are_quantised_are_called() -> None:
    for config in (small(), small(architecture="vit"), small_mae()):
        model, twin = pair(lambda config=config: build_model(config))  # type: ignore[misc]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
        inputs = [torch.randn(2, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0))]
        if isinstance(twin, MAEDFER):
            inputs += twin.token_numbers(*twin.random_masks(2, torch.Generator().manual_seed(0)))
        assert 0 < relative_error(quantised(*inputs), twin(*inputs)) <= 0.1


def test_what_counts_as_plain() -> None:
    layer = nn.Linear(4, 4)
    assert is_plain(layer) and is_plain(nn.Linear(4, 4, bias=False)) and is_plain(nn.LayerNorm(4))
    assert not is_plain(LowRank(layer)) and not is_plain(nn.LayerNorm((4, 4))) and not is_plain(nn.GELU())
    compiled(layer, "", layer)
    assert not is_plain(layer)
    half = nn.Linear(4, 4)
    half._parameters["weight"] = torch.zeros(4, 4)  # type: ignore[assignment]
    assert not is_plain(half)


def test_a_class_whose_forward_was_replaced_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    model, twin = pair(KINDS["published"])
    forward = nn.Linear.forward
    for layer in twin.modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_hook(lambda _, __, out: 2 * out)
    want = twin(stream())
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: 2 * forward(self, x))
    assert relative_error(model(stream()), want) <= 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_hooks_on_all_modules_see_every_layer(kind: str) -> None:
    model, _ = pair(KINDS[kind])
    want, seen = model(stream()), set()
    handle = torch_module.register_module_forward_hook(lambda layer, _, __: seen.add(layer))
    try:
        got = model(stream())
    finally:
        handle.remove()
    assert relative_error(got, want) <= 1e-5
    assert {layer for layer in model.modules() if isinstance(layer, nn.Linear | nn.LayerNorm)} <= seen


def test_a_hook_that_looks_on_changes_nothing_and_is_gone_when_removed() -> None:
    model, _ = pair(KINDS["published"])
    assert is_untouched(model)
    handle = model.get_submodule("ffn.fc1").register_full_backward_hook(lambda *_: None)
    assert not is_untouched(model)
    handle.remove()
    assert is_untouched(model)


def test_an_adapted_block_compiles_and_exports_as_one_graph() -> None:
    model, twin = pair(KINDS["published"])
    change(model, twin, low_rank, LEAVES)
    want = model(stream())
    assert relative_error(torch.compile(model, fullgraph=True, backend="eager")(stream()), want) <= 1e-5
    assert relative_error(torch.export.export(model, (stream(),)).module()(stream()), want) <= 1e-5


@pytest.fixture
def group() -> Iterator[DeviceMesh]:
    """This process alone, as one of a group."""
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    try:
        yield init_device_mesh("cpu", (1,))
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("whole", [True, False], ids=["blocks", "layers"])
def test_sharded_blocks_run_as_one_and_sharded_layers_are_called(
    whole: bool, group: DeviceMesh, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _say_once.cache_clear()
    model, twin = pair(lambda: build_model(small(token_type="all")))
    clips = torch.randn(2, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0))
    twin(clips).square().sum().backward()
    blocks: Any = model.get_submodule("encoder.blocks")
    for block in blocks:
        for part in (block,) if whole else (block.ffn.fc1, block.ffn.fc2):
            fully_shard(part, mesh=group)
    fused: list[Any] = []
    run_block = lgi_block.run_block

    def noted(block: Any, *rest: Any, **more: Any) -> Any:
        fused.append(block)
        return run_block(block, *rest, **more)

    monkeypatch.setattr(lgi_block, "run_block", noted)
    for _ in range(2):
        model.zero_grad()
        model(clips).square().sum().backward()
    assert fused == (list(blocks) * 2 if whole else [])
    assert len(caplog.records) == (0 if whole else 1)
    assert whole or "weights of class DTensor" in caplog.text
    wanted = dict(twin.named_parameters())
    for name, parameter in model.named_parameters():
        gradient, want = parameter.grad, wanted[name].grad
        assert gradient is not None and want is not None
        gradient = gradient.full_tensor() if isinstance(gradient, DTensor) else gradient
        assert torch.allclose(gradient, want, rtol=1e-4, atol=1e-5), name


def test_a_layer_without_a_parameter_is_called_and_named(caplog: pytest.LogCaptureFixture) -> None:
    _say_once.cache_clear()
    layer: Any = nn.Linear(4, 4)
    weight = layer.weight.detach()
    del layer.weight
    layer.weight = weight
    assert not is_plain(layer) and not is_plain(layer)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_autocast_keeps_its_dtype_where_layers_are_called() -> None:
    model, twin = pair(KINDS["published"])
    change(model, twin, low_rank, ("qkv",))
    attention = model.get_submodule("intra_attention")
    assert isinstance(attention, Attention)
    with torch.autocast("cpu", torch.bfloat16):
        assert attention.project_qkv(stream()).dtype == attention.project_kv(stream()).dtype == torch.bfloat16
        assert attention.project_q(stream()).dtype == torch.bfloat16
        assert relative_error(model(stream()), twin(stream())) <= 0.05
