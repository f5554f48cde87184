"""Weights under other keys, behind prefixes, and what is no weight."""

from __future__ import annotations

import argparse
import re
from typing import Any

import pytest
import torch

import maedfer
from maedfer.errors import InputError
from maedfer.models import MAEDFER, LGIFormer, load_published, to_published
from maedfer.models.published.layouts import unwrap
from tests.helpers import randomize, small, small_mae
from tests.models.published.transformers_names import classifier_names

ARGS = {"img_size": 32, "all_frames": 8, "num_heads": 2, "lg_region_size": (2, 2, 2)}
MAE_ARGS = {
    "img_size": 32,
    "all_frames": 8,
    "encoder_num_heads": 2,
    "decoder_num_heads": 2,
    "lg_region_size": (2, 2, 2),
}
VIT_ARGS = {"img_size": 32, "all_frames": 8, "num_heads": 2}


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    model = LGIFormer(small())
    randomize(model)
    return to_published(model)


@pytest.fixture(scope="module")
def pretrained() -> dict[str, torch.Tensor]:
    model = MAEDFER(small_mae())
    randomize(model)
    return to_published(model)


def same(model: Any, state: dict[str, torch.Tensor]) -> bool:
    again = to_published(model)
    return again.keys() == state.keys() and all(torch.equal(again[key], state[key]) for key in state)


WRAPPERS: dict[str, Any] = {
    "plain": lambda state: state,
    "published": lambda state: {"model": state, "optimizer": {"state": {0: {"step": torch.ones(1)}}}, "epoch": 3},
    "DeepSpeed": lambda state: {"module": state, "ds_version": "0.9", "global_steps": 3, "optimizer": None},
    "Lightning": lambda state: {"state_dict": {f"model.{key}": value for key, value in state.items()}, "epoch": 1},
    "timm with average": lambda state: {
        "state_dict": state,
        "state_dict_ema": {key: value + 1 for key, value in state.items()},
    },
    "average alone": lambda state: {"model_ema": state, "epoch": 3},
    "ema_state_dict": lambda state: {"ema_state_dict": state},
    "nested": lambda state: {"model": {"state_dict": state}},
}
PREFIXES = [
    *("module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.module.", "_fsdp_wrapped_module."),
    *("model.", "net.", "model.net.", "backbone.", "_forward_module.model.", "student.", "classifier_.encoder."),
]


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_weights_under_usual_keys(wrap: Any, state: dict[str, torch.Tensor]) -> None:
    model = load_published(wrap(state), args=ARGS)
    assert same(model, state)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_are_taken_off(
    prefix: str, state: dict[str, torch.Tensor], pretrained: dict[str, torch.Tensor]
) -> None:
    assert same(load_published({prefix + key: value for key, value in state.items()}, args=ARGS), state)
    if "encoder" not in prefix:
        there = {"model": {prefix + key: value for key, value in pretrained.items()}}
        assert same(load_published(there, args=MAE_ARGS), pretrained)


def test_prefixes_of_transformers_and_in_the_middle(state: dict[str, torch.Tensor]) -> None:
    vit = LGIFormer(small(architecture="vit"))
    randomize(vit)
    names = {f"model._orig_mod.{key}": value for key, value in classifier_names(to_published(vit)).items()}
    assert same(load_published(names, args=VIT_ARGS), to_published(vit))
    inside = {key.replace("blocks.0.", "blocks.0._checkpoint_wrapped_module."): value for key, value in state.items()}
    assert same(load_published(inside, args=ARGS), state)


def test_a_classifier_called_encoder_is_no_autoencoder(state: dict[str, torch.Tensor]) -> None:
    assert same(load_published({f"encoder.{key}": value for key, value in state.items()}, args=ARGS), state)


def test_what_was_not_taken_is_named(state: dict[str, torch.Tensor]) -> None:
    content = WRAPPERS["timm with average"](state)
    report = load_published(content, args=ARGS).load_report
    assert report is not None
    assert report.ignored == {"state_dict_ema": "the weights under 'state_dict' were taken"}


def test_arguments_beside_the_weights_may_be_a_dictionary(state: dict[str, torch.Tensor]) -> None:
    for kept in ({**ARGS, "lr": 0.1}, argparse.Namespace(**ARGS, lr=0.1)):
        assert same(load_published({"model": state, "args": kept}), state)


MIXED: dict[str, tuple[Any, str]] = {
    "prefix and more": (
        lambda state: {**{f"model.{key}": value for key, value in state.items()}, "criterion.weight": torch.ones(3)},
        "have the prefix 'model.', and beside them there are criterion.weight: keep those that begin with 'model.'",
    ),
    "two models": (
        lambda state: {prefix + key: value for prefix in ("model.", "model_ema.") for key, value in state.items()},
        "holds several models, with names that begin with 'model.', 'model_ema.'",
    ),
    "compiled and not": (
        lambda state: {**state, "_orig_mod.head.bias": state["head.bias"]},
        "has head.bias twice, with and without one of _orig_mod",
    ),
    "no weights": (
        lambda state: {"optimizer": {}, "epoch": 3},
        "holds no weights: .* found the keys 'optimizer', 'epoch'",
    ),
    "empty": (lambda state: {}, "holds no weights: .* found the keys none"),
    "empty model": (lambda state: {"model": {}}, "holds no weights: .* found the keys 'model'"),
    "ZeRO's optimizer": (
        lambda state: {"optimizer_state_dict": {"zero_stage": 3}, "ds_version": "0.9"},
        "holds no weights: .*zero_to_fp32.py",
    ),
    "ZeRO-3": (
        lambda state: {"module": {key: torch.ones(0) for key in state}},
        "is empty .0., as ZeRO-3 .*zero_to_fp32",
    ),
    "tensor": (lambda state: torch.ones(2, 3), r"holds a single tensor \[2, 3\], not a state dict"),
    "number": (lambda state: 3, "holds a int, not a state dict"),
    "list": (lambda state: [torch.ones(2)], "holds a list, not a state dict"),
    "None": (lambda state: None, "holds nothing, not a state dict"),
    "numbered": (lambda state: dict(enumerate(state.values())), "0 is no name of a weight"),
    "None among them": (lambda state: {**state, "head.bias": None}, "head.bias is None, and not a tensor"),
    "number among them": (lambda state: {**state, "epoch": 3}, "epoch is of type int, and not a tensor"),
    "section among them": (lambda state: {**state, "x": {}}, "x is of type dict, and not a tensor"),
    "sparse": (lambda state: {**state, "head.weight": state["head.weight"].to_sparse()}, "head.weight is sparse"),
    "nested": (
        lambda state: {
            **state,
            "head.bias": torch.nested.nested_tensor([torch.ones(2), torch.ones(1)], layout=torch.jagged),
        },
        "head.bias is nested",
    ),
    "complex": (lambda state: {**state, "head.bias": state["head.bias"] * 1j}, "head.bias is of torch.complex64"),
    "whole": (lambda state: {**state, "head.bias": state["head.bias"].to(torch.int8)}, "head.bias is of torch.int8"),
    "bool": (lambda state: {**state, "head.bias": state["head.bias"] > 0}, "head.bias is of torch.bool"),
    "meta": (lambda state: {**state, "head.bias": state["head.bias"].to("meta")}, "has a shape and no values"),
    "larger than its file": (
        lambda state: {**state, "head.weight": torch.ones(1).expand(10**9, 10**3)},
        "head.weight says that it is .1000000000, 1000., which is more than the file holds",
    ),
    "no dimensions": (lambda state: {**state, "head.bias": torch.tensor(1.0)}, r"wrong shape: head\.bias is \[\]"),
    "flat embedding": (
        lambda state: {**state, "patch_embed.proj.weight": torch.ones(32, 1536)},
        "patch_embed.proj.weight has 2 dimensions, expected 5",
    ),
    "blocks with a gap": (
        lambda state: {key.replace("blocks.1.", "blocks.900000000."): value for key, value in state.items()},
        "has blocks.900000000 but no blocks.1: blocks are missing",
    ),
    "saved by hand": (lambda state: LGIFormer(small()).state_dict(), "no patch_embed.proj.weight.*save_pretrained"),
}


@pytest.mark.parametrize("what", MIXED)
def test_what_is_no_state_dict_is_named(what: str, state: dict[str, torch.Tensor]) -> None:
    make, message = MIXED[what]
    with pytest.raises(InputError, match=f"the state dict:? .*{message}") as error:
        load_published(make(state), "finetune", ARGS)
    assert "\n" not in str(error.value)


def test_quantised_weights_are_named(state: dict[str, torch.Tensor]) -> None:
    class Quantised(torch.Tensor):
        is_quantized = True

    weight = state["head.bias"].as_subclass(Quantised)
    with pytest.raises(InputError, match="head.bias is quantised"):
        unwrap({**state, "head.bias": weight}, "w.pth")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_all_kinds_of_real_numbers_are_read(dtype: torch.dtype, state: dict[str, torch.Tensor]) -> None:
    rounded = {key: value.to(dtype) for key, value in state.items()}
    model = load_published(rounded, args=ARGS)
    assert same(model, {key: value.float() for key, value in rounded.items()})


def test_views_of_one_storage_are_read(state: dict[str, torch.Tensor], tmp_path: Any) -> None:
    flat = torch.cat([value.flatten() for value in state.values()])
    parts = flat.split([value.numel() for value in state.values()])
    views = {key: part.view(value.shape) for (key, value), part in zip(state.items(), parts, strict=True)}
    torch.save(views, tmp_path / "w.pth")
    assert same(maedfer.load(tmp_path / "w.pth", args=ARGS), state)


def test_names_of_two_layouts_say_which_is_meant() -> None:
    with pytest.raises(InputError, match=re.escape("several models, with names that begin with 'a.', 'b.'")):
        unwrap({f"{name}.patch_embed.proj.weight": torch.ones(1) for name in "ab"}, "w.pth")
