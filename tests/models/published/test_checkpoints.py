"""Published checkpoints: files, arguments, strictness, VideoMAE's other layout."""

from __future__ import annotations

import argparse
import math
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import maedfer
from maedfer.errors import InputError
from maedfer.models import LGIFormer, load_published, to_published
from maedfer.models.published.checkpoints import Task
from tests.helpers import ASSETS, Golden, load_golden, randomize, relative_error, small, small_mae
from tests.models.published.transformers_names import videomae_names

ARGS = {"img_size": 32, "patch_size": 8, "all_frames": 8, "num_heads": 2, "lg_region_size": [2, 2, 2]}


@pytest.fixture(scope="module")
def golden() -> Golden:
    return load_golden(ASSETS / "finetune_region_tokens.safetensors")


@pytest.fixture(scope="module")
def golden_pretrain() -> Golden:
    return load_golden(ASSETS / "pretrain_lgi.safetensors")


SWITCHES = {
    "first_cross": {"intra_region": "cross"},
    "third_self": {"interaction": "self"},
    "share_all": {"share_attention": "all"},
    "share_first_third": {"share_attention": "first_third"},
    "share_all_without_third": {"share_attention": "all", "interaction": "none"},
    "no_bias": {"qkv_bias": False},
    "all_tokens": {"token_type": "all"},
    "learned_positions": {"position": "learned"},
    "uneven_hidden_width": {"mlp_ratio": 2.66},
    "fourth": {"feedback": "clip"},
    "vit": {"architecture": "vit"},
    "feature_extractor": {"num_classes": 0},
}


@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES)
@pytest.mark.parametrize("task", ["finetune", "pretrain"])
def test_every_switch_survives_the_way_there_and_back(switches: dict, task: Task) -> None:
    config = small(
        **{k: v for k, v in switches.items() if task == "finetune" or k not in ("token_type", "num_classes")}
    )
    args = dict(ARGS)
    model: Any
    if task == "pretrain":
        model = maedfer.MAEDFER(small_mae(encoder=config, decoder_order="published"))
        args |= {"encoder_num_heads": args.pop("num_heads"), "decoder_num_heads": 2, "mask_ratio": 0.5}
    else:
        model = LGIFormer(config)
        args["lg_classify_token_type"] = {"local": "org"}.get(config.token_type, config.token_type)
    args["mlp_ratio"] = config.mlp_ratio
    randomize(model)
    model.eval()
    loaded: Any = load_published(to_published(model), task, args)
    video = torch.randn(2, 3, *config.clip_size)
    inputs = (video,) if task == "finetune" else (video, *model.token_numbers(*model.random_masks(2)))
    assert torch.equal(loaded(*inputs), model(*inputs))
    for name in (
        "intra_region",
        "inter_region",
        "interaction",
        "share_attention",
        "qkv_bias",
        "architecture",
        "position",
    ):
        ours = loaded.config if task == "finetune" else loaded.config.encoder
        assert getattr(ours, name) == getattr(config, name) or config.architecture == "vit", name


def test_file_with_namespace_and_optimizer(golden: Golden, tmp_path: Path) -> None:
    namespace = argparse.Namespace(
        input_size=64, num_frames=8, lg_region_size=[2, 2, 4], nb_classes=7, drop_path=0.1, opt="adamw", batch_size=32
    )
    path = tmp_path / "checkpoint-99.pth"
    # What torch.save writes for the published trainer: weights, optimizer state, epoch, scaler, argparse namespace.
    content = {"model": golden.state, "optimizer": {"state": {}, "param_groups": []}, "epoch": 99, "args": namespace}
    torch.save(content, path)
    model = load_published(path, "finetune", {"num_heads": 4})
    assert isinstance(model, LGIFormer) and model.load_report is not None
    video = golden.tensors["video"].float()
    assert relative_error(model(video), golden.tensors["logits"]) < 1e-5
    assert model.config.drop_path == 0.1
    assert len(model.load_report.used) == len(golden.state) and "blocks.0.third_attn.v_bias" in str(model.load_report)


def test_state_dict_of_a_data_parallel_wrapper(golden: Golden) -> None:
    wrapped = {"module": {f"module.{key}": value for key, value in golden.state.items()}}
    model = load_published(wrapped, "finetune", golden.args)
    assert torch.equal(
        model(v := golden.tensors["video"].float()), load_published(golden.state, "finetune", golden.args)(v)
    )


def test_pretraining_weights_come_with_the_published_decoder_order(golden_pretrain: Golden) -> None:
    model = load_published(golden_pretrain.state, "pretrain", golden_pretrain.args)
    assert isinstance(model, maedfer.MAEDFER) and model.config.decoder_order == "published"


class _Evil:
    def __reduce__(self) -> tuple:
        return os.system, ("touch /tmp/maedfer_was_here",)


def test_pickle_with_code_is_refused_and_not_run(golden: Golden, tmp_path: Path) -> None:
    path = tmp_path / "evil.pth"
    torch.save({"model": golden.state, "args": _Evil()}, path)
    with pytest.raises(InputError, match="is refused.*could run code") as caught:
        load_published(path, "finetune", golden.args)
    assert "\n" not in str(caught.value)
    assert not os.path.exists("/tmp/maedfer_was_here")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(_Evil()))
    with pytest.raises(InputError, match="plain.pkl is (refused|not a readable)"):
        load_published(tmp_path / "plain.pkl", "finetune")
    assert not os.path.exists("/tmp/maedfer_was_here")


def test_a_script_namespace_may_be_given_as_arguments(golden: Golden) -> None:
    namespace = argparse.Namespace(input_size=64, num_frames=8, lg_region_size=[2, 2, 4], num_heads=4, epochs=100)
    model = load_published(golden.state, "finetune", namespace)
    assert isinstance(model, LGIFormer) and model.config.clip_size == (8, 64, 64)
    with pytest.raises(InputError, match="args must be a mapping or an argparse.Namespace, got list"):
        load_published(golden.state, "finetune", [1])  # type: ignore[arg-type]


def test_damaged_and_missing_files_are_named(golden: Golden, tmp_path: Path) -> None:
    path = tmp_path / "cut.pth"
    torch.save({"model": golden.state}, path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"cut\.pth is (not a readable|refused)"):
        load_published(path, "finetune")
    (tmp_path / "empty.pth").touch()
    with pytest.raises(InputError, match=r"empty\.pth"):
        load_published(tmp_path / "empty.pth", "finetune")
    with pytest.raises(InputError, match=r"absent\.pth does not exist"):
        load_published(tmp_path / "absent.pth", "finetune")
    torch.save([1, 2], path)
    with pytest.raises(InputError, match="holds a list, not a state dict"):
        load_published(path, "finetune")


@pytest.mark.parametrize(
    ("change", "args", "message"),
    [
        (lambda s: s.pop("blocks.1.first_attn.q_bias"), {}, r"missing blocks\.1\.first_attn\.q_bias"),
        (lambda s: s.update({"blocks.0.extra": torch.ones(2)}), {}, r"unexpected blocks\.0\.extra"),
        (
            lambda s: s.update({"fc_norm.weight": torch.ones(3)}),
            {},
            r"wrong shape: fc_norm\.weight is \[3\], expected \[64\]",
        ),
        (lambda s: s.pop("patch_embed.proj.weight"), {}, "not a published finetune checkpoint"),
        (lambda s: None, {"embed_dim": 128}, "embed_dim=128 contradicts the weights, which say 64"),
        (lambda s: None, {"lg_region_size": (2, 2, 2)}, "4 representative tokens.*have 8 regions"),
        (lambda s: None, {"lg_region_sise": (2, 2, 4)}, "did you mean 'lg_region_size'"),
        (lambda s: None, {"keep_temporal_dim": True}, "keep_temporal_dim=True is not supported"),
        (lambda s: None, {"lg_attn_param_sharing_all": True}, "shares its weights with second_attn, third_attn"),
    ],
)
def test_what_does_not_fit_is_named(golden: Golden, change, args: dict, message: str) -> None:
    state = golden.state
    change(state)
    with pytest.raises(InputError, match=message):
        load_published(state, "finetune", {**golden.args, **args})


def test_the_wrong_task_is_suggested(golden: Golden, golden_pretrain: Golden) -> None:
    with pytest.raises(InputError, match='use task="pretrain"'):
        load_published(golden_pretrain.state, "finetune")
    with pytest.raises(InputError, match='use task="finetune"'):
        load_published(golden.state, "pretrain")
    with pytest.raises(InputError, match="did you mean 'finetune'"):
        load_published(golden.state, "fine-tune")  # type: ignore[arg-type]


def test_sizes_that_weights_cannot_tell_are_asked_for(golden: Golden) -> None:
    with pytest.raises(InputError, match="give args img_size, all_frames and lg_region_size"):
        load_published(golden.state, "finetune", {"num_heads": 4})


def test_videomae_model_of_transformers() -> None:
    model = LGIFormer(small(architecture="vit", num_classes=0))
    randomize(model)
    state = to_published(model)
    theirs = videomae_names(state, "")
    args = {"img_size": 32, "all_frames": 8, "num_heads": 2}
    video = torch.randn(2, 3, 8, 32, 32)
    loaded = load_published(theirs, "finetune", args)
    assert torch.equal(loaded(video), model.eval()(video))
    # The biases of queries and values take part: without them the result differs.
    assert loaded.get_parameter("encoder.blocks.0.attention.v_bias").abs().max() > 0
    assert loaded.load_report is not None and not loaded.load_report.fresh
    pooled = {key: value for key, value in theirs.items() if not key.startswith("layernorm.")}
    bare = load_published(pooled, "finetune", args)
    assert bare.load_report is not None and bare.load_report.fresh == ("fc_norm.weight", "fc_norm.bias")
    assert torch.equal(bare.encoder(video), model.encoder(video))
    with pytest.raises(InputError, match="has v_bias but lacks q_bias"):
        load_published(
            {k: v for k, v in theirs.items() if not k.endswith("1.attention.attention.q_bias")}, "finetune", args
        )
    with pytest.raises(InputError, match="unknown key 'encoder.layer.0.attention.gate.weight'"):
        load_published({**theirs, "encoder.layer.0.attention.gate.weight": torch.ones(1)}, "finetune", args)


def test_videomae_classifier_with_separate_biases() -> None:
    model = LGIFormer(small(architecture="vit"))
    randomize(model)
    state = to_published(model)
    theirs = videomae_names(state, "videomae.")
    for key in [key for key in theirs if key.endswith(("q_bias", "v_bias"))]:
        name = {"q_bias": "query.bias", "v_bias": "value.bias"}[key.rsplit(".", 1)[1]]
        theirs[key.rsplit(".", 1)[0] + "." + name] = theirs.pop(key)
    for kind in ("weight", "bias"):
        theirs[f"fc_norm.{kind}"] = theirs.pop(f"videomae.layernorm.{kind}")
        theirs[f"classifier.{kind}"] = state[f"head.{kind}"]
    args = {"img_size": 32, "all_frames": 8, "num_heads": 2}
    video = torch.randn(1, 3, 8, 32, 32)
    assert torch.equal(load_published(theirs, "finetune", args)(video), model.eval()(video))
    layer = "videomae.encoder.layer.1.attention.attention"
    theirs[f"{layer}.key.bias"] = torch.zeros(32)
    assert torch.equal(load_published(theirs, "finetune", args)(video), model(video))
    theirs[f"{layer}.key.bias"] = torch.ones(32)
    with pytest.raises(InputError, match="bias on its keys"):
        load_published(theirs, "finetune", args)


def test_videomae_formula_end_to_end() -> None:
    """A ViT block computed from transformers-named weights alone."""
    model = LGIFormer(small(architecture="vit", depth=1, num_classes=0)).eval()
    randomize(model)
    w = videomae_names(
        {
            **to_published(model),
            **{f"blocks.1.{k[9:]}": v for k, v in to_published(model).items() if k.startswith("blocks.0.")},
        },
        "",
    )
    video = torch.randn(1, 3, 8, 32, 32)
    name = "embeddings.patch_embeddings.projection"
    x = F.conv3d(video, w[f"{name}.weight"], w[f"{name}.bias"], stride=(2, 8, 8)).flatten(2).transpose(1, 2)
    place, channel = torch.arange(64.0)[:, None], torch.arange(32)
    angle = place / 10000 ** (2 * (channel // 2) / 32)
    x = x + torch.where(channel % 2 == 0, angle.sin(), angle.cos())
    layer = "encoder.layer.0"

    def linear(part: str, value: torch.Tensor) -> torch.Tensor:
        return F.linear(value, w[f"{layer}.{part}.weight"], w.get(f"{layer}.{part}.bias"))

    def norm(part: str, value: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(value, (32,), w[f"{layer}.{part}.weight"], w[f"{layer}.{part}.bias"], 1e-6)

    normed = norm("layernorm_before", x)
    q = linear("attention.attention.query", normed) + w[f"{layer}.attention.attention.q_bias"]
    k = linear("attention.attention.key", normed)
    v = linear("attention.attention.value", normed) + w[f"{layer}.attention.attention.v_bias"]
    q, k, v = (part.view(1, 64, 2, 16).transpose(1, 2) for part in (q, k, v))
    context = (q @ k.transpose(-1, -2) / math.sqrt(16)).softmax(-1) @ v
    x = x + linear("attention.output.dense", context.transpose(1, 2).flatten(2))
    x = x + linear("output.dense", F.gelu(linear("intermediate.dense", norm("layernorm_after", x))))
    expected = F.layer_norm(x.mean(1), (32,), w["layernorm.weight"], w["layernorm.bias"], 1e-6)
    assert relative_error(model(video), expected) < 1e-5
