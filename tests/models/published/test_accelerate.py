"""Published models, as stand-ins of our own, before and after `maedfer.accelerate`."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

import maedfer
from maedfer.errors import InputError
from maedfer.kernels import Impl, reference, use_impl
from maedfer.kernels._dispatch import interpreting
from maedfer.models import IMAGENET_MEAN, IMAGENET_STD
from tests.helpers import (
    ASSETS,
    IMPLEMENTATIONS,
    Golden,
    device_of,
    golden_files,
    load_golden,
    randomize,
    relative_error,
)
from tests.models.changes import CHANGES, change, low_rank
from tests.models.published.stand_ins import Autoencoder, Block, Classifier, GeneralAttention, LGBlock

CASES = {path.stem: path for path in [*sorted(ASSETS.glob("*.safetensors")), *golden_files()]}
if interpreting():
    # The kernels of all cases are interpreted by the models' own test; here are one of each task.
    CASES = {name: path for name, path in CASES.items() if name in ("pretrain_lgi", "finetune_region_tokens")}
OUTPUT_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-4
IMPL: Impl = "triton" if interpreting() else "torch"


def stand_in(golden: Golden) -> nn.Module:
    model = (Classifier if golden.meta["task"] == "finetune" else Autoencoder)(golden.meta["args"])
    model.load_state_dict(golden.state, strict=True)
    return model


def run(golden: Golden, model: nn.Module, tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """What the golden case has of the model, and its loss."""
    video = tensors["video"].float()
    if golden.meta["task"] == "finetune":
        logits = model(video)
        return logits, F.cross_entropy(logits, tensors["label"])
    mask, shape = tensors["mask"], (1, 3, 1, 1, 1)
    prediction = model(video, mask)
    frames = video * video.new_tensor(IMAGENET_STD).view(shape) + video.new_tensor(IMAGENET_MEAN).view(shape)
    index = mask.nonzero()[:, 1].reshape(len(mask), -1)
    appearance, motion = reference.masked_appearance_motion_loss(prediction, frames, index, patch_size=(2, 16, 16))
    weight = golden.meta["target_diff_weight"]
    weight = 0.5 if weight is None else weight
    return prediction[:, : tensors["prediction"].shape[1]], (1 - weight) * appearance + weight * motion


@pytest.mark.parametrize("impl", IMPLEMENTATIONS if interpreting() else ["published", *IMPLEMENTATIONS])
@pytest.mark.parametrize("path", CASES.values(), ids=CASES)
def test_golden_case(path: Path, impl: Impl | Literal["published"]) -> None:
    golden = load_golden(path)
    device = torch.device("cpu") if impl == "published" else device_of(impl)
    tensors = {name: tensor.to(device) for name, tensor in golden.tensors.items()}
    model = stand_in(golden).to(device)
    if impl != "published":
        assert maedfer.accelerate(model, impl).blocks
    output, loss = run(golden, model, tensors)
    want = tensors["logits"] if golden.meta["task"] == "finetune" else tensors["prediction"]
    assert relative_error(output, want) <= OUTPUT_TOLERANCE
    assert relative_error(loss, tensors["loss"]) <= OUTPUT_TOLERANCE
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert {key[5:] for key in tensors if key.startswith("grad.")} <= gradients.keys()
    for name, gradient in gradients.items():
        if f"grad.{name}" in tensors:
            assert relative_error(gradient, tensors[f"grad.{name}"]) <= GRADIENT_TOLERANCE, name
        elif f"gradnorm.{name}" in tensors:
            norm = float(tensors[f"gradnorm.{name}"])
            assert abs(float(gradient.norm()) - norm) <= GRADIENT_TOLERANCE * norm, name
        else:
            assert not gradient.any(), name


class Blocks(nn.Module):
    """A model of other people, with blocks somewhere inside."""

    def __init__(self, depth: int = 2, **switches: Any) -> None:
        super().__init__()
        self.video: Any = nn.ModuleDict({"blocks": nn.ModuleList(LGBlock(32, 2, **switches) for _ in range(depth))})
        self.fusion = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        b = len(x)
        x = x.flatten(0, 1)
        for block in self.video["blocks"]:
            x = block(x, b)
        return self.fusion(x.mean(1)).unflatten(0, (b, -1))


def blocks(seed: int = 0, **switches: Any) -> tuple[Blocks, Tensor]:
    torch.manual_seed(seed)
    model = Blocks(**switches)
    randomize(model)
    device = device_of(IMPL)
    return model.to(device), torch.randn(2, 4, 6, 32, device=device)


def results(model: Any, x: Tensor) -> dict[str, Tensor]:
    """Outputs, and the gradients of input and parameters, by name."""
    x = x.clone().requires_grad_()
    model.zero_grad()
    torch.manual_seed(1)
    out = model(x)
    out.square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return {"out": out, "x": x.grad, **gradients}  # type: ignore[dict-item]


def agree(got: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    for name in want:
        # What is not used in a product may have no gradient, or zeros.
        value = got.get(name, torch.zeros_like(want[name]))
        assert relative_error(value, want[name]) <= (OUTPUT_TOLERANCE if name == "out" else GRADIENT_TOLERANCE), name


DESIGNS: dict[str, dict[str, Any]] = {
    "published": {},
    "fourth attention": {"fourth": True},
    "fourth attention, no second": {"fourth": True, "no_second": True},
    "no biases": {"qkv_bias": False},
    "first cross": {"first": "cross"},
    "third self": {"third": "self"},
    "first and third shared": {"share_first_third": True},
    "all shared": {"share_all": True},
    "stochastic depth": {"drop_path": 0.4},
    "fourth attention, stochastic depth": {"fourth": True, "drop_path": 0.4},
}


@pytest.mark.parametrize("switches", DESIGNS.values(), ids=DESIGNS)
def test_designs_agree_with_what_they_were(switches: dict[str, Any]) -> None:
    model, x = blocks(**switches)
    want = results(model, x)
    done = maedfer.accelerate(model, IMPL)
    assert done.blocks == ["video.blocks.0", "video.blocks.1"] and not done.left
    agree(results(model, x), want)
    with use_impl("reference"):
        maedfer.accelerate(model)
        agree(results(model, x), want)


def test_stochastic_depth_draws_the_same_numbers_and_stops_in_evaluation() -> None:
    model, x = blocks(drop_path=0.5, fourth=True)
    want, state = results(model, x), torch.get_rng_state()
    calm = results(model.eval(), x)
    maedfer.accelerate(model.train(), IMPL)
    agree(results(model, x), want)
    assert torch.equal(torch.get_rng_state(), state)
    agree(results(model.eval(), x), calm)
    assert relative_error(want["out"], calm["out"]) > 0.01


def test_factors_of_stochastic_depth_are_exact_under_autocast() -> None:
    model, x = blocks(drop_path=0.1)
    maedfer.accelerate(model, "torch")
    adapter = model.video["blocks"][1].__dict__["_maedfer"]
    with torch.autocast(x.device.type, torch.bfloat16):
        keep = adapter.draw(x.bfloat16())
    assert [None if one is None else one.shape for one in keep] == [(2, 4), (2,), (2,), None, (2, 4)]
    drawn = torch.cat([one.flatten() for one in keep if one is not None])
    assert drawn.dtype == torch.float32 and set(drawn.tolist()) <= {0.0, float(torch.tensor(1 / 0.9))}


def test_nothing_but_the_computation_changes() -> None:
    model, x = blocks()
    seen: list[str] = []
    model.video["blocks"][0].register_forward_hook(lambda *_: seen.append("forward"))
    model.video["blocks"][1].register_full_backward_hook(lambda *_: seen.append("backward"))
    before = (list(dict(model.named_parameters())), list(dict(model.named_modules())), list(model.state_dict()))
    parameters = list(model.parameters())
    done = maedfer.accelerate(model, IMPL)
    assert before == (list(dict(model.named_parameters())), list(dict(model.named_modules())), list(model.state_dict()))
    assert all(one is other for one, other in zip(parameters, model.parameters(), strict=True))
    results(model, x)
    assert seen == ["forward", "backward"]
    done.undo()
    assert "forward" not in model.video["blocks"][0].__dict__ and not [
        name for name in model.video["blocks"][0].__dict__ if "maedfer" in name
    ]


def test_undone_it_is_bit_for_bit_what_it_was() -> None:
    model, x = blocks()
    want = results(model, x)
    maedfer.accelerate(model, IMPL).undo()
    got = results(model, x)
    assert all(torch.equal(got[name], want[name]) for name in want)


def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes every call of the published attention."""
    noted: list[str] = []
    forward = GeneralAttention.forward

    def noting(self: GeneralAttention, *args: Any) -> Tensor:
        noted.append("published")
        return forward(self, *args)

    monkeypatch.setattr(GeneralAttention, "forward", noting)
    return noted


def test_a_block_with_hooks_inside_runs_as_it_did(monkeypatch: pytest.MonkeyPatch) -> None:
    noted = calls(monkeypatch)
    model, x = blocks()
    maedfer.accelerate(model, IMPL)
    model(x)
    assert not noted
    seen: list[Tensor] = []
    handle = model.video["blocks"][0].first_attn.register_forward_hook(lambda _, __, out: seen.append(out))
    model(x)
    assert len(seen) == 1 and len(noted) == 3
    handle.remove()
    model(x)
    assert len(noted) == 3


@pytest.mark.parametrize("how", CHANGES, ids=lambda how: how.__name__)
@pytest.mark.parametrize("kind", ["lgi", "transformer"])
def test_what_is_changed_afterwards_counts_as_it_did_before(kind: str, how: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    model: nn.Module = Blocks() if kind == "lgi" else nn.Sequential(Block(32, 2), Block(32, 2))
    randomize(model)
    x = torch.randn(*((2, 4, 6, 32) if kind == "lgi" else (2, 6, 32)))
    before, twin = model(x), copy.deepcopy(model)
    maedfer.accelerate(model, "torch")
    # The published LGI attention calls `proj` alone.
    assert change(model, twin, how, ("proj", "fc1", "fc2") if kind == "lgi" else ("qkv", "proj", "fc1", "fc2")) >= 8
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = model(x)
    assert relative_error(got, twin(x)) <= OUTPUT_TOLERANCE
    assert relative_error(got, before) > 1e-4


def test_a_part_in_anothers_place_counts() -> None:
    model, x = blocks()
    model.cpu()
    maedfer.accelerate(model, "torch")
    for name in ("mlp", "norm2", "third_attn_norm1", "second_attn"):
        twin = copy.deepcopy(model)
        for layers in (model, twin):
            block: Any = layers.video["blocks"][1]
            setattr(block, name, copy.deepcopy(getattr(block, name)))
            randomize(getattr(block, name), seed=3)
        before = twin(x.cpu())
        maedfer.accelerate(twin, "torch")
        assert relative_error(model(x.cpu()), before) <= OUTPUT_TOLERANCE
        assert relative_error(twin(x.cpu()), before) <= OUTPUT_TOLERANCE


def test_a_layer_that_the_published_code_does_not_call_is_named() -> None:
    model, x = blocks()
    model.cpu()
    maedfer.accelerate(model, "torch")
    twin = copy.deepcopy(model)
    change(model, twin, low_rank, ("kv",))
    with pytest.warns(UserWarning, match=r"LGBlock takes the weight of first_attn.kv, .* never calls it: .*LowRank"):
        model(x.cpu())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(x.cpu())


def test_a_block_that_drops_out_runs_as_it_did_in_training_only(monkeypatch: pytest.MonkeyPatch) -> None:
    noted = calls(monkeypatch)
    model, x = blocks(drop=0.1)
    maedfer.accelerate(model, IMPL)
    model.eval()(x)
    assert not noted
    model.train()(x)
    assert len(noted) == 6


def test_copies_and_pickles_stand_on_their_own() -> None:
    model, x = blocks()
    maedfer.accelerate(model, IMPL)
    want = model(x)
    twin = copy.deepcopy(model)
    assert torch.equal(twin(x), want)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(twin(x), want)
    assert relative_error(pickle.loads(pickle.dumps(twin))(x), want) <= OUTPUT_TOLERANCE


@pytest.mark.parametrize("when", ["after"] if interpreting() else ["before", "after"])
def test_with_compile(when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    noted = calls(monkeypatch)
    model, x = blocks()
    want = results(model, x)
    noted.clear()
    compiled: Any = torch.compile(model, backend="aot_eager", fullgraph=True)
    if when == "before":
        results(compiled, x)
        assert noted
        noted.clear()
    done = maedfer.accelerate(compiled, IMPL)
    agree({name.removeprefix("_orig_mod."): value for name, value in results(compiled, x).items()}, want)
    assert not noted
    done.undo()
    compiled(x)
    assert noted


@pytest.mark.parametrize("when", ["before", "after"])
def test_with_ddp(when: str, tmp_path: Path) -> None:
    model, x = blocks()
    want = results(model, x)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        if when == "before":
            maedfer.accelerate(model, IMPL)
        wrapped = nn.parallel.DistributedDataParallel(model)
        if when == "after":
            assert maedfer.accelerate(wrapped, IMPL).blocks[0] == "module.video.blocks.0"
        agree({name.removeprefix("module."): value for name, value in results(wrapped, x).items()}, want)
    finally:
        dist.destroy_process_group()


def test_another_call_changes_the_implementation(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = blocks()
    maedfer.accelerate(model, "torch")
    want = model(x)
    maedfer.accelerate(model, "reference")
    assert relative_error(model(x), want) <= OUTPUT_TOLERANCE
    if not interpreting():
        maedfer.accelerate(model, "triton")
        if x.device.type == "cpu":
            with pytest.raises(InputError, match="kernels need CUDA"):
                model(x)


class CrossBlock(Block):
    """AVF-MAE++'s fusion block has a further attention."""

    def __init__(self) -> None:
        super().__init__(32, 2)
        self.cross_attn = GeneralAttention(32, 2)


def spoiled(change: str) -> LGBlock:
    block: Any = LGBlock(32, 2)
    if change == "scale":
        block.first_attn.scale = 0.5
    elif change == "gelu":
        block.mlp.act = nn.GELU(approximate="tanh")
    elif change == "gamma":
        block.gamma_1 = nn.Parameter(torch.ones(32))
    elif change == "norm":
        block.norm2 = nn.BatchNorm1d(32)
    elif change == "eps":
        block.norm2.eps = 1e-5
    elif change == "part":
        block.adapter = nn.Linear(32, 32)
    elif change == "type":
        block.third_attn_type = "both"
    elif change == "linear":
        block.second_attn.kv = nn.Linear(32, 32, bias=False)
    elif change == "drop":
        block.drop_path = nn.Dropout(0.1)
    elif change == "layer":
        block.second_attn.q_norm = nn.LayerNorm(16)
    elif change == "forward":
        block.forward = lambda x, b: x
    return block


REASONS = {
    "scale": "first_attn has scale 0.5",
    "gelu": "mlp.act is GELU.approximate='tanh'.",
    "gamma": "parameters of its own .gamma_1.",
    "norm": "its norms are not all nn.LayerNorm",
    "eps": "do not share one eps",
    "part": "not known: adapter",
    "type": "not known: third_attn_norm1",
    "linear": "second_attn has no linear layer kv from 32 to 64",
    "drop": "its drop_path is Dropout",
    "layer": "second_attn its layer q_norm is LayerNorm",
    "forward": "its forward has been replaced already",
}


@pytest.mark.parametrize(("change", "reason"), REASONS.items(), ids=REASONS)
def test_what_is_not_known_is_refused_and_left_alone(change: str, reason: str) -> None:
    model = nn.Sequential(LGBlock(32, 2), spoiled(change))
    with pytest.raises(InputError, match=rf"^1 cannot be accelerated: .*{reason}"):
        maedfer.accelerate(model)
    assert "forward" not in model[0].__dict__
    done = maedfer.accelerate(model, strict=False)
    assert done.blocks == ["0"] and list(done.left) == ["1"]
    assert not any("maedfer" in name for name in model[1].__dict__)


def test_a_model_without_such_blocks_is_refused() -> None:
    with pytest.raises(InputError, match="Sequential has no blocks of the published"):
        maedfer.accelerate(nn.Sequential(nn.Linear(4, 4), CrossBlock()))
    with pytest.raises(InputError, match="unknown implementation"):
        maedfer.accelerate(Blocks(), "fast")  # type: ignore[arg-type]
