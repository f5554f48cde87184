"""One `load` for a saved model, a run, its checkpoints and published files."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import maedfer
from maedfer.errors import InputError
from maedfer.models import MAEDFER, LGIFormer, load
from tests.helpers import ASSETS, golden_files, load_golden, randomize, small, small_mae

RUN = ASSETS / "run_finetune"


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


@pytest.mark.parametrize("model", [LGIFormer(small()), MAEDFER(small_mae())], ids=["classifier", "autoencoder"])
def test_saved_model(model: LGIFormer | MAEDFER, tmp_path: Path) -> None:
    randomize(model)
    loaded = maedfer.load(model.save_pretrained(tmp_path))
    assert type(loaded) is type(model) and not loaded.training and same(loaded, model)


def test_run_gives_its_model_and_an_interrupted_one_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has not ended: finish it, or give its checkpoints/last.pt"):
        load(RUN)
    shutil.copytree(RUN / "whole", tmp_path / "model")
    assert same(load(str(tmp_path)), load(RUN / "whole"))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_part_of_a_saved_model(name: str, tmp_path: Path) -> None:
    folder = LGIFormer(small()).save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match="is a part of a saved model: give its folder, .*model'"):
        load(folder / name)


@pytest.mark.parametrize(("run", "kind"), [("run_finetune", LGIFormer), ("run_pretrain", MAEDFER)])
def test_checkpoint_of_a_run(run: str, kind: type) -> None:
    content = torch.load(ASSETS / run / "checkpoints/last.pt", weights_only=True)
    model = load(ASSETS / run / "checkpoints/last.pt")
    assert type(model) is kind and not model.training
    expected = content["ema"] or content["model"]
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def change(content: dict[str, Any], **settings: Any) -> dict[str, Any]:
    model = {**content["config"]["model"], **settings}
    return {**content, "config": {**content["config"], "model": model}}


def test_checkpoint_leaves_behind_who_computed_and_prefers_the_moving_average(tmp_path: Path) -> None:
    content = torch.load(RUN / "checkpoints/last.pt", weights_only=True)
    average = {name: torch.full_like(value, 0.25) for name, value in content["model"].items()}
    torch.save({**change(content, impl="triton", full_attention="xformers"), "ema": average}, tmp_path / "last.pt")
    model = load(tmp_path / "last.pt")
    assert isinstance(model, LGIFormer)
    assert (model.config.impl, model.config.full_attention) == ("auto", "sdpa")
    assert all(bool((value == 0.25).all()) for value in model.state_dict().values())


@pytest.mark.parametrize("case", golden_files(), ids=lambda path: path.stem)
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_published_file(case: Path, suffix: str, tmp_path: Path) -> None:
    golden = load_golden(case)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file({name: value.contiguous() for name, value in golden.state.items()}, path)
    else:
        torch.save({"model": golden.state}, path)
    model = load(path, args=golden.meta["args"])
    assert isinstance(model, MAEDFER if golden.meta["task"] == "pretrain" else LGIFormer)
    state = maedfer.to_published(model)
    assert state.keys() == golden.state.keys()
    assert all(torch.equal(value, golden.state[name]) for name, value in state.items())


class Code:
    def __reduce__(self) -> Any:
        return print, ("code ran",)


def without(content: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key != name}


WRONG: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "code": (lambda content: {**content, "extra": Code()}, "is refused: .* could run code"),
    "namespace": (lambda content: argparse.Namespace(a=1), "holds a Namespace, not a state dict"),
    "no weights": (lambda content: {"format": "another"}, "holds no weights"),
    "no settings": (lambda content: without(content, "config"), "not a whole checkpoint"),
    "text for settings": (lambda content: {**content, "config": {"model": ["x"]}}, "not a whole checkpoint"),
    "no model": (lambda content: without(without(content, "model"), "ema"), "not a whole checkpoint"),
    "other weights": (lambda content: {**content, "ema": {"x": torch.ones(1)}}, "not a whole checkpoint"),
    "unknown name": (lambda content: change(content, name="lgi_former_bse"), "did you mean 'lgi_former_base'"),
    "unknown key": (lambda content: change(content, depht=2), "did you mean 'depth'"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_checkpoints_are_named(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, message = WRONG[what]
    path = tmp_path / "last.pt"
    torch.save(make(torch.load(RUN / "checkpoints/last.pt", weights_only=True)), path)
    with pytest.raises(InputError, match=f"last.pt.*{message}") as error:
        load(path)
    assert "\n" not in str(error.value) and "code ran" not in capsys.readouterr().out


def test_a_saved_model_of_a_newer_version_and_other_peoples_files_beside_it(tmp_path: Path) -> None:
    folder = LGIFormer(small()).save_pretrained(tmp_path)
    for leftover in (".model.safetensors.abcd1234.tmp", "notes.txt"):
        (folder / leftover).write_bytes(b"half")
    assert isinstance(load(folder), LGIFormer)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "windows": 3}))
    with pytest.raises(InputError, match=r"unknown key 'windows' .*\(a newer version of maedfer may have saved it\)"):
        load(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_saved_model_with_a_pipe_in_it_is_not_waited_for(name: str, tmp_path: Path) -> None:
    folder = LGIFormer(small()).save_pretrained(tmp_path)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(InputError, match="is missing|has no config.json"):
        load(folder)


def test_whole_numbers_are_no_weights_of_a_saved_model(tmp_path: Path) -> None:
    folder = LGIFormer(small()).save_pretrained(tmp_path)
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "head.bias": weights["head.bias"].to(torch.int8)}, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"head\.bias is of torch\.int8, the model's is of torch\.float32"):
        load(folder)


def test_wrong_sources_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'nowhere' does not exist: give a saved model, a run folder, or a checkpoint"):
        load("nowhere")
    with pytest.raises(InputError, match="neither a saved model .it has no config.json. nor a run folder"):
        load(tmp_path)
    for name, content in {"a.pth": b"words", "a.safetensors": b"words", "b.pt": pickle.dumps([1])}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=f"{name} is (refused|not a readable)") as error:
            load(tmp_path / name)
        assert "\n" not in str(error.value)
    for source in (RUN / "whole", RUN / "checkpoints/last.pt"):
        with pytest.raises(InputError, match="args are for published files only"):
            load(source, args={"num_heads": 4})
    torch.save(load_file(RUN / "whole/model.safetensors"), tmp_path / "ours.pth")
    with pytest.raises(InputError, match="ours.pth has no patch_embed.proj.weight: not a published"):
        load(tmp_path / "ours.pth")
