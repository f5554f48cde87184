"""LoRA against adapters that are called, in float64; its fused way; merging; what cannot be."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import maedfer
from maedfer import layers as drop_in
from maedfer.errors import InputError
from maedfer.kernels import use_impl
from maedfer.models import LGIFormer, add_lora, build_model, merge_lora, model_config
from maedfer.models.lora import TARGETS, lora_layers, without_lora
from maedfer.models.low_rank import LoraLinear, merge_state
from tests.helpers import IMPLEMENTATIONS, device_of, randomize, relative_error, small, small_mae
from tests.models.changes import LowRank

RANK, ALPHA = 4, 6.0
KINDS: dict[str, Callable[[], nn.Module]] = {
    "classifier": lambda: build_model(small(token_type="all")),
    "feedback": lambda: build_model(small(token_type="all", feedback="clip", qkv_bias=False)),
    "all shared": lambda: build_model(small(token_type="all", share_attention="all")),
    "first cross": lambda: build_model(small(token_type="all", intra_region="cross", interaction="self")),
    "vit": lambda: build_model(small(architecture="vit")),
    "block": lambda: drop_in.LGIBlock(32, 2),
    "within regions": lambda: drop_in.RegionAttention(32, 2),
    "interaction": lambda: drop_in.LocalGlobalAttention(32, 2),
}


def tuned(make: Callable[[], nn.Module], **settings: Any) -> tuple[nn.Module, Any]:
    """A model as it was before, and with LoRA that is no longer zero."""
    torch.manual_seed(0)
    before = make()
    randomize(before)
    model = add_lora(copy.deepcopy(before), **{"rank": RANK, "alpha": ALPHA, **settings})
    randomize_lora(model)
    return before, model


def randomize_lora(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    for _, layer in lora_layers(model):
        nn.init.normal_(layer.lora_b, std=0.1, generator=generator)


def given(model: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    shape = (2, 3, 8, 32, 32) if isinstance(model, LGIFormer) else (2, 3, 5, 32)
    return torch.randn(shape, generator=generator)


def called(before: nn.Module, model: nn.Module) -> nn.Module:
    """The formula in float64, x W^T + (alpha / r) x A^T B^T, by adapters in the manner of peft."""
    twin = copy.deepcopy(before).double()
    for name, layer in lora_layers(model):
        holder, _, leaf = name.rpartition(".")
        adapter = LowRank(twin.get_submodule(name)).double()  # type: ignore[arg-type]
        with torch.no_grad():
            adapter.down.weight = nn.Parameter(layer.lora_a.detach().double())
            adapter.up.weight = nn.Parameter(ALPHA / RANK * layer.lora_b.detach().double())
        setattr(twin.get_submodule(holder), leaf, adapter)
    return twin


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_and_gradients_are_those_of_the_formula(kind: str, impl: Any) -> None:
    before, model = tuned(KINDS[kind])
    twin, x, device = called(before, model), given(model), device_of(impl)
    with use_impl("reference"):
        want = twin(x.double())
        want.square().mean().backward()
    model.to(device)
    with use_impl(impl):
        got = model(x.to(device))
        got.square().mean().backward()
        assert relative_error(got, want) <= 1e-5 and relative_error(got, before(x)) > 1e-3
    adapters, names = dict(twin.named_modules()), [name for name, _ in lora_layers(model)]
    assert len(names) == len({id(adapters[name]) for name in names}) > 0
    for name, layer in lora_layers(model):
        down, up = adapters[name].down.weight.grad, adapters[name].up.weight.grad  # type: ignore[union-attr]
        assert down is not None and layer.lora_a.grad is not None and layer.lora_b.grad is not None, name
        assert relative_error(layer.lora_a.grad, down) <= 2e-5, name
        assert relative_error(layer.lora_b.grad, ALPHA / RANK * up) <= 2e-5, name
        assert layer.weight.grad is None


def test_a_model_does_what_it_did_until_b_is_trained() -> None:
    torch.manual_seed(0)
    model = build_model(small())
    clips = given(model)
    before = model(clips)
    assert torch.equal(add_lora(model)(clips), before)


@pytest.mark.parametrize("kind", KINDS)
def test_merged_and_unmerged_give_the_same(kind: str, tmp_path: Path) -> None:
    before, model = tuned(KINDS[kind])
    x, state = given(model), merge_state(model.state_dict(), ALPHA)
    with torch.no_grad():
        want = model(x)
        shared = without_lora(model)
        assert relative_error(shared(x), want) <= 1e-6 and torch.equal(model(x), want)
        merged = merge_lora(model)
        assert merged is model and relative_error(merged(x), want) <= 1e-6
    assert next(lora_layers(model), None) is None and without_lora(model) is model
    assert {name: type(part) for name, part in merged.named_modules()} == {
        name: type(part) for name, part in before.named_modules()
    }
    for other in (state, shared.state_dict()):
        assert list(other) == list(before.state_dict())
        assert all(torch.equal(value, other[name]) for name, value in merged.state_dict().items())


def test_a_copy_without_lora_shares_what_lora_leaves_alone() -> None:
    _, model = tuned(KINDS["classifier"], targets=("qkv",))
    mine, theirs = dict(model.named_parameters()), dict(without_lora(model).named_parameters())
    assert {name for name, value in theirs.items() if mine[name] is not value} == {
        name for name in theirs if name.endswith("qkv.weight")
    }


def test_what_is_written_is_a_plain_model(tmp_path: Path) -> None:
    _, model = tuned(lambda: build_model(small()))
    plain = without_lora(model).state_dict()
    saved = maedfer.from_pretrained(model.save_pretrained(tmp_path / "saved"))
    assert {name: value.tolist() for name, value in saved.state_dict().items()} == {
        name: value.tolist() for name, value in plain.items()
    }
    published = maedfer.to_published(saved)
    assert maedfer.to_published(model).keys() == published.keys()
    assert all(torch.equal(value, published[key]) for key, value in maedfer.to_published(model).items())
    assert len(list(lora_layers(model))) == 16
    with pytest.raises(InputError, match=r"no counterpart of LoRA: merge_lora\(model\) first"):
        maedfer.models.published_gradients(model)


@pytest.mark.parametrize("impl", [name for name in IMPLEMENTATIONS if name != "reference"])
def test_the_schedule_of_fused_operations_is_kept(impl: Any) -> None:
    _, model = tuned(lambda: build_model(small(impl=impl)))
    assert all(block.is_fused for block in model.encoder.blocks)
    model.to(device_of(impl))
    want, layer = model(given(model).to(device_of(impl))), model.encoder.blocks[0].ffn.fc1
    layer.register_forward_hook(lambda _, __, out: out)
    assert [block.is_fused for block in model.encoder.blocks] == [False, True]
    assert relative_error(model(given(model).to(device_of(impl))), want) <= 1e-5


def test_one_graph_without_breaks() -> None:
    """What torch.compile makes of it has the same losses and gradients."""
    _, model = tuned(KINDS["block"])
    compiled: Any = torch.compile(copy.deepcopy(model), backend="eager", fullgraph=True)
    for one in (model, compiled):
        one(given(model)).square().mean().backward()
    for (name, mine), other in zip(model.named_parameters(), compiled.parameters(), strict=True):
        if mine.grad is not None:
            assert relative_error(other.grad, mine.grad) <= 1e-6, name


def test_autocast_leaves_the_sum_alone() -> None:
    _, model = tuned(lambda: drop_in.LGIBlock(32, 2))
    layer = next(layer for _, layer in lora_layers(model))
    want = torch.addmm(layer.weight, layer.lora_b, layer.lora_a, alpha=1.5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.merged(), want)
        out = model(given(model))
    assert relative_error(out, model(given(model))) <= 2e-2


def test_only_lora_and_the_head_are_trained_from_a_block_on() -> None:
    model = add_lora(build_model(small()), 2, targets=("inter_attention", "ffn.fc1"), first_block=1)
    assert [name for name, parameter in model.named_parameters() if parameter.requires_grad] == [
        f"encoder.blocks.1.{layer}.lora_{part}"
        for layer in ("inter_attention.qkv", "inter_attention.proj", "ffn.fc1")
        for part in "ab"
    ] + ["head.weight", "head.bias"]


def test_an_autoencoder_has_it_in_encoder_and_decoder() -> None:
    model: Any = add_lora(build_model(small_mae()), 2, keep=("mask_token", "decoder_head"))
    names = [name for name, _ in lora_layers(model)]
    assert sum(name.startswith("encoder.blocks.") for name in names) == 16 and "decoder_blocks.0.attention.qkv" in names
    frames = torch.randint(256, (1, 3, 8, 32, 32), dtype=torch.uint8)
    model.training_loss(frames, *model.token_numbers(*model.random_masks(1)))["loss"].backward()
    assert model.decoder_head.weight.grad is not None and model.encoder.blocks[0].ffn.fc1.lora_b.grad is not None


@pytest.mark.parametrize(("size", "count"), [("base", 1_835_008), ("small", 1_376_256), ("tiny", 917_504)])
def test_rank_8_is_few_parameters(size: str, count: int) -> None:
    with torch.device("meta"):
        model = build_model(model_config(f"lgi_former_{size}", num_classes=7))
        whole = sum(parameter.numel() for parameter in model.parameters())
        add_lora(model, keep=())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    # By hand: for C channels and each block, three attentions of 8 (C + 3C) + 8 (C + C) and two layers of 8 (C + 4C).
    config: Any = model.config
    assert trained == count == config.depth * 8 * (3 * 6 + 2 * 5) * config.embed_dim
    assert trained < 0.05 * whole


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 0}, "rank must be a whole number, 1 or more, got 0"),
        ({"rank": 2.5}, "rank must be a whole number"),
        ({"rank": 33}, r"rank must be at most 32, the smaller side of .*qkv \[96, 32\], got 33"),
        ({"alpha": 0}, "alpha must be a number above 0, got 0"),
        ({"alpha": float("nan")}, "alpha must be a number above 0, got nan"),
        ({"targets": ("query",)}, "'query' names no linear layer: LGIFormer has .*inter_attention"),
        ({"targets": ("qk",)}, "'qk' names no linear layer"),
        ({"targets": ()}, "LoRA has no layer: give targets"),
        ({"first_block": 2}, "LoRA has no layer: the model has no .* network of ours from block 2 on"),
        ({"first_block": -1}, "first_block must be a whole number, 0 or more"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(change: dict[str, Any], message: str) -> None:
    model = build_model(small())
    with pytest.raises(InputError, match=message):
        add_lora(model, **change)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert next(lora_layers(model), None) is None


def test_lora_is_added_once_and_to_models_that_have_a_place_for_it() -> None:
    model: Any = add_lora(build_model(small()))
    with pytest.raises(InputError, match=r"LGIFormer has LoRA already: merge_lora\(model\) first"):
        add_lora(model)
    assert isinstance(add_lora(merge_lora(model)).encoder.blocks[0].ffn.fc1, LoraLinear)
    with pytest.raises(
        InputError, match="LoRA has no layer: the model has no attention or feed-forward network of ours"
    ):
        add_lora(nn.Sequential(nn.Linear(4, 4)))
    assert set(TARGETS) == {"qkv", "proj", "fc1", "fc2"}
