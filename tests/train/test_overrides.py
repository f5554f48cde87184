"""What the command line says counts: every setting, over every other source, or the line is refused."""

from __future__ import annotations

import copy
import dataclasses
import typing
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from maedfer._values import Plain
from maedfer.dataclass_tree import field_types, from_dict, walk
from maedfer.errors import InputError
from maedfer.models import LGIFormerConfig, MAEDFERConfig, create_model, model_config
from maedfer.setting import setting_of
from maedfer.train import RunConfig, config, evaluated, load_config
from maedfer.train.config import config_tree, save_config
from maedfer.train.recipes import read_tree
from maedfer.train.settings import AugmentConfig, DataConfig, EvalConfig, OptimConfig, TrainConfig

SECTIONS = (AugmentConfig, DataConfig, EvalConfig, OptimConfig, TrainConfig)

GIVEN = {
    "pretrain": ["data.train=a"],
    "finetune": ["data.train=a"],
    "evaluate": ["data.test=a", "eval.checkpoint=w.pth"],
}
RECIPES = {"pretrain": "voxceleb2_pretrain", "finetune": "dfew", "evaluate": "dfew"}
# Legal values of settings that others restrict, with those others.
TOGETHER: dict[str, list[str] | dict[str, list[str]]] = {
    "model.name": {"pretrain": ["model.name=video_mae_small"], "finetune": ["model.name=vit_tiny"]},
    "data.classes": {"finetune": ["data.classes=[no, 1]"]},
    "model.num_classes": {"finetune": ["model.num_classes=2", "data.classes=[a, b]"]},
    "optim.epochs": ["optim.epochs=7"],
    "model.embed_dim": ["model.embed_dim=64"],
    "model.encoder.embed_dim": ["model.encoder.embed_dim=64"],
    "model.decoder_dim": ["model.decoder_dim=96"],
    "eval.runs": ["eval.runs=[a #1, b]"],
    "model.feedback": ["model.feedback=clip"],
    "eval.select": ["eval.select=val", "data.val=b"],
}
SIZES = {
    "clip_size": "[16, 160, 320]",
    "patch_size": "[2, 8, 8]",
    "region_size": "[2, 2, 10]",
    "position_grid": "[8, 5, 5]",
}


def other_value(key: str, field: dataclasses.Field[Any], hint: Any, now: Any) -> str:
    """Text for a legal value that is not `now`."""
    name = key.rpartition(".")[2]
    known, origin = setting_of(field), typing.get_origin(hint)
    if name in SIZES:
        return SIZES[name]
    if origin is Literal:
        return str(next(choice for choice in typing.get_args(hint) if choice != now))
    if hint is bool:
        return str(not now).lower()
    if hint is int:
        # An even number: heads divide channels.
        return str(next(n for n in (2, 4, 1, 0, 16) if known.allows(n) and n != now))
    if hint is float:
        return str(next(n for n in (0.5, 0.25, 1.0) if known.allows(n) and n != now))
    if hint is str:
        return "some text #2"
    if hint == int | None:
        return str(next(n for n in (3, 4) if n != now))
    if hint == float | None:
        return str(next(n for n in (0.5, 0.25) if n != now))
    texts = {"betas": "[0.25, 0.5]", "scale": "[0.25, 0.5]", "ratio": "[0.25, 0.5]", "multiscale": "[0.5]"}
    texts |= {"lora_targets": "[qkv]", "log_to": "[mlflow]"}
    return {**texts, "crop": "[1, 2, 3, 4]", "runs": "[a #1, b]", "classes": "[no, 1]"}[name]


def settings_of(task: str) -> list[str]:
    """The keys that a run of a task has, as on the command line."""
    kind = MAEDFERConfig if task == "pretrain" else LGIFormerConfig
    model = {f"model.{key}" for key, _ in walk(kind)}
    keys = [key for key, _ in walk(RunConfig) if not key.startswith("model.") or key in model]
    return ["model.name" if key == "model_name" else key for key in dict.fromkeys(keys) if key != "task"]


def value_of(cfg: RunConfig, key: str) -> Any:
    tree: Any = config_tree(cfg)
    for part in key.split("."):
        tree = tree[part]
    return tree


def field_of(key: str, task: str) -> tuple[dataclasses.Field[Any], Any]:
    cls: Any = RunConfig
    *path, name = ("model_name" if key == "model.name" else key).split(".")
    for part in path:
        kind = MAEDFERConfig if task == "pretrain" else LGIFormerConfig
        cls = {"model": kind, "encoder": LGIFormerConfig}.get(part) or field_types(cls)[part]
    return cls.__dataclass_fields__[name], field_types(cls)[name]


def overrides_for(key: str, task: str, now: Any) -> list[str]:
    known = TOGETHER.get(key)
    found = known.get(task) if isinstance(known, dict) else known
    return found or [f"{key}={other_value(key, *field_of(key, task), now)}"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of a run for each task, with its config.yaml."""
    folders = {}
    for task in ("pretrain", "finetune"):
        folders[task] = tmp_path_factory.mktemp(task)
        cfg = load_config(task, RECIPES[task], [*GIVEN[task], f"output={folders[task]}"])
        save_config(cfg, folders[task] / "config.yaml")
    return folders


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read every file of settings once."""
    once = cache(read_tree)
    for module in (config, evaluated):
        monkeypatch.setattr(module, "read_tree", lambda path: copy.deepcopy(once(path)))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("task", GIVEN)
def test_every_override_counts(task: str, saved: dict[str, Path]) -> None:
    sources: list[tuple[Any, list[str]]] = [(RECIPES[task], GIVEN[task])]
    scored = [f"eval.checkpoint={saved['finetune']}"]
    sources.append((None, scored) if task == "evaluate" else (saved[task] / "config.yaml", []))
    for recipe, given in sources:
        before = load_config(task, recipe, given, check=False)
        for key in settings_of(task):
            if task == "evaluate" and key.startswith(("model.", "eval.runs", "data.classes")):
                # The model is that of the weights, and runs are pooled with little else: see below.
                continue
            now = value_of(before, key)
            overrides = overrides_for(key, task, now)
            cfg = load_config(task, recipe, [*given, *overrides], check=False)
            text, hint = overrides[0].partition("=")[2], field_of(key, task)[1]
            known = {"data.classes": ["no", "1"], "eval.runs": ["a #1", "b"]}
            as_text = hint is str or typing.get_origin(hint) is Literal
            expected = known[key] if key in known else text if as_text else yaml.safe_load(text)
            assert value_of(cfg, key) == expected != now, (key, recipe)


SHORT = ["model.region_size=[2,7,7]", "model.clip_size=[16,112,112]", "model.drop_path=0.3"]
LONG = [text.replace("model.", "model.encoder.") for text in SHORT]


def encoder(*overrides: str, recipe: Any = "voxceleb2_pretrain") -> LGIFormerConfig:
    return load_config("pretrain", recipe, ["data.train=x", *overrides]).clip_model


@pytest.mark.parametrize("overrides", [SHORT, LONG, SHORT[::-1], ["model={region_size: [2,7,7]}", *SHORT[1:]]])
def test_settings_of_the_encoder_may_be_given_short(overrides: list[str]) -> None:
    config = encoder(*overrides)
    assert (config.region_size, config.clip_size, config.drop_path) == ((2, 7, 7), (16, 112, 112), 0.3)


def test_the_last_of_a_key_counts_however_it_is_spelt() -> None:
    short, long, section = "model.drop_path=0.1", "model.encoder.drop_path=0.2", "model={encoder: {drop_path: 0.3}}"
    assert encoder(short, long).drop_path == 0.2
    assert encoder(long, short).drop_path == 0.1
    assert encoder(long, section).drop_path == 0.3
    assert encoder(section, short).drop_path == 0.1
    # A section changes what it names and nothing else.
    cfg = load_config("finetune", "dfew", ["data.train=x", "optim.lr=1", "optim={epochs: 30, lr: 2}", "optim={}"])
    assert (cfg.optim.lr, cfg.optim.epochs, cfg.optim.lr_batch) == (2.0, 30, 256)
    cfg = load_config("finetune", "dfew", ["data.train=x", "optim={epochs: 30}", "optim.epochs=40", "seed=1", "seed=2"])
    assert (cfg.optim.epochs, cfg.seed) == (40, 2)


def test_a_recipe_may_be_short_too_but_not_say_both(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("model: {depth: 2, encoder: {embed_dim: 256}}\n")
    assert (encoder(recipe=recipe).depth, encoder(recipe=recipe).embed_dim) == (2, 256)
    assert encoder("model.encoder.depth=3", "model.embed_dim=64", recipe=recipe).depth == 3
    recipe.write_text("model: {depth: 2, encoder: {depth: 3}}\n")
    with pytest.raises(InputError, match=r"^model\.depth is short for model\.encoder\.depth: give one of them"):
        encoder(recipe=recipe)
    with pytest.raises(InputError, match=r"^model\.depth is short for model\.encoder\.depth"):
        model_config("mae_dfer_base", depth=2, encoder={"depth": 3})


def test_a_name_brings_its_sizes_over_those_of_a_recipe(tmp_path: Path) -> None:
    save_config(load_config("finetune", "dfew", ["data.train=x", "model.drop_path=0.2"]), tmp_path / "config.yaml")

    def model(*overrides: str) -> LGIFormerConfig:
        return load_config("finetune", tmp_path / "config.yaml", [*overrides]).clip_model

    assert (model("model.name=vit_base").architecture, model("model.name=vit_base").embed_dim) == ("vit", 768)
    assert model("model.name=lgi_former_tiny").num_heads == 4
    assert model("model.name=lgi_former_tiny").drop_path == 0.2
    for overrides in (
        ["model.embed_dim=64", "model.name=lgi_former_tiny"],
        ["model.name=vit_tiny", "model.embed_dim=192"],
    ):
        assert model(*overrides).embed_dim == int(next(text for text in overrides if "dim" in text).split("=")[1])
    # The name of the recipe itself changes nothing.
    assert model("model.name=lgi_former_base", "model.depth=3").depth == 3
    cfg = load_config("pretrain", "voxceleb2_pretrain", ["data.train=x", "model.name=video_mae_base"])
    assert isinstance(cfg.model, MAEDFERConfig) and cfg.model.target == "pixels"


def test_model_name_is_a_key_of_the_model() -> None:
    with pytest.raises(InputError, match=r"^unknown key 'model_name': the name of the model is model\.name"):
        load_config("finetune", "dfew", ["model_name=vit_base"], check=False)


def test_the_model_of_an_evaluation_is_that_of_the_weights(saved: dict[str, Path], tmp_path: Path) -> None:
    run = [f"eval.checkpoint={saved['finetune']}", "data.test=x"]
    same = ["model.clip_size=[16, 160, 160]", "model.name=lgi_former_base", "model.impl=reference"]
    cfg = load_config("evaluate", None, [*run, *same, "model.drop_path=0.3"])
    assert (cfg.model.drop_path, cfg.clip_model.impl) == (0.3, "reference")  # type: ignore[union-attr]
    for override, key in {
        "model.clip_size=[16, 320, 160]": "clip_size",
        "model.region_size=[2, 2, 10]": "region_size",
        "model.name=lgi_former_tiny": "embed_dim",
        "model.token_type=all": "token_type",
        "model={depth: 3}": "depth",
    }.items():
        with pytest.raises(InputError, match=rf"^model\.{key} \(.* in the weights, .* here\) cannot change"):
            load_config("evaluate", "dfew", [*run, override])
    small = {"clip_size": (4, 16, 16), "patch_size": (2, 4, 4), "region_size": (1, 2, 4), "embed_dim": 16, "depth": 1}
    create_model("lgi_former_tiny", **small, num_heads=2).save_pretrained(tmp_path / "model")
    weights = [f"eval.checkpoint={tmp_path / 'model'}", "data.test=x"]
    load_config("evaluate", None, weights)
    with pytest.raises(InputError, match=r"^model\.depth \(1 in the weights, 3 here\) cannot change"):
        load_config("evaluate", None, [*weights, "model.depth=3"])


def test_pooling_refuses_what_it_would_not_look_at(saved: dict[str, Path]) -> None:
    runs = {"eval.runs": [str(saved["finetune"]), "other #2"]}
    assert load_config("evaluate", None, ["report=false", "train.threads=1"], first=runs).eval.runs[1] == "other #2"
    for override in ("data.test=x", "eval.views=4", "model.depth=3", "optim.lr=1"):
        key = override.partition("=")[0]
        with pytest.raises(InputError, match=rf"^{key} changes nothing here: eval\.runs puts the predictions"):
            load_config("evaluate", None, [override], first=runs)


ABSURD = ["nan", "inf", "-inf", "-1e9", "-1000000000", "1e30", str(10**30), "9" * 5000]


@pytest.mark.parametrize("cls", [LGIFormerConfig, MAEDFERConfig, *SECTIONS, RunConfig])
def test_no_setting_takes_an_absurd_number(cls: type) -> None:
    tried = 0
    for name, hint in field_types(cls).items():
        if setting_of(cls.__dataclass_fields__[name]).has_range:  # type: ignore[attr-defined]
            fixed = [part for part in (hint, *typing.get_args(hint)) if typing.get_origin(part) is tuple]
            items = typing.get_args(fixed[0]) if fixed else ()
            count = 0 if not fixed else 3 if Ellipsis in items else len(items)
            for text in ABSURD:
                value = f"[{', '.join([text] * count)}]" if count else text
                with pytest.raises(InputError) as error:
                    from_dict(cls, {name: Plain(value)}, path="top")
                assert f"top.{name}" in str(error.value) and len(str(error.value).splitlines()) == 1
                tried += 1
    assert tried


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=-1", "seed must be between 0 and"),
        (f"seed={2**63}", "seed must be between 0 and"),
        ("optim.betas=[0.9, 1]", r"optim.betas\[1\] must be at least 0 and below 1"),
        ("augment.scale=[0.5, 0.1]", "augment.scale must go from the smaller number"),
        ("augment.ratio=[2, 1]", "augment.ratio must go from the smaller number"),
        ("train.ema=1", "train.ema must be at least 0 and below 1"),
        ("model.num_heads=7", "num_heads 7 does not divide embed_dim 512"),
        ("model.mlp_ratio=0.001", "mlp_ratio 0.001 of embed_dim 512 gives no hidden channel"),
        ("model.position_grid=[8, 8]", "position_grid must have 3 numbers as clip_size, got"),
        ("model.clip_size=[16]", r"clip_size must be \[frames, height, width\] or \[height, width\], got \[16\]"),
    ],
)
def test_numbers_that_do_not_go_together_are_named(override: str, message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        load_config("finetune", None, ["data.train=x", override])
