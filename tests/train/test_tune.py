"""What of a classifier is trained: settings, parameters, gradients, a step by hand, kills, what is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

import maedfer
from maedfer.errors import InputError
from maedfer.models import LGIFormer, add_lora, build_model, profile
from maedfer.models.lora import lora_layers
from maedfer.report.run_data import read_run
from maedfer.train import load_config, run_evaluate, run_finetune
from maedfer.train.checkpoint import load_checkpoint
from maedfer.train.config import OptimConfig
from maedfer.train.dry_run import dry_run
from maedfer.train.optim import Ema, make_optimizer, parameter_groups, set_lr
from maedfer.train.tune import Trained, Tune, flops_per_clip
from tests.helpers import small
from tests.train.runs import records, scores, tiny, write_clips
from tests.train.test_trainer import EVERYTHING, Killed, kill_before, same

LORA = ["train.tune=lora", "train.lora_rank=2"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"))


def tune_of(*settings: str, task: str = "finetune") -> Tune:
    name = "mae_dfer_tiny" if task == "pretrain" else "lgi_former_tiny"
    return Tune.of_run(load_config(task, None, [f"model.name={name}", "data.train=a", *settings]))


def trained(*settings: str) -> tuple[Any, list[str]]:
    """The small classifier, prepared, and the names of what is trained of it."""
    model = build_model(small())
    tune_of(*settings).prepare(model)
    return model, [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def test_all_is_trained_unless_it_is_told() -> None:
    model, names = trained()
    assert names == [name for name, _ in model.named_parameters()]
    assert tune_of("train.tune=all") == tune_of() == Tune() and tune_of().words == ""
    assert tune_of(task="pretrain") == Tune()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["train.tune=head"], "the head"),
        (["train.tune=norms", "train.freeze_blocks=2"], "LayerNorms from block 2 on and the head"),
        (["train.freeze_blocks=2"], "blocks from 2 on and the head"),
        (["train.tune=blocks_from:0"], "blocks from 0 on and the head"),
        (
            ["train.lora_targets=[ffn]", "train.freeze_blocks=2"],
            "LoRA of rank 8 (alpha 16) on ffn from block 2 on, and the head",
        ),
    ],
)
def test_what_is_trained_in_words(settings: list[str], words: str) -> None:
    assert tune_of(*settings).words == words


def test_head_is_the_linear_layer_alone() -> None:
    assert trained("train.tune=head")[1] == ["head.weight", "head.bias"]


def test_norms_are_gains_and_shifts_of_all_of_them() -> None:
    model, names = trained("train.tune=norms")
    assert names == [name for name, _ in model.named_parameters() if "norm" in name or name.startswith("head.")]
    assert {"encoder.blocks.0.interaction_context_norm.weight", "encoder.blocks.1.ffn_norm.bias"} <= set(names)
    assert "head_norm.weight" in names
    above = trained("train.tune=norms", "train.freeze_blocks=1")[1]
    assert above == [name for name in names if ".blocks.0." not in name]


def test_blocks_from_is_what_freeze_blocks_is() -> None:
    names = trained("train.tune=blocks_from:1")[1]
    assert names == trained("train.freeze_blocks=1")[1] == trained("train.tune=all", "train.freeze_blocks=1")[1]
    assert {name.split(".")[2] for name in names if ".blocks." in name} == {"1"} and "head_norm.bias" in names
    everything = trained("train.tune=blocks_from:0")[1]
    assert any(".blocks.0." in name for name in everything) and "encoder.embedding.weight" not in everything


def test_lora_comes_with_the_head_and_a_setting_of_its_own_asks_for_it() -> None:
    model, names = trained(*LORA)
    assert names == [name for name, _ in model.named_parameters() if "lora_" in name or name.startswith("head.")]
    assert trained("train.lora_rank=2")[1] == names
    assert tune_of("train.lora_alpha=4") == Tune("lora", 0, 8, 4.0)
    assert tune_of("train.lora_targets=[proj, ffn]").targets == ("proj", "ffn")
    above = trained(*LORA, "train.freeze_blocks=1")[1]
    assert above == [name for name in names if ".blocks.0." not in name]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["train.tune=everything"], "unknown train.tune 'everything'"),
        (["train.tune=Lora"], "unknown train.tune 'Lora': did you mean 'lora'"),
        (["train.tune=blocks_from:17"], "N up to 16, got 'blocks_from:17'"),
        (["train.tune=blocks_from:-1"], "from 0 on"),
        (["train.tune=blocks_from:"], "blocks_from:N trains blocks"),
        (["train.tune=blocks_from:2", "train.freeze_blocks=2"], "say the same: leave one of them out"),
        (["train.tune=head", "train.freeze_blocks=2"], "trains no block at all"),
        (["train.tune=head", "train.lora_rank=8"], "train.lora_rank is for train.tune=lora, which is 'head' here"),
        (["train.tune=all", "train.lora_targets=[qkv]"], "train.lora_targets is for train.tune=lora"),
        (["train.lora_rank=0"], "train.lora_rank must be between 1 and 65536, or null, got 0"),
        (["train.lora_rank=500"], "rank must be at most 256, the smaller side of .*, got 500"),
        (["train.lora_alpha=0"], "train.lora_alpha must be above 0"),
        (["train.lora_targets=[query]"], "'query' names no linear layer"),
        (["train.tune=lora", "train.freeze_blocks=16"], "from block 16 on"),
    ],
)
def test_what_contradicts_itself_is_refused(settings: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tune_of(*settings)


@pytest.mark.parametrize("setting", ["train.tune=head", "train.lora_rank=4", "train.freeze_blocks=1"])
def test_pretraining_trains_everything(setting: str) -> None:
    with pytest.raises(InputError, match=f"{setting.split('=')[0]} is for fine-tuning"):
        tune_of(setting, task="pretrain")


def kept(model: LGIFormer) -> int:
    """Bytes that autograd keeps of a forward pass, without those of parameters."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    found: dict[int, int] = {}

    def note(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return x

    held = []
    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        held.append(model(torch.zeros(2, 3, *model.config.clip_size)))
    return sum(found.values())


def test_nothing_is_kept_of_what_lies_below() -> None:
    sizes = {}
    for name in ("all", "lora", "norms", "blocks_from:0", "blocks_from:1", "head"):
        torch.manual_seed(0)
        sizes[name] = kept(trained(f"train.tune={name}")[0])
    rows = 2 * small().embed_dim * 4
    assert sizes["head"] <= rows < sizes["blocks_from:1"] < 0.6 * sizes["blocks_from:0"]
    assert sizes["norms"] < sizes["all"]


def test_a_step_of_the_head_is_that_of_a_linear_fit_on_frozen_features() -> None:
    torch.manual_seed(0)
    model, _ = trained("train.tune=head")
    clips, labels = torch.randn(4, 3, *model.config.clip_size), torch.tensor([0, 1, 2, 2])
    with torch.no_grad():
        features = model.eval().forward_features(clips).double()
    weight, bias = (value.detach().double() for value in (model.head.weight, model.head.bias))
    optimizer = make_optimizer(parameter_groups(model, 0.05), OptimConfig(), torch.device("cpu"))
    set_lr(optimizer, 1e-2)
    F.cross_entropy(model.train()(clips), labels).backward()
    # By hand: the gradient of the mean cross entropy, and AdamW's first step, whose moments are the gradient's.
    wrong = (features @ weight.T + bias).softmax(1) - F.one_hot(labels, 5)
    steps = wrong.T @ features / 4, wrong.mean(0)
    assert torch.allclose(model.head.weight.grad.double(), steps[0], atol=1e-7)
    optimizer.step()
    for value, before, step, decay in zip(model.head.parameters(), (weight, bias), steps, (0.05, 0.0), strict=True):
        want = before * (1 - 1e-2 * decay) - 1e-2 * step / (step.abs() + 1e-8)
        assert torch.allclose(value.double(), want, atol=1e-6)
    assert len(optimizer.state) == 2


def test_groups_of_a_and_b_are_those_of_their_weight() -> None:
    model, _ = trained(*LORA)
    groups = parameter_groups(model, 0.05, 0.5, model.layer_index, 2, model.no_weight_decay())
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    table = {names[id(p)]: (group["weight_decay"], group["lr_scale"]) for group in groups for p in group["params"]}
    assert table["encoder.blocks.0.ffn.fc1.lora_a"] == table["encoder.blocks.0.ffn.fc1.lora_b"] == (0.05, 0.25)
    assert table["encoder.blocks.1.intra_attention.qkv.lora_b"] == (0.05, 0.5)
    assert table["head.weight"] == (0.05, 1.0) and table["head.bias"] == (0.0, 1.0)


def test_the_moving_average_holds_no_copy_of_what_is_frozen() -> None:
    model, names = trained(*LORA)
    ema = Ema(model, 0.9)
    for name, parameter in ema.model.named_parameters():
        assert (parameter is dict(model.named_parameters())[name]) == (name not in names)
    start = {name: parameter.clone() for name, parameter in ema.model.named_parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(1.0)
    ema.update(model, 0)
    for name, parameter in ema.model.named_parameters():
        assert torch.allclose(parameter, start[name] + 0.9 * (name in names), atol=1e-6), name


@pytest.mark.parametrize(
    ("tune", "times"),
    [("all", 3.0), ("head", 1.0), ("blocks_from:1", 2.0), ("blocks_from:2", 1.0), ("lora", 3.0), ("norms", 2.0)],
)
def test_operations_of_a_step_are_counted_from_the_first_trained_block_on(tune: str, times: float) -> None:
    costs = profile(small())
    model, _ = trained(f"train.tune={tune}")
    assert flops_per_clip(model, costs, 2) == pytest.approx(2 * times * sum(costs.macs_executed.values()))


def test_a_run_tells_what_is_trained_and_saves_a_plain_model(data: Path, tmp_path: Path, capsys: Any) -> None:
    first = tiny("finetune", data, tmp_path / "first", "optim.epochs=1")
    run_finetune(first)
    cfg = tiny("finetune", data, tmp_path / "run", *LORA, f"train.init={tmp_path / 'first'}", "train.ema=0.5")
    told: list[str] = []
    dry_run(cfg, told.append)
    capsys.readouterr()
    found = scores(run_finetune(cfg))["trained"]
    # Of each layer with two in and out: by hand, of 16 channels and the last block without its interaction.
    attention, network, head = 2 * (16 + 48) + 2 * (16 + 16), 2 * 2 * (16 + 64), 3 * 17
    whole = profile(cfg.model).parameters
    assert found == {
        "tune": "LoRA of rank 2 (alpha 16) on qkv, proj, fc1, fc2, and the head",
        "parameters": whole,
        "trained": 5 * attention + 2 * network + head,
        "frozen": whole - head,
        "share": found["trained"] / whole,
    }
    (record,) = records(tmp_path / "run", "trained")
    assert {**record, "kind": 0, "step": 0} == {**found, "kind": 0, "step": 0}
    sentence = f"{found['trained'] / 1e6:.3g} M trained ({100 * found['share']:.3g}%): LoRA of rank 2 (alpha 16) on"
    assert sentence in capsys.readouterr().out and any(sentence in line for line in told)
    told_of = read_run(tmp_path / "run")
    assert told_of.metrics["trained"] == found
    assert told_of.trained == sentence[:-3].replace("%", " %") + " on qkv, proj, fc1, fc2, and the head"
    state = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")
    assert len(state["optimizer"]["state"]) == sum("lora_" in name for name in state["model"]) - 4 + 2
    # What was taken over and is frozen stays bit for bit.
    before = load_file(tmp_path / "first" / "model" / "model.safetensors")
    for name, value in state["model"].items():
        if name.startswith("encoder.") and "lora_" not in name:
            assert torch.equal(value, before[name]), name
    # The model that was saved is the moving average with A and B merged, as `load` makes it of the checkpoint.
    saved, loaded = maedfer.load(tmp_path / "run"), maedfer.load(tmp_path / "run" / "checkpoints" / "last.pt")
    assert isinstance(loaded, LGIFormer) and next(lora_layers(loaded), None) is None
    assert same(saved.state_dict(), loaded.state_dict())
    averaged = add_lora(build_model(loaded.config), 2)
    averaged.load_state_dict(state["ema"])
    clips = torch.randn(2, 3, 4, 16, 16)
    with torch.no_grad():
        assert torch.allclose(averaged.eval()(clips), loaded(clips), atol=1e-6)
    given = [f"eval.checkpoint={tmp_path / 'run' / 'checkpoints' / 'last.pt'}", f"output={tmp_path / 'again'}"]
    again = run_evaluate(load_config("evaluate", None, given))
    assert scores(again)["confusion"] == read_run(tmp_path / "run").metrics["confusion"]


def test_interrupted_run_repeats_the_uninterrupted_one(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = [*EVERYTHING, *LORA]
    whole = run_finetune(tiny("finetune", data, tmp_path / "whole", *changes))
    changes.append("train.save_steps=2")
    for step in (4, 7):
        kill_before(monkeypatch, step)
        with pytest.raises(Killed):
            run_finetune(tiny("finetune", data, tmp_path / "cut", *changes))
    resumed = run_finetune(tiny("finetune", data, tmp_path / "cut", *changes))
    assert resumed.loss == whole.loss and resumed.metrics == whole.metrics
    for file in ("last.pt", "best.pt"):
        ends = [load_checkpoint(tmp_path / name / "checkpoints" / file) for name in ("whole", "cut")]
        assert same(ends[0]["model"], ends[1]["model"])
        assert any("lora_a" in name for name in ends[0]["model"])
    files = [load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "cut")]
    assert same(*files) and not any("lora" in name for name in files[0])
    with pytest.raises(InputError, match=r"train\.tune"):
        run_finetune(tiny("finetune", data, tmp_path / "cut", *EVERYTHING, "train.tune=head"))


def test_frozen_random_weights_are_told_of(data: Path, tmp_path: Path) -> None:
    told: list[str] = []
    dry_run(tiny("finetune", data, tmp_path / "run", "train.tune=head"), told.append)
    assert any("as they were drawn at random" in line for line in told)
    assert Trained.of(build_model(small()), Tune()).tune == ""
